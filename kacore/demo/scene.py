"""The page whose loading the demo measures: one document and 82 small files, all made by code.

A landscape is cut into 60 pictures; five styles and five scripts lay them out, a row each, so the browser really
needs every file. Twelve more pictures, loaded after a pause as by a click, let night fall over the same landscape.
Nothing here knows a server: `asset(path)` gives bytes and a media type, and that is all.
"""

import functools
import math

COLUMNS, ROWS = 12, 5
CELL_WIDTH, CELL_HEIGHT = 80, 66
WIDTH, HEIGHT = COLUMNS * CELL_WIDTH, ROWS * CELL_HEIGHT

# The document, a style and a script for each row, a picture for each cell; then one strip for each column.
N_FIRST = 1 + 2 * ROWS + COLUMNS * ROWS
N_SECOND = COLUMNS

DAY = {
    "sky": ("#fbe3c0", "#f7b98b", "#7fb3d5"),
    "sun": "#fff6dc",
    "ridges": ("#8fa9bf", "#6d8fa8", "#4b7a86", "#2f6268", "#1d474c"),
    "stars": 0,
}
NIGHT = {
    "sky": ("#3a3f73", "#1f2552", "#0b1030"),
    "sun": "#f3f1df",
    "ridges": ("#39446f", "#2b3660", "#1f2a4f", "#141d3c", "#0b1229"),
    "stars": 48,
}


def ridge(layer: int, n_layers: int) -> str:
    """One range of hills as an SVG path: a few sines whose phases depend on the layer alone."""
    base = HEIGHT * (0.46 + 0.5 * layer / n_layers)
    height = 52 - 7 * layer
    points = []
    for x in range(0, WIDTH + 1, 20):
        wave = math.sin(x / (150 - 14 * layer) + 1.9 * layer) + 0.5 * math.sin(x / 47 + 4.1 * layer)
        wave += 0.18 * math.sin(x / 13 + 2.3 * layer)
        points.append(f"L{x} {base - height * wave / 1.7:.0f}")
    return f"M0 {HEIGHT}" + "".join(points) + f"L{WIDTH} {HEIGHT}Z"


@functools.cache
def landscape(is_night: bool) -> str:
    """The whole picture as SVG elements, WIDTH by HEIGHT units."""
    colours = NIGHT if is_night else DAY
    low, middle, high = colours["sky"]
    parts = [
        "<linearGradient id='s' x1='0' y1='1' x2='0' y2='0'>"
        f"<stop offset='.35' stop-color='{low}'/><stop offset='.62' stop-color='{middle}'/>"
        f"<stop offset='1' stop-color='{high}'/></linearGradient>"
        f"<rect width='{WIDTH}' height='{HEIGHT}' fill='url(#s)'/>"
    ]
    for n in range(colours["stars"]):
        # Steps by the golden ratio spread the stars evenly without a random source.
        x, y = WIDTH * (n * 0.618034 % 1), HEIGHT * 0.5 * (n * 0.754878 % 1)
        parts.append(f"<circle cx='{x:.0f}' cy='{y:.0f}' r='{0.8 + n % 3 * 0.5:.1f}' fill='#fff' opacity='.8'/>")
    sun_x, sun_y = (250, 74) if is_night else (690, 108)
    parts.append(f"<circle cx='{sun_x}' cy='{sun_y}' r='56' fill='{colours['sun']}' opacity='.18'/>")
    parts.append(f"<circle cx='{sun_x}' cy='{sun_y}' r='34' fill='{colours['sun']}'/>")
    ridges = colours["ridges"]
    parts += [f"<path d='{ridge(n, len(ridges))}' fill='{fill}'/>" for n, fill in enumerate(ridges)]
    return "".join(parts)


def cut(is_night: bool, column: int, row: int, rows: int) -> str:
    """A piece of the landscape, one column wide: the same drawing seen through a smaller window."""
    window = f"{column * CELL_WIDTH} {row * CELL_HEIGHT} {CELL_WIDTH} {rows * CELL_HEIGHT}"
    # "none": a cell that is a little wider or higher than drawn must not show what lies outside the window.
    frame = f"xmlns='http://www.w3.org/2000/svg' viewBox='{window}' preserveAspectRatio='none'"
    return f"<svg {frame}>{landscape(is_night)}</svg>"


def row_style(row: int) -> str:
    """Where the pictures of one row stand and when they fade in."""
    return f".row{row}{{grid-row:{row + 1};animation:appear .25s ease-out both}}\n"


def row_script(row: int) -> str:
    """Puts the pictures of one row into the page."""
    add = f"add(`day-${{column}}-{row}.svg`, 'row{row}', column)"
    return f"for (let column = 0; column < {COLUMNS}; column++) {add};\n"


DOCUMENT = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="color-scheme" content="light dark">
<title>A page of many small files</title>
{"".join(f'<link rel="stylesheet" href="row-{n}.css">' for n in range(ROWS))}
<style>
  html, body {{ margin: 0; height: 100%; overflow: hidden; background: transparent; }}
  main {{ display: grid; height: 100%; gap: 2px; grid: repeat({ROWS}, 1fr) / repeat({COLUMNS}, 1fr); }}
  img {{ width: 100%; height: 100%; display: block; object-fit: fill; border-radius: 2px; min-height: 0; }}
  .night {{ grid-row: 1 / -1; animation: appear .4s ease-out both; }}
  @keyframes appear {{ from {{ opacity: 0 }} }}
  @media (prefers-reduced-motion: reduce) {{ img {{ animation: none !important }} }}
</style>
<main id="picture"></main>
<script>
  // Tells the page around it what the browser measured. These timings are no secret, so any parent may read them.
  const tell = (kind, more) => parent.postMessage({{kind, ...more}}, '*');
  let loaded = 0, failed = 0;

  function add(name, kind, column) {{
    const picture = new Image();
    picture.alt = '';
    picture.className = kind;
    picture.style.gridColumn = column + 1;
    const settled = new Promise(resolve => {{
      picture.onload = () => {{ loaded++; tell('progress', {{loaded}}); resolve(); }};
      picture.onerror = () => {{ failed++; resolve(); }};
    }});
    picture.src = name;
    document.getElementById('picture').append(picture);
    return settled;
  }}

  function entries() {{
    const all = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')];
    return all.map(e => ({{
      path: new URL(e.name).pathname, start: e.startTime, connectStart: e.connectStart,
      connectEnd: e.connectEnd, requestStart: e.requestStart, responseStart: e.responseStart, end: e.responseEnd,
    }}));
  }}

  // The browser files a timing shortly after the load event of its picture: wait for all, but not for ever.
  async function measured(expected) {{
    for (let turn = 0; turn < 100 && entries().length < expected; turn++) await new Promise(r => setTimeout(r, 10));
    return {{entries: entries(), failed}};
  }}

  addEventListener('load', async () => tell('first', await measured({N_FIRST})));
  addEventListener('message', async event => {{
    if (event.source !== parent || event.data !== 'click') return;
    await Promise.all(Array.from({{length: {COLUMNS}}}, (_, column) => add(`night-${{column}}.svg`, 'night', column)));
    tell('second', await measured({N_FIRST + N_SECOND}));
  }});
</script>
{"".join(f'<script defer src="row-{n}.js"></script>' for n in range(ROWS))}
</html>
"""


def build() -> dict[str, tuple[str, bytes]]:
    """Every file of the page: path -> (media type, content)."""
    files = {"/": ("text/html; charset=utf-8", DOCUMENT)}
    for row in range(ROWS):
        files[f"/row-{row}.css"] = ("text/css; charset=utf-8", row_style(row))
        files[f"/row-{row}.js"] = ("text/javascript; charset=utf-8", row_script(row))
        for column in range(COLUMNS):
            files[f"/day-{column}-{row}.svg"] = ("image/svg+xml", cut(False, column, row, 1))
    for column in range(COLUMNS):
        files[f"/night-{column}.svg"] = ("image/svg+xml", cut(True, column, 0, ROWS))
    return {path: (kind, text.encode()) for path, (kind, text) in files.items()}

"""The page whose loading the demo measures: one document and 84 small files, nearly all made by code.

A landscape is cut into 60 pictures; styles and scripts, one of each for every row, lay them out, so the
browser really needs every file. Twelve more pictures, loaded after a pause as by a click, let night fall
over it. Nothing here knows a server: `build()` gives paths, media types and bytes, and that is all.
"""

import functools
import math
from importlib import resources
from typing import NamedTuple

COLUMNS, ROWS = 12, 5
CELL_WIDTH, CELL_HEIGHT = 80, 56
WIDTH, HEIGHT = COLUMNS * CELL_WIDTH, ROWS * CELL_HEIGHT

# The document; a style and a script for all and one for each row; a picture for each cell. Then, by the
# click, one strip for each column.
PARTS = ["sample", *(f"row-{n}" for n in range(ROWS))]
N_FIRST = 1 + 2 * len(PARTS) + COLUMNS * ROWS
N_SECOND = COLUMNS


class Light(NamedTuple):
    """The colours of the landscape at one time of day."""

    sky: tuple[str, str, str]  # from the horizon up
    disc: str  # sun or moon
    disc_at: tuple[int, int]
    ridges: tuple[str, ...]  # from the farthest to the nearest
    n_stars: int


DAY = Light(
    sky=("#fbe3c0", "#f7b98b", "#7fb3d5"),
    disc="#fff6dc",
    disc_at=(690, 88),
    ridges=("#8fa9bf", "#6d8fa8", "#4b7a86", "#2f6268", "#1d474c"),
    n_stars=0,
)
NIGHT = Light(
    sky=("#3a3f73", "#1f2552", "#0b1030"),
    disc="#f3f1df",
    disc_at=(250, 66),
    ridges=("#39446f", "#2b3660", "#1f2a4f", "#141d3c", "#0b1229"),
    n_stars=48,
)


def ridge(layer: int, n_layers: int) -> str:
    """One range of hills as an SVG path: a few sines whose phases depend on the layer alone."""
    base = HEIGHT * (0.46 + 0.5 * layer / n_layers)
    height = 46 - 6 * layer
    points = []
    for x in range(0, WIDTH + 1, 20):
        wave = math.sin(x / (150 - 14 * layer) + 1.9 * layer) + 0.5 * math.sin(x / 47 + 4.1 * layer)
        wave += 0.18 * math.sin(x / 13 + 2.3 * layer)
        points.append(f"L{x} {base - height * wave / 1.7:.0f}")
    return f"M0 {HEIGHT}" + "".join(points) + f"L{WIDTH} {HEIGHT}Z"


@functools.cache
def landscape(light: Light) -> str:
    """The whole picture as SVG elements, WIDTH by HEIGHT units."""
    low, middle, high = light.sky
    parts = [
        "<linearGradient id='s' x1='0' y1='1' x2='0' y2='0'>"
        f"<stop offset='.35' stop-color='{low}'/><stop offset='.62' stop-color='{middle}'/>"
        f"<stop offset='1' stop-color='{high}'/></linearGradient>"
        f"<rect width='{WIDTH}' height='{HEIGHT}' fill='url(#s)'/>"
    ]
    for n in range(light.n_stars):
        # Steps by the golden ratio spread the stars evenly without a random source.
        across, down, radius = WIDTH * (n * 0.618034 % 1), HEIGHT * 0.5 * (n * 0.754878 % 1), 0.8 + n % 3 * 0.5
        parts.append(f"<circle cx='{across:.0f}' cy='{down:.0f}' r='{radius:.1f}' fill='#fff' opacity='.8'/>")
    x, y = light.disc_at
    parts.append(f"<circle cx='{x}' cy='{y}' r='56' fill='{light.disc}' opacity='.18'/>")
    parts.append(f"<circle cx='{x}' cy='{y}' r='34' fill='{light.disc}'/>")
    parts += [f"<path d='{ridge(n, len(light.ridges))}' fill='{fill}'/>" for n, fill in enumerate(light.ridges)]
    return "".join(parts)


def cut(light: Light, column: int, row: int, rows: int) -> str:
    """A piece of the landscape, one column wide: the same drawing seen through a smaller window."""
    window = f"{column * CELL_WIDTH} {row * CELL_HEIGHT} {CELL_WIDTH} {rows * CELL_HEIGHT}"
    # "none": a cell that is a little wider or higher than drawn must not show what lies outside the window.
    frame = f"xmlns='http://www.w3.org/2000/svg' viewBox='{window}' preserveAspectRatio='none'"
    return f"<svg {frame}>{landscape(light)}</svg>"


def row_style(row: int) -> str:
    """Where the pictures of one row stand and when they fade in."""
    return f".row{row}{{grid-row:{row + 1};animation:appear .25s ease-out both}}\n"


def row_script(row: int) -> str:
    """Puts the pictures of one row into the page."""
    add = f"add(`day-${{column}}-{row}.svg`, 'row{row}', column)"
    return f"for (let column = 0; column < {COLUMNS}; column++) {add};\n"


def document() -> str:
    """The page itself; its numbers go to sample.js in the attributes of <main>."""
    styles = "".join(f'<link rel="stylesheet" href="{name}.css">\n' for name in PARTS)
    scripts = "".join(f'<script defer src="{name}.js"></script>\n' for name in PARTS)
    numbers = f'data-columns="{COLUMNS}" data-first="{N_FIRST}" data-all="{N_FIRST + N_SECOND}"'
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="color-scheme" content="light dark">\n<title>A page of many small files</title>\n'
        f"{styles}{scripts}<main {numbers}></main>\n</html>\n"
    )


def build() -> dict[str, tuple[str, bytes]]:
    """Every file of the page: path -> (media type, content)."""
    ours = resources.files("kacore.demo")
    css, js = "text/css; charset=utf-8", "text/javascript; charset=utf-8"
    files = {
        "/": ("text/html; charset=utf-8", document()),
        "/sample.css": (css, ours.joinpath("sample.css").read_text("utf-8")),
        "/sample.js": (js, ours.joinpath("sample.js").read_text("utf-8")),
    }
    for row in range(ROWS):
        files[f"/row-{row}.css"] = (css, row_style(row))
        files[f"/row-{row}.js"] = (js, row_script(row))
        for column in range(COLUMNS):
            files[f"/day-{column}-{row}.svg"] = ("image/svg+xml", cut(DAY, column, row, 1))
    for column in range(COLUMNS):
        files[f"/night-{column}.svg"] = ("image/svg+xml", cut(NIGHT, column, 0, ROWS))
    return {path: (kind, text.encode()) for path, (kind, text) in files.items()}

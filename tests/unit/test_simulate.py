"""`kacore simulate`: what it tells of a log, to people, to programs and to `kacore serve`; the figures of two real logs."""

import gzip
import io
import json
import random
import re
from xml.etree import ElementTree

import pytest
from traces import ROOT, trace

from kacore import ConnectionTable, cli
from kacore.cli.simulate import Progress
from kacore.simulate.advice import advise, as_toml
from kacore.simulate.cost import costs
from kacore.simulate.fronts import Front, read_fronts
from kacore.simulate.reading import Log, in_order
from kacore.simulate.study import Study, base_policy


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs `kacore simulate` in an empty directory. Return: exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*argv):
        try:
            status = cli.main(["simulate", *map(str, argv)])
        except SystemExit as end:
            status = end.code
        return (status, *capsys.readouterr())

    return call


@pytest.fixture
def log(tmp_path):
    """Two thousand requests of thirty clients in five hours."""
    draw, at, lines = random.Random(5), 1431857100, []
    for _ in range(2000):
        at += int(draw.expovariate(1 / 9))
        hour, minute, second = at // 3600 % 24, at // 60 % 60, at % 60
        lines.append(f'192.0.2.{draw.randrange(30)} - - [17/May/2015:{hour:02}:{minute:02}:{second:02} +0000] "-" 200 1\n')
    path = tmp_path / "access.log"
    path.write_text("".join(lines))
    return path


def studied(path, **options):
    logs = [Log(str(path))]
    study = Study(has_durations=logs[0].format.has_durations, **options)
    for records in in_order(logs, lambda n: None):
        study.feed(records)
    return study.finish()


# -- the figures of real logs --


@pytest.mark.parametrize(
    ("name", "reuse", "mean"),
    [
        (
            "nasa",
            {5: 0.508, 15: 0.656, 75: 0.818, 600: 0.888, 1800: 0.903},
            {5: 2.05, 15: 4.69, 75: 14.01, 600: 59.26, 1800: 139.26},
        ),
        (
            "semicomplete",
            {5: 0.384, 15: 0.588, 75: 0.695, 600: 0.695, 1800: 0.695},
            {5: 0.12, 15: 0.29, 75: 0.93, 600: 6.24, 1800: 18.40},
        ),
    ],
)
def test_the_first_figures_of_two_real_logs_are_reproduced(name, reuse, mean):
    result = studied(trace(name), rooms=())
    by = {row.timeout: row for row in result.rows}
    assert {timeout: round(result.share(by[timeout].reused), 3) for timeout in reuse} == reuse
    assert {timeout: round(by[timeout].mean, 2) for timeout in mean} == mean


def test_a_simple_loop_over_the_table_finds_the_same_reuse_and_fewer_open_when_it_looks_only_at_arrivals():
    found = {}
    records = [record for batch in in_order([Log(str(trace("nasa")))], lambda n: None) for record in batch]
    for timeout in (5, 15, 75, 600, 1800):
        table, conns, reused, area = ConnectionTable(base_policy(), keep_alive_timeout=timeout), {}, 0, 0.0
        last = records[0][0] // 1
        for at, _, client in records:
            now = at // 1
            table.expire(now, limit=1 << 20)
            area += len(table) * (now - last)  # those that were closed meanwhile do not count
            last = now
            conn = conns.get(client, 0)
            if conn in table:
                reused += 1
            else:
                conn = conns[client] = table.open(now)
            table.head_done(conn, now)
            table.responded(conn, now)
        found[timeout] = round(reused / len(records), 3), round(area / (last - records[0][0] // 1), 1)
    assert found == {5: (0.508, 1.3), 15: (0.656, 4.0), 75: (0.818, 13.6), 600: (0.888, 58.8), 1800: (0.903, 138.9)}


def test_sixteen_places_with_eviction_reuse_more_than_any_number_of_them_at_five_seconds():
    result = studied(trace("nasa"), rooms=(16, 64, 1000), room_timeouts=(5.0, 75.0, 600.0, 3900.0))
    shares = {}
    for room in result.rooms:
        shares.setdefault(room.max_connections, []).append(result.share(room.reused))
    fixed = {size: [round(share, 3) for share in found[:-1]] for size, found in shares.items()}
    assert fixed[16] == [0.508, 0.793, 0.809, 0.809]
    assert fixed[64] == [0.508, 0.818, 0.881, 0.885]
    assert fixed[1000] == [0.508, 0.818, 0.888, 0.910]
    for size, (*_, longest, auto) in shares.items():
        assert auto >= longest - 0.01, size  # of closing nobody before the place is needed


@pytest.mark.parametrize("name", ["nasa", "semicomplete"])
def test_a_longer_timeout_never_reuses_less_whatever_the_room(name):
    result = studied(trace(name))
    for size in {room.max_connections for room in result.rooms}:
        reused = [room.reused for room in result.rooms if room.max_connections == size and room.timeout is not None]
        assert reused == sorted(reused), size


@pytest.mark.parametrize("name", ["nasa", "semicomplete"])
def test_the_plots_in_the_docs_are_what_the_command_draws(run, name):
    assert run(trace(name), "--svg", "plot.svg")[0] == 0
    with open("plot.svg", encoding="utf-8") as file:
        assert file.read() == (ROOT / "docs" / f"reuse-{name}.svg").read_text(encoding="utf-8"), (
            f"kacore simulate {trace(name).name} --svg docs/reuse-{name}.svg"
        )


def test_what_the_page_says_of_limited_room_is_so():
    page = (ROOT / "docs" / "simulate.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) % \| ([\d.]+) % \| ([\d.]+) % \| ([\d.]+) % \|$", page, re.MULTILINE)
    assert rows
    result = studied(trace("nasa"), rooms=[int(row[0]) for row in rows])
    found = {}
    for room in result.rooms:
        found.setdefault(str(room.max_connections), []).append(f"{result.share(room.reused) * 100:.1f}")
    assert {size: list(shares) for size, *shares in rows} == found


def test_what_the_page_says_of_costs_is_so():
    page = (ROOT / "docs" / "simulate.md").read_text(encoding="utf-8")
    head, _, *rows = re.search(r"^\| a handshake is worth .*?\n\n", page, re.MULTILINE | re.DOTALL)[0].strip().splitlines()
    names = [cell.strip() for cell in head.strip("|").split("|")]
    for row in rows:
        handshake, *said = [float(cell) for cell in row.strip("|").split("|")]
        result = studied(trace("nasa"), rooms=(16, 128), room_timeouts=(3900.0,), also=[handshake])
        found = {one.name.partition(": ")[0]: one.cost for one in costs(result, handshake)}
        assert said == [round(found[name], 1) for name in names[1:]]


# -- how requests become connections --


def test_a_log_with_durations_needs_as_many_connections_as_overlap(tmp_path):
    path = tmp_path / "a.log"
    path.write_text("".join(f"{1000 + k}.000 10.0.0.1 2.500\n" for k in range(100)))
    logs = [Log(str(path), given="$msec $remote_addr $request_time")]
    for per_client, at_most, end in ((0, 3, 1099.0), (2, 2, 1123.5)):
        study = Study(has_durations=True, per_client=per_client, rooms=(8,))
        for records in in_order([Log(str(path), given="$msec $remote_addr $request_time")], lambda n: None):
            study.feed(records)
        result = study.finish()
        assert (result.auto.peak, result.n_connections, result.ended) == (at_most, at_most, end)
        assert result.auto.reused == 100 - at_most
    assert logs[0].format.has_durations


@pytest.mark.parametrize(("word", "peak"), [("auto", 1), ("6", 4)])
def test_without_durations_only_a_number_spreads_a_second_over_connections(run, tmp_path, word, peak):
    path = tmp_path / "a.log"
    path.write_text('192.0.2.1 - - [17/May/2015:10:05:00 +0000] "-" 200 1\n' * 4)
    status, out, _ = run(path, "--per-client", word, "--json")
    assert status == 0
    assert json.loads(out)["timeouts"][-1]["peak_open"] == peak


@pytest.mark.parametrize(
    ("version", "words", "peak", "how"),
    [
        ("1.1", [], 2, "requests of a client that overlap have one each"),
        ("2.0", [], 1, "one for each client, which its requests share"),
        ("2.0", ["--per-client", "6"], 2, "at most 6"),
        ("1.1", ["--per-client", "http2"], 1, "one for each client, which its requests share"),
    ],
)
def test_over_http_2_requests_that_overlap_share_a_connection(run, tmp_path, version, words, peak, how):
    path = tmp_path / "a.log"
    line = '192.0.2.1 - - [17/May/2015:10:05:{:02} +0000] "GET / HTTP/{}" 200 1 "-" "-" 3.000\n'
    path.write_text("".join(line.format(second, version) for second in range(10, 30, 2)))
    status, out, _ = run(path, *words)
    assert status == 0
    assert how in out
    assert re.search(rf"^auto .* {peak}  +\S+ kB$", out, re.MULTILINE)


# -- races and fronts --


def test_a_front_that_closes_first_loses_nothing_and_one_that_does_not_loses_what_falls_into_the_window(tmp_path):
    draw, at, lines = random.Random(6), 1000.0, []
    for _ in range(20_000):
        at += draw.expovariate(1 / 10)
        lines.append(f"{at:.3f} 10.0.0.1\n")
    path = tmp_path / "a.log"
    path.write_text("".join(lines))
    study = Study(has_durations=True, fronts=[Front("short", 4.0), Front("long", 60.0)], rooms=(), window=0.01)
    for records in in_order([Log(str(path), given="$msec $remote_addr")], lambda n: None):
        study.feed(records)
    row = next(row for row in study.finish().rows if row.timeout == 5)
    assert row.races["short"] == 0
    assert row.races["long"] == pytest.approx(2.718281828 ** -0.5 / 10 * 0.01 * 1e6, rel=0.1)  # the density of gaps at 5 s


def test_fronts_are_read_by_name_and_number():
    assert read_fronts("nginx, alb:905 ,x:1.5") == [Front("nginx", 60.0), Front("alb", 905.0), Front("x", 1.5)]
    assert read_fronts("") == []


@pytest.mark.parametrize("text", ["nobody", "nginx:", "nginx:x", "nginx:0", "nginx:nan", ":5", "nginx,nginx"])
def test_a_front_that_is_none_is_refused_by_name(run, log, text):
    status, _, err = run(log, "--front", text)
    assert status == 2
    assert err.startswith("kacore: front='")


# -- what is told --


def test_the_text_is_a_table_with_bars_and_a_recommendation(run, log):
    status, out, err = run(log, "--cost", "60")
    assert (status, err) == (0, "")
    assert re.search(r"^access\.log, common log format: 2,000 requests of 30 clients in \d\.\d+ h\.$", out, re.MULTILINE)
    assert re.search(r"^5 s +[█▏▎▍▌▋▊▉ ]+ +\d+\.\d %.*uvicorn, node, Apache$", out, re.MULTILINE)
    for name in ("best fixed: ", "LRU, room for 16", "auto, room for 16", "auto", "knows the future"):
        assert re.search(rf"^{name}.* s$", out, re.MULTILINE), name
    assert "[policy]\nkeep_alive_timeout = " in out
    assert max(map(len, out.partition("# kacore")[0].splitlines())) <= 100


def test_the_json_has_all_numbers(run, log):
    asked = ["--cost", "30", "--front", "nginx:60", "--timeouts", "7,70", "--max-connections", "4,8"]
    status, out, _ = run(log, "--json", *asked)
    found = json.loads(out)
    assert status == 0
    assert [row["timeout"] for row in found["timeouts"]] == [7.0, 70.0, "auto"]
    assert {room["max_connections"] for room in found["rooms"]} == {4, 8}
    assert found["fronts"] == {"nginx": 60.0}
    assert found["logs"][0]["format"] == "common log format"
    assert found["costs"]
    assert found["recommendation"]["policy"]["keep_alive_timeout"]


def test_the_page_is_one_file_without_script_or_anything_that_is_loaded(run, log):
    assert run(log, "--html", "page.html", "--cost", "60")[0] == 0
    with open("page.html", encoding="utf-8") as file:
        page = file.read()
    assert not re.search(r"<script|<link|<img|@import|url\(|https?://(?!www\.w3\.org/2000/svg)", page)
    assert page.count("<svg") == 8  # four charts, each for wide and for narrow screens
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)
    assert "prefers-color-scheme: dark" in page


@pytest.fixture(scope="module")
def browser(need):
    chromium = need("chromium")
    with need("module:playwright.sync_api").sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(375, "light"), (1280, "dark"), (3840, "light")])
def test_the_page_fits_every_screen_and_loads_nothing(run, log, tmp_path, browser, width, scheme):
    assert run(log, "--html", "page.html", "--cost", "60")[0] == 0
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: errors.append(message.text))
    page.goto(f"file://{tmp_path}/page.html")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("svg:visible").count() == 4
    texts = "[...document.querySelectorAll('svg text')].filter(t => t.checkVisibility())"
    sizes = page.evaluate(f"{texts}.map(t => t.getBoundingClientRect().height)")
    assert min(sizes) > 11  # letters that can be read
    outside = "t => { const s = t.ownerSVGElement.getBoundingClientRect(), r = t.getBoundingClientRect();"
    outside += " return r.left < s.left - 1 || r.right > s.right + 1 }"
    assert page.evaluate(f"{texts}.filter({outside}).map(t => t.textContent)") == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(244, 245, 242)") == (scheme == "light")
    context.close()
    assert requests == [f"file://{tmp_path}/page.html"]
    assert errors == []


def test_what_stands_in_a_log_cannot_become_a_part_of_the_page(run, tmp_path):
    path = tmp_path / "<b>.log"
    path.write_text('192.0.2.1 - - [17/May/2015:10:05:00 +0000] "-" 200 1\n<script>alert(1)</script>\n')
    assert run(path, "--html", "page.html")[0] == 0
    with open("page.html", encoding="utf-8") as file:
        page = file.read()
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "<b>" not in page


def test_the_plot_is_a_picture_of_its_own(run, log):
    assert run(log, "--svg", "plot.svg")[0] == 0
    tree = ElementTree.parse("plot.svg")
    assert tree.getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert "access.log" in "".join(tree.getroot().itertext())


def test_the_recommendation_is_a_configuration_that_serve_takes(run, log, capsys):
    assert run(log, "--toml", "kacore.toml")[0] == 0
    assert cli.main(["config", "--format", "json", "--config", "kacore.toml"]) == 0
    policy = json.loads(capsys.readouterr().out)["policy"]["keep_alive_timeout"]
    assert policy["from"].startswith("kacore.toml")
    assert policy["value"] == "auto"
    with open("app.py", "w") as file:
        file.write("app = None\n")
    assert cli.main(["serve", "app:app", "--config", "kacore.toml", "--check-config"]) == 0


def test_more_room_is_recommended_when_the_log_needs_it(log):
    result = studied(log, rooms=())
    busy = result._replace(auto=result.auto._replace(peak=123_456))
    advice = advise(busy)
    assert advice.policy["max_connections"] == 250_000
    assert "max_connections = 250000" in as_toml(advice, "a log")


def test_a_policy_that_knows_the_future_costs_least_and_the_best_number_no_more_than_all_others(log):
    found = {one.name: one.cost for one in costs(studied(log, also=[60.0]), 60.0)}
    best = next(cost for name, cost in found.items() if name.startswith("best fixed"))
    assert found["knows the future"] <= best <= min(cost for name, cost in found.items() if name != "knows the future")


def test_wrong_lines_are_counted_and_told(run, log):
    with open(log, "a") as file:
        file.write("rubbish\n\nmore\n")
    status, out, _ = run(log)
    assert status == 0
    assert "2 lines could not be read; the first: " in out
    assert "access.log:2001: is not a line common log format: 'rubbish'" in out


def test_a_log_on_stdin_is_read(run, log, monkeypatch):
    class Stdin:
        buffer = io.BufferedReader(io.BytesIO(gzip.compress(log.read_bytes())))

    monkeypatch.setattr("sys.stdin", Stdin)
    status, out, _ = run("-")
    assert status == 0
    assert out.startswith("stdin, common log format: 2,000 requests")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--per-client", "0"], "per_client='0': must be an integer from 1 to 1000000"),
        (["--per-client", "many"], "per_client='many': must be an integer from 1 to 1000000"),
        (["--cost", "x"], "cost='x': must be a number of seconds from 0.001 to 1000000"),
        (["--window", "-1"], "window='-1': must be a number of seconds from 0 to 1000000"),
        (["--timeouts", "5,nan"], "timeouts='nan': must be a number of seconds from 0.001 to 1000000"),
        (["--max-connections", "16,0"], "max_connections='0': must be an integer from 1 to 16777216"),
        (["--format", "$status"], "format='$status': says nowhere who the client is: $remote_addr, %h or %a"),
        (["access.log"], "logs: access.log is named twice"),
        (["missing.log"], "missing.log: No such file or directory"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_value_and_the_rule(run, log, argv, told):
    status, out, err = run("access.log", *argv)
    assert (status, out, err) == (2, "", f"kacore: {told}\n")


def test_a_log_of_a_single_moment_has_no_averages_and_no_error(run, tmp_path):
    path = tmp_path / "a.log"
    path.write_text('192.0.2.1 - - [17/May/2015:10:05:00 +0000] "-" 200 1\n')
    status, out, _ = run(path, "--html", "page.html", "--svg", "plot.svg", "--cost", "5")
    assert status == 0
    assert "1 requests of 1 clients in 0 s" in out


# -- progress --


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_shown_after_a_second_on_a_terminal_and_cleared_at_the_end(log, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    now = [0.0]
    logs = [Log(str(log))]
    stream = Terminal()
    progress = Progress(logs, stream, clock=lambda: now[0])
    for _ in in_order(logs, progress):
        pass
    assert stream.getvalue() == ""
    now[0] = 1.0
    progress(2000)
    assert stream.getvalue() == f"\r[{'#' * 30}] 100 %  2,000 requests\x1b[K"
    progress.clear()
    assert stream.getvalue().endswith("\r\x1b[K")


@pytest.mark.parametrize(("is_terminal", "term"), [(False, "xterm"), (True, "dumb")])
def test_progress_is_for_terminals_alone(log, monkeypatch, is_terminal, term):
    monkeypatch.setenv("TERM", term)
    stream = Terminal() if is_terminal else io.StringIO()
    times = iter(range(100))
    progress = Progress([Log(str(log))], stream, clock=lambda: float(next(times)))
    progress(1)
    progress.clear()
    assert stream.getvalue() == ""

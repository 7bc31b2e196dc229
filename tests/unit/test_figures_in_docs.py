"""What docs/performance.md and docs/capacity.md say in figures is what the code, the kept results and arithmetic say."""

import json
import re
from pathlib import Path
from statistics import median

import pytest
from servers import report

from kacore.policy import Policy

ROOT = Path(__file__).parents[2]
RESULTS = report.load(ROOT / "benches" / "results" / "server.json")
MILLION = 1_000_000


def page(name):
    return " ".join((ROOT / "docs" / name).read_text(encoding="utf-8").split())


def source(name):
    (path,) = (ROOT / "src").rglob(name)
    return path.read_text(encoding="utf-8")


def said(text, pattern):
    """The figures that the page gives at this place, which must be there once."""
    found = re.findall(pattern, text)
    assert len(found) == 1, f"{pattern!r} is there {len(found)} times"
    figures = found[0] if isinstance(found[0], tuple) else (found[0],)
    return [float(figure.replace(",", "")) for figure in figures]


def kept(scenario, metric="bytes_each", server="kacore-asgi"):
    """Medians of the kept records of a scenario, by name."""
    records = {name: record["figures"] for name, record in RESULTS.items() if name.split(" ")[0] == scenario}
    return {name: median(figures[server][metric]) for name, figures in records.items() if metric in figures[server]}


@pytest.fixture(scope="module")
def capacity():
    return page("capacity.md")


@pytest.fixture(scope="module")
def performance():
    return page("performance.md")


# --- what was measured ------------------------------------------------------------------------------------------


def test_the_table_of_figures_is_that_of_the_kept_results(tmp_path):
    copy = tmp_path / "page.md"
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    copy.write_text(text, encoding="utf-8")
    report.put_into(copy, RESULTS)
    assert copy.read_text(encoding="utf-8") == text, "make bench-server ARGS='--report --docs'"


def test_the_memory_of_an_idle_connection_is_as_kept(capacity):
    low, high = said(capacity, r"kacore, plain \| (\d+) to (\d+) \|")
    measured = kept("idle").values()
    assert (round(min(measured)), round(max(measured))) == (low, high)
    assert said(capacity, r"kacore, TLS \| ([\d,]+) \|") == pytest.approx(list(kept("idle-tls").values()), rel=0.05)
    low, high = said(capacity, r"epoll entry \| ([\d,]+) to ([\d,]+) \|")
    assert all(low * 0.95 < each < high * 1.05 for each in kept("kernel").values())


def test_waiting_costs_no_time_as_kept(capacity):
    assert kept("idle", "percent")["idle CPU"] == said(capacity, r"Measured: ([\d.]+) % of a core")[0] == 0


def test_the_instructions_of_a_request_are_as_kept(performance):
    counts = json.loads((ROOT / "benches" / "instructions.json").read_text())
    names = ("request", "request, browser", "request, 16 pipelined")
    figures = said(performance, r"\(([\d,]+) for a small one, ([\d,]+) with a browser's head, ([\d,]+) each for sixteen")
    assert any(
        figures == pytest.approx([one[name] for name in names], rel=0.03) for one in counts.values() if "request" in one
    )


# --- what the code says -----------------------------------------------------------------------------------------


def test_the_bytes_of_a_slot_and_of_a_sock_are_those_that_the_compiler_checks(capacity):
    slot, sock = said(capacity, r"(\d+) of kacore's bytes are the connection's slot in the table and (\d+) what")
    assert said(source("ka_store.h"), r"sizeof\(ka_chunk\) == \(size_t\)(\d+) \* KA_CHUNK") == [slot]
    assert said(source("ka_wire.h"), r"sizeof\(ka_sock\) == (\d+),") == [sock]
    (table,) = said(capacity, r"1,000,000 of 100,000 clients \| (\d+) \|")
    exactly = said(page("table.md"), r"([\d.]+) bytes a connection with 1,000,000 of 100,000 clients")
    assert exactly == [pytest.approx(table, abs=0.5)]
    assert slot < table and slot + sock <= said(capacity, r"kacore, plain \| (\d+) to")[0]
    parts = said(source("ka_phase.h"), r"KA_CHUNK = (\d+)")
    assert said(capacity, r"come in parts of ([\d,]+) connections") == parts
    assert said(capacity, r"kacore's table grows in parts of ([\d,]+) connections") == parts


def test_limits_are_those_of_the_policy_and_the_server(capacity):
    from kacore.server import listening

    policy = Policy()
    assert said(capacity, r"Its default of ([\d,]+) is") == [policy.max_connections]
    assert said(capacity, r"`max_buffer_bytes` bounds their sum, (\d+) MB") == [policy.max_buffer_bytes / 2**20]
    assert said(capacity, r"kacore asks for ([\d,]+) on each listener") == [listening.BACKLOG]
    assert said(capacity, r"connections of a worker \+ (\d+)") == [listening.DESCRIPTORS_ELSE]


def test_the_worst_case_is_what_the_policy_says(capacity):
    rows = re.findall(r"\| (nothing: 10,000 connections|`--[^`]+`) \| ([\d,]+) MiB \| ([\d,]+) MiB \|", capacity)
    assert len(rows) == 3
    for options, plain, tls in rows:
        flags = re.findall(r"--([\w-]+) (\d+)", options)
        policy = Policy(**{"max_connections": 10_000, **{name.replace("-", "_"): int(value) for name, value in flags}})
        sums = [-(-policy.worst_case_bytes(tls=is_tls) // (1 << 20)) for is_tls in (False, True)]
        assert sums == [int(plain.replace(",", "")), int(tls.replace(",", ""))], options
    in_gb = 4 * Policy(max_connections=250_000).worst_case_bytes() / 2**30
    assert said(capacity, r"(\d+) GB in four workers") == [round(in_gb, -1)]
    assert said(source("ka_h2.h"), r"KA_H2_REQUEST_BYTES = (\d+),") == [2048]
    assert said(source("ka_h2.h"), r"KA_H2_FIELD_BYTES = (\d+),") == said(capacity, r"its head and (\d+) bytes a field")


def test_limits_of_the_system_are_the_same_in_the_table_and_in_the_files(capacity):
    for name in ("fs.file-max", "net.ipv4.tcp_max_syn_backlog"):
        (value,) = said(capacity, rf"{re.escape(name)} = (\d+)")
        assert re.search(rf"`{re.escape(name)}` \| [^|]+ \| {value:,.0f} \|", capacity), name
    (limit,) = said(capacity, r"LimitNOFILE=(\d+)")
    workers, each = said(capacity, r"--workers (\d+) --max-connections (\d+) ```")
    assert workers * each == MILLION and limit == each + 64


def test_the_time_of_a_step_is_that_of_the_engine(performance):
    (step_us,) = said(source("ka_engine.c"), r"STEP_NS = (\d+) \* 1000,")
    assert said(performance, r"as many events as fit into (\d+) us") == [step_us]


def test_the_reuse_of_a_log_is_the_same_on_both_pages_that_tell_of_it():
    rows = re.findall(r"^\| (16|64|1,000) \| (.+) \|$", (ROOT / "docs" / "simulate.md").read_text(), re.MULTILINE)
    assert len(rows) == 3
    for room, figures in rows:
        of_5, of_75, of_600, auto = [float(figure.rstrip(" %")) for figure in figures.split(" | ")]
        found = re.findall(rf"\| {room} \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| [\d.]+ \| ([\d.]+) \|", page("timeouts.md"))
        assert [float(figure) for figure in found[0]] == [of_5, of_75, of_600, auto], room


# --- what follows -----------------------------------------------------------------------------------------------


def test_the_memory_of_a_million_is_the_sum_of_the_rows(capacity):
    kernel = [said(capacity, rf"{row} \| {number}")[0] for row, number in (
        ("epoll entry", r"[\d,]+ to ([\d,]+)"), (r"\(dentry\)", r"(\d+)"), ("table of descriptors", r"(\d+)")
    )]  # fmt: skip
    in_kernel, plain, tls = said(capacity, r"about ([\d.]+) GB in the kernel and (\d+) MB in kacore, or (\d+) GB")
    assert in_kernel == round(MILLION * sum(kernel) / 1e9, 1)
    # The lower figure is that of many: what is paid once has gone from it.
    assert plain == pytest.approx(said(capacity, r"kacore, plain \| (\d+) to \d+ \|")[0], abs=5)
    assert tls == said(capacity, r"kacore, TLS \| ([\d,]+) \|")[0] / 1000


def test_rates_at_a_million_are_what_their_times_make_of_it(capacity):
    timeout, rate, longer, slower = said(
        capacity, r"`keep_alive_timeout` of (\d+) s end at ([\d,]+) a second.* at (\d+) s it is ([\d,]+) a second"
    )
    assert timeout == Policy().keep_alive_min
    assert [rate, slower] == [round(MILLION / seconds, -2) for seconds in (timeout, longer)]
    each_ms, all_s = said(capacity, r"certificate is about ([\d.]+) ms of CPU time \(`handshake`, measured\): (\d+) s")
    assert all_s == each_ms / 1000 * MILLION
    assert said(capacity, r"a million connections are (\d+) probes a second") == [round(MILLION / 7200)]


def test_the_ports_of_a_proxy_are_counted_right(capacity):
    low, high, wide_low, wide_high = said(capacity, r"ip_local_port_range` \| (\d+) (\d+) \| (\d+) (\d+) on a proxy")
    ports, addresses, fewer = said(capacity, r"server: ([\d,]+)\. A million from one proxy need (\d+) .*? or (\d+) with")
    assert ports == high - low + 1
    assert (addresses, fewer) == (-(-MILLION // ports), -(-MILLION // (wide_high - wide_low + 1)))

"""How figures are told: kept as JSON, printed as one table, and the same table in Markdown for docs/performance.md.

Kept figures are those of the last run of each record, so that a part can be measured again alone. A ratio says by how
much kacore is better: the peer's value over kacore's within a round, then the median over the rounds. Every metric
that is compared is better when smaller.
"""

import json
import statistics
from pathlib import Path

UNITS = {
    "cpu_us": ("us of CPU", 2),
    "calls": ("calls", 3),
    "p99_ms": ("ms, p99", 2),
    "wait_ms": ("ms", 2),
    "bytes_each": ("bytes each", 0),
    "percent": ("% of a core", 2),
    "kept_mb": ("MB more", 1),
    "ms": ("ms", 0),
}
# What is worth a ratio beside the metric itself.
UNCOMPARED = ("percent", "kept_mb", "wait_ms")
# Below this share of its core the server waited for the client: then requests per second are the client's.
BUSY = 0.9
ALONE = " alone"  # ends the name of a server that has no idle connections, beside its like that has
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"

Results = dict[str, dict]


def load(path: Path) -> Results:
    return json.loads(path.read_text()) if path.exists() else {}


def save(path: Path, results: Results) -> None:
    """One record a line: small, and a change of one shows as one."""
    lines = [f"{json.dumps(name)}: {json.dumps(record)}" for name, record in results.items()]
    path.parent.mkdir(exist_ok=True)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


def kept(record, what: str, machine: dict[str, str], versions: dict[str, str]) -> dict:
    """A record as JSON keeps it."""
    figures = {
        server: {metric: [rounded(value) for value in values] for metric, values in metrics.items()}
        for server, metrics in record.figures.items()
    }
    return {
        "what": what, "first": record.first, "machine": machine, "figures": figures, "lost": record.lost,
        "versions": {server: versions[server] for server in figures if server in versions},
    }  # fmt: skip


def is_ours(server: str) -> bool:
    return server.startswith("kacore")


def ratio(record: dict, peer: str, server: str) -> float:
    """How many times as much the peer takes; pairs are of the same round."""
    first = record["first"]
    theirs, ours = record["figures"][peer][first], record["figures"][server][first]
    if len(theirs) != len(ours):
        return statistics.median(theirs) / statistics.median(ours)
    return statistics.median(a / b if b else float("inf") for a, b in zip(theirs, ours, strict=True))


def ratios(record: dict, server: str) -> str:
    if not is_ours(server) or server.endswith(ALONE) or record["first"] in UNCOMPARED:
        return ""
    peers = [name for name in record["figures"] if not is_ours(name) and not name.endswith(ALONE)]
    own = [name for name in record["figures"] if name == f"{server}{ALONE}"]
    return ", ".join(f"{ratio(record, peer, server):.2f} {peer}" for peer in [*peers, *own])


def number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def row(record: dict, server: str) -> dict[str, str]:
    metrics = record["figures"][server]
    first = record["first"]
    unit, digits = UNITS[first]
    best, median = min(metrics[first]), statistics.median(metrics[first])
    figure = number(median, digits)
    if len(metrics[first]) > 1:
        figure += f" (best {number(best, digits)})"
    rate = p99 = ""
    if "rps" in metrics:
        rate = number(statistics.median(metrics["rps"]), 0)
        rate += "*" if statistics.median(metrics["busy"]) < BUSY else ""
        # wrk's correction for what it did not send in time makes nothing of pipelined answers.
        # h2load tells none.
        p99 = number(statistics.median(metrics["p99_us"]), 0) if all(metrics.get("p99_us", [0])) else ""
    return {
        "server": server, "figure": f"{figure} {unit}", "times as good": ratios(record, server),
        "responses/s": rate, "p99 us": p99,
    }  # fmt: skip


def rows(results: Results, all_servers: bool = True) -> list[dict[str, str]]:
    found = []
    for name, record in results.items():
        first = True
        for server in record["figures"]:
            found.append({"scenario": name if first else "", **row(record, server)})
            first = False
        if all_servers:
            for server, reason in record["lost"].items():
                found.append({"scenario": "", "server": server, "figure": f"not measured: {reason}"})
    return found


COLUMNS = ("scenario", "server", "figure", "responses/s", "p99 us", "times as good")


def text_table(results: Results) -> str:
    """For the terminal. The last column is as wide as it likes."""
    table = [dict(zip(COLUMNS, COLUMNS, strict=True)), *rows(results)]
    measured = [line for line in table if not line["figure"].startswith("not measured")]
    widths = {column: max(len(line.get(column, "")) for line in measured) for column in COLUMNS}
    lines = []
    for line in table:
        cells = [line.get(column, "").ljust(widths[column]) for column in COLUMNS[:3]]
        cells += [line.get(column, "").rjust(widths[column]) for column in COLUMNS[3:5]]
        lines.append("  ".join([*cells, line.get(COLUMNS[5], "")]).rstrip())
    lines.append("* the server's core was not busy: the client, or whoever else uses the machine, was the limit")
    return "\n".join(lines)


def markdown_table(results: Results) -> str:
    """For docs/performance.md: a row for each record and server of ours, and the peers in its ratios."""
    lines = [
        "| scenario | server | kacore | as a multiple of | responses/s, p99 us |",
        "|---|---|---|---|---|",
    ]
    for name, record in results.items():
        for server in record["figures"]:
            if is_ours(server) and not server.endswith(ALONE):
                cells = row(record, server)
                speed = ", ".join(filter(None, (cells["responses/s"], cells["p99 us"])))
                what = f"{record['what']} (`{name}`)"
                lines.append(f"| {what} | {server} | {cells['figure']} | {cells['times as good']} | {speed} |")
    return "\n".join(lines)


def conditions(results: Results) -> str:
    """Machine and versions of what is in the table, each once."""
    machines, versions = {}, {}
    for record in results.values():
        machines.setdefault(", ".join(f"{key} {value}" for key, value in record["machine"].items()), None)
        versions.update(record["versions"])
    packages = {f"{server.split('-')[0].split(',')[0]} {version}": None for server, version in versions.items()}
    return "\n".join([*machines, ", ".join(packages)])


def put_into(page: Path, results: Results) -> None:
    """Replace what stands between the two marks of a page."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"{page} has no {BEGIN} ... {END}")
    block = "\n\n".join([BEGIN, conditions(results).replace("\n", "  \n"), markdown_table(results), END])
    page.write_text(f"{before}{block}{after}")

"""`kacore config`: print the configuration that would be in force, and where each value comes from. `kacore policy` prints
the part that is the policy.

    kacore policy --from-nginx /etc/nginx/nginx.conf --format toml > kacore.toml
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from kacore.cli.configuration import Configuration
from kacore.config.fields import KEY, Field, Record, show
from kacore.config.options import ServeOptions
from kacore.policy import Policy, PolicySet

DEFAULT = "default"


def run(args: argparse.Namespace) -> int:
    """Return: 0. Raises for what is wrong with the input."""
    configuration = Configuration(args, os.environ)
    configuration.tell()
    found = InForce(configuration, has_serve=args.command == "config")
    try:
        as_text = {"table": as_table, "toml": as_toml, "json": as_json}[args.format]
        print(as_text(found, is_verbose=args.verbose), flush=True)
    except BrokenPipeError:  # `kacore policy | head`; what the interpreter flushes at exit must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


class InForce:
    """What is printed. has_serve: the options of serving, too."""

    def __init__(self, configuration: Configuration, *, has_serve: bool) -> None:
        self.options = configuration.options if has_serve else None
        self.policies: PolicySet = configuration.policies
        self.policy: Policy = self.policies.default
        sources = configuration.policy_sources
        self.rule_origins = list(sources.rule_origins)
        self.report = sources.report
        self.origins = {name: sources.origin(name) for name in Policy.__fields__}
        self.serve_origins = {name: configuration.serve.origin(name) for name in configuration.serve.record.__fields__}

    def tables(self) -> list[tuple[str, Record, dict[str, str]]]:
        """Each with its name in kacore.toml, and who said what."""
        serve = [("serve", self.options, self.serve_origins)] if self.options is not None else []
        return [*serve, ("policy", self.policy, self.origins)]


def remarks(found: InForce, is_verbose: bool) -> list[str]:
    """What is to be known of the sources, and of values that cannot be meant so."""
    from kacore.policy.readers.reading import digest
    from kacore.policy.remarks import voided

    return voided(found.policies) + (list(map(str, found.report)) if is_verbose else digest(found.report))


def shown(what: Field, value: object) -> str:
    return what.default_text if value is None and what.default_text else what.show(value)


def as_table(found: InForce, *, is_verbose: bool = False) -> str:
    lines: list[str] = []
    for name, record, origins in found.tables():
        rows = [(name if found.options is not None else "field", "value", "unit", "from")]
        for field, value in record.as_dict().items():
            what = record.__fields__[field]
            rows.append((field, shown(what, value), what.unit_of(value), origins[field]))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines += [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:<{widths[2]}}  {d}" for a, b, c, d in rows]
        lines.append("")
        if isinstance(record, ServeOptions):
            where = [*record.addresses(), *(f"descriptor {fd}" for fd in record.fds)]
            lines += [f"Listens on {', '.join(where)}.", ""]
    lines.append(f"Clients can make a worker hold {mebibytes(found.policy)} of memory at the very worst: docs/capacity.md.")
    for number, (rule, origin) in enumerate(zip(found.policies.rules, found.rule_origins, strict=True), 1):
        keys = ", ".join(f"{key} {' | '.join(given)}" for key, given in rule.keys().items())
        lines += ["", f"rule {number}: {keys} ({origin}){'' if rule.changes else ': as the default'}"]
        lines += [
            f"  {name} = {show(value)} {Policy.__fields__[name].unit_of(value)}".rstrip()
            for name, value in rule.changes.items()
        ]
    if told := remarks(found, is_verbose):
        lines += ["", *told]
    return "\n".join(lines)


def mebibytes(policy: Policy) -> str:
    """As in "552 MiB (600 MiB with TLS)"."""
    plain, tls = (-(-policy.worst_case_bytes(tls=tls) // (1 << 20)) for tls in (False, True))
    return f"{plain:,} MiB ({tls:,} MiB with TLS)"


def as_toml(found: InForce, *, is_verbose: bool = False) -> str:
    """A kacore.toml that makes the same configuration; what is a default stands there as a comment, as does what a file
    cannot say."""
    from kacore.policy.readers.toml import write

    lines: list[str] = []
    for name, record, origins in found.tables():
        lines += [f"[{name}]"]
        for field, value in record.as_dict().items():
            what = record.__fields__[field]
            is_said = origins[field] != DEFAULT and KEY in what.sources and not what.is_secret
            text = write(what.to_key(value)) if is_said or value is not None else '""'
            lines.append(("" if is_said else "# ") + f"{field} = {text}  # {origins[field]}")
        lines.append("")
    for rule in found.policies.rules:
        lines += ["[[policy.rule]]"]
        lines += [f"{name} = {write(value)}" for name, value in {**rule.keys(), **rule.changes}.items()]
        lines.append("")
    if told := remarks(found, is_verbose):
        lines += [f"# {line}" for line in told]
    return "\n".join(lines).rstrip("\n")


def as_json(found: InForce, *, is_verbose: bool = False) -> str:
    """For programs, and so with every line of the report in any case."""
    import json

    from kacore.policy.remarks import voided

    content: dict[str, Any] = {
        name: {
            field: {
                "value": record.__fields__[field].to_key(value),
                "unit": record.__fields__[field].unit,
                "from": origins[field],
            }
            for field, value in record.as_dict().items()
        }
        for name, record, origins in found.tables()
    }
    content |= {
        "worst_case_bytes": {"plain": found.policy.worst_case_bytes(), "tls": found.policy.worst_case_bytes(tls=True)},
        "rules": [
            {**rule.keys(), "set": dict(rule.changes), "from": origin}
            for rule, origin in zip(found.policies.rules, found.rule_origins, strict=True)
        ],
        "report": [
            {"file": line.file, "line": line.line, "text": line.text, "taken": line.is_taken}
            | {"fields": line.fields, "why": line.why}
            for line in found.report
        ],
        "remarks": voided(found.policies),
    }
    return json.dumps(content, indent=2)

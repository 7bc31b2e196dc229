"""`kacore policy`: print the policy that would be in force, and where each value comes from. Also the flags
of the policy, one for each field, which `kacore serve` shares.

    kacore policy --from-nginx /etc/nginx/nginx.conf --format toml > kacore.toml
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from kacore.policy.fields import Field, PolicyError, show
from kacore.policy.policy import Policy
from kacore.policy.rules import PolicySet
from kacore.policy.sources import Sources

DEFAULT_FILE = "kacore.toml"


def add_policy_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for every field of Policy: --keep-alive-timeout 5, --no-advertise. Not given is None."""
    group = parser.add_argument_group("policy", "what connections may take; docs/policy.md gives the reasons")
    for name, what in Policy.__fields__.items():
        flag = "--" + name.replace("_", "-")
        default = "on" if what.default is True else what.shown_default()
        text = f"{what.doc} (default: {default}{' ' + what.unit if what.unit else ''})".replace("%", "%%")
        if what.kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:  # kept as text: `policy_from` reads it, and its message is better than argparse's
            group.add_argument(flag, default=None, metavar=metavar(what), help=text)


def metavar(what: Field) -> str:
    words = {"s": "SECONDS", "bytes": "BYTES", "B/s": "BYTES", "fraction": "SHARE", "bits": "BITS"}
    return "|".join(what.choices) if what.choices else words.get(what.unit, "N")


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """--config, --from-apache, --htaccess, --from-nginx."""
    group = parser.add_argument_group(
        "sources of the policy", "the later wins: Apache or nginx, file, environment, flags"
    )
    group.add_argument("--config", metavar="FILE", help=f"read this file (default: {DEFAULT_FILE} if it exists)")
    group.add_argument("--from-apache", metavar="FILE", help="start from an Apache configuration")
    group.add_argument(
        "--htaccess",
        metavar="SITE=FILE",
        action="append",
        help="with --from-apache: a site's .htaccess; may be repeated",
    )
    group.add_argument("--from-nginx", metavar="FILE", help="start from an nginx configuration")


def config_files(args: object) -> list[str]:
    """The kacore.toml to read: the one that --config names, else the one in the current directory, if any."""
    given = getattr(args, "config", None)
    if given is not None:
        return [given]
    return [DEFAULT_FILE] if os.path.exists(DEFAULT_FILE) else []


def policy_from(
    args: object,
    environ: Mapping[str, str],
    files: Iterable[str] = (),
    *,
    tables: Collection[str] = (),
    variables: Collection[str] = (),
) -> Effective:
    """The policy in force: defaults < Apache or nginx < files < environment < flags.

    args: the parsed command line (flags that are missing or None were not given). files: paths of
    kacore.toml.
    tables: top-level tables of the files that others read. variables: KACORE_* variables that others read.
    Raises PolicyError (a ValueError) with one line that names the source, the value and the rule; OSError for
    a file that cannot be read; ImportError for a missing extra.
    """
    sources = Sources()
    apache, nginx, htaccess = (getattr(args, name, None) for name in ("from_apache", "from_nginx", "htaccess"))
    if apache:
        sources.add_apache(apache, dict(map(site_file, htaccess or ())))
    elif htaccess:
        raise PolicyError("--htaccess: needs --from-apache")
    if nginx:
        sources.add_nginx(nginx)
    for path in files:
        sources.add_toml(path, tables)
    sources.add_environment(environ, variables)
    sources.add_flags(args)
    return Effective(sources)


def site_file(text: str) -> tuple[str, str]:
    site, equals, path = text.partition("=")
    if not (site and equals and path):
        raise PolicyError(f"--htaccess {text!r}: must be SITE=FILE")
    return site, path


class Effective:
    """A policy and where it comes from."""

    def __init__(self, sources: Sources) -> None:
        self.policies: PolicySet = sources.policy_set()
        self.origins = {name: sources.origin(name) for name in Policy.__fields__}
        self.rule_origins = list(sources.rule_origins)
        self.report = sources.report

    @property
    def policy(self) -> Policy:
        return self.policies.default


# -- the command --------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `kacore policy`."""
    parser.add_argument(
        "--format",
        choices=("table", "toml", "json"),
        default="table",
        help="how to print it (default: table)",
    )
    parser.add_argument(
        "--verbose", action="store_true", help="what became of every line of an Apache or nginx configuration"
    )
    add_source_flags(parser)
    add_policy_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Print the policy in force. Return: 0; 2 after one line on stderr for what is wrong with the input."""
    try:
        found = policy_from(args, os.environ, config_files(args))
    except OSError as error:
        print(f"kacore policy: {told(error)}", file=sys.stderr)
        return 2
    except (PolicyError, ImportError) as error:
        print(f"kacore policy: {error}", file=sys.stderr)
        return 2
    try:
        as_text = {"table": as_table, "toml": as_toml, "json": as_json}[args.format]
        print(as_text(found, is_verbose=args.verbose), flush=True)
    except BrokenPipeError:  # `kacore policy | head`; what the interpreter flushes at exit must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def told(error: OSError) -> str:
    """In one line. Not every OSError has a file, or a number."""
    why = error.strerror or str(error) or type(error).__name__
    return why if error.filename is None else f"{error.filename}: {why}"


def report_of(found: Effective, is_verbose: bool) -> list[str]:
    """What is to be known of the sources, and of values that cannot be meant so."""
    from kacore.policy.readers.reading import digest
    from kacore.policy.remarks import voided

    report = found.report
    return voided(found.policies) + (list(map(str, report)) if is_verbose else digest(report))


def as_table(found: Effective, *, is_verbose: bool = False) -> str:
    rows = [("field", "value", "unit", "from")]
    for name, value in found.policy.as_dict().items():
        rows.append((name, show(value), Policy.__fields__[name].unit, found.origins[name]))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [
        f"{name:<{widths[0]}}  {value:>{widths[1]}}  {unit:<{widths[2]}}  {origin}"
        for name, value, unit, origin in rows
    ]
    lines += ["", f"Clients can make a worker hold {mebibytes(found.policy)} of memory at the very worst: docs/capacity.md."]
    for number, (rule, origin) in enumerate(zip(found.policies.rules, found.rule_origins, strict=True), 1):
        keys = ", ".join(f"{key} {' | '.join(given)}" for key, given in rule.keys().items())
        lines += ["", f"rule {number}: {keys} ({origin}){'' if rule.changes else ': as the default'}"]
        lines += [
            f"  {name} = {show(value)} {Policy.__fields__[name].unit}".rstrip() for name, value in rule.changes.items()
        ]
    if report := report_of(found, is_verbose):
        lines += ["", *report]
    return "\n".join(lines)


def mebibytes(policy: Policy) -> str:
    """As in "552 MiB (600 MiB with TLS)"."""
    plain, tls = (-(-policy.worst_case_bytes(tls=tls) // (1 << 20)) for tls in (False, True))
    return f"{plain:,} MiB ({tls:,} MiB with TLS)"


def as_toml(found: Effective, *, is_verbose: bool = False) -> str:
    """A kacore.toml that makes the same policy; what is a default stands there as a comment."""
    from kacore.policy.readers.toml import write

    lines = ["[policy]"]
    for name, value in found.policy.as_dict().items():
        origin = found.origins[name]
        lines.append(("# " if origin == "default" else "") + f"{name} = {write(value)}  # {origin}")
    for rule in found.policies.rules:
        lines += ["", "[[policy.rule]]"]
        lines += [f"{name} = {write(value)}" for name, value in {**rule.keys(), **rule.changes}.items()]
    if report := report_of(found, is_verbose):
        lines += ["", *(f"# {line}" for line in report)]
    return "\n".join(lines)


def as_json(found: Effective, *, is_verbose: bool = False) -> str:
    """For programs, and so with every line of the report in any case."""
    import json

    from kacore.policy.remarks import voided

    content: dict[str, Any] = {
        "worst_case_bytes": {"plain": found.policy.worst_case_bytes(), "tls": found.policy.worst_case_bytes(tls=True)},
        "policy": {
            name: {"value": value, "unit": Policy.__fields__[name].unit, "from": found.origins[name]}
            for name, value in found.policy.as_dict().items()
        },
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

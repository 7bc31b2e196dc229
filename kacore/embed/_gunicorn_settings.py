"""gunicorn's settings as kacore's workers take them: the policy that they mean, and what cannot be served."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import gunicorn

from kacore.embed._hosts import HostPackage
from kacore.policy import Policy, PolicyError, PolicySet
from kacore.policy.sources import Sources

OF_BASE = ("PIPE", "init_process", "load_wsgi", "max_requests", "notify", "ppid", "reloader", "sockets", "timeout")
PACKAGE = HostPackage(
    "gunicorn",
    oldest="22",
    newest="27",
    needed=(
        "gunicorn.arbiter:Arbiter.WORKER_BOOT_ERROR",
        "gunicorn.config:Config.is_ssl",
        "gunicorn.config:Config.settings",
        *(f"gunicorn.workers.base:Worker.{name}" for name in OF_BASE),
    ),
)
# gunicorn's setting, and the field of the policy that it means.
FIELDS = {
    "keepalive": "keep_alive_timeout",
    "worker_connections": "max_connections",
    "graceful_timeout": "drain_timeout",
    "limit_request_line": "max_target_bytes",
    "limit_request_fields": "max_headers",
    "limit_request_field_size": "max_header_bytes",
}
# Settings for which only this value can be served, and those without effect: the parser has no such leniency.
ONLY = {"protocol": "http", "http2_cleartext": "off"}
IGNORED = (
    "asgi_disconnect_grace_period",
    "casefold_http_method",
    "header_map",
    "http_parser",
    "permit_obsolete_folding",
    "permit_unconventional_http_method",
    "permit_unconventional_http_version",
    "secure_scheme_headers",
    "sendfile",
    "strip_header_spaces",
)
SCRIPT_NAME = "SCRIPT_NAME"  # in the environment, or a field of a trusted proxy: below which path the application stands
# Of graceful_timeout, the part that is left to the application's end.
FOR_THE_END = 0.1


def is_set(cfg: Any, name: str) -> bool:
    """Whether it differs from gunicorn's default: a default that the user wrote looks the same."""
    setting = cfg.settings.get(name)
    return setting is not None and bool(setting.get() != type(setting)().get())


def setting_of(cfg: Any, name: str, default: Any) -> Any:
    """Its value; `default` in a gunicorn that does not have it yet."""
    return getattr(cfg, name) if name in cfg.settings else default


def speaks_proxy(cfg: Any) -> bool:
    """Whether connections begin with a PROXY header: until 24.1 that was a yes or no."""
    return cfg.proxy_protocol not in (False, "off")


def given_policy(cfg: Any) -> PolicySet | None:
    """What the configuration file calls `kacore_policy`: a Policy, a PolicySet, or a dict of fields."""
    location = cfg.config or ""
    module = sys.modules.get(location.removeprefix("python:") if location.startswith("python:") else "__config__")
    given = getattr(module, "kacore_policy", None)
    if isinstance(given, Mapping):
        try:
            given = Policy(**given)
        except TypeError as error:
            raise PolicyError(f"kacore_policy: {error}") from None
    if given is None or isinstance(given, PolicySet):
        return given
    if not isinstance(given, Policy):
        raise PolicyError(f"kacore_policy={given!r}: must be a Policy, a PolicySet or a dict of fields")
    return PolicySet(given)


def policy_for(cfg: Any) -> PolicySet:
    """What is in force for workers of this configuration. PolicyError says what is wrong, and who said it."""
    sources = Sources()
    given = given_policy(cfg)
    if given is not None:
        sources.add(given.default.changes(), "kacore_policy")
        sources.add_rules(list(given.rules), "kacore_policy")
    sources.add_environment(os.environ)
    named = {name: getattr(cfg, name) for name in FIELDS if is_set(cfg, name)}
    fields: dict[str, Any] = {FIELDS[name]: value for name, value in named.items()}
    if named.get("keepalive") == 0:
        del fields["keep_alive_timeout"]
        fields["keep_alive"] = False
    most = Policy.__fields__["max_head_bytes"]
    head = sources.values.get("max_head_bytes", most.make_default())
    for field in ("max_target_bytes", "max_header_bytes"):
        if field in fields:
            fields[field] = fields[field] or head  # 0 is no limit of its own
    if "max_headers" in fields:
        high = int(Policy.__fields__["max_headers"].high)
        fields["max_headers"] = min(fields["max_headers"] or high, high)
    # What the user allows must fit into a head.
    fields["max_head_bytes"] = max(head, fields.get("max_target_bytes", 0) + fields.get("max_header_bytes", 0))
    for field in ("keep_alive_timeout", "drain_timeout"):
        if field in fields:
            fields[field] = float(fields[field])
    sources.add(fields, "gunicorn's settings")
    return sources.policy_set()


def check_settings(cfg: Any, log: Any) -> None:
    """RuntimeError, of which gunicorn prints the sentence, for what cannot be served."""
    if refusal := PACKAGE.refusal(gunicorn.__version__):
        raise RuntimeError(refusal)
    if warning := PACKAGE.warning(gunicorn.__version__):
        log.warning("%s", warning)
    for name, value in ONLY.items():
        if (given := setting_of(cfg, name, value)) != value:
            raise RuntimeError(f"{name}={given!r}: kacore's workers only support {name}={value!r}")
    if "h2" in setting_of(cfg, "http_protocols", ()):
        raise RuntimeError("http_protocols: kacore's workers speak HTTP/1.1 only")
    if speaks_proxy(cfg) and set(cfg.proxy_allow_ips) != set(cfg.forwarded_allow_ips):
        raise RuntimeError("proxy_protocol: kacore's workers need the same proxy_allow_ips and forwarded_allow_ips")
    for name in IGNORED:
        if is_set(cfg, name):
            log.warning("%s has no effect in kacore's workers", name)
    if set(setting_of(cfg, "forwarder_headers", ())) - {SCRIPT_NAME, "PATH_INFO"}:
        log.warning("forwarder_headers: kacore's workers only honour %s", SCRIPT_NAME)
    try:
        policy = policy_for(cfg).default
    except PolicyError as error:
        raise RuntimeError(str(error)) from None
    if policy.drain_lame_duck >= (most := time_to_leave(cfg)):
        raise RuntimeError(
            f"drain_lame_duck={policy.drain_lame_duck:g}: must be less than {most:g}, nine tenths of graceful_timeout"
        )


def time_to_leave(cfg: Any) -> float:
    """Of graceful_timeout, in seconds; the rest is for the application's end."""
    return float(cfg.graceful_timeout) * (1 - FOR_THE_END)

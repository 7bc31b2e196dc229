"""From the text "module:name" to an application, and which of the three interfaces it speaks.

Every mistake a user can make here is a UsageError: one line that names the value and what was expected.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from typing import Any, Literal, cast

from kacore.errors import UsageError

Interface = Literal["asgi", "wsgi", "handler"]


def load(target: str, *, app_dir: str = ".", factory: bool = False) -> Any:
    """The application that "module:name" names; the name may be dotted, and without one it is `app` or `application`.

    app_dir: put first on the import path. factory: call what was found, without arguments, and serve what it returns.
    Raises UsageError for what is not there; an error inside the module goes on as it is.
    """
    module_name, path = checked_target(target), target.partition(":")[2]
    where = os.path.abspath(app_dir)
    if not os.path.isdir(where):
        raise UsageError(f"app_dir={app_dir!r}: is not a directory")
    if where not in sys.path:
        sys.path.insert(0, where)
    try:
        if module_name.startswith("."):
            raise ModuleNotFoundError(name=module_name)
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise  # the module is there, and imports something that is not
        raise UsageError(f"no module {error.name!r} (looked for {target!r} in {where} first){hint(target)}") from None
    app: Any = module
    for name in path.split(".") if path else [first_present(module, target)]:
        if not hasattr(app, name):
            raise UsageError(f"{module_name!r} has no {path!r} (looked for {target!r})")
        app = getattr(app, name)
    if factory:
        try:
            inspect.signature(app).bind()
        except (TypeError, ValueError) as error:
            raise UsageError(f"{target!r} is not a factory, which must be callable without arguments: {error}") from None
        app = app()
    if not callable(app):
        raise UsageError(f"{target!r} is of type {type(app).__name__}, which is not callable, so not an application")
    return app


def find_file(target: str, app_dir: str) -> None:
    """Whether the first module that "module:name" names is there, without running anything of it. UsageError."""
    from importlib.machinery import PathFinder

    module_name = checked_target(target)
    where = os.path.abspath(app_dir)
    first = module_name.partition(".")[0]
    if not first or (first not in sys.modules and PathFinder.find_spec(first, [where, *sys.path]) is None):
        raise UsageError(f"no module {first or module_name!r} (looked for {target!r} in {where} first){hint(target)}")


def checked_target(target: str) -> str:
    """The module of "module:name"."""
    module_name, colon, path = target.partition(":")
    if not module_name or (colon and not path):
        raise UsageError(f'{target!r} is not of the form "module:name"')
    return module_name


def hint(target: str) -> str:
    """For a path where a module's name is expected."""
    module, colon, name = target.partition(":")
    plain = module.removesuffix(".py").replace("/", ".").strip(".")
    return f"; a module is named with dots: {plain}{colon}{name}" if plain != module else ""


def first_present(module: Any, target: str) -> str:
    for name in ("app", "application"):
        if hasattr(module, name):
            return name
    raise UsageError(f'{target!r} has neither "app" nor "application"; name the application: "{target}:name"')


def detect_interface(app: Callable[..., Any]) -> Interface:
    """ASGI takes (scope, receive, send), WSGI (environ, start_response), a handler (request).

    Told apart by the number of arguments that must be given. UsageError when that says nothing.
    """
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):
        parameters = cast("Any", ())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    n_needed = sum(p.default is p.empty for p in positional)
    if n_needed == 3:
        return "asgi"
    if n_needed == 2:
        return "wsgi"
    if n_needed == 1:
        if is_factory(app):
            raise UsageError(
                f"{app.__name__!r} looks like a factory that needs an argument ({positional[0].name}): serve what it returns,"
                " or a factory without arguments with --factory; if it answers requests, say --interface handler"
            )
        return "handler"
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return "asgi" if is_async(app) else "wsgi"  # as wsgiref.validate.validator and old middleware write it
    raise UsageError(
        f"cannot tell the interface of {app!r}: it takes neither (scope, receive, send) nor (environ, start_response) "
        "nor (request); say --interface asgi, wsgi or handler"
        + ("; or --factory, if it makes the application" if not positional else "")
    )


def is_factory(app: Any) -> bool:
    """By its name: `create_app(settings)`, `main(global_config, **settings)` of PasteDeploy."""
    return re.match(r"(create|make|build|get)_\w*(app|application)|app_factory", getattr(app, "__name__", "")) is not None


def of_version_2(app: Any) -> Any:
    """An application of ASGI 2, `app(scope)` and then `(receive, send)` of what that returned, as one of version 3;
    everything else as it is."""
    if inspect.isclass(app):
        call = app.__dict__.get("__call__")
        is_old = inspect.iscoroutinefunction(call) and list(inspect.signature(call).parameters)[1:] == ["receive", "send"]
    else:
        is_old = not is_async(app) and parameters_of(app) == ["scope"]
    if not is_old:
        return app

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        await app(scope)(receive, send)

    return asgi


def parameters_of(app: Any) -> list[str]:
    try:
        return list(inspect.signature(app).parameters)
    except (TypeError, ValueError):
        return []


def is_async(app: Any) -> bool:
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(getattr(app, "__call__", None))  # noqa: B004

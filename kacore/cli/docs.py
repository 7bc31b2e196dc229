"""`kacore docs`: the documentation that came with this installation, as files; with a page's name that page."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

import kacore
from kacore.errors import UsageError


def directory() -> Path:
    """Beside the package, in an installation; in a source tree docs/."""
    package = Path(kacore.__file__).parent
    installed = package / "docs"
    return installed if installed.is_dir() else package.parent / "docs"


def run(args: argparse.Namespace) -> int:
    """Print where the pages are and what is in them, or one page. UsageError."""
    where = directory()
    pages = {path.stem: path for path in sorted(where.glob("*.md"))}
    if not pages:
        raise UsageError(f"the documentation is not here: {where}")
    try:
        if args.page is None:
            print("\n".join([f"{where}{os.sep}", "", *(f"  {name:<20} {title_of(path)}" for name, path in pages.items())]))
        else:
            print(page_of(pages, args.page).read_text(encoding="utf-8"), end="")
        sys.stdout.flush()
    except BrokenPipeError:  # `kacore docs options | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def page_of(pages: dict[str, Path], name: str) -> Path:
    from kacore.config.fields import unknown

    wanted = name.removesuffix(".md")
    if wanted not in pages:
        raise UsageError(f"docs: {unknown(wanted, pages)}")
    return pages[wanted]


def title_of(path: Path) -> str:
    found = re.search(r"^# (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else ""

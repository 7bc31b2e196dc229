"""Arrows between the rooms of kacore/ point down, and no file needs itself. Imports for types alone count as well."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2] / "kacore"
# From the top down: what a room may import is below it.
ROOMS = ("cli", "server", "policy", "config")


def modules(*rooms):
    """Dotted name to syntax tree."""
    found = {}
    for room in rooms:
        for path in (ROOT / room).rglob("*.py"):
            parts = path.relative_to(ROOT.parent).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_room_imports_what_is_above_it():
    for i, room in enumerate(ROOMS):
        above = tuple(f"kacore.{name}" for name in ROOMS[:i])
        for name, tree in modules(room).items():
            assert not [found for found in imported(tree) if found.startswith(above)], name


def test_the_files_of_policy_and_config_form_no_circle():
    trees = modules("policy", "config")
    # A package's own file only passes on the names of its modules.
    arrows = {name: {to for to in imported(tree) if to in trees and to != name} for name, tree in trees.items()}
    packages = {name for name in trees if (ROOT.parent / name.replace(".", "/")).is_dir()}
    arrows = {name: to - packages for name, to in arrows.items()}
    while leaves := [name for name, to in arrows.items() if not to]:
        for leaf in leaves:
            del arrows[leaf]
        for to in arrows.values():
            to.difference_update(leaves)
    assert arrows == {}

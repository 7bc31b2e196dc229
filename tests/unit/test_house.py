"""The house is as docs/architecture.md draws it: arrows point down, nothing runs in a circle, what the docs name exists."""

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"

# A room of the C core may include itself and those before it.
C_ROOMS = ("core", "core/http", "core/h2", "core/table", "core/talk", "epoll")

# The same for Python: at import, and in a function. `kacore` is kacore/__init__.py, the names that users import.
PYTHON_ROOMS = (
    ("_version", "_limits", "errors", "_tls_extension"),
    ("_core",),
    ("config",),
    ("policy",),
    ("kacore", "server"),
    ("embed", "demo", "simulate", "top", "elsewhere"),
    ("cli",),
    ("__main__",),
)
# What kacore/__init__.py imports only when it is asked for, so that who embeds the table need not load asyncio.
LAZY = {("kacore", "kacore.server")}


def circles(edges):
    """The sets of nodes that reach each other."""

    def reached(start):
        seen, waiting = set(), [start]
        while waiting:
            for node in edges.get(waiting.pop(), ()):
                if node not in seen:
                    seen.add(node)
                    waiting.append(node)
        return seen

    reach = {node: reached(node) for node in edges}
    return sorted({tuple(sorted(m for m in reach[n] if n in reach.get(m, ()))) for n in edges if n in reach[n]})


# -- C --------------------------------------------------------------------------------------------------------------


def c_files():
    return sorted(path for room in ("core", "epoll") for path in (SRC / room).rglob("*.[ch]"))


def includes_of(path):
    """Our own files that this one includes, below src/."""
    for name in re.findall(r'^\s*#\s*include "(.+)"', path.read_text(encoding="utf-8"), re.MULTILINE):
        found = [base / name for base in (SRC / "core", SRC / "epoll", path.parent) if (base / name).is_file()]
        assert found, f"{path}: includes {name}, which is nowhere"
        yield found[0]


C_INCLUDES = {path: list(includes_of(path)) for path in c_files()}


def room_of(path):
    return path.parent.relative_to(SRC).as_posix()


def test_includes_point_down():
    upward = {
        (path.relative_to(SRC).as_posix(), included.relative_to(SRC).as_posix())
        for path, all_included in C_INCLUDES.items()
        for included in all_included
        if C_ROOMS.index(room_of(included)) > C_ROOMS.index(room_of(path))
    }
    assert upward == set()


def test_includes_form_no_circle():
    assert circles(C_INCLUDES) == []


@pytest.mark.parametrize("ending", ["_parts.h", "_lines.h", "ka_store.h", "ka_block.h"])
def test_a_private_header_is_included_in_its_own_room_alone(ending):
    private = [(path, h) for path, included in C_INCLUDES.items() for h in included if h.name.endswith(ending)]
    assert private
    assert [(path, h) for path, h in private if path.parent != h.parent] == []


def test_only_the_engine_makes_system_calls_and_nothing_in_c_knows_python():
    # Besides types (sys/uio.h), names of families (sys/socket.h, on which musl insists) and what only reckons (arpa/inet.h).
    calls = re.compile(r"^\s*#\s*include <(sys/(?!types|uio|socket)|netinet/|unistd|fcntl|poll|time\.h)", re.MULTILINE)
    makers = [path.name for path in c_files() if "core" in path.parts and calls.search(path.read_text(encoding="utf-8"))]
    assert makers == ["ka_buf.c"]  # pread(), of a file that is to be encrypted, or goes in frames
    assert [path.name for path in c_files() if "Python.h" in path.read_text()] == []


# -- Python ---------------------------------------------------------------------------------------------------------

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "kacore").rglob("*.py")
}


def imports_of(path):
    """(module, whether it is imported together with this one) of all of kacore's, but for what only type checkers see."""

    def visit(node, at_import):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            at_import = False
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole if whole in MODULES or whole == "kacore._core" else node.module), at_import
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_import)

    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {found for found in visit(tree, at_import=True) if found[0].split(".")[0] == "kacore"}


@functools.cache
def imports():
    return {name: imports_of(path) for name, path in MODULES.items()}


def level_of(module):
    room = module.split(".")[1] if "." in module else "kacore"
    return next(k for k, rooms in enumerate(PYTHON_ROOMS) if room in rooms)


def test_python_imports_point_down():
    upward = {
        (name, imported)
        for name, imported_there in imports().items()
        for imported, _ in imported_there
        if level_of(imported) > level_of(name)
    }
    assert upward == set()


@pytest.mark.parametrize("when", ["at import", "ever"])
def test_python_imports_form_no_circle(when):
    edges = {
        name: {m for m, at_import in imported_there if (at_import or when == "ever") and (name, m) not in LAZY}
        for name, imported_there in imports().items()
    }
    assert circles(edges) == []


def test_the_compiled_module_imports_nothing_that_stands_on_it():
    core = PYTHON_ROOMS.index(("_core",))
    upward = [
        (path.name, module)
        for path in sorted((SRC / "python").glob("*.p[yx]*"))
        for module in re.findall(r"^\s*(?:from|import) (kacore[\w.]*)", path.read_text(encoding="utf-8"), re.MULTILINE)
        if level_of(module) > core
    ]
    assert upward == []


# -- the documents --------------------------------------------------------------------------------------------------

DOCUMENTS = [ROOT / "docs" / "architecture.md", ROOT / "CONTRIBUTING.md"]
SUFFIXES = {".c", ".h", ".py", ".pyx", ".pxi", ".pxd", ".pyi"}
SOURCES = [
    *(path for room in ("src", "kacore", "tests", "benches") for path in (ROOT / room).rglob("*") if path.suffix in SUFFIXES),
    ROOT / "setup.py",
]
DEFINITIONS = re.compile(
    r"^[a-z].*?\b(\w+)\("  # a function of C, a call at the left edge
    r"|^(?:}|typedef struct \w+) (\w+);|\b(KA_\w+)"
    r"|\b(?:def|class) (\w+)|\bcdef [\w *]*?(\w+)\("
    r"|^    cdef [^#\n(]*?(\w+) *(?:#.*)?$"  # an attribute
    r"|\(\*(\w+)\)\("  # a pointer to a function
    r"|^ *(\w+)(?:: [^=\n]*)? =",
    re.MULTILINE,
)
OUTSIDE = {"SSLObject", "call_at", "recv", "send"}  # the libraries'
NOT_NAMES = {"HEAD", "cibuildwheel", "evicted", "now", "Z"}  # a method of HTTP, a program, a cause, an argument, of vX.Y.Z


@functools.cache
def defined():
    found = (found for path in SOURCES for found in DEFINITIONS.findall(path.read_text(encoding="utf-8")))
    return {path.stem for path in SOURCES} | {name for names in found for name in names if name}


def in_code(document):
    """What stands between backticks, outside of blocks of code."""
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return sorted(set(re.findall(r"`([^`\n]+)`", text)))


def is_file(name):
    return re.search(r"^[\w./*-]*(/|\.(c|h|py|pyx|pxd|pxi|pyi|md|toml|json|\*))$", name) and not re.search("NAME", name)


def exists(name):
    if name.startswith(".") and "/" not in name:  # `.pxi`: an ending
        return any(path.suffix == name for path in SOURCES)
    if name.endswith("/"):
        return any((ROOT / room / name).is_dir() for room in ("", "src/core"))
    return any(any((ROOT / room).rglob(name)) for room in ("src", "kacore", "tests")) or any(ROOT.glob(name))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_exist(document):
    named = [name for name in in_code(document) if is_file(name)]
    assert len(named) > 10
    assert [name for name in named if not exists(name)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_functions_and_types_that_a_document_names_exist(document):
    named = [name for name in in_code(document) if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*(\(\))?", name)]
    last = {name: name.removesuffix("()").rpartition(".")[2] for name in named if not is_file(name)}
    assert [name for name, word in last.items() if word not in defined() | OUTSIDE | NOT_NAMES] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_targets_of_make_that_a_document_names_exist(document):
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z][a-z-]+)", "\n".join(in_code(document)))) <= targets

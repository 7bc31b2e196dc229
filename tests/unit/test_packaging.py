"""What pip was told about the package, and that importing it keeps the promises made there."""

import importlib.metadata
import importlib.resources
import re
import runpy
import sys
from pathlib import Path

import pytest

import kacore
import kacore._core
from kacore import cli

ROOT = Path(__file__).parents[2]

try:
    METADATA = importlib.metadata.metadata("kacore")
except importlib.metadata.PackageNotFoundError:  # `make asan` in an environment of its own
    pytest.skip("a build of kacore is here, and not the package", allow_module_level=True)


def test_version_is_the_one_of_the_installed_metadata():
    assert kacore.__version__ == METADATA["Version"]


def test_nothing_is_required_at_run_time():
    assert [line for line in METADATA.get_all("Requires-Dist") if "extra ==" not in line] == []


def test_import_needs_the_standard_library_only(launch):
    code = (
        "import sys; sys.path = [p for p in sys.path if 'site-packages' not in p]; "
        "sys.path.insert(0, sys.argv[1]); import kacore"
    )
    root = str(Path(kacore.__file__).parents[1])
    child = launch("-I", "-c", code, root)
    assert child.wait() == 0, child.text


def test_python_version_and_licence_are_declared():
    assert METADATA["Requires-Python"] == ">=3.11"
    assert METADATA["License-Expression"] == "MIT"


def test_every_extra_that_the_documentation_names_exists():
    assert {"uvloop", "test", "bench", "dev"} <= set(METADATA.get_all("Provides-Extra"))


@pytest.mark.parametrize(
    ("name", "value", "sentence"), [("platform", "win32", "does not run on Windows"), ("maxsize", 2**31 - 1, "64-bit Python")]
)
def test_a_build_where_kacore_cannot_run_is_refused_in_a_sentence(monkeypatch, name, value, sentence):
    monkeypatch.setattr(sys, name, value)
    assert sentence in runpy.run_path(ROOT / ".ci/preflight.py")["missing"]()


def test_serving_on_windows_is_refused_in_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "win32")
    assert cli.main(["serve", "app:app"]) == 2
    assert "serves on Linux, macOS and BSD; on Windows use WSL or a container" in capsys.readouterr().err


def test_types_are_declared():
    files = importlib.resources.files(kacore)
    assert files.joinpath("py.typed").is_file()
    assert files.joinpath("_core.pyi").is_file()


def test_every_public_name_is_there_and_has_a_docstring():
    assert sorted(set(kacore.__all__)) == sorted(kacore.__all__)
    for name in set(kacore.__all__) - {"__version__"}:
        assert getattr(kacore, name).__doc__, name


def test_compiled_module_holds_no_leftovers_of_its_making():
    names = vars(kacore._core)
    assert [name for name in names if name == "__test__" or name.startswith("__pyx_unpickle")] == []


def test_actions_of_workflows_are_pinned_to_a_commit():
    uses = re.findall(r"uses: (.*)", "".join(path.read_text() for path in (ROOT / ".github/workflows").glob("*.yml")))
    assert uses
    assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use) for use in uses), uses

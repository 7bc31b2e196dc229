"""Build the sdist and the wheel into dist/, and check what somebody who installs them relies on.

- The sdist holds every file of the repository, except what only git reads.
- The wheel is built from the sdist, twice and in different directories, with the same bytes as a result.
- It is stripped, at most 1 MB, holds all of kacore/ and no source but the C core, and asks for no other package.
- Installed alone in a new environment, command and import work, and those unit tests of the sdist pass that are about
  what is compiled, installed or typed; among them the C example, compiled from what is installed.

Usage: python .ci/dist.py, with `build` installed. Ends with status 1 and a line that says what is wrong.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
MAX_WHEEL_BYTES = 1_000_000
IN_STANDARD = {"reload", "uvloop", "websockets"}
OF_THE_PROJECT = {"test", "browser", "bench", "servers", "dev", "docs", "wheels"}
GIT_ONLY = {".gitignore", ".gitattributes"}

# No build switch; no debug information and no symbols, which hold the paths of the build and are most of the bytes.
PLAIN_ENV = {name: value for name, value in os.environ.items() if not name.startswith("KACORE_")}
BUILD_ENV = {**PLAIN_ENV, "CFLAGS": "-g0", "LDFLAGS": "-Wl,--strip-all"}


def run(*command: object, **options: object) -> str:
    words = [str(part) for part in command]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"dist: {' '.join(words)} failed\n{done.stdout}")
    return done.stdout


def expect(truth: object, sentence: str) -> None:
    if not truth:
        sys.exit(f"dist: {sentence}")


def only(paths: list[Path]) -> Path:
    expect(len(paths) == 1, f"one file expected, found {[path.name for path in paths]}")
    return paths[0]


def build(source: Path, target: Path, kind: str) -> Path:
    run(sys.executable, "-m", "build", "--no-isolation", kind, "--outdir", target, source, env=BUILD_ENV)
    return only(list(target.glob("*.whl" if kind == "--wheel" else "*.tar.gz")))


def unpack(sdist: Path, where: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(where, filter="data")
    return only(list(where.iterdir()))


def tracked_files(*below: str) -> set[str]:
    return set(run("git", "ls-files", *below, cwd=ROOT).splitlines()) - GIT_ONLY


def check_sdist(tree: Path) -> None:
    tracked = tracked_files()
    packed = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
    expect(tracked <= packed, f"the sdist lacks {sorted(tracked - packed)}; see MANIFEST.in")
    added = {name for name in packed - tracked if ".egg-info/" not in name} - {"PKG-INFO", "setup.cfg"}
    expect(not added, f"the sdist holds what the repository does not: {sorted(added)}")


def tighten(wheel: Path) -> None:
    """Compress it again, by zopfli: the same files in some 3 % less, and the same bytes for the same wheel."""
    expect(shutil.which("advzip"), "advzip, of Debian's advancecomp, is missing")
    run("advzip", "--recompress", "--shrink-insane", "--quiet", wheel)


def check_wheel(wheel: Path) -> None:
    size = wheel.stat().st_size
    expect(size <= MAX_WHEEL_BYTES, f"{wheel.name} has {size} bytes, more than {MAX_WHEEL_BYTES}")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        text = archive.read(only([Path(n) for n in names if n.endswith("/METADATA")]).as_posix()).decode()
    core = [name for name in names if name.startswith("kacore/include/")]
    expect("kacore/include/talk/ka_talk.h" in core, "the wheel lacks the C core that kacore.get_include() promises")
    expect("kacore/docs/options.md" in names, "the wheel lacks the pages that kacore docs prints")
    sources = [name for name in names if name.endswith((".c", ".h", ".pyx", ".pxi", ".pxd")) and name not in core]
    expect(not sources, f"the wheel holds sources: {sources}")
    forgotten = tracked_files("kacore") - set(names)
    expect(not forgotten, f"the wheel lacks {sorted(forgotten)}; see package-data in pyproject.toml")
    strangers = [name for name in names if not name.startswith(("kacore/", "kacore-"))]
    expect(not strangers, f"the wheel would install outside its package: {strangers}")
    required = [line for line in text.splitlines() if line.startswith("Requires-Dist:")]
    required = [line for line in required if "extra ==" not in line]
    expect(not required, f"a package without run-time dependencies says {required}")


def check_installed(wheel: Path, tree: Path, scratch: Path) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", scratch / "venv")
    python = scratch / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel)
    version = run(python, "-I", "-c", "import kacore; print(kacore.__version__)", cwd=scratch).strip()
    expect(wheel.name.startswith(f"kacore-{version}-"), f"{wheel.name} says that it is {version}")
    said = run(scratch / "venv" / "bin" / "kacore", "--version", cwd=scratch)
    expect(version in said, f"`kacore --version` says {said!r}")
    # The test tools are this environment's, kacore is the wheel's: it comes first on the path.
    library = only(list((scratch / "venv").glob("lib/python*/site-packages")))
    env = {**PLAIN_ENV, "PYTHONPATH": str(library), "PYTHONSAFEPATH": "1"}
    tests = [f"tests/unit/test_{name}.py" for name in ("embedding_c", "packaging", "head", "table", "policy", "cli")]
    subprocess.run([sys.executable, "-m", "pytest", *tests], cwd=tree, env=env, check=True)


# What each extra is for, said in Python. `standard` installs three of them by their names.
EXTRAS = {
    "standard": "import watchfiles, uvloop, kacore.server.websocket",
    "completion": "from kacore.cli import main; assert main(['completion', 'bash']) == 0",
    "gunicorn": "from kacore.embed.gunicorn import ASGIWorker, Worker",
    "uvicorn": "from kacore.embed.uvicorn import Protocol",
    "aiohttp": "from kacore.embed.aiohttp import run_app",
    "http2": "import h2.connection",
    "metrics": "import prometheus_client",
    "nginx": "from kacore.policy import read_nginx; read_nginx('events {} http { server { listen 80; } }')",
    "top": "import kacore.cli.top, textual",
}


def check_extras(wheel: Path, scratch: Path) -> None:
    """pip install kacore-....whl[NAME], each in an environment of its own; a few at a time, since they wait for packages."""
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(only([Path(n) for n in archive.namelist() if n.endswith("/METADATA")]).as_posix()).decode()
    for_users = {line.split(": ")[1] for line in text.splitlines() if line.startswith("Provides-Extra:")}
    for_users -= OF_THE_PROJECT | IN_STANDARD
    expect(for_users == EXTRAS.keys(), f"extras without a check, or the other way round: {for_users ^ EXTRAS.keys()}")

    def check(name: str) -> None:
        where = scratch / "extras" / name
        run(sys.executable, "-m", "venv", "--without-pip", where)
        pip = (sys.executable, "-m", "pip", "--python", where / "bin" / "python", "--disable-pip-version-check", "--quiet")
        run(*pip, "install", "--no-compile", "--only-binary", ":all:", f"{wheel}[{name}]", timeout=600, env=PLAIN_ENV)
        run(where / "bin" / "python", "-I", "-W", "ignore", "-c", EXTRAS[name], cwd=scratch, timeout=60)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(check, EXTRAS))


def main() -> None:
    BUILD_ENV.setdefault("SOURCE_DATE_EPOCH", run("git", "log", "-1", "--format=%ct", cwd=ROOT).strip())
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        sdist = build(ROOT, DIST, "--sdist")
        trees = [unpack(sdist, scratch / where) for where in ("first", "elsewhere/second")]
        check_sdist(trees[0])
        wheels = [build(trees[0], DIST, "--wheel"), build(trees[1], scratch / "again", "--wheel")]
        digests = [hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels]
        expect(digests[0] == digests[1], "two builds of the same sdist gave different wheels")
        tighten(wheels[0])
        check_wheel(wheels[0])
        check_installed(wheels[0], trees[0], scratch)
        check_extras(wheels[0], scratch)
        for path in (sdist, wheels[0]):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            print(f"{digest}  {path.stat().st_size:>9,} bytes  {path.name}")


if __name__ == "__main__":
    main()

"""Run the wheels that .ci/wheels.py has left in dist/, each with the libc and on the processor it is for.

manylinux, x86_64:   installed alone in a new environment, with the unit tests of the sdist (as .ci/dist.py does).
manylinux, aarch64:  Debian's Python for arm64, unpacked into a folder, under qemu-user: installed by pip for that platform,
                     1,000 requests to `kacore serve` over one connection, and the unit tests of the core.
musllinux, x86_64:   nobody packages a Python on musl for Debian: musl's own loader relocates the module, and may lack nothing
                     but what Python brings.
musllinux, aarch64:  checked by auditwheel only.

Usage: python .ci/try_wheels.py. Needs Debian with qemu-user and musl, and the tools of the tests.
"""

import http.client
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dist import DIST, PLAIN_ENV, ROOT, build, check_installed, expect, only, run, unpack

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
N_REQUESTS = 1_000
APP = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"hello"})
"""
# Of tests/unit what asks the compiled code, and no compiled module of anybody else.
CORE_TESTS = ("tests/unit/test_head.py", "tests/unit/test_table.py", "tests/unit/test_table_counters.py")


def unpack_debian(arch: str, package: str, where: Path) -> Path:
    """The files of a package and of all it depends on, by apt with a state of its own."""
    root, state, cache = where / "root", where / "state", where / "cache"
    for folder in (root, state / "lists/partial", cache / "archives/partial"):
        folder.mkdir(parents=True)
    (where / "status").touch()
    settings = {
        "APT::Architecture": arch,
        "APT::Architectures::": arch,
        "APT::Sandbox::User": "root",
        "Dir::State": state,
        "Dir::State::status": where / "status",
        "Dir::Cache": cache,
        "Debug::NoLocking": 1,
    }
    apt = ["apt-get", "--quiet=2", "--yes", *(f"-o{name}={value}" for name, value in settings.items())]
    run(*apt, "update")
    run(*apt, "--no-install-recommends", "--download-only", "install", package)
    for archive in (cache / "archives").glob("*.deb"):
        run("dpkg-deb", "--extract", archive, root)
    return root


def answer_requests(python: Sequence[str], env: dict[str, str], cwd: Path) -> None:
    (cwd / "app.py").write_text(APP)
    command = [*python, "-m", "kacore", "serve", "app:app", "--port", "0"]
    server = subprocess.Popen(command, env=env, cwd=cwd, stderr=subprocess.PIPE, text=True)
    try:
        for line in server.stderr:
            if address := re.search(r"http://([\d.]+):(\d+)", line):
                break
        else:
            sys.exit(f"try: {command} did not serve")
        client = http.client.HTTPConnection(address[1], int(address[2]), timeout=60)
        for _ in range(N_REQUESTS):
            client.request("GET", "/")
            expect(client.getresponse().read() == b"hello", "a response is not the application's")
        client.close()
        server.send_signal(signal.SIGTERM)
        said, status = server.stderr.read(), server.wait(60)
        expect(status == 0, f"the server ended with status {status}: {said}")
    finally:
        server.kill()


def try_aarch64(wheel: Path, tree: Path, scratch: Path) -> None:
    root = unpack_debian("arm64", PYTHON, scratch / "debian")
    python = scratch / "python"
    python.write_text(f'#!/bin/sh\nexec qemu-aarch64 -L {root} {root}/usr/bin/{PYTHON} "$@"\n')
    python.chmod(0o755)
    site = scratch / "site"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", "--target", site)
    tools = ("pytest", "pytest-timeout", "pytest-mock", "hypothesis")
    run(*pip, "--platform", "manylinux2014_aarch64", "--platform", "manylinux_2_28_aarch64", wheel, *tools)
    # Children that tests start are emulated, too.
    (site / "sitecustomize.py").write_text(f"import sys\nsys.executable = {str(python)!r}\n")
    env = {**PLAIN_ENV, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    said = run(python, "-c", "import kacore, platform; print(platform.machine(), kacore._core.simd_variant())", env=env)
    print(f"try: {wheel.name}: {said.strip()}")
    answer_requests([str(python)], {**env, "PYTHONSAFEPATH": ""}, scratch)
    options = ("-q", "-p", "no:cacheprovider", "-o", "timeout=0")
    subprocess.run([python, "-m", "pytest", *options, *CORE_TESTS], cwd=tree, env=env, check=True)


def try_musl(wheel: Path, scratch: Path) -> None:
    run(sys.executable, "-m", "zipfile", "-e", wheel, scratch)
    module = only(list((scratch / "kacore").glob("_core*.so")))
    loader = only(list(Path("/lib").glob("ld-musl-x86_64.so.1")))
    done = subprocess.run([str(loader), "--list", str(module)], capture_output=True, text=True)
    names = set(re.findall(r": (\w+): symbol not found", done.stderr))
    strangers = {name for name in names if not name.startswith(("Py", "_Py"))}
    expect(names and not strangers, f"{wheel.name} needs {sorted(strangers)} of somebody: {done.stderr[:500]}")


def main() -> None:
    found = {path.stem.split("-")[-1]: path for path in DIST.glob("*linux*_*.whl")}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        tree = unpack(build(ROOT, scratch / "sdist", "--sdist"), scratch / "tree")
        for platform, wheel in found.items():
            where = scratch / platform
            where.mkdir()
            if platform == "manylinux2014_x86_64":
                check_installed(wheel, tree, where)
                answer_requests([str(where / "venv/bin/python")], PLAIN_ENV, where)
            elif platform == "manylinux2014_aarch64":
                try_aarch64(wheel, tree, where)
            elif platform == "musllinux_1_2_x86_64":
                try_musl(wheel, where)


if __name__ == "__main__":
    main()

"""Build the wheels for Linux into dist/, on any Linux, for the interpreter that runs this: with glibc and with musl, for
x86_64 and aarch64. zig, which PyPI has, compiles and links for each of them.

- Each is built from the sdist, twice and in different directories, with the same bytes as a result (--once: once).
- What it holds is checked as in .ci/dist.py, and its tag by auditwheel: it asks for no symbol that the tag does not promise.
- No symbol is left to find but those of Python and of that libc.

The headers are this interpreter's, whatever the target: pyconfig.h differs between Linuxes of 64 bits only in what
Python's own sources ask for. `.ci/try-wheels` runs what has been built.

Usage: python .ci/wheels.py [--once] [PLATFORM...], with `build`, `ziglang` and `auditwheel` installed.
"""

import argparse
import hashlib
import os
import re
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

from dist import DIST, PLAIN_ENV, ROOT, build, check_sdist, check_wheel, expect, only, run, tighten, unpack

# glibc 2.17 is that of manylinux2014. musl 1.2 is four years older than the oldest Alpine that is still looked after.
TARGETS = {
    "manylinux2014_x86_64": "x86_64-linux-gnu.2.17",
    "manylinux2014_aarch64": "aarch64-linux-gnu.2.17",
    "musllinux_1_2_x86_64": "x86_64-linux-musl",
    "musllinux_1_2_aarch64": "aarch64-linux-musl",
}
NO_UNWINDING = "-fno-unwind-tables -fno-asynchronous-unwind-tables"


def environment(target: str) -> dict[str, str]:
    """What setuptools reads, and zig: its defaults are those of a debug build."""
    zig = f"{sys.executable} -m ziglang cc -target {target} -fno-sanitize=undefined"
    soabi = re.sub(r"-[a-z0-9_]+-linux-[a-z]+$", "", sysconfig.get_config_var("SOABI"))
    machine, _, libc = target.split(".")[0].split("-")
    return {
        **PLAIN_ENV,
        "CC": zig,
        "LDSHARED": f"{zig} -shared -O2 -s -Wl,--gc-sections -Wl,--hash-style=gnu",
        "CFLAGS": f"-g0 -ffunction-sections -fdata-sections -fomit-frame-pointer {NO_UNWINDING}",
        "SETUPTOOLS_EXT_SUFFIX": f".{soabi}-{machine}-linux-{libc}.so",
        "SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH") or run("git", "log", "-1", "--format=%ct", cwd=ROOT).strip(),
    }


def build_for(platform: str, tree: Path, where: Path) -> Path:
    """setup.py and not `build`, which would make the same C of the same .pyx for every platform."""
    scratch = where / platform
    places = ("build", "--build-base", scratch / "build"), ("bdist_wheel", "--dist-dir", scratch, "--plat-name", platform)
    run(sys.executable, "setup.py", "-q", *places[0], *places[1], cwd=tree, env=environment(TARGETS[platform]))
    return only(list(scratch.glob("*.whl")))


def check_platform(wheel: Path, platform: str) -> None:
    said = " ".join(run(sys.executable, "-m", "auditwheel", "show", wheel).split())
    if platform.startswith("musl"):
        # auditwheel knows musl by the name that Alpine gives it; musl's loader takes libc.so for itself, too.
        expect("dependencies will need to be eliminated: libc.so" in said, f"auditwheel says of {wheel.name}: {said}")
        expect(said.endswith("eliminated: libc.so"), f"{wheel.name} needs more than musl, says auditwheel: {said}")
        return
    tag = re.search(r'is consistent with the following platform tag: "manylinux_2_(\d+)_\w+"', said)
    expect(tag and int(tag[1]) <= 17, f"auditwheel says of {wheel.name}: {said}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--once", action="store_true")
    parser.add_argument("platforms", nargs="*", default=[], metavar="PLATFORM", help=", ".join(TARGETS))
    args = parser.parse_args()
    DIST.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        sdist = build(ROOT, scratch / "sdist", "--sdist")
        trees = [unpack(sdist, scratch / where) for where in ("first", "elsewhere/second")]
        check_sdist(trees[0])
        for platform in args.platforms or TARGETS:
            wheel = build_for(platform, trees[0], scratch / "wheels")
            if not args.once:
                again = build_for(platform, trees[1], scratch / "again")
                expect(wheel.read_bytes() == again.read_bytes(), f"two builds of {wheel.name} have different bytes")
            tighten(wheel)
            check_wheel(wheel)
            check_platform(wheel, platform)
            shutil.copy2(wheel, DIST)
            digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
            print(f"{digest}  {wheel.stat().st_size:>9,} bytes  {wheel.name}", flush=True)


if __name__ == "__main__":
    main()

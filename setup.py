"""Build of the one extension, kacore._core. Everything else about the package stands in pyproject.toml.

Build switches, read here and nowhere else:
  KACORE_DEBUG=1     debug assertions, -O0 -g
  KACORE_SANITIZE=1  AddressSanitizer and UndefinedBehaviorSanitizer (implies the assertions)
  KACORE_COVERAGE=1  gcov counters
"""

import os
import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

# In the order of the house: each may use those before it.
CORE = ["ka_scan", "ka_head", "ka_body", "ka_reply", "ka_table", "ka_conn", "ka_buf", "ka_talk"]
EPOLL = ["ka_engine"]


def switch(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


debug, sanitize, coverage = map(switch, ("KACORE_DEBUG", "KACORE_SANITIZE", "KACORE_COVERAGE"))
has_epoll = sys.platform.startswith("linux")
compile_args = ["-std=gnu11", "-fvisibility=hidden"]
link_args = []
macros = []
if debug or sanitize:
    macros.append(("KA_DEBUG", "1"))
if sanitize:
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
    compile_args += ["-O1", "-g", *sanitizers]
    link_args += sanitizers
elif debug:
    compile_args += ["-O0", "-g"]
else:
    compile_args += ["-O3"]
if coverage:
    compile_args += ["--coverage"]
    link_args += ["--coverage"]

# Strict warnings are asked of our own C only, by `make lint`: what Cython writes has its own style.
sources = [f"src/{name}.c" for name in CORE + (EPOLL if has_epoll else []) if os.path.exists(f"src/{name}.c")]
extension = Extension(
    "kacore._core",
    sources=["src/_core.pyx", *sources],
    depends=[f"src/{name}" for name in sorted(os.listdir("src"))],
    include_dirs=["src"],
    define_macros=macros,
    extra_compile_args=compile_args,
    extra_link_args=link_args,
)

setup(
    ext_modules=cythonize(
        [extension],
        build_dir="build/cython",
        include_path=["src"],
        compiler_directives={
            "language_level": "3",
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "embedsignature": True,
            "always_allow_keywords": False,
        },
    )
)

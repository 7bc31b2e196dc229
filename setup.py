"""Build of the one extension, kacore._core. Everything else about the package stands in pyproject.toml.

Build switches, read here and nowhere else; each is on unless empty or 0:
  KACORE_DEBUG=1     debug assertions, -O0 -g
  KACORE_SANITIZE=1  AddressSanitizer and UndefinedBehaviorSanitizer (implies the assertions); see `make asan`
  KACORE_COVERAGE=1  gcov counters, -O0 -g; see `make coverage`
  KACORE_OPTIMIZE=1  another level of optimisation than wheels have; `make build` builds so, in half the time
  KACORE_PORTABLE=1  leave the epoll engine out, as on every platform that is not Linux
"""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

SRC = Path("src")
CORE, EPOLL = SRC / "core", SRC / "epoll"
OF_THE_SOURCES = ("architecture.md", "performance.md")  # how they are divided and measured: for whoever has them


class BuildWithCore(build_py):
    """The Python files, src/core/ as kacore/include/, and the pages of docs/. An editable install uses src/core/ and docs/
    themselves."""

    def other_files(self):
        if self.editable_mode:
            return {}
        package = Path(self.build_lib, "kacore")
        core = {str(path): str(package / "include" / path.relative_to(CORE)) for path in sorted(CORE.rglob("*.[ch]"))}
        pages = [path for path in sorted(Path("docs").glob("*.md")) if path.name not in OF_THE_SOURCES]
        return {**core, **{str(path): str(package / path) for path in pages}}

    def run(self):
        super().run()
        for source, target in self.other_files().items():
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode=1):
        return [*super().get_outputs(include_bytecode), *self.other_files().values()]


class BuildForSize(build_ext):
    """As wheels are built: for speed where bytes are scanned and the objects of a head made, and for size the C that Cython
    makes, most of which is what happens on errors. What nobody calls is left out. All of it halves the extension, and what
    it costs in speed is lost in the noise of `make bench-server`."""

    SCANNING = "ka_head.c", "ka_scan.c", "objects.c"
    # Nothing unwinds the stack of this C: an exception of Python is a value that is returned.
    SECTIONS = "-ffunction-sections", "-fdata-sections", "-fno-asynchronous-unwind-tables"

    def build_extension(self, ext):
        usual = getattr(self.compiler, "_compile", None)  # of compilers that take options as gcc does
        asked = [*getattr(self.compiler, "compiler_so", ["cc"]), "--version"]
        is_clang = usual and "clang" in subprocess.run(asked, capture_output=True, text=True).stdout
        # clang's -Oz still makes copies, by the word inline, of helpers of Cython's of hundreds of bytes; gcc's -Os does not.
        smallest = ["-Oz", "-DCYTHON_INLINE=", "-mllvm", "-inline-threshold=0"] if is_clang else ["-Os"]

        def compile_one(obj, src, of_ext, cc_args, options, *more):
            name = Path(src).name
            level = smallest if name == "_core.c" else [] if name in self.SCANNING else ["-O2"]
            usual(obj, src, of_ext, cc_args, [*options, *level, *self.SECTIONS], *more)

        if usual is not None:
            self.compiler._compile = compile_one
            if sys.platform.startswith("linux"):
                ext.extra_link_args = [*ext.extra_link_args, "-Wl,--gc-sections"]
        super().build_extension(ext)


def switch(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


def write_if_changed(path: Path, text: str) -> None:
    """Leave the time stamp alone when nothing changed: Cython compiles again whatever is newer."""
    if not path.is_file() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if refusal := runpy.run_path(".ci/preflight.py")["unsupported"]():
    sys.exit(f"kacore: {refusal}")

debug, sanitize, coverage = map(switch, ("KACORE_DEBUG", "KACORE_SANITIZE", "KACORE_COVERAGE"))
has_epoll = sys.platform.startswith("linux") and not switch("KACORE_PORTABLE")

# Cython has no #if, and the engine's .pxi names functions that exist with epoll only. So _core.pyx ends with
# `include "engine_here.pxi"`, and that file is written here: it includes either engine.pxi or
# engine_absent.pxi, whose Engine says what is missing. The two builds keep their generated C apart.
generated = Path("build", "cython" if has_epoll else "cython-portable")
engine = "engine" if has_epoll else "engine_absent"
write_if_changed(generated / "engine_here.pxi", f'# Written by setup.py.\ninclude "{engine}.pxi"\n')

compile_args = ["-std=gnu11", "-fvisibility=hidden"]
link_args = []
# Beside each name of the module that is looked up, a copy of what was found and when: 2 % of the extension, for nothing that
# a request needs.
macros = [("CYTHON_USE_DICT_VERSIONS", "0")]
if debug or sanitize:
    macros.append(("KA_DEBUG", "1"))
if sanitize:
    sanitizers = [
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined",
        "-fno-omit-frame-pointer",
    ]
    compile_args += ["-O1", "-g1", *sanitizers]
    link_args += sanitizers
elif debug or coverage:
    compile_args += ["-O0", "-g"]
else:
    # Python's own flags, which whoever sets CFLAGS replaces.
    compile_args += [f"-O{os.environ.get('KACORE_OPTIMIZE') or 3}", "-fwrapv"]
    macros.append(("NDEBUG", None))
is_for_wheels = not (debug or sanitize or coverage or switch("KACORE_OPTIMIZE"))
if coverage:
    compile_args += ["--coverage"]
    link_args += ["--coverage"]

# Strict warnings are asked for by `make lint`, not from whoever builds this from source.
rooms = [CORE, EPOLL] if has_epoll else [CORE]
sources = sorted(str(path) for room in rooms for path in room.rglob("*.c"))
extension = Extension(
    "kacore._core",
    sources=["src/python/_core.pyx", "src/python/objects.c", *sources],
    depends=["setup.py", *(str(path) for path in sorted(SRC.rglob("*.*")))],
    # ka.pxd names ka_engine.h, and Cython includes it, in either build
    include_dirs=[str(CORE), str(EPOLL), str(SRC / "python")],
    define_macros=macros,
    # Python's own flags have it, and its assertions are what such a build is for.
    undef_macros=["NDEBUG"] if debug or sanitize else [],
    extra_compile_args=compile_args,
    extra_link_args=link_args,
)

setup(
    cmdclass={"build_py": BuildWithCore, **({"build_ext": BuildForSize} if is_for_wheels else {})},
    ext_modules=cythonize(
        [extension],
        build_dir=str(generated),
        include_path=["src/python", str(generated)],
        compiler_directives={
            "language_level": "3",
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "embedsignature": True,
            "embedsignature.format": "clinic",
            "always_allow_keywords": False,
            # Functions as C has them, without an object of Cython's for each; a signature is read from the text above.
            "binding": False,
            # No `__test__` dictionary, and no pickling of what holds C pointers: the stub promises neither.
            "autotestdict": False,
            "auto_pickle": False,
            # Nothing here relies on the GIL: src/python/threads.pxi.
            "freethreading_compatible": True,
        },
    )
)

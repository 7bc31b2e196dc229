"""Say in one line what this machine lacks for a build, before half of one has been made; setup.py asks, too.

Runs on the interpreter that the user gave to make, whatever its version: nothing newer than Python 3.6 here.
"""

import os
import shutil
import sys
import sysconfig


def unsupported():
    """What no installation of anything helps against."""
    if sys.platform == "win32":
        return "it does not run on Windows, since its core needs POSIX and GNU C: use WSL or a container"
    if sys.maxsize < 2**32:
        return "it needs a 64-bit Python, since its core counts in 64 bits and multiplies in 128"
    return None


def missing():
    if unsupported():
        return unsupported()
    if sys.version_info < (3, 11):
        found = "%d.%d" % sys.version_info[:2]
        return "Python is " + found + ", 3.11 or newer is needed: make ... PYTHON=python3.12"
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return "this Python cannot make virtual environments (Debian: apt-get install python3-venv)"
    header = os.path.join(sysconfig.get_path("include"), "Python.h")
    if not os.path.exists(header):
        return header + " is missing (Debian: apt-get install python3-dev)"
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return "no C compiler " + repr(compiler) + " on the path; set CC or install one"
    return None


if __name__ == "__main__":
    problem = missing()
    if problem:
        sys.exit("kacore: " + problem)

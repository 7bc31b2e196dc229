"""Print the requirements of the named groups, one a line: "build", or an extra of pyproject.toml.

Lets make install tools without installing, and so compiling, the package itself.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
groups = {"build": project["build-system"]["requires"], **project["project"]["optional-dependencies"]}
for name in sys.argv[1:]:
    print(*groups[name], sep="\n")

"""`python -m kacore` is the `kacore` command."""

import sys

from kacore.cli import main

sys.exit(main())

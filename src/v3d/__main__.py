"""`python -m v3d`."""

import sys

from v3d.cli import main

code = main()
# An interrupt that passed through an exec() of text, as imports have some, makes CPython kill itself by
# SIGINT at the end of `python -m`, though it was caught; running another text clears that.
exec("")
sys.exit(code)

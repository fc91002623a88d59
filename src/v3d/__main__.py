"""`python -m v3d`."""

import sys

from v3d.cli import main

sys.exit(main())

"""`python -m coordinator.cli`."""

import sys

from coordinator.cli import main

sys.exit(main())

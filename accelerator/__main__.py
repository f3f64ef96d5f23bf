"""``python -m accelerator`` is the command ``accelerator``."""

import sys

from accelerator.cli.app import main

sys.exit(main())

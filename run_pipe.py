"""``python run_pipe.py [overrides]`` is ``accelerator train [overrides]``, for runs from a checkout."""

import sys

from accelerator.cli.app import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))

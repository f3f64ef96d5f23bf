"""For runs from a checkout: ``python run_pipe.py [overrides]`` is ``accelerator train [overrides]``.

With ``pipeline=NAME`` among the overrides it is ``accelerator pipeline NAME [overrides]``.
"""

import sys

from accelerator.cli.app import main

if __name__ == "__main__":
    words = [word for argument in sys.argv[1:] for word in argument.removeprefix("--overrides=").split()]
    command = "pipeline" if any(word.startswith("pipeline=") for word in words) else "train"
    sys.exit(main([command, *sys.argv[1:]]))

"""``python -m accelerator`` is the command ``accelerator``."""

from accelerator.cli.app import entry

if __name__ == "__main__":  # ranks import the module they were started from
    entry()

"""``accelerator tune``."""

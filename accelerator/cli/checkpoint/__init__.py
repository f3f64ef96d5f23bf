"""``accelerator checkpoint``."""

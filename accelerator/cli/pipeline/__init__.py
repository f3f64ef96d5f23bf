"""``accelerator pipeline``."""

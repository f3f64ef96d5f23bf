"""``accelerator model``."""

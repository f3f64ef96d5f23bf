"""``accelerator runs``."""

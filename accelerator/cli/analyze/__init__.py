"""``accelerator analyze-data`` and ``analyze-model``."""

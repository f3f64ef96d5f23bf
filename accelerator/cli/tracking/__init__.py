"""``accelerator tracking``."""

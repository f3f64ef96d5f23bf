"""A project of the user's: ``accelerator init``, ``add``, ``list``, ``configure``, ``status``, ``clean``."""

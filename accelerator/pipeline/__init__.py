"""Pipelines: steps that need one another, run in order, and only those that are not done."""

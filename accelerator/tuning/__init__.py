"""Tuning: which values are tried (`search_space`), and what tries them (`base`, `optuna_tuner`)."""

"""From arguments to a checked config."""

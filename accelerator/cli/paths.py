"""Where the packaged configs are, in a checkout and in an installed wheel alike."""

from pathlib import Path

import accelerator


def packaged_configs() -> Path:
    """The folder with ``main.yaml``."""
    package = Path(accelerator.__file__).resolve().parent
    inside = package / "configs"  # where the wheel puts them
    return inside if inside.is_dir() else package.parent / "configs"

"""Compose a PyTorch run from YAML, train it, by multilevel methods where they pay, and keep its record."""

from typing import TYPE_CHECKING, Any

from accelerator.utilities.base_registry import register

if TYPE_CHECKING:
    from accelerator.cli.experiment import train
    from accelerator.tracking.model_sources import load_model

__version__ = "0.1.0"
__all__ = ["__version__", "load_model", "register", "train"]


def __getattr__(name: str) -> Any:
    # Hydra and torch are imported by who trains, not by who asks for the version.
    if name == "train":
        from accelerator.cli.experiment import train

        return train
    if name == "load_model":
        from accelerator.tracking.model_sources import load_model

        return load_model
    raise AttributeError(f"module 'accelerator' has no attribute '{name}'")

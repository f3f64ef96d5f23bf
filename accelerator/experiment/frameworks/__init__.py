"""What a train function needs of its framework: seeds, a device, a memory limit, a checkpoint, reports."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Literal

Name = Literal["torch", "tensorflow"]


def framework(name: Name | None) -> ModuleType | None:
    """The module that knows a framework.

    Args:
        name: of the framework; None: TensorFlow where it has been imported (by the train function's module), else
            torch where that has been.

    Returns:
        `pytorch` or `tensorflow`; None where no framework is in use.

    Raises:
        ConfigError: it is not installed.
    """
    if name is None:
        name = "tensorflow" if "tensorflow" in sys.modules else "torch" if "torch" in sys.modules else None
    if name is None:
        return None
    if name == "tensorflow":
        from accelerator.experiment.frameworks import tensorflow

        tensorflow.require()
        return tensorflow
    from accelerator.experiment.frameworks import pytorch

    return pytorch

"""TensorFlow and Keras under a train function (extra ``tensorflow``).

>>> from accelerator.experiment.frameworks.tensorflow import ReportCallback  # doctest: +SKIP
>>> model.fit(x, y, validation_data=(a, b), callbacks=[ReportCallback(ctx)])  # doctest: +SKIP
"""

from __future__ import annotations

import random
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from accelerator.errors import ConfigError
from accelerator.utilities.memory import memory_limit

if TYPE_CHECKING:
    from accelerator.experiment.protocols import TrainingContext


def require() -> None:
    """See whether it is there.

    Raises:
        ConfigError: it is not.
    """
    if find_spec("tensorflow") is None:
        raise ConfigError("TensorFlow is not installed: pip install 'accelerator-platform[tensorflow]'")


def seed(number: int) -> None:
    """Seed Python's, NumPy's and TensorFlow's generators."""
    import tensorflow as tf

    random.seed(number)
    np.random.seed(number & 0xFFFFFFFF)
    tf.random.set_seed(number)


def device(wanted: str) -> str:
    """The device meant, as ``tf.device`` takes it: ``auto`` is the first GPU, else the CPU.

    Raises:
        ConfigError: it is not there.
    """
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if wanted == "auto":
        return "/GPU:0" if gpus else "/CPU:0"
    if wanted == "cpu":
        return "/CPU:0"
    kind, _, index = wanted.partition(":")
    if kind not in ("cuda", "gpu") or not (index or "0").isdigit():
        raise ConfigError(f"experiment.device={wanted}: expected auto, cpu, cuda or cuda:<number>")
    if int(index or 0) >= len(gpus):
        raise ConfigError(f"experiment.device={wanted}: TensorFlow sees {len(gpus)} GPU(s) on this machine")
    return f"/GPU:{index or 0}"


def limit_memory(max_memory_gb: float | None, on: str) -> float | None:
    """Keep this process below a limit of GPU memory, which TensorFlow otherwise takes whole.

    Args:
        max_memory_gb: see `accelerator.utilities.memory.memory_limit`; 0: no limit, memory is taken as it is needed.
        on: the device.

    Returns:
        The limit in force in GB; None if there is none.

    Raises:
        ConfigError: TensorFlow has begun to use the GPU already.
    """
    import tensorflow as tf

    limit = memory_limit(max_memory_gb)
    gpus = tf.config.list_physical_devices("GPU")
    if not on.startswith("/GPU") or not gpus:
        return None
    gpu = gpus[int(on.rpartition(":")[2])]
    try:
        if limit == 0:
            tf.config.experimental.set_memory_growth(gpu, True)
            return None
        tf.config.set_logical_device_configuration(
            gpu, [tf.config.LogicalDeviceConfiguration(memory_limit=int(limit * 1e9 / 2**20))]
        )
    except RuntimeError as error:
        raise ConfigError(
            "TensorFlow had begun to use the GPU before its memory could be limited: let the train function's module "
            "do nothing on the GPU when it is imported"
        ) from error
    return limit


def save_checkpoint(ctx: TrainingContext, model: Any, name: str = "last.keras") -> Path:
    """Write a Keras model, whole or not at all.

    Args:
        ctx: of the training.
        model: the model.
        name: of the file, in ``ctx.checkpoint_dir``; ``.keras`` holds everything, ``.weights.h5`` the weights alone.

    Returns:
        The file.
    """
    path = ctx.checkpoint_dir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"new-{name}")
    model.save_weights(temporary) if name.endswith(".weights.h5") else model.save(temporary)
    temporary.replace(path)
    return path


def load_checkpoint(ctx: TrainingContext, model: Any, name: str = "last.keras") -> bool:
    """Read the weights of a checkpoint back into a model of the same layers.

    Returns:
        Whether there was one.
    """
    path = ctx.checkpoint_dir / name
    if not path.exists():
        return False
    model.load_weights(path)
    return True


def __getattr__(name: str) -> Any:
    # Keras is imported by who trains with it.
    if name != "ReportCallback":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    require()
    import keras

    class ReportCallback(keras.callbacks.Callback):
        """Logs what Keras measures each epoch, reports one value to the study, and stops when it is asked to.

        Args:
            ctx: of the training.
            monitor: what is reported; it is measured at the end of each epoch.
        """

        def __init__(self, ctx: TrainingContext, monitor: str = "val_loss") -> None:
            super().__init__()
            self.ctx, self.monitor = ctx, monitor

        def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            """Log, report, look whether to stop."""
            values = {key: float(value) for key, value in (logs or {}).items()}
            self.ctx.tracker.log_metrics(values, epoch)
            if self.monitor not in values:
                raise ConfigError(
                    f"ReportCallback(monitor='{self.monitor}'): Keras measures {', '.join(sorted(values))}"
                )
            self.ctx.report(values[self.monitor], epoch)
            if self.ctx.should_stop:
                assert self.model is not None
                self.model.stop_training = True

        def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
            """A signal does not wait for the epoch."""
            if self.ctx.asked is not None:
                assert self.model is not None
                self.model.stop_training = True

    globals()[name] = ReportCallback
    return ReportCallback

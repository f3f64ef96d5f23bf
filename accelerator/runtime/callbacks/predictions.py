"""What a network predicts, written down: a few samples while it trains, or a whole split when it is done.

Shape legend: B batch, … a prediction's own dimensions.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from accelerator.errors import ConfigError
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.checkpoint.operation import write_bytes
from accelerator.runtime.data.feed import own_samples
from accelerator.utilities import distributed
from accelerator.utilities.seed import rng_state, set_rng_state

if TYPE_CHECKING:
    from accelerator.runtime.context.context import Context

SAMPLES, PREDICTIONS = "samples", "predictions"

# A sample of more numbers is drawn, if it can be, and not listed.
_LISTED = 64


@contextmanager
def as_used(context: Context) -> Iterator[None]:
    """The bound network in evaluation mode, without gradients; the training does not notice."""
    modes = [(module, module.training) for module in context.model.modules()]
    rng = rng_state()
    context.model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training
        set_rng_state(rng)


class SamplePredictions(Callback):
    """Writes the predictions for the first few validation samples, to see how they become better.

    ``samples/step-00000120.json`` holds target and prediction of each sample in the data's own units (of class scores:
    the class predicted, and the probability it is given); of fields on a grid, ``samples/step-00000120.png`` shows
    them. Values of more than 64 numbers are left out of the JSON.

    Args:
        every: validations between two looks.
        samples: how many; on several ranks, of those of rank 0.
    """

    priority = 30
    critical = False

    def __init__(self, every: int = 1, samples: int = 4) -> None:
        for name, value in (("every", every), ("samples", samples)):
            if value < 1:
                raise ConfigError(f"{name}={value}: expected at least 1")
        self.every, self.samples = every, samples
        self._validations = 0

    def validation_end(self, context: Context) -> None:
        """Predict, and write."""
        self._validations += 1
        if self._validations % self.every:
            return
        batch = context.level_batch(context.level, next(iter(context.data.feeds["val"].epoch(0))))
        original = context.data.transforms.original
        with as_used(context):  # on all ranks: a network that is spread over them predicts with them
            prediction, target = context.engine.predict((batch[0][: self.samples], batch[1][: self.samples]))
            prediction, target = original(prediction), original(target)
        if context.run_dir is None or context.journal is None:
            return
        state = context.state
        path = context.run_dir / SAMPLES / f"step-{state.step:08d}.json"
        path.parent.mkdir(exist_ok=True)
        samples = [_described(*pair) for pair in zip(prediction.cpu(), target.cpu(), strict=True)]
        facts = {"step": state.step, "epoch": state.epoch, "level": context.level, "split": "val"}
        write_bytes(path, json.dumps({**facts, "samples": samples}, indent=1).encode())
        context.journal.event("artifact", path=f"{SAMPLES}/{path.name}", artifact_path=SAMPLES)

        from accelerator.runtime.pictures.fields import are_fields, draw_fields

        if are_fields(prediction, target):
            drawn = path.with_suffix(".png")
            level = f" (level {context.level})" if context.level else ""
            draw_fields(prediction, target, drawn, name=f"val step {state.step}{level}")
            context.journal.event("artifact", path=f"{SAMPLES}/{drawn.name}", artifact_path=SAMPLES)

    def state_dict(self) -> dict[str, Any]:
        """How many validations there were."""
        return {"validations": self._validations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        self._validations = state["validations"]


def _described(prediction: Tensor, target: Tensor) -> dict[str, Any]:
    """One sample: a prediction (…) and its target (…); class scores (classes, …) and class indices (…)."""
    if not target.is_floating_point() and prediction.shape[1:] == target.shape:
        likely, classes = prediction.softmax(0).max(0)
        return _listed(target=target, prediction=classes, probability=likely)
    return _listed(target=target, prediction=prediction)


def _listed(**values: Tensor) -> dict[str, Any]:
    return {name: value.tolist() for name, value in values.items() if value.numel() <= _LISTED}


class PredictionWriter(Callback):
    """Writes every prediction of the network as it was tested, in the data's own units.

    ``predictions/<split>.npz`` holds the arrays ``prediction`` and ``target``, (samples, …), in the data's order; read
    them with `numpy.load`. They are written after the test, or at the run's end if nothing is tested. Several ranks
    predict their shares, and rank 0 gathers and writes them: the file is the same on any number of ranks.

    Args:
        splits: which: ``test``, ``val``, or both.
    """

    priority = 6  # goes out before the pictures
    critical = False

    def __init__(self, splits: Sequence[str] = ("test",)) -> None:
        if isinstance(splits, str) or not splits or not {"val", "test"}.issuperset(splits):
            raise ConfigError(f"splits={splits}: expected a list of val and test, such as [test]")
        self.splits = splits
        self._written = False

    def test_end(self, context: Context) -> None:
        """Write the splits, with the network that was tested."""
        for split in self.splits:
            if split in context.data.feeds:
                self._write(context, split)
        self._written = True

    def run_end(self, context: Context) -> None:
        """Write them with the network as it is, if there was no test; nothing after an error."""
        if not self._written and context.error is None:
            self.test_end(context)

    def _write(self, context: Context, split: str) -> None:
        original, parts = context.data.transforms.original, []
        with as_used(context):
            for batch in context.data.feeds[split].epoch(0):
                pair = context.engine.predict(context.level_batch(context.level, batch))
                rows = own_samples(batch)
                parts.append(tuple(_array(original(values))[:rows] for values in pair))
        # Of each batch the ranks have rows in their order.
        shares = distributed.of_all(parts)
        if context.run_dir is None or context.journal is None:
            return
        batches = [pair for of_ranks in zip(*shares, strict=True) for pair in of_ranks]
        prediction, target = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
        path: Path = context.run_dir / PREDICTIONS / f"{split}.npz"
        path.parent.mkdir(exist_ok=True)
        file = io.BytesIO()
        np.savez(file, prediction=prediction, target=target)
        write_bytes(path, file.getvalue())
        context.journal.event("artifact", path=f"{PREDICTIONS}/{path.name}", artifact_path=PREDICTIONS)


def _array(values: Tensor) -> np.ndarray:
    return (values.float() if values.dtype is torch.bfloat16 else values).cpu().numpy()

"""Pictures of a run, drawn once, when it has ended well."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.callbacks.predictions import as_used
from accelerator.runtime.run_directory import PLOTS

if TYPE_CHECKING:
    from torch import Tensor

    from accelerator.runtime.context.context import Context


class Pictures(Callback):
    """Draws ``plots/*.png`` into the run's folder and puts them on record.

    ``loss_vs_work.png``, from the whole journal; ``hierarchy.png``, of a multilevel run; ``fields.png``, where
    predictions and targets are fields on a grid (see `accelerator.runtime.pictures.fields.are_fields`). A picture that
    cannot be drawn is told in a warning and left out; the run has ended well all the same.
    """

    priority = 5  # goes out after the logger has flushed, before the record is closed
    critical = False

    def run_end(self, context: Context) -> None:
        """Draw what there is to draw; nothing after an error, or where nothing may be written."""
        if context.error is not None:
            return
        if context.journal is None or context.run_dir is None:
            # A network that is spread over ranks predicts with all of them.
            _predicted(context)
            return
        for name, draw in (
            ("loss_vs_work.png", _loss),
            ("hierarchy.png", _hierarchy),
            ("fields.png", _fields),
        ):
            try:
                drawn = draw(context, context.run_dir / PLOTS / name)
            except Exception as error:  # Matplotlib, the network and the data raise what they like
                warnings.warn(
                    f"the picture {PLOTS}/{name} could not be drawn: {type(error).__name__}: {error}",
                    RuntimeWarning,
                    stacklevel=2,
                )
                continue
            if drawn:
                context.journal.event("artifact", path=f"{PLOTS}/{name}", artifact_path=PLOTS)


def _loss(context: Context, path: Path) -> bool:
    from accelerator.runtime.pictures.history import read_history
    from accelerator.runtime.pictures.loss import draw_loss

    assert context.journal is not None
    context.journal.flush()
    return draw_loss(read_history(context.journal.path, context.costs), path)


def _hierarchy(context: Context, path: Path) -> bool:
    if (network := context.network) is None:
        return False
    from accelerator.runtime.pictures.hierarchy import draw_hierarchy

    widths = [network.widths(level) for level in range(len(network))]
    draw_hierarchy(widths, network.parameters, network.costs, path)
    return True


def _fields(context: Context, path: Path) -> bool:
    """Fields of the network as it was tested, or as it is: on the split tested, or else validated."""
    from accelerator.runtime.pictures.fields import are_fields, draw_fields

    if (predicted := _predicted(context)) is None:
        return False
    name, prediction, target = predicted
    if not are_fields(prediction, target):
        return False
    level = f" (level {context.level})" if context.level else ""
    original = context.data.transforms.original
    draw_fields(original(prediction), original(target), path, name=name + level)
    return True


def _predicted(context: Context) -> tuple[str, Tensor, Tensor] | None:
    """The split, and prediction and target of its first samples; None if there is none. For all ranks to call."""
    name = next((name for name in ("test", "val") if name in context.data.feeds), None)
    if name is None:
        return None
    inputs, targets = next(iter(context.data.feeds[name].epoch(0)))
    from accelerator.runtime.pictures.fields import ROWS

    with as_used(context):
        return name, *context.engine.predict((inputs[:ROWS], targets[:ROWS]))

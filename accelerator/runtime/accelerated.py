"""A trained network made smaller or faster, measured before and after, and left as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from accelerator.acceleration.cost import flops_of, parameters_of
from accelerator.acceleration.surgery import composed, sizes_of
from accelerator.errors import ConfigError
from accelerator.runtime.acceleration_method import FileMethod, NetworkMethod, Outcome, Plan
from accelerator.runtime.checkpoint.average import with_network
from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler
from accelerator.runtime.checkpoint.meta_handler import versions
from accelerator.runtime.context.build import told_as
from accelerator.runtime.context.component import build
from accelerator.runtime.context.context import Context
from accelerator.runtime.loaded import loaded_context, measure
from accelerator.runtime.quantized import FilePlan
from accelerator.runtime.run_directory import CHECKPOINTS
from accelerator.runtime.start import Start, start_of
from accelerator.runtime.trained import load_finest

_TRACED = 8  # samples of the batch a network is traced with


def plan(config: Mapping[str, Any]) -> Plan:
    """Build the method, and apply it to the network that is loaded.

    Raises:
        ConfigError: no method is named, or the network is none for it.
        CheckpointError: there is no such network, or it does not fit the config.
    """
    section, imports = config["acceleration"], tuple(config["imports"])
    if not section:
        raise ConfigError("acceleration=none does nothing: choose acceleration=prune or acceleration=quantize")
    with told_as("acceleration", section, imports):
        method = build("acceleration", section, "acceleration", imports=imports)
    if isinstance(method, NetworkMethod):
        return _NetworkPlan(config, method)
    if isinstance(method, FileMethod):
        return FilePlan(config, method)
    raise ConfigError(
        f"acceleration: a {type(method).__name__} has neither apply(network, example_input) nor "
        "convert(onnx_model, calibration)"
    )


class _NetworkPlan:
    """Another network in the trained one's place, saved as a checkpoint from which to load."""

    def __init__(self, config: Mapping[str, Any], method: NetworkMethod) -> None:
        self.config = config
        self.start: Start = start_of(Path(config["load"]))
        self.context: Context = loaded_context(config, self.start)
        self.inputs: Tensor = next(iter(self.context.data.train.epoch(0)))[0][:_TRACED]
        self.before = self.context.model
        with told_as("acceleration", config["acceleration"], tuple(config["imports"])):
            self.after = method.apply(self.before, self.inputs)
            self.sizes = composed(self.start.sizes, sizes_of(self.before, self.after))

    def carry_out(self, run_dir: Path) -> Outcome:
        """Measure both on the validation split, and save the new one."""
        context = self.context
        split = "val" if "val" in context.data.feeds else list(context.data.feeds)[-1]
        before = measure(context, split) | self._costs(self.before)
        context.levels[0] = self.after
        measured = measure(context, split)
        after = measured | self._costs(self.after)
        outcome = Outcome(after | {f"before/{name}": value for name, value in before.items()})
        outcome.rows = [(name, _change(before[name], value)) for name, value in after.items()]
        outcome.best = self._save(run_dir, measured)
        return outcome

    def _costs(self, network: nn.Module) -> dict[str, float]:
        state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
        return {
            "parameters": parameters_of(network),
            "flops": flops_of(network, self.inputs[:1]),
            "bytes": len(save(state)),
        }

    def _save(self, run_dir: Path, measured: Mapping[str, float]) -> Path:
        assert self.start.path is not None
        saved, meta = load_finest(self.start.path)
        weights = {name: tensor.detach().cpu() for name, tensor in self.after.state_dict().items()}
        state = with_network({**saved, "network": None}, weights) | {"sizes": self.sizes}
        section = self.config["checkpoint"]
        handler = CheckpointHandler(run_dir / CHECKPOINTS, monitor=section["monitor"], mode=section["mode"])
        path = handler.save(
            state,
            step=meta.step,
            epoch=meta.epoch,
            level=0,
            work=meta.work,
            metrics={name: value for name, value in measured.items() if name.startswith("val/")},
            fingerprint="",
            commit=meta.commit,
            versions=versions(),
        )
        handler.wait()
        return path


def _change(before: float, after: float) -> str:
    if isinstance(after, int):
        return f"{before:,} → {after:,} ({after / before:.0%})" if before else f"{before:,} → {after:,}"
    return f"{before:.5g} → {after:.5g}"

"""The data of a run: splits, checked and transformed, served as feeds.

Shape legend: B batch, … the sample's own dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from accelerator.errors import CheckpointError, ConfigError, DataError
from accelerator.runtime.context.component import build, present
from accelerator.runtime.data.feed import Feed, InMemoryFeed, LoaderFeed
from accelerator.runtime.data.splits import DataFacts, Split, as_splits, check_tensors, facts_of, imitate

ROLES = ("input", "target", "loss")


class Transforms(nn.Module):
    """The transforms of a run, in the order of the config; their statistics travel in checkpoints.

    Args:
        input: applied to the inputs (B, …).
        target: applied to the targets; `original` undoes them, so that metrics are in the data's own units.
        loss: applied to prediction and target alike, before the loss.
    """

    def __init__(self, input: list[nn.Module], target: list[nn.Module], loss: list[nn.Module]) -> None:
        super().__init__()
        self.input, self.target, self.loss = nn.ModuleList(input), nn.ModuleList(target), nn.ModuleList(loss)
        if any(_is_random(module) for module in (*target, *loss)):
            raise ConfigError("transform: a random transform can stand under transform.input only")
        first_random = next((i for i, module in enumerate(input) if _is_random(module)), len(input))
        # What comes before the first random one is applied once; the rest, batch by batch.
        self._once, self._each = list(input)[:first_random], list(input)[first_random:]

    def fit(self, inputs: Tensor, targets: Tensor) -> None:
        """Take the statistics of the training split as it is without the random transforms, and of nothing else."""
        lasting = [module for module in self.input if not _is_random(module)]
        for role, modules, values in (("input", lasting, inputs), ("target", self.target, targets)):
            for module in modules:
                try:
                    if hasattr(module, "fit"):
                        module.fit(values)  # pyright: ignore[reportCallIssue]
                    values = module(values)
                except (ValueError, RuntimeError) as error:
                    raise ConfigError(f"transform.{role}: {error}") from error

    def once(self, inputs: Tensor) -> Tensor:
        """The inputs after what does not change from epoch to epoch."""
        return _apply(self._once, inputs)

    def evaluate(self, inputs: Tensor) -> Tensor:
        """The inputs as a network in use sees them: everything but the random transforms."""
        return _apply([m for m in self.input if not _is_random(m)], inputs)

    def augment(self) -> Callable[[Tensor, torch.Generator], Tensor] | None:
        """What is left for each training batch; None if nothing is."""
        if not self._each:
            return None

        def apply(inputs: Tensor, generator: torch.Generator) -> Tensor:
            for module in self._each:
                inputs = module(inputs, generator) if _is_random(module) else module(inputs)
            return inputs

        return apply

    def targets(self, targets: Tensor) -> Tensor:
        """The targets as the loss sees them."""
        return _apply(self.target, targets)

    def original(self, values: Tensor) -> Tensor:
        """Targets or predictions in the data's own units."""
        for module in reversed(self.target):
            values = module.inverse(values)  # pyright: ignore[reportCallIssue]
        return values

    @property
    def changes_targets(self) -> bool:
        """Whether `original` does anything."""
        return len(self.target) > 0


def build_transforms(section: Mapping[str, Any], imports: tuple[str, ...] = ()) -> Transforms:
    """The transforms described by the config's ``transform`` section: a mapping for each role, keyed by name."""
    if unknown := set(section) - set(ROLES):
        raise ConfigError(f"transform.{sorted(unknown)[0]}: a transform has one of the roles {', '.join(ROLES)}")
    modules = {
        role: [
            build("transform", part, f"transform.{role}.{name}", imports=imports)
            for name, part in present(section.get(role)).items()
        ]
        for role in ROLES
    }
    for module in modules["target"]:
        if not hasattr(module, "inverse"):
            raise ConfigError(
                f"transform.target: {type(module).__name__} has no inverse, so metrics could not be in the data's units"
            )
    return Transforms(**modules)


@dataclass
class Data:
    """Feeds and facts of a run's data.

    Attributes:
        feeds: by split; "train" is always there.
        transforms: fitted on the training split.
        input_shape: of one sample, without the batch dimension.
        output_shape: of one prediction: that of a target; with integer targets, which are class indices, a score for
            each class before it, (classes, …). None when nobody knows how many.
        classes: number of classes, or None.
        source: what is told of the data as it came.
    """

    feeds: dict[str, Feed]
    transforms: Transforms
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...] | None
    classes: int | None = None
    source: DataFacts | None = None

    @property
    def train(self) -> Feed:
        """The training split's feed."""
        return self.feeds["train"]

    @property
    def facts(self) -> dict[str, Any]:
        """What a model or metric may be offered when its config leaves it open."""
        facts = {"input_shape": self.input_shape, "output_shape": self.output_shape, "num_classes": self.classes}
        return {name: fact for name, fact in facts.items() if fact is not None}


def build_data(
    source: Any,
    transforms: Transforms,
    *,
    batch_size: int,
    eval_batch_size: int | None,
    shuffle: bool,
    drop_last: bool,
    workers: int,
    split: list[float],
    seed: int,
    device: torch.device,
    ranks: tuple[int, int] = (0, 1),
    statistics: Mapping[str, Tensor] | None = None,
    training: bool = True,
) -> Data:
    """Feeds from what a data component returned.

    Args:
        source: what it returned.
        transforms: not fitted yet.
        batch_size: of the training batches.
        eval_batch_size: of the others; None: four times as large.
        shuffle: the training samples.
        drop_last: leave out a last training batch that is smaller.
        workers: processes that read a dataset.
        split: shares of the splits, of data that comes as one set.
        seed: of order and randomness.
        device: where batches are wanted.
        ranks: this one, and how many.
        statistics: of the transforms, from a checkpoint; None: fit them to the training split.
        training: otherwise the training split is served as the others are, whole, in order, and never augmented.

    Raises:
        CheckpointError: the statistics are of other transforms.
        DataError: the data is empty, not finite, of unequal lengths, or changes shape between splits.
        ConfigError: the loader's numbers are out of range.
    """
    for key, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
        if value < least:
            raise ConfigError(f"loader.{key}={value}: expected at least {least}")
    if batch_size < ranks[1]:
        raise ConfigError(
            f"loader.batch_size={batch_size} is what all {ranks[1]} ranks compute together: "
            f"expected at least {ranks[1]}"
        )
    splits = as_splits(source, split, seed)
    for name, part in splits.items():
        if isinstance(part, tuple):
            check_tensors(part, name)
    samples = {name: first_sample(part, name) for name, part in splits.items()}
    check_alike(samples)
    train = splits["train"]
    stored = sum(tensor.nbytes for part in splits.values() if isinstance(part, tuple) for tensor in part)
    if statistics is None:
        _fit(transforms, train)
    else:
        _take(transforms, statistics, samples["train"])
    eval_size = eval_batch_size or 4 * batch_size
    feeds: dict[str, Feed] = {}
    for name, part in splits.items():
        trained = training and name == "train"
        options: dict[str, Any] = {
            "batch_size": batch_size if trained else eval_size,
            "seed": seed,
            "shuffle": shuffle and trained,
            "drop_last": drop_last and trained,
            "augment": transforms.augment() if trained else None,
            "ranks": ranks,
        }
        if isinstance(part, tuple):
            inputs = transforms.once(part[0]) if trained else transforms.evaluate(part[0])
            kept = device if stored <= resident_bytes(device) else inputs.device
            targets = transforms.targets(part[1])
            feeds[name] = InMemoryFeed(inputs.to(kept), targets.to(kept), device=device, **options)
        else:
            options |= imitate(part) if isinstance(part, DataLoader) else {"dataset": part, "workers": workers}
            feeds[name] = LoaderFeed(
                **options,
                pin=device.type == "cuda",
                device=device,
                transform=transforms.once if trained else transforms.evaluate,
                transform_targets=transforms.targets,
            )
    if feeds["train"].batches == 0:
        raise DataError(
            f"the training split has {len(train[0]) if isinstance(train, tuple) else 'too few'} samples, fewer than "
            f"loader.batch_size={batch_size} with loader.drop_last=true: no batch is left"
        )
    inputs, targets = samples["train"]
    labels = not targets.is_floating_point()
    classes = _classes(splits) if labels else None
    shape = tuple(targets.shape)
    output_shape = shape if not labels else None if classes is None else (classes, *shape)
    shape = tuple(transforms.evaluate(inputs[None])[0].shape)
    return Data(feeds, transforms, shape, output_shape, classes, facts_of(splits, samples))


def resident_bytes(device: torch.device) -> float:
    """How much data may live on a device: a quarter of a GPU's free memory; the CPU has it anyway."""
    if device.type != "cuda":
        return float("inf")
    free, whole = torch.cuda.mem_get_info(device)
    return min(free, torch.cuda.get_per_process_memory_fraction(device) * whole) / 4


def check_alike(samples: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Compare the shapes of all splits, given the first sample of each.

    Raises:
        DataError: they differ.
    """
    for name, sample in samples.items():
        for what, ours, theirs in zip(("inputs", "targets"), sample, samples["train"], strict=True):
            if ours.shape != theirs.shape:
                raise DataError(
                    f"the {name} {what} have shape {tuple(ours.shape)} a sample, "
                    f"the training ones {tuple(theirs.shape)}"
                )


def first_sample(part: Split, name: str) -> tuple[Tensor, Tensor]:
    """The first input and target of a split.

    Raises:
        DataError: there is none, or it is nothing that a batch can be made of.
    """
    if isinstance(part, tuple):
        return part[0][0], part[1][0]
    dataset: Any = part.dataset if isinstance(part, DataLoader) else part
    if len(dataset) == 0:
        raise DataError(f"the {name} split is empty")
    sample = dataset[0]
    if not isinstance(sample, tuple | list) or len(sample) != 2:
        raise DataError(f"a sample of the {name} split is a {type(sample).__name__}; expected (input, target)")
    try:
        if any(isinstance(part, list | tuple) for part in sample):
            raise TypeError("a batch of lists is no tensor")
        inputs, targets = torch.as_tensor(sample[0]), torch.as_tensor(sample[1])
    except (TypeError, ValueError, RuntimeError) as error:
        kinds = " and ".join(type(part).__name__ for part in sample)
        raise DataError(f"a sample of the {name} split holds {kinds}; expected tensors, arrays or numbers") from error
    if inputs.dtype is torch.float64:
        raise DataError(
            f"the inputs of the {name} split are float64, networks float32: return x.astype('float32') or x.float()"
        )
    return inputs, targets


def _fit(transforms: Transforms, train: Split) -> None:
    if isinstance(train, tuple):
        transforms.fit(*train)
        return
    if any(hasattr(module, "fit") for module in (*transforms.input, *transforms.target)):
        # Statistics need one look at every training sample; a dataset on disk is read once for it.
        dataset: Any = train.dataset if isinstance(train, DataLoader) else train
        pairs = [dataset[i] for i in range(len(dataset))]
        transforms.fit(
            torch.stack([torch.as_tensor(x) for x, _ in pairs]), torch.stack([torch.as_tensor(y) for _, y in pairs])
        )


def _take(transforms: Transforms, statistics: Mapping[str, Tensor], sample: tuple[Tensor, Tensor]) -> None:
    """Take over statistics, and see on a sample whether they are of such data."""
    try:
        transforms.load_state_dict(dict(statistics))
    except RuntimeError as error:
        odd = sorted(transforms.state_dict().keys() ^ statistics.keys())
        what = f"only one of the two has {', '.join(odd)}" if odd else str(error)
        raise CheckpointError(
            f"the checkpoint's transforms are not those of this config: {what}; take the transform=… it was trained "
            "with"
        ) from error
    try:
        transforms.evaluate(sample[0][None])
        transforms.targets(sample[1][None])
    except (ValueError, RuntimeError) as error:
        raise DataError(f"the data is not of the kind the checkpoint's transforms were fitted to: {error}") from error


def _classes(splits: Mapping[str, Split]) -> int | None:
    """One more than the largest label; None if the labels are not in memory, for the model to be told instead."""
    labels = [part[1] for part in splits.values() if isinstance(part, tuple)]
    if len(labels) < len(splits):
        return None
    if (lowest := min(int(label.min()) for label in labels)) < 0:
        raise DataError(f"class labels start at 0; the smallest here is {lowest}")
    return max(int(label.max()) for label in labels) + 1


def _is_random(module: nn.Module) -> bool:
    return bool(getattr(module, "random", False))


def _apply(modules: Any, values: Tensor) -> Tensor:
    for module in modules:
        values = module(values)
    return values

"""Whatever a data component returns becomes three splits: train, val and test."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from accelerator.errors import DataError

SPLITS = ("train", "val", "test")

# In memory: (inputs, targets), sample dimension first. Otherwise a map-style dataset, or a loader to imitate.
Split = tuple[Tensor, Tensor] | Dataset[Any] | DataLoader[Any]

LOOKED_AT = 64  # rows of a split that its digest is made of
EXAMPLES = 3


class DataFacts(NamedTuple):
    """What is told of a run's data beside its config.

    Attributes:
        digest: 16 hexadecimal digits; other data has another.
        samples: in each split.
        examples: reads the first inputs of the last split, before any transform, (count, …).
    """

    digest: str
    samples: dict[str, int]
    examples: Callable[[], Tensor]


def as_splits(source: Any, fractions: Sequence[float], seed: int) -> dict[str, Split]:
    """The splits of a data component's result.

    Args:
        source: a mapping from split name to (inputs, targets), a Dataset or a DataLoader; one Dataset, divided by
            ``fractions``; or an object with ``train_dataloader()`` (``setup()`` is called first, as Lightning does).
        fractions: shares of train, val and test for a single dataset; they sum to 1.
        seed: of that division.

    Raises:
        DataError: nothing to train on, or something no loop can draw batches from.
    """
    if isinstance(source, Mapping):
        splits = dict(source)
    elif hasattr(source, "train_dataloader"):
        splits = _of_data_module(source)
    elif isinstance(source, Dataset):
        splits = _divide(source, fractions, seed)
    else:
        raise DataError(
            f"the data component returned {type(source).__name__}; expected a mapping with 'train', 'val' and 'test', "
            "a torch Dataset, or an object with train_dataloader()"
        )
    if unknown := set(splits) - set(SPLITS):
        raise DataError(f"unknown split {sorted(unknown)}; the splits are {', '.join(SPLITS)}")
    if splits.get("train") is None:
        raise DataError("there is no 'train' split")
    return {name: _in_memory(splits[name], name) for name in SPLITS if splits.get(name) is not None}


def facts_of(splits: Mapping[str, Split], first: Mapping[str, tuple[Tensor, Tensor]]) -> DataFacts:
    """What can be told of the data at a glance.

    The digest is made of shapes, types and, of splits in memory, 64 rows spread over each: not all of a large set is
    read, and of a dataset on disk, whose samples may be drawn at random, no values.

    Args:
        splits: all of them.
        first: the first sample of each.
    """
    digest = hashlib.sha256()
    for name, part in splits.items():
        digest.update(f"{name} {_count(part)}".encode())
        for index, tensor in enumerate(first[name]):
            digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
            if isinstance(part, tuple):
                rows = torch.linspace(0, len(part[index]) - 1, min(LOOKED_AT, len(part[index]))).long()
                values = part[index][rows.to(part[index].device)].cpu().contiguous()
                digest.update(values.view(torch.uint8).numpy().tobytes())
    last = list(splits.values())[-1]
    # Rows in memory are copied, or the whole split would live as long as these facts.
    examples = partial(Tensor.clone, first_inputs(splits)) if isinstance(last, tuple) else partial(first_inputs, splits)
    return DataFacts(digest.hexdigest()[:16], {name: _count(part) for name, part in splits.items()}, examples)


def first_inputs(splits: Mapping[str, Split], count: int = EXAMPLES) -> Tensor:
    """The first inputs of the test split (the last there is), before any transform, (count, …)."""
    part = list(splits.values())[-1]
    if isinstance(part, tuple):
        return part[0][:count].clone()
    dataset = _dataset(part)
    return default_collate([torch.as_tensor(dataset[index][0]) for index in range(min(count, len(dataset)))])


def _count(part: Split) -> int:
    return len(part[0]) if isinstance(part, tuple) else len(_dataset(part))


def _dataset(part: Any) -> Any:
    return part.dataset if isinstance(part, DataLoader) else part


def _of_data_module(module: Any) -> dict[str, Any]:
    if hasattr(module, "prepare_data"):
        module.prepare_data()
    if hasattr(module, "setup"):
        module.setup("fit")
        module.setup("test")
    loaders = {"train": "train_dataloader", "val": "val_dataloader", "test": "test_dataloader"}
    found = {}
    for split, name in loaders.items():
        if (method := getattr(module, name, None)) is None:
            continue
        try:
            loader = method()
        except Exception as error:
            # Lightning's own class has all three methods; one that nobody wrote raises this.
            if type(error).__name__ == "MisconfigurationException":
                continue
            raise
        if loader is not None:
            found[split] = loader
    return found


def _divide(dataset: Any, fractions: Sequence[float], seed: int) -> dict[str, Any]:
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6 or fractions[0] == 0:
        raise DataError(
            f"loader.split={list(fractions)}: expected three shares (train, val, test) that sum to 1, the first above 0"
        )
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)).tolist()
    cuts = [round(len(order) * sum(fractions[:end]) / sum(fractions)) for end in range(4)]
    parts = {name: order[begin:end] for name, (begin, end) in zip(SPLITS, pairwise(cuts), strict=True)}
    return {name: Subset(dataset, part) for name, part in parts.items() if part}


def _in_memory(split: Any, name: str) -> Split:
    """A TensorDataset, or a part of one, is served from memory: no loader can be as fast."""
    if isinstance(split, Subset) and isinstance(split.dataset, TensorDataset):
        split = tuple(tensor[torch.as_tensor(split.indices, dtype=torch.long)] for tensor in split.dataset.tensors)
    elif isinstance(split, TensorDataset):
        split = split.tensors
    if isinstance(split, tuple | list):
        if len(split) != 2:
            raise DataError(f"the {name} split has {len(split)} tensors; expected (inputs, targets)")
        return torch.as_tensor(split[0]), torch.as_tensor(split[1])
    if isinstance(split.dataset if isinstance(split, DataLoader) else split, IterableDataset):
        raise DataError(
            f"the {name} split is an IterableDataset, which has no order to resume in; give it __len__ and __getitem__"
        )
    if isinstance(split, Dataset | DataLoader):
        return split
    if hasattr(split, "__getitem__") and hasattr(split, "__len__"):
        return split
    raise DataError(f"the {name} split is a {type(split).__name__}; expected tensors, a Dataset or a DataLoader")


def imitate(loader: DataLoader[Any]) -> dict[str, Any]:
    """The arguments that make a feed equal to a user's DataLoader, its order drawn from our seed instead.

    Raises:
        DataError: it draws its batches in a way of its own, which a feed cannot repeat.
    """
    if loader.batch_size is None:
        raise DataError(
            "a DataLoader with its own batch_sampler cannot be resumed inside an epoch; give batch_size instead"
        )
    sampler = loader.sampler
    if not isinstance(sampler, RandomSampler | SequentialSampler) or getattr(sampler, "replacement", False):
        raise DataError(
            f"a DataLoader with a {type(sampler).__name__} of its own cannot be resumed inside an epoch; "
            "use shuffle=True or shuffle=False"
        )
    return {
        "dataset": loader.dataset,
        "batch_size": loader.batch_size,
        "drop_last": loader.drop_last,
        "shuffle": isinstance(sampler, RandomSampler),
        "workers": loader.num_workers,
        "collate": loader.collate_fn,
    }


def check_tensors(split: tuple[Tensor, Tensor], name: str) -> None:
    """Look at a split in memory before anything is trained on it.

    Raises:
        DataError: empty, of unequal lengths, or not finite (row and column of the first such value).
    """
    check_lengths(split, name)
    for what, tensor in zip(("inputs", "targets"), split, strict=True):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = (~torch.isfinite(tensor.flatten(1) if tensor.dim() > 1 else tensor[:, None])).nonzero()
            row, column = bad[0].tolist()
            value = tensor.flatten(1)[row, column] if tensor.dim() > 1 else tensor[row]
            raise DataError(
                f"the {name} {what} hold {value.item()} at row {row}, column {column} "
                f"({len(bad)} such values in {tensor.shape[0]} rows); clean the data or leave these rows out"
            )


def check_lengths(split: tuple[Tensor, Tensor], name: str) -> None:
    """Look at how many samples a split in memory has.

    Raises:
        DataError: none, or not as many targets as inputs.
    """
    inputs, targets = split
    if len(inputs) == 0:
        raise DataError(f"the {name} split is empty: inputs {tuple(inputs.shape)}, targets {tuple(targets.shape)}")
    if len(inputs) != len(targets):
        raise DataError(
            f"the {name} split has {len(inputs)} inputs but {len(targets)} targets "
            f"(shapes {tuple(inputs.shape)} and {tuple(targets.shape)})"
        )

"""Feeds: what the loops draw batches from.

The order of the samples is a function of (seed, epoch), and randomness inside a sample of (seed, epoch, index or
batch): an interrupted run that resumes inside an epoch sees exactly the batches that were left.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Batch = tuple[Tensor, Tensor]  # inputs and targets, each with the batch dimension first


class Share(tuple[Tensor, Tensor]):
    """The rows of a batch that one of several ranks computes: (inputs, targets).

    Attributes:
        samples: rows of the whole batch.
        weight: the part of them that these are; 0 for the row that stands in where a rank has none.
    """

    samples: int
    weight: float

    def __new__(cls, inputs: Tensor, targets: Tensor, samples: int, weight: float) -> Share:
        """A batch of two tensors that knows what it is a part of."""
        share = super().__new__(cls, (inputs, targets))
        share.samples, share.weight = samples, weight
        return share


def samples_of(batch: Batch) -> int:
    """Rows of the whole batch, on all ranks."""
    return batch.samples if isinstance(batch, Share) else len(batch[1])


def own_samples(batch: Batch) -> int:
    """Rows of the batch that this rank counts: none, if a row only stands in."""
    return 0 if isinstance(batch, Share) and batch.weight == 0 else len(batch[1])


# Rows are gathered this many bytes at a time: one index_select for many batches, and still in cache.
_GATHER_BYTES = 4 << 20


class Feed(Protocol):
    """Batches of one split."""

    batches: int  # in one epoch
    samples: int  # in one epoch

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from batch number ``start`` on."""
        ...


# What a seed is for comes second in `mix`, so that no two uses share one: SeedSequence takes [a] for [a, 0].
ORDER, BATCH, SAMPLE, PAIRING, RANK = range(1, 6)


def mix(*numbers: int) -> int:
    """One 63-bit seed from several integers, well spread (NumPy's SeedSequence)."""
    return int(np.random.SeedSequence([n & 0xFFFFFFFFFFFFFFFF for n in numbers]).generate_state(1, np.uint64)[0] >> 1)


class InMemoryFeed:
    """Tensors served by one ``index_select`` for many batches, without a DataLoader.

    Args:
        inputs: (samples, …).
        targets: (samples, …).
        batch_size: samples in a batch.
        seed: of the order and of the random transforms.
        shuffle: draw a new order each epoch.
        drop_last: leave out an incomplete last batch.
        augment: ``f(inputs, generator) -> inputs``, applied to each batch.
        ranks: (number of this rank, number of ranks); of each batch it gets its `Share`.
        device: where batches are wanted; tensors that stay in the CPU's memory are copied there ahead, while the
            device computes. None: where the tensors are.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        ranks: tuple[int, int] = (0, 1),
        device: torch.device | None = None,
    ) -> None:
        self.inputs, self.targets, self.ranks = inputs, targets, ranks
        self.device = device or inputs.device
        self.batch_size, self.seed, self.shuffle, self.augment = batch_size, seed, shuffle, augment
        self.batches, self.samples = _count(len(inputs), batch_size, drop_last)
        row = (inputs[:1].nbytes + targets[:1].nbytes) or 1
        self._rows = max(_GATHER_BYTES // row // batch_size, 1) * batch_size
        self._generator = torch.Generator(device=self.device)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from batch number ``start`` on: (batch, …) tensors."""
        if self.ranks[1] == 1:
            return self._whole(epoch, start)
        # Gathered and augmented whole, then cut: each sample is what it is on one rank.
        return (_cut(batch, self.ranks) for batch in self._whole(epoch, start))

    def _whole(self, epoch: int, start: int) -> Iterator[Batch]:
        size, begin = self.batch_size, start * self.batch_size
        if begin >= self.samples:
            return  # tensors without rows would still be split into one batch
        if self.shuffle:
            order = permutation(len(self.inputs), self.seed, epoch).to(self.inputs.device)[begin : self.samples]
            chunks = (
                (self.inputs.index_select(0, rows), self.targets.index_select(0, rows))
                for rows in order.split(self._rows)
            )
        else:
            # Copies too: a network that changes its input in place must not change the data.
            rows = slice(begin, self.samples)
            parts = zip(self.inputs[rows].split(self._rows), self.targets[rows].split(self._rows), strict=True)
            chunks = ((inputs.clone(), targets.clone()) for inputs, targets in parts)
        for inputs, targets in chunks if self.device == self.inputs.device else map(self._copied, chunks):
            if self.augment is None:
                yield from zip(inputs.split(size), targets.split(size), strict=True)
                continue
            for number, batch in enumerate(zip(inputs.split(size), targets.split(size), strict=True), start):
                self._generator.manual_seed(mix(self.seed, BATCH, epoch, number))
                yield self.augment(batch[0], self._generator), batch[1]
            start += -(-len(inputs) // size)

    def _copied(self, chunk: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        inputs, targets = (part.pin_memory().to(self.device, non_blocking=True) for part in chunk)
        return inputs, targets


class LoaderFeed:
    """A map-style dataset served by a DataLoader with worker processes.

    Args:
        dataset: ``dataset[i] -> (inputs, targets)``.
        batch_size: samples in a batch.
        seed: of the order, and of Python's, NumPy's and torch's generators while a sample is made.
        shuffle: draw a new order each epoch.
        drop_last: leave out an incomplete last batch.
        workers: loader processes.
        collate: how samples become a batch; None: torch's default.
        pin: page-locked memory, for faster copies to a GPU.
        device: where batches are put before they are transformed; None: the CPU.
        transform: ``f(inputs) -> inputs`` applied to each batch.
        transform_targets: ``f(targets) -> targets`` applied to each batch.
        augment: ``f(inputs, generator) -> inputs`` applied to each batch.
        ranks: (number of this rank, number of ranks); of each batch it loads its `Share`.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        workers: int = 0,
        collate: Callable[[list[Any]], Any] | None = None,
        pin: bool = False,
        device: torch.device | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        transform_targets: Callable[[Tensor], Tensor] | None = None,
        augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        ranks: tuple[int, int] = (0, 1),
    ) -> None:
        self.seed, self.shuffle, self.ranks = seed, shuffle, ranks
        self.transform, self.transform_targets, self.augment = transform, transform_targets, augment
        self.size = len(dataset)  # pyright: ignore[reportArgumentType]
        self.batch_size = batch_size
        self.batches, self.samples = _count(self.size, batch_size, drop_last)
        self._order = _Batches()
        self._loader = DataLoader(
            _Seeded(dataset, seed),
            batch_sampler=self._order,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=pin,
            persistent_workers=workers > 0,
            worker_init_fn=_leave_signals_to_the_run if workers > 0 else None,
        )
        # A run is a cycle of references: found by the garbage collector with everything else, the workers' queues would
        # be closed before the workers are told, and each be waited for, five seconds long.
        weakref.finalize(self, _end_workers, self._loader, os.getpid())
        self._device = device or torch.device("cpu")
        self._generator = torch.Generator(self._device)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from batch number ``start`` on."""
        order = (permutation(self.size, self.seed, epoch) if self.shuffle else torch.arange(self.size)).tolist()
        cuts = range(start * self.batch_size, self.samples, self.batch_size)
        whole = [order[cut : min(cut + self.batch_size, self.samples)] for cut in cuts]
        parts = [rows_of(len(rows), self.ranks) for rows in whole]
        self._order.keys = [[(epoch, i) for i in rows[part]] for rows, (part, _) in zip(whole, parts, strict=True)]
        # The DataLoader draws a base seed from torch's global generator: the training's own must not notice.
        state = torch.get_rng_state()
        batches = iter(self._loader)
        torch.set_rng_state(state)
        for number, (inputs, targets) in enumerate(batches, start):
            inputs = inputs.to(self._device, non_blocking=True)
            targets = targets.to(self._device, non_blocking=True)
            if self.transform is not None:
                inputs = self.transform(inputs)
            if self.transform_targets is not None:
                targets = self.transform_targets(targets)
            if self.augment is not None:
                # A rank sees its own rows alone, so their randomness is its own too.
                self._generator.manual_seed(mix(self.seed, BATCH, epoch, number, self.ranks[0]))
                inputs = self.augment(inputs, self._generator)
            if self.ranks[1] == 1:
                yield inputs, targets
            else:
                yield Share(inputs, targets, len(whole[number - start]), parts[number - start][1])


def rows_of(samples: int, ranks: tuple[int, int]) -> tuple[slice, float]:
    """Which rows of a batch a rank computes, and their weight: as even as can be, the first ranks having one more."""
    rank, size = ranks
    begin, end = (samples * rank + size - 1) // size, (samples * (rank + 1) + size - 1) // size
    # A rank without a row computes one with the others, for nothing.
    return (slice(begin, end), (end - begin) / samples) if end > begin else (slice(0, 1), 0.0)


def _cut(batch: Batch, ranks: tuple[int, int]) -> Share:
    inputs, targets = batch
    rows, weight = rows_of(len(targets), ranks)
    return Share(inputs[rows], targets[rows], len(targets), weight)


def permutation(size: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch: a permutation of ``range(size)`` that depends on (seed, epoch) alone."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(mix(seed, ORDER, epoch)))


def _count(size: int, batch_size: int, drop_last: bool) -> tuple[int, int]:
    batches = size // batch_size if drop_last else -(-size // batch_size)
    return batches, min(batches * batch_size, size)


class _Batches(Sequence[list[tuple[int, int]]]):
    """The batches of the epoch at hand, as a batch sampler a persistent loader reads anew each epoch.

    It does not know its feed, whose end is the end of the workers.
    """

    def __init__(self) -> None:
        self.keys: list[list[tuple[int, int]]] = []

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: Any) -> Any:
        return self.keys[index]


def _end_workers(loader: DataLoader[Any], owner: int) -> None:
    """End a loader's workers, in the process that began them."""
    if loader._iterator is None or os.getpid() != owner:
        return
    loader._iterator._shutdown_workers()  # pyright: ignore[reportAttributeAccessIssue]
    loader._iterator = None


def _leave_signals_to_the_run(worker: int) -> None:
    """A terminal and a batch system signal workers too: the run needs them until its last step is saved."""
    if not hasattr(signal, "sigwaitinfo"):  # macOS
        return
    run, asked = os.getppid(), (signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, asked)

    def wait() -> None:
        while signal.sigwaitinfo(asked).si_pid != run:
            pass
        os._exit(0)  # of any other status the run would be told by an exception, in the midst of leaving

    threading.Thread(target=wait, daemon=True).start()


class _Seeded(Dataset[Any]):
    """A dataset whose randomness depends on (seed, epoch, index), whichever process makes the sample."""

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        state = random.getstate(), np.random.get_state(), torch.get_rng_state()
        seed = mix(self.seed, SAMPLE, epoch, index)
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)
        torch.manual_seed(seed)
        try:
            return self.dataset[index]
        finally:
            random.setstate(state[0])
            np.random.set_state(state[1])
            torch.set_rng_state(state[2])

import gc
import random
from itertools import chain

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from accelerator.runtime.data import feed as feed_module
from accelerator.runtime.data.feed import InMemoryFeed, LoaderFeed, mix, permutation

N, SIZE = 23, 5  # batches of 5, 5, 5, 5, 3


def tensors(samples=N):
    return torch.arange(samples, dtype=torch.float32)[:, None].expand(-1, 3).contiguous(), torch.arange(samples)


def jitter(inputs, generator):
    return inputs + torch.rand(inputs.shape, generator=generator)


def in_memory(**options):
    return InMemoryFeed(*tensors(), SIZE, **{"seed": 7, "shuffle": True, **options})


def loader(**options):
    return LoaderFeed(TensorDataset(*tensors()), SIZE, **{"seed": 7, "shuffle": True, **options})


def loader_with_workers(**options):
    return loader(workers=2, **options)


KINDS = pytest.mark.parametrize("make", [in_memory, loader])
ALL_KINDS = pytest.mark.parametrize("make", [in_memory, loader, loader_with_workers])


def order(feed, epoch, start=0):
    return [targets.tolist() for _, targets in feed.epoch(epoch, start)]


def same(ours, theirs):
    return len(ours) == len(theirs) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(ours, theirs, strict=True)
    )


@KINDS
def test_an_epoch_is_every_sample_once_with_its_own_target(make):
    batches = list(make().epoch(0))
    assert [len(y) for _, y in batches] == [5, 5, 5, 5, 3]
    assert sorted(torch.cat([y for _, y in batches]).tolist()) == list(range(N))
    assert all(torch.equal(x, y.float()[:, None].expand(-1, 3)) for x, y in batches)


@KINDS
def test_the_order_depends_on_seed_and_epoch_alone(make):
    feed = make()
    first, second = order(feed, 0), order(feed, 1)
    assert first != second
    torch.manual_seed(123)
    torch.rand(5)
    assert order(feed, 0) == first
    assert order(make(), 1) == second
    assert order(make(seed=8), 0) != first


def test_both_feeds_draw_the_same_order():
    assert order(in_memory(), 3) == order(loader(), 3)
    assert list(chain(*order(in_memory(), 3))) == permutation(N, 7, 3).tolist()


@KINDS
def test_without_shuffle_every_epoch_has_the_order_of_the_data(make):
    feed = make(shuffle=False)
    assert list(chain(*order(feed, 0))) == list(chain(*order(feed, 5))) == list(range(N))


@ALL_KINDS
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_resumed_epoch_is_what_was_left_of_it_augmentation_included(make, shuffle):
    whole = list(make(augment=jitter, shuffle=shuffle).epoch(2))
    resumed = make(augment=jitter, shuffle=shuffle)
    for start in range(6):
        assert same(list(resumed.epoch(2, start)), whole[start:]), start


@KINDS
def test_nothing_is_left_after_the_last_batch(make):
    assert list(make().epoch(0, 5)) == []
    assert list(make(drop_last=True).epoch(0, 4)) == []
    assert list(make(shuffle=False).epoch(0, 5)) == []


@KINDS
def test_augmentation_differs_between_batches_and_epochs(make):
    feed = make(augment=lambda x, generator: torch.rand(x.shape, generator=generator))
    drawn = [x for epoch in (0, 1) for x, _ in feed.epoch(epoch) if len(x) == SIZE]
    assert len({tuple(x.flatten().tolist()) for x in drawn}) == len(drawn) == 8


@KINDS
def test_drop_last_leaves_out_the_incomplete_batch(make):
    feed = make(drop_last=True)
    assert (feed.batches, feed.samples) == (4, 20)
    assert [len(batch) for batch in order(feed, 0)] == [5, 5, 5, 5]
    kept = make()
    assert (kept.batches, kept.samples) == (5, 23)


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_split_of_whole_batches_has_none_to_drop(drop_last):
    feed = InMemoryFeed(*tensors(20), SIZE, drop_last=drop_last)
    assert (feed.batches, feed.samples) == (4, 20)
    assert [len(batch) for batch in order(feed, 0)] == [5, 5, 5, 5]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("bytes_at_a_time", [1, 100, 160, 1 << 20])
def test_gathering_in_chunks_is_plain_indexing(monkeypatch, bytes_at_a_time, shuffle):
    monkeypatch.setattr(feed_module, "_GATHER_BYTES", bytes_at_a_time)  # a row is 3 · 4 + 8 = 20 bytes
    inputs, targets = tensors()
    rows = permutation(N, 7, 4) if shuffle else torch.arange(N)
    for start in (0, 1, 3):
        found = list(in_memory(shuffle=shuffle).epoch(4, start))
        expected = [(inputs[part], targets[part]) for part in rows[start * SIZE :].split(SIZE)]
        assert same(found, expected)


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_number_of_a_batch_and_so_its_noise_does_not_depend_on_the_chunks(monkeypatch, shuffle):
    whole = list(in_memory(augment=jitter, shuffle=shuffle).epoch(0))
    monkeypatch.setattr(feed_module, "_GATHER_BYTES", 200)
    assert same(list(in_memory(augment=jitter, shuffle=shuffle).epoch(0)), whole)


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_network_that_writes_into_its_input_does_not_change_the_data(shuffle):
    inputs, targets = tensors()
    feed = InMemoryFeed(inputs, targets, SIZE, shuffle=shuffle)
    for x, y in feed.epoch(0):
        x.zero_()
        y.zero_()
    assert torch.equal(inputs, tensors()[0])
    assert torch.equal(targets, tensors()[1])


class Random(Dataset):
    """What a data set with augmentation of its own draws from each global generator."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        drawn = [random.random(), float(np.random.rand()), float(torch.rand(()))]
        return torch.tensor(drawn, dtype=torch.float64), index


def drawn_by_sample(workers, epoch, start=0, seed=0):
    feed = LoaderFeed(Random(), 2, seed=seed, shuffle=True, workers=workers)
    return {int(i): tuple(x.tolist()) for xs, ys in feed.epoch(epoch, start) for x, i in zip(xs, ys, strict=True)}


def test_randomness_inside_a_sample_is_that_of_seed_epoch_and_index():
    here = drawn_by_sample(0, 1)
    assert drawn_by_sample(2, 1) == here
    left = drawn_by_sample(0, 1, start=2)
    assert left == {index: here[index] for index in left}
    assert len(left) == 2
    assert len({value for values in here.values() for value in values}) == 18
    assert not set(here.values()) & set(drawn_by_sample(0, 2).values())
    assert not set(here.values()) & set(drawn_by_sample(0, 1, seed=1).values())


@ALL_KINDS
def test_the_global_generators_do_not_notice(make):
    feed = make(augment=jitter)
    for generator in (random, np.random, torch):
        (generator.manual_seed if generator is torch else generator.seed)(3)
    expected = random.random(), np.random.rand(), torch.rand(())
    for generator in (random, np.random, torch):
        (generator.manual_seed if generator is torch else generator.seed)(3)
    list(feed.epoch(0))
    assert (random.random(), np.random.rand(), torch.rand(())) == expected


def test_making_random_samples_in_this_process_leaves_the_global_generators_alone():
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    expected = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    drawn_by_sample(0, 0)
    assert torch.equal(torch.get_rng_state(), expected[0])
    assert random.getstate() == expected[1]
    assert (np.random.get_state()[1] == expected[2]).all()


def test_the_generators_are_restored_when_a_sample_cannot_be_made():
    class Broken(Random):
        def __getitem__(self, index):
            torch.rand(3)
            raise OSError("no such image")

    before = torch.get_rng_state()
    with pytest.raises(OSError, match="no such image"):
        next(LoaderFeed(Broken(), 2).epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_that_stay_serve_the_next_epoch_after_one_was_left_early():
    feed, expected = loader_with_workers(), loader()
    for number, _ in enumerate(feed.epoch(0)):
        if number == 1:
            break
    for epoch in (1, 0):
        assert same(list(feed.epoch(epoch)), list(expected.epoch(epoch)))


def test_workers_end_with_their_feed():
    feed = loader_with_workers()
    list(feed.epoch(0))
    workers = feed._loader._iterator._workers
    assert all(worker.is_alive() for worker in workers)
    gc.disable()
    try:
        del feed
        assert not any(worker.is_alive() for worker in workers)
    finally:
        gc.enable()


def test_a_loader_transforms_inputs_then_augments_and_transforms_targets():
    feed = loader(
        transform=lambda x: x * 10, transform_targets=lambda y: -y, augment=lambda x, generator: x + 1, shuffle=False
    )
    x, y = next(feed.epoch(0))
    assert x[:, 0].tolist() == [1.0, 11.0, 21.0, 31.0, 41.0]
    assert y.tolist() == [0, -1, -2, -3, -4]


def test_a_users_collate_makes_the_batches():
    feed = loader(
        collate=lambda pairs: (torch.tensor([len(pairs)]), torch.tensor([int(y) for _, y in pairs])), shuffle=False
    )
    inputs, targets = list(feed.epoch(0))[-1]
    assert inputs.tolist() == [3]
    assert targets.tolist() == [20, 21, 22]


def test_mixed_numbers_are_spread_and_ordered():
    seeds = {mix(a, b) for a in range(30) for b in range(30)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert mix(-1, 5) == mix(2**64 - 1, 5) != mix(5, -1)


def test_workers_of_a_feed_in_a_cycle_are_told_and_not_given_up():
    feed = loader_with_workers()
    cycle = [feed]
    cycle.append(cycle)
    next(iter(feed.epoch(0)))
    workers, given_up = feed._loader._iterator._workers, []
    for worker in workers:
        worker.terminate = lambda end=worker.terminate: (given_up.append(end), end())
    del feed, cycle
    gc.collect()
    assert given_up == []
    assert not any(worker.is_alive() for worker in workers)

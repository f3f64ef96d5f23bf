"""What is planted twice, and nothing else, is found twice."""

import numpy as np
import torch

from accelerator.analysis.identity import Hashes, Sketches, row_hashes
from accelerator.analysis.reading import Chunk, Reading
from accelerator.analysis.statistics import Reference


def hashed(splits, remembered=10**6, pieces=3):
    hashes = Hashes(list(splits), remembered)
    for split, (inputs, targets) in splits.items():
        for rows in np.array_split(np.arange(len(inputs)), pieces):
            at = torch.from_numpy(rows)
            hashes.add(Chunk(split, rows, inputs[at], targets[at]))
    return hashes.duplicates()


def planted():
    generator = torch.Generator().manual_seed(0)
    splits = {
        name: (torch.randn(count, 5, generator=generator), torch.randn(count, 1, generator=generator))
        for name, count in (("train", 100), ("val", 40), ("test", 40))
    }
    train, val, test = splits.values()
    train[0][70] = train[0][31] = train[0][8]
    train[1][70] = train[1][31] = train[1][8]
    val[0][5], val[1][5] = train[0][50], train[1][50]
    test[0][6], test[1][6] = train[0][8], -train[1][8]
    test[0][9], test[1][9] = val[0][12], val[1][12]
    return splits


def test_copies_leaks_and_contradictions_are_those_that_were_planted():
    found = hashed(planted())
    assert found.copies == {"train": 2, "val": 0, "test": 0}
    assert found.groups == {"train": [[8, 31, 70]], "val": [], "test": []}
    assert found.leaks == {("train", "val"): 1, ("train", "test"): 1, ("val", "test"): 1}
    assert found.leaked == {("train", "val"): [(50, 5)], ("train", "test"): [(8, 6)], ("val", "test"): [(12, 9)]}
    assert found.contradictions == 1
    assert found.contradicting == [[("train", 8), ("train", 31), ("train", 70), ("test", 6)]]
    assert found.share == 1


def test_nothing_planted_nothing_found():
    x = torch.randn(3000, 4, generator=torch.Generator().manual_seed(1))
    found = hashed({"train": (x[:2000], x[:2000, :1]), "val": (x[2000:], x[2000:, :1])})
    assert (found.copies, found.leaks, found.contradictions) == ({"train": 0, "val": 0}, {("train", "val"): 0}, 0)


def test_of_very_many_samples_a_share_is_remembered_in_which_all_copies_of_one_are():
    x = torch.arange(4000.0)[:, None].repeat(2, 1)  # every sample twice
    found = hashed({"train": (x, x)}, remembered=1000)
    assert found.share == 1 / 8
    assert 300 < found.copies["train"] < 700  # an eighth of 4000 pairs
    assert all(b - a == 4000 for a, b in found.groups["train"])


def test_hashes_differ_wherever_one_byte_does_and_small_whole_numbers_do_not_collide():
    for dtype, width in ((torch.float32, 5), (torch.uint8, 13), (torch.int64, 1), (torch.float64, 2), (torch.bool, 3)):
        values = torch.zeros(1 + width, width, dtype=dtype)
        values[range(1, 1 + width), range(width)] = 1
        assert len(set(row_hashes(values).tolist())) == 1 + width
    digits = torch.randint(0, 17, (200_000, 8), generator=torch.Generator().manual_seed(0)).float()
    assert len(np.unique(row_hashes(digits))) == len(torch.unique(digits, dim=0))
    assert row_hashes(torch.zeros(0, 3)).shape == (0,)


def sketched(splits, tolerance=0.01, count=10**4):
    reading = Reading(splits)
    sketches = Sketches(reading, Reference.of(splits["train"][0]), count)
    for chunk in reading.chunks():
        sketches.add(chunk)
    return sketches.near(tolerance)


def test_near_copies_are_found_across_splits_and_equal_ones_are_not_called_near():
    generator = torch.Generator().manual_seed(0)
    train, val = torch.randn(500, 1, 8, 8, generator=generator), torch.randn(100, 1, 8, 8, generator=generator)
    usual = (2 * 64) ** 0.5

    def moved(image, share):
        step = torch.randn(image.shape, generator=generator)
        return image + share * usual * step / step.norm()

    val[3] = moved(train[20], 0.005)
    train[77] = moved(train[11], 0.008)
    train[90] = moved(train[91], 0.02)  # farther than the tolerance
    train[200] = train[201]
    near = sketched({"train": (train, train.flatten(1)), "val": (val, val.flatten(1))})
    assert (near.pairs, near.across, near.complete) == (2, {("train", "val"): 1}, True)
    (first, second) = near.examples
    assert first[:2] == (("train", 20), ("val", 3))
    assert second[:2] == (("train", 11), ("train", 77))
    assert abs(first[2] - 0.005) < 0.0005
    assert abs(second[2] - 0.008) < 0.0008


def test_one_value_far_away_makes_nothing_near():
    x = torch.randn(300, 12, generator=torch.Generator().manual_seed(0))
    x[5, 3] = 1e6
    assert sketched({"train": (x, x)}).pairs == 0


def test_tight_clusters_are_compared_in_part_only():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 2, (6000, 1), generator=generator) * 100.0 + 0.01 * torch.randn(6000, 16, generator=generator)
    near = sketched({"train": (x, x)})
    assert near.compared < 6000
    assert near.pairs > 0
    assert not near.complete

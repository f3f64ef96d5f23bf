import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accelerator.multilevel.matching import (
    MATCHINGS,
    _handshake,
    coarse_width,
    heavy_edge,
    identity,
    match_blocks,
    random,
)


def features(n, d=6, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def greedy_pairs(rows):
    """The textbook algorithm: all edges sorted by cosine, heaviest first."""
    unit = rows / rows.norm(dim=1, keepdim=True)
    cosine = unit @ unit.T
    edges = [(cosine[i, j].item(), i, j) for i in range(len(rows)) for j in range(i)]
    free, pairs = set(range(len(rows))), set()
    for _, i, j in sorted(edges, reverse=True):
        if {i, j} <= free:
            free -= {i, j}
            pairs.add(frozenset((i, j)))
    return pairs | {frozenset((i,)) for i in free}


def aggregates(parent):
    return {frozenset((parent == coarse).nonzero().flatten().tolist()) for coarse in parent.unique()}


@given(st.integers(1, 40), st.integers(0, 1000))
def test_heavy_edge_matching_finds_the_pairs_of_the_greedy_algorithm(n, seed):
    rows = features(n, seed=seed)
    assert aggregates(heavy_edge(rows, 2)) == greedy_pairs(rows)


def test_parallel_units_are_paired_and_opposite_ones_are_not():
    a, b, c = torch.eye(3).unbind()
    rows = torch.stack([a, b, -a, 3 * b, -2 * a, 5 * a, c, c + 0.1 * a])
    assert aggregates(heavy_edge(rows, 2)) == {frozenset(pair) for pair in [(0, 5), (1, 3), (2, 4), (6, 7)]}


def test_a_factor_of_four_joins_similar_pairs():
    centres = torch.eye(2, 5).double().repeat_interleave(4, dim=0)
    rows = centres + 0.1 * features(8, 5)
    shuffle = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])
    assert aggregates(heavy_edge(rows[shuffle], 4)) == {frozenset((0, 2, 4, 6)), frozenset((1, 3, 5, 7))}


def test_identity_takes_neighbours():
    assert identity(features(5), 2).tolist() == [0, 0, 1, 1, 2]
    assert identity(features(5), 4).tolist() == [0, 0, 0, 0, 1]


@given(st.sampled_from(sorted(MATCHINGS)), st.integers(1, 33), st.sampled_from([2, 4, 8]), st.sampled_from([1, 2, 3]))
def test_every_unit_is_matched_within_its_block_and_the_shape_depends_on_sizes_alone(name, size, factor, blocks):
    n = size * blocks
    parent = match_blocks(features(n), factor, MATCHINGS[name], blocks, torch.Generator().manual_seed(0))
    counts = parent.bincount()
    assert len(counts) == coarse_width(n, factor, blocks)
    assert counts.min() >= 1
    assert counts.max() <= factor
    for members in aggregates(parent):
        assert len({unit // size for unit in members}) == 1
    first_met = list(dict.fromkeys(parent.tolist()))
    assert first_met == sorted(first_met)


@pytest.mark.parametrize("rows", [torch.zeros(512, 3), torch.ones(512, 3), torch.ones(513, 1)])
def test_units_that_are_all_alike_are_matched_completely_without_a_round_for_each_pair(rows, monkeypatch):
    rounds, argmax = [], torch.Tensor.argmax
    monkeypatch.setattr(torch.Tensor, "argmax", lambda *args, **kwargs: rounds.append(1) or argmax(*args, **kwargs))
    counts = heavy_edge(rows, 2).bincount()
    assert len(counts) == coarse_width(len(rows), 2)
    assert len(rounds) <= 100  # of 256 pairs


def test_weights_that_rounding_made_asymmetric_are_matched():
    """Each of three vertices prefers the next: no two ever agree unless the weights are made symmetric."""
    label = _handshake(torch.tensor([[0.0, 2.0, 1.0], [1.0, 0.0, 2.0], [2.0, 1.0, 0.0]]))
    assert sorted(label.bincount().tolist())[-2:] == [1, 2]


def test_half_precision_features_are_matched_as_single_precision_ones():
    rows = features(500, 100).bfloat16()
    assert torch.equal(heavy_edge(rows, 2), heavy_edge(rows.float(), 2))


def test_random_matching_is_given_by_the_generator():
    def draw(seed):
        return random(features(64), 2, torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert not torch.equal(draw(1), identity(features(64), 2))

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accelerator.errors import ConfigError
from accelerator.multilevel import matching
from accelerator.multilevel.matching import (
    MATCHINGS,
    SIMILARITIES,
    HeavyEdge,
    _paired,
    check_parent,
    coarse_width,
    identity,
    match_blocks,
    random,
)

heavy_edge = HeavyEdge()


def features(n, d=6, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def half(n):
    return (n + 1) // 2


def cosine(rows):
    unit = rows / rows.norm(dim=1, keepdim=True)
    return unit @ unit.T


def radial_basis(rows):
    distance = torch.cdist(rows, rows)
    return torch.exp(-(distance**2) / (2 * distance.median() ** 2))


def greedy_pairs(weight, pairs):
    """The textbook algorithm: all edges sorted, heaviest first."""
    edges = [(weight[i, j].item(), i, j) for i in range(len(weight)) for j in range(i)]
    free, taken = set(range(len(weight))), []
    for _, i, j in sorted(edges, reverse=True):
        if {i, j} <= free:
            free -= {i, j}
            taken.append(frozenset((i, j)))
    taken = taken[:pairs]
    return {*taken, *(frozenset((i,)) for i in set(range(len(weight))) - set().union(*taken))}


def aggregates(parent):
    return {frozenset((parent == coarse).nonzero().flatten().tolist()) for coarse in parent.unique()}


@given(st.integers(1, 40), st.integers(0, 1000), st.floats(0, 1), st.sampled_from([cosine, radial_basis]))
def test_the_pairs_are_the_heaviest_of_the_greedy_algorithm(n, seed, place, similarity):
    rows = features(n, seed=seed)
    coarse = half(n) + int(place * (n - half(n)))
    parent = HeavyEdge(similarity.__name__)(rows, coarse)
    assert aggregates(parent) == greedy_pairs(similarity(rows), n - coarse)


@given(st.integers(2, 25), st.integers(0, 1000), st.integers(1, 6), st.booleans())
def test_equal_edges_are_taken_in_some_order_of_the_greedy_algorithm(n, seed, values, full):
    """An edge is left out only where one at least as heavy took an end of it."""
    weight = torch.randint(values, (n, n), generator=torch.Generator().manual_seed(seed)).float()
    weight = weight.triu(1) + weight.triu(1).T
    pairs = n // 2 if full else n // 4
    label = _paired(weight.clone(), pairs)
    held, counts = torch.full((n,), -math.inf), label.bincount(minlength=n)
    assert sorted(counts.tolist())[n - pairs :] == [2] * pairs
    for i in range(n):
        for j in range(i):
            if label[i] == label[j]:
                held[i] = held[j] = weight[i, j]
    lightest = held[held.isfinite()].min() if pairs else math.inf
    for i in range(n):
        for j in range(i):
            assert full or not (held[i] == held[j] == -math.inf) or weight[i, j] <= lightest
            assert not full or weight[i, j] <= max(held[i], held[j])


def test_parallel_units_are_paired_and_opposite_ones_are_not():
    a, b, c = torch.eye(3).unbind()
    rows = torch.stack([a, b, -a, 3 * b, -2 * a, 5 * a, c, c + 0.1 * a])
    assert aggregates(heavy_edge(rows, 4)) == {frozenset(pair) for pair in [(0, 5), (1, 3), (2, 4), (6, 7)]}


def test_near_units_are_paired_by_radial_basis_and_parallel_ones_are_not():
    rows = torch.tensor([[1.0, 0.0], [10.0, 0.0], [1.0, 1.0], [10.0, 1.0]]) + 1e5
    assert aggregates(MATCHINGS["radial_basis"](rows, 2, None)) == {frozenset((0, 2)), frozenset((1, 3))}


@pytest.mark.parametrize("name", ["heavy_edge", "radial_basis"])
def test_a_quarter_of_the_units_joins_similar_pairs(name):
    centres = torch.eye(2, 5).double().repeat_interleave(4, dim=0)
    rows = centres + 0.1 * features(8, 5)
    shuffle = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])
    assert aggregates(MATCHINGS[name](rows[shuffle], 2, None)) == {frozenset((0, 2, 4, 6)), frozenset((1, 3, 5, 7))}


def test_aggregates_are_represented_by_their_mean():
    seen = []

    def of_first_and_last_two(means):
        seen.append(means.flatten().tolist())
        weight = torch.zeros(len(means), len(means))
        weight[:2, :2], weight[2:4, 2:4] = 2, 1
        return weight

    rows = torch.tensor([[0.0], [1.0], [2.0], [4.0], [7.0]])
    assert HeavyEdge(of_first_and_last_two)(rows, 2).tolist() == [0, 0, 0, 0, 1]
    assert seen == [[0, 1, 2, 4, 7], [0.5, 3, 7]]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_similarity_function_is_used_in_the_mean_of_both_directions(order):
    weight = torch.tensor([[0.0, 9.0, 3.0], [0.0, 0.0, 4.0], [7.0, 4.0, 0.0]])[list(order)][:, list(order)]
    given = weight.clone()
    pair = frozenset((order.index(0), order.index(2)))
    assert aggregates(HeavyEdge(lambda rows: weight)(torch.zeros(3, 1), 2)) == {pair, frozenset((order.index(1),))}
    assert torch.equal(weight, given)


def test_identity_takes_neighbours_evenly():
    assert identity(features(5), 3).tolist() == [0, 0, 1, 1, 2]
    assert identity(features(5), 2).tolist() == [0, 0, 0, 1, 1]
    assert identity(features(6), 4).tolist() == [0, 0, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("width", "factor", "blocks", "coarse"),
    [(64, 2, 1, 32), (7, 2, 1, 4), (10, 2, 2, 6), (9, 1.5, 1, 6), (10, 1.5, 1, 7), (7, 1.4, 1, 5), (3, 100, 3, 3)],
)
def test_a_coarse_width_is_rounded_up_in_each_block(width, factor, blocks, coarse):
    assert coarse_width(width, factor, blocks) == coarse


@given(
    st.sampled_from(sorted(MATCHINGS)),
    st.integers(1, 33),
    st.sampled_from([1.1, 1.5, 2, 3, 4, 8]),
    st.sampled_from([1, 2, 3]),
)
def test_every_unit_is_matched_within_its_block_to_the_number_asked_for(name, size, factor, blocks):
    n = size * blocks
    coarse = coarse_width(n, factor, blocks)
    parent = match_blocks(features(n), coarse, MATCHINGS[name], blocks, torch.Generator().manual_seed(0))
    counts = parent.bincount()
    assert len(counts) == coarse
    assert counts.min() >= 1
    assert counts.max() <= 2 ** math.ceil(math.log2(size * blocks / coarse))
    for members in aggregates(parent):
        assert len({unit // size for unit in members}) == 1
    first_met = list(dict.fromkeys(parent.tolist()))
    assert first_met == sorted(first_met)


@pytest.mark.parametrize("values", [2, 1000])
def test_blocks_are_matched_alike_in_any_order(values):
    """Small integers make many equal similarities."""
    rows = torch.randint(values, (3, 40, 4), generator=torch.Generator().manual_seed(0)).float() - values // 2
    forward = match_blocks(rows.flatten(0, 1), 60, heavy_edge, 3).view(3, 40)
    backward = match_blocks(rows.flip(0).flatten(0, 1), 60, heavy_edge, 3).view(3, 40).flip(0)
    assert torch.equal(forward - forward[:, :1], backward - backward[:, :1])


@pytest.mark.parametrize(
    "weight",
    [
        torch.ones(512, 512),
        torch.ones(513, 513),
        torch.linspace(1, 2, 512)[:, None] * torch.linspace(1, 2, 512),  # all prefer the same unit
        torch.diag(torch.arange(511.0), 1) + torch.diag(torch.arange(511.0), -1),  # each prefers the next
        -(torch.arange(512)[:, None] - torch.arange(512)).abs().float(),
    ],
)
def test_no_structure_of_the_weights_takes_many_proposals(weight, monkeypatch):
    offers, best = [], matching._best_offer
    monkeypatch.setattr(matching, "_best_offer", lambda *args: offers.append(1) or best(*args))
    counts = _paired(weight.clone(), len(weight) // 2).bincount()
    assert (counts == 2).sum() == len(weight) // 2
    assert len(offers) <= 10 * len(weight)


@pytest.mark.parametrize("name", sorted(SIMILARITIES))
@pytest.mark.parametrize("n", [3, 512, 1100])
def test_similarities_are_symmetric_to_the_last_bit(name, n):
    weight = SIMILARITIES[name](features(n, 37).float())
    expected = cosine(features(n, 37)) if name == "cosine" else -(torch.cdist(features(n, 37), features(n, 37)) ** 2)
    assert torch.equal(weight, weight.T)
    if name == "radial_basis":  # of features scaled to a largest entry of 1
        expected = expected / features(n, 37).abs().max() ** 2
    torch.testing.assert_close(weight, expected.float(), rtol=1e-4, atol=1e-4)


def test_half_precision_features_are_matched_as_single_precision_ones():
    rows = features(500, 100).bfloat16()
    assert torch.equal(heavy_edge(rows, 250), heavy_edge(rows.float(), 250))


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [0, 2, 1, 3], [0, 3, 1, 2]])
def test_double_precision_features_are_compared_in_double_precision(order):
    angle = torch.tensor([0.0, 1e-6, 2.1e-6, 3.1e-6], dtype=torch.float64)  # cosines differ by 1e-13
    rows = torch.stack([angle.cos(), angle.sin()], dim=1)
    pairs = {frozenset((order.index(0), order.index(1))), frozenset((order.index(2), order.index(3)))}
    assert aggregates(heavy_edge(rows[order], 2)) == pairs


def test_cosines_do_not_depend_on_the_scale_of_single_precision_features():
    rows = features(50).float()
    scale = 10.0 ** torch.linspace(-30, 30, 50)[:, None]
    assert torch.equal(heavy_edge(rows * scale, 25), heavy_edge(rows, 25))


def test_a_unit_of_norm_zero_is_as_similar_as_an_orthogonal_one():
    rows = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [-1.0, -1.0], [0.0, 0.0], [-1.0, -0.5]])
    assert heavy_edge(rows, 3).tolist() == [0, 1, 0, 2, 1, 2]


def test_duplicate_units_are_paired():
    rows = torch.cat([features(100, 50), features(100, 50)]).float()
    assert torch.equal(heavy_edge(rows, 100), torch.arange(100).repeat(2))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_features_that_are_not_finite_are_refused(value):
    rows = features(8)
    rows[5, 2] = value
    with pytest.raises(ConfigError, match=r"the weights of unit 5 are not finite.*lower the learning rate"):
        heavy_edge(rows, 4)
    assert match_blocks(rows, 4, identity).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("name", ["heavy_edge", "radial_basis"])
@pytest.mark.parametrize("value", [3e38, 1e-42])
def test_features_at_the_ends_of_single_precision_are_matched(name, value):
    assert MATCHINGS[name](torch.full((8, 6), value), 2, None).bincount().tolist() == [4, 4]


def test_a_sketch_is_given_by_the_generator_and_finds_what_is_clearly_similar():
    rows = torch.cat([features(100, 400), features(100, 400) + 0.3 * features(100, 400, seed=1)])

    def draw(heavy, seed):
        return heavy(rows, 100, torch.Generator().manual_seed(seed))

    for sketched in (HeavyEdge(sketch=64), HeavyEdge("radial_basis", sketch=64)):
        assert torch.equal(draw(sketched, 1), torch.arange(100).repeat(2))
        assert torch.equal(draw(sketched, 2), torch.arange(100).repeat(2))
    assert torch.equal(draw(HeavyEdge(sketch=4), 1), draw(HeavyEdge(sketch=4), 1))
    assert not torch.equal(draw(HeavyEdge(sketch=4), 1), draw(HeavyEdge(sketch=4), 2))


def test_a_sketch_of_as_many_dimensions_as_the_features_is_exact():
    rows = features(60, 12)
    assert torch.equal(HeavyEdge(sketch=12)(rows, 30), heavy_edge(rows, 30))
    assert not torch.equal(HeavyEdge(sketch=11)(rows, 30, torch.Generator().manual_seed(0)), heavy_edge(rows, 30))


def test_a_sketched_similarity_is_off_by_one_over_the_root_of_its_dimensions():
    errors = []

    def spy(sketched):
        errors.append((cosine(sketched) - cosine(rows)).triu(1)[0, 1:])
        return cosine(sketched)

    rows = features(200, 1000)
    for seed in range(5):
        HeavyEdge(spy, sketch=100)(rows, 100, torch.Generator().manual_seed(seed))
    assert torch.cat(errors).std() == pytest.approx(0.1, rel=0.1)


def test_random_matching_is_given_by_the_generator():
    def draw(seed):
        return random(features(64), 32, torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert not torch.equal(draw(1), identity(features(64), 32))


@pytest.mark.parametrize(
    ("parent", "message"),
    [
        ([0, 0, 1, 1], "returned list"),
        (torch.tensor([0.0, 0, 1, 1]), r"returned float32 \[4\]"),
        (torch.tensor([0, 0, 1]), r"returned int64 \[3\]"),
        (torch.tensor([[0, 0, 1, 1]]), r"returned int64 \[1, 4\]"),
        (torch.tensor([0, 0, 1, -1]), r"left units unmatched \(a parent of -1\)"),
        (torch.tensor([0, 1, 2, 0]), "returned 3 coarse units where 2 were asked for"),
        (torch.tensor([1, 1, 1, 1]), "gave coarse unit 0 no unit"),
        (torch.tensor([0, 0, 0, 0]), "gave coarse unit 1 no unit"),
    ],
)
def test_a_wrong_result_of_a_users_matching_is_refused_by_name(parent, message):
    def mine(rows, coarse, generator):
        return parent

    with pytest.raises(ConfigError, match=rf"mine {message}.*each of the 4 units, int64 \[4\] from 0 to 1"):
        match_blocks(features(8), 4, mine, blocks=2)


def test_a_right_result_of_a_users_matching_is_used_as_it_is():
    check_parent(torch.tensor([1, 0, 1]), 3, 2)
    assert match_blocks(features(4), 2, lambda rows, *_: torch.tensor([1, 0, 1, 1])).tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize(("coarse", "blocks"), [(0, 1), (9, 1), (3, 2), (1, 2)])
def test_a_number_of_coarse_units_that_cannot_be_is_refused(coarse, blocks):
    with pytest.raises(ConfigError, match=rf"{coarse} coarse units of 8 in {blocks} blocks"):
        match_blocks(features(8), coarse, heavy_edge, blocks)


def test_wrong_options_are_refused_together():
    with pytest.raises(ConfigError, match=r"(?s)'cosin' is unknown.*cosine.*sketch=0: must be at least 1"):
        HeavyEdge("cosin", sketch=0)


@pytest.mark.parametrize("weight", [torch.ones(4, 3), torch.full((4, 4), math.nan), [1.0]])
def test_a_wrong_result_of_a_similarity_function_is_refused_by_name(weight):
    def alike(rows):
        return weight

    with pytest.raises(ConfigError, match=r"similarity alike returned .*for 4 units: .*finite numbers \[4, 4\]"):
        HeavyEdge(alike)(features(4), 2)

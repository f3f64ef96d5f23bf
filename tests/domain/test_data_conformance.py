"""One suite for all data sets. A new member needs an entry in CASES."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from domain_members import component, knobs, members


@dataclass
class Case:
    knobs: dict[str, Any]
    sizes: tuple[int, int, int]
    """Samples to train, validate and test on."""
    input_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    target_dtype: torch.dtype = torch.float32
    input_dtype: torch.dtype = torch.float32


SMALL = {"grid": 8, "train": 20, "val": 5, "test": 6, "kl_terms": 4}

CASES = {
    "poisson": [
        Case(SMALL, (20, 5, 6), (4,), (1, 8, 8)),
        Case(SMALL | {"inputs": "field", "targets": "flux"}, (20, 5, 6), (1, 8, 8), (4, 8)),
    ],
    "darcy": [
        Case({"grid": 8, "train": 20, "val": 5, "test": 6}, (20, 5, 6), (1, 8, 8), (1, 8, 8)),
        Case({"grid": 4, "train": 3, "val": 2, "test": 2, "coefficient": "lognormal"}, (3, 2, 2), (1, 4, 4), (1, 4, 4)),
    ],
    "digits": [
        Case({}, (1257, 270, 270), (1, 8, 8), (), torch.int64),
        Case({"canvas": 24, "placements": 2}, (2514, 540, 540), (1, 24, 24), (), torch.int64),
    ],
    "text": [Case({"length": 128, "characters": 64001}, (400, 50, 50), (128,), (128,), torch.int64, torch.int64)],
    "arrays": [Case({"inputs": ["a", "b"], "targets": "c"}, (14, 3, 3), (2,), (1,))],
}

FLAT = [pytest.param(name, case, id=f"{name}-{i}") for name, cases in CASES.items() for i, case in enumerate(cases)]


@pytest.fixture
def make(tmp_path):
    """Builds a data set whose files, if it needs any, are in a folder of this test."""

    def make(name, case, **knobs):
        knobs = case.knobs | knobs
        if name in ("darcy", "poisson"):
            knobs["cache_dir"] = str(tmp_path)
        if name == "arrays":
            knobs["path"] = str(tmp_path / "table.csv")
            table = np.random.default_rng(0).normal(size=(20, 3))
            np.savetxt(knobs["path"], table, delimiter=",", header="a,b,c", comments="")
        return component("data", name)(**knobs)

    return make


def test_every_data_set_has_a_case():
    assert set(CASES) == set(members("data"))


@pytest.mark.parametrize(("name", "case"), FLAT)
def test_data_has_three_splits_of_the_documented_shapes_and_types(name, case, make):
    data = make(name, case)
    assert list(data) == ["train", "val", "test"]
    for size, (inputs, targets) in zip(case.sizes, data.values(), strict=True):
        assert inputs.shape == (size, *case.input_shape)
        assert targets.shape == (size, *case.target_shape)
        assert inputs.dtype == case.input_dtype
        assert targets.dtype == case.target_dtype
        assert inputs.isfinite().all()
        assert targets.isfinite().all()


@pytest.mark.parametrize(("name", "case"), FLAT)
def test_splits_share_no_sample(name, case, make):
    rows = torch.cat([inputs.flatten(1) for inputs, _ in make(name, case).values()])
    assert len(rows.unique(dim=0)) == len(rows)


@pytest.mark.parametrize(("name", "case"), FLAT)
def test_the_seed_determines_the_data(name, case, make):
    seeds = [{"seed": 1}, {"seed": 1}, {"seed": 2}] if "seed" in knobs("data", name) else [{}, {}]
    first, same, *other = (make(name, case, **seed) for seed in seeds)
    for split, (inputs, targets) in first.items():
        assert torch.equal(inputs, same[split][0])
        assert torch.equal(targets, same[split][1])
        for data in other:
            assert not torch.equal(inputs, data[split][0])

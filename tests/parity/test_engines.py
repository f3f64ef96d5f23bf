"""One config gives the same losses however it is computed: in pieces, on two ranks, compiled, on every engine."""

import pytest
from forked_ranks import on_ranks
from run_outcomes import points

from accelerator.runtime.run import execute

# Float32 rounding of sums taken in another order, grown over these steps.
NEAR = {"rel": 2e-5, "abs": 1e-6}
MULTILEVEL = {
    "single": {"name": "single"},
    "cascade": {"name": "cascade", "levels": 2, "min_width": 2},
    "v_cycle": {
        "name": "v_cycle",
        "levels": 2,
        "min_width": 2,
        "tau": "minibatch",
        "guard": 0.1,
        "pre": 1,
        "post": 1,
        "coarse": 2,
        "k": 2,
    },
}


def curve(folder):
    """Every point of the run's metrics."""
    found = {(key, step): value for key, step, value in points(folder)}
    assert len([key for key in found if key[0] == "train/loss"]) >= 6
    assert {"val/loss", "test/loss"} <= {key for key, _ in found}
    return found


def config(make, **engine):
    sections = engine.pop("sections", {})
    return make(
        model={"name": "mlp", "hidden": [8, 8]},
        optimizer={"name": "Adam", "lr": 0.01},
        trainer={"max_epochs": 3, "clip_norm": 0.5, **sections.pop("trainer", {})},
        engine={"name": "vanilla_torch", "device": "cpu", "threads": 1, **engine},
        **sections,
    )


def plane(samples):
    return {"name": None, "_target_": "toy_problem.plane", "samples": samples}


def run(config, folder):
    folder.mkdir(parents=True)
    execute(config, folder)
    return curve(folder)


def run_on_ranks(count, config, folder):
    folder.mkdir(parents=True)
    on_ranks(count, lambda rank: execute(config, folder).metrics, folder / "ranks")
    return curve(folder)


@pytest.mark.parametrize("method", MULTILEVEL)
def test_a_batch_in_pieces_gives_the_losses_of_the_whole(tmp_path, tiny_config, method):
    multilevel = MULTILEVEL[method]
    whole = run(config(tiny_config, sections={"multilevel": multilevel}), tmp_path / "whole")
    for accumulate in (2, 3, 100):
        sections = {"multilevel": multilevel, "trainer": {"accumulate": accumulate}}
        assert run(config(tiny_config, sections=sections), tmp_path / f"{accumulate}") == pytest.approx(whole, **NEAR)


@pytest.mark.parametrize("method", MULTILEVEL)
def test_two_ranks_give_the_losses_of_one(tmp_path, tiny_config, method):
    """Also the last, incomplete batch of each pass: 5 rows, 3 and 2."""
    sections = {
        "multilevel": MULTILEVEL[method],
        "data": {"name": None, "_target_": "toy_problem.plane", "samples": 21},
    }
    whole = run(config(tiny_config, sections=dict(sections)), tmp_path / "one")
    ranks = run_on_ranks(2, config(tiny_config, sections=dict(sections)), tmp_path / "two")
    assert ranks == pytest.approx(whole, **NEAR)


def test_ranks_without_a_row_of_the_last_batch_wait_for_those_with_one(tmp_path, tiny_config):
    data = plane(17)  # batches of 8, 8 and 1
    sections = {"data": data, "trainer": {"accumulate": 2}}
    whole = run(config(tiny_config, sections={"data": data}), tmp_path / "one")
    assert run_on_ranks(3, config(tiny_config, sections=sections), tmp_path / "three") == pytest.approx(whole, **NEAR)


def test_random_transforms_are_the_same_on_two_ranks(tmp_path, tiny_config):
    transform = {"input": {"noise": {"name": "noise", "std": 0.1}}}
    whole = run(config(tiny_config, sections={"transform": transform}), tmp_path / "one")
    ranks = run_on_ranks(2, config(tiny_config, sections={"transform": transform}), tmp_path / "two")
    assert ranks == pytest.approx(whole, **NEAR)


# torch's own, when its compiler is first imported.
@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.slow
def test_compiled_steps_give_the_same_losses(tmp_path, tiny_config):
    whole = run(config(tiny_config), tmp_path / "eager")
    assert run(config(tiny_config, compile="default"), tmp_path / "compiled") == pytest.approx(whole, **NEAR)


def test_recomputed_activations_give_the_same_losses_to_the_last_bit(tmp_path, tiny_config):
    sections = {"multilevel": MULTILEVEL["cascade"]}
    kept = run(config(tiny_config, sections=dict(sections)), tmp_path / "kept")
    assert run(config(tiny_config, gradient_checkpointing=True, sections=dict(sections)), tmp_path / "again") == kept


@pytest.mark.parametrize("precision", ["bf16", "16"])
def test_half_precision_follows_single_precision(tmp_path, tiny_config, precision):
    loss = {"name": "huber", "delta": 0.05}  # gradients so small that no loss scale overflows: no step is left out
    whole = run(config(tiny_config, sections={"loss": dict(loss)}), tmp_path / "single")
    half = run(config(tiny_config, precision=precision, sections={"loss": dict(loss)}), tmp_path / "half")
    assert half != whole
    assert half == pytest.approx(whole, rel=0.02)

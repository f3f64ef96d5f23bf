import pytest
import torch
from run_outcomes import equal

from accelerator.errors import CheckpointError, ConfigError
from accelerator.runtime.checkpoint.operation import decode, encode
from accelerator.runtime.context.build import build_context
from accelerator.runtime.loop.train import train
from accelerator.utilities.seed import rng_state

CASCADE = {"multilevel": {"name": "cascade", "levels": 2, "min_width": 2}, "model": {"name": "mlp", "hidden": [16, 16]}}


def through_a_file(state, folder):
    (folder / "x").write_bytes(encode(state))
    return decode(folder / "x")


def test_one_seed_gives_one_network_and_another_seed_another(tiny_config):
    def weights(seed):
        return build_context(tiny_config(seed=seed), None).model.state_dict()

    torch.manual_seed(5)
    first = weights(0)
    torch.rand(7)
    assert equal(dict(weights(0)), dict(first))
    assert not equal(dict(weights(1)), dict(first))


def test_the_trial_batch_leaves_the_generators_as_they_were(tiny_config):
    loss = {"_target_": "toy_problem.shifted_error"}
    build_context(tiny_config(model={"_target_": "toy_problem.Scale"}, loss=loss), None)
    before = rng_state()
    build_context(tiny_config(model={"_target_": "toy_problem.Restless"}, loss=loss), None)
    assert equal(rng_state(), before)


def test_the_model_is_offered_the_shapes_of_the_data(tiny_config):
    context = build_context(tiny_config(), None)
    assert context.model(torch.zeros(2, 3)).shape == (2, 1)
    assert context.config["model"]["hidden"] == [4]


@pytest.mark.parametrize("sections", [{}, CASCADE], ids=["single", "cascade"])
def test_a_state_loaded_into_a_fresh_context_is_that_state(tiny_config, tmp_path, sections):
    config = tiny_config(**sections, optimizer={"name": "Adam", "lr": 0.01})
    config["callbacks"] = {}
    context = build_context(config, None)
    train(context)
    saved = through_a_file(context.state_dict(), tmp_path)
    fresh = build_context(config, None)
    fresh.load_state_dict(saved)
    assert equal(through_a_file(fresh.state_dict(), tmp_path), saved)
    assert fresh.engine.model is fresh.model
    assert fresh.engine.optimizer is fresh.optimizer
    assert fresh.scheduler.scheduler.optimizer is fresh.optimizer


MISFITS = {
    "another width": ({"model": {"name": "mlp", "hidden": [5]}}, "does not fit this run's model: (?s:.*)size mismatch"),
    "another depth": ({"model": {"name": "mlp", "hidden": [4, 4]}}, "does not fit this run's model"),
    "a hierarchy": (CASCADE, "holds one network, this run trains a hierarchy"),
    "a transform": ({"transform": {"input": {"n": {"name": "normalize"}}}}, "does not fit this run's model"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_checkpoint_of_another_run_is_refused(tiny_config, tmp_path, misfit):
    sections, message = MISFITS[misfit]
    saved = through_a_file(build_context(tiny_config(), None).state_dict(), tmp_path)
    with pytest.raises(CheckpointError, match=message):
        build_context(tiny_config(**sections), None).load_state_dict(saved)


def test_an_optimizer_with_other_groups_is_refused(tiny_config, tmp_path):
    saved = through_a_file(build_context(tiny_config(), None).state_dict(), tmp_path)
    saved["optimizer"]["param_groups"] *= 2
    with pytest.raises(CheckpointError, match="does not fit this run's optimizer"):
        build_context(tiny_config(), None).load_state_dict(saved)


def test_a_schedule_with_fewer_stages_is_refused(tiny_config, tmp_path):
    saved = through_a_file(build_context(tiny_config(), None).state_dict(), tmp_path)
    saved["state"]["stage"] = 1
    with pytest.raises(CheckpointError, match="is of stage 2, this run's schedule has 1"):
        build_context(tiny_config(), None).load_state_dict(saved)


def test_only_what_wants_a_gradient_is_given_to_the_optimizer(tiny_config):
    context = build_context(tiny_config(), None)
    context.model.layers[0].weight.requires_grad_(False)
    assert len(context.make_optimizer(0).param_groups[0]["params"]) == 3
    context.model.requires_grad_(False)
    with pytest.raises(ConfigError, match="the model has no parameter to train"):
        context.make_optimizer(0)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"model": {"_target_": "torch.nn.Linear", "in_features": 7, "out_features": 1}},
            r"the model Linear cannot take the data's inputs of shape \(8, 3\) float32 \(batch first\)",
        ),
        (
            {"loss": {"name": "cross_entropy"}},
            r"the loss cannot compare them: the model's predictions have shape \(8, 1\).*the data's targets \(8, 1\)",
        ),
        (
            {"loss": {"_target_": "torch.nn.MSELoss", "reduction": "none"}},
            r"the loss must return one number, a 0-dim tensor; got \(8, 1\) float32",
        ),
    ],
)
def test_what_does_not_fit_together_is_told_with_both_shapes_before_the_first_step(tiny_config, sections, message):
    with pytest.raises(ConfigError, match=message):
        build_context(tiny_config(**sections), None)


class Refusing(torch.nn.Module):
    """Somebody's component with an opinion of its own."""

    def forward(self, inputs):
        raise ValueError("boom")


def refuse(prediction, target):
    raise ValueError("boom")


def unpack(prediction, target):
    _batch, _channels, _height, _width = prediction.shape


class RefusingMetric:
    higher_is_better = False

    def update(self, prediction, target):
        raise ValueError("boom")

    def reset(self):
        pass

    def compute(self):
        return 0.0


@pytest.mark.parametrize(
    "sections",
    [
        {"loss": {"_target_": f"{__name__}.refuse"}},
        {"model": {"_target_": f"{__name__}.Refusing"}},
        {"metrics": {"own": {"_target_": f"{__name__}.RefusingMetric"}}},
    ],
    ids=["loss", "model", "metric"],
)
def test_what_the_users_own_code_raises_is_not_told_as_shapes_that_do_not_fit(tiny_config, sections):
    with pytest.raises(ValueError, match=r"\Aboom\Z"):
        build_context(tiny_config(imports=["toy_problem", __name__], **sections), None)


def test_what_fails_on_shapes_in_the_users_own_code_is(tiny_config):
    """No ``raise`` of his: the interpreter, or a kernel of torch's, could not go on."""
    with pytest.raises(ConfigError, match=r"the loss cannot compare them: .*not enough values to unpack"):
        build_context(tiny_config(imports=["toy_problem", __name__], loss={"_target_": f"{__name__}.unpack"}), None)

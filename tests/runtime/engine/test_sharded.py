"""engine.strategy=fsdp: the losses of one process, and checkpoints that know of no ranks."""

import pytest
import torch
import torch.distributed.fsdp  # before the forks: seconds of imports, once
from forked_ranks import RanksFailedError, on_ranks
from run_outcomes import At, equal, last_state, points
from torch import nn
from torch.distributed.tensor import DTensor

from accelerator.errors import ConfigError, Terminated
from accelerator.runtime.data.feed import Share
from accelerator.runtime.engine.base import Clip
from accelerator.runtime.engine.vanilla_torch import VanillaTorch
from accelerator.runtime.run import execute

# Float32 rounding of sums taken in another order, grown over these steps.
NEAR = {"rel": 2e-5, "abs": 1e-6}


def config(make, strategy="fsdp", **sections):
    trainer, engine = sections.pop("trainer", {}), sections.pop("engine", {})
    return make(
        **{"model": {"name": "mlp", "hidden": [8, 8]}, "optimizer": {"name": "Adam", "lr": 0.01}, **sections},
        trainer={"max_epochs": 3, "clip_norm": 0.5, **trainer},
        engine={"name": "vanilla_torch", "device": "cpu", "threads": 1, "strategy": strategy, **engine},
    )


def plane(samples):
    return {"name": None, "_target_": "toy_problem.plane", "samples": samples}


def run(config, folder, ranks=1, **options):
    folder.mkdir(parents=True, exist_ok=True)
    if ranks == 1:
        execute(config, folder, **options)
    else:
        on_ranks(ranks, lambda rank: execute(config, folder, **options).metrics, folder / "ranks")
    return curve(folder)


def curve(folder):
    return {(key, step): value for key, step, value in points(folder)}


def stopped(config, folder, ranks):
    """A run that a signal stops after step 5, in the middle of its second pass."""
    folder.mkdir()

    def action(rank):
        with pytest.raises(Terminated):
            execute(config, folder, callbacks={"stop": At("step_end", stop, number=5)})

    on_ranks(ranks, action, folder / "ranks")


def stop(context):
    context.ask_to_stop("SIGTERM")
    context.agree_to_stop()


def numbers(tree, path=""):
    """Every number in the tensors of a nest."""
    if isinstance(tree, dict):
        return {k: v for key, value in tree.items() for k, v in numbers(value, f"{path}/{key}").items()}
    if isinstance(tree, torch.Tensor):
        return {f"{path}/{index}": value for index, value in enumerate(tree.flatten().tolist())}
    return {}


SECTIONS = {
    "a batch of 5 rows": (2, {"data": plane(21), "model": {"name": "mlp", "hidden": [8, 8], "layer_norm": True}}),
    "in unequal pieces": (2, {"data": plane(21), "trainer": {"accumulate": 3}}),
    "ranks without a row": (3, {"data": plane(17), "trainer": {"accumulate": 2, "clip_value": 0.05}}),
    "recomputed": (
        2,
        {"engine": {"gradient_checkpointing": True}, "optimizer": {"name": "SGD", "lr": 0.05, "momentum": 0.9}},
    ),
}


@pytest.mark.parametrize("case", SECTIONS)
def test_ranks_give_the_losses_and_the_checkpoint_of_one(tmp_path, tiny_config, case):
    ranks, sections = SECTIONS[case]
    one = run(config(tiny_config, **dict(sections)), tmp_path / "one")
    assert run(config(tiny_config, **dict(sections)), tmp_path / "many", ranks) == pytest.approx(one, **NEAR)
    for part in ("model", "optimizer"):
        ours, theirs = (numbers(last_state(tmp_path / name)[part]) for name in ("many", "one"))
        assert ours
        assert list(ours) == list(theirs)
        assert ours == pytest.approx(theirs, rel=1e-3, abs=2e-6)


@pytest.mark.parametrize("precision", ["bf16", pytest.param("16", marks=pytest.mark.slow)])
def test_half_precision_is_that_of_ddp(tmp_path, tiny_config, precision):
    sections = {"engine": {"precision": precision}, "loss": {"name": "huber", "delta": 0.05}}
    ddp = run(config(tiny_config, "ddp", **dict(sections)), tmp_path / "ddp", 2)
    assert run(config(tiny_config, **dict(sections)), tmp_path / "fsdp", 2) == pytest.approx(ddp, **NEAR)


def test_a_stopped_run_goes_on_to_the_last_bit(tmp_path, tiny_config):
    model = {"name": "mlp", "hidden": [8, 8], "dropout": 0.2}
    whole = run(config(tiny_config, model=model), tmp_path / "whole", 2)
    stopped(config(tiny_config, model=model), tmp_path / "parts", 2)
    assert (
        run(config(tiny_config, model=model), tmp_path / "parts", 2, resume=tmp_path / "parts" / "checkpoints") == whole
    )
    assert equal(last_state(tmp_path / "parts"), last_state(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("fsdp", 2), ("ddp", 2)),
        pytest.param(("fsdp", 2), ("fsdp", 1), marks=pytest.mark.slow),
        pytest.param(("ddp", 2), ("fsdp", 3), marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on_with_another_strategy_and_number_of_ranks(tmp_path, tiny_config, before, after):
    one = run(config(tiny_config), tmp_path / "one")
    stopped(config(tiny_config, before[0]), tmp_path / "parts", before[1])
    resume = tmp_path / "parts" / "checkpoints"
    assert run(config(tiny_config, after[0]), tmp_path / "parts", after[1], resume=resume) == pytest.approx(one, **NEAR)


def test_a_checkpoint_of_another_network_is_told(tmp_path, tiny_config):
    run(config(tiny_config, model={"name": "mlp", "hidden": [4]}), tmp_path / "small")
    with pytest.raises(
        RanksFailedError, match=r"does not fit this run's model: size mismatch for layers.0.weight: \(4, 3\)"
    ):
        run(
            config(tiny_config, model={"name": "mlp", "hidden": [8]}),
            tmp_path / "new",
            2,
            resume=tmp_path / "small" / "checkpoints",
        )


def test_more_than_one_level_is_refused_also_before_there_are_ranks(tmp_path, tiny_config):
    with pytest.raises(
        ConfigError, match="engine.strategy=fsdp trains one network, this run has 2 levels.*strategy=ddp"
    ):
        run(config(tiny_config, multilevel={"name": "cascade", "levels": 2, "min_width": 2}), tmp_path / "run")


def test_it_is_not_compiled():
    with pytest.raises(ConfigError, match="engine.compile=default is for engine.strategy=ddp"):
        VanillaTorch("cpu", strategy="fsdp", compile="default").shard([nn.Linear(1, 1)])


def test_an_unknown_strategy_is_told():
    with pytest.raises(ConfigError, match="engine.strategy=zero: expected ddp or fsdp"):
        VanillaTorch("cpu", strategy="zero")


class Tied(nn.Module):
    """Its first and last block are one, of which the second has a weight; the head is the transposed embedding."""

    def __init__(self):
        super().__init__()
        self.embedding, self.scale = nn.Linear(3, 4, bias=False), nn.Parameter(torch.ones(1))
        first = nn.Linear(4, 4)
        second = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4))
        second[1].weight = first.weight
        self.blocks = nn.ModuleList([first, second, first, nn.Linear(4, 4)])

    def forward(self, x):
        x = self.embedding(x)
        for block in self.blocks:
            x = x + block(x).tanh()
        return self.scale * x @ self.embedding.weight


def steps(strategy, make=Tied, count=4):
    """What each of two ranks has after some steps: losses, the state, and the prediction in evaluation mode."""

    def action(rank):
        torch.manual_seed(rank if strategy == "fsdp" else 0)  # rank 0's network is everyone's
        model = make()
        engine = VanillaTorch("cpu", strategy=strategy, timeout=20)
        engine.shard([model])
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
        engine.bind(model, nn.functional.mse_loss, optimizer, Clip(norm=0.1))
        data, losses = torch.Generator().manual_seed(3), []
        for number in range(count):
            inputs, targets = torch.randn(2, 4, 3, generator=data)
            mine = slice(2 * rank, 2 * rank + 2)
            if number % 2 == 0:  # also before the first step
                with torch.inference_mode():
                    engine.predict((inputs, targets))
            losses.append(engine.forward_backward(Share(inputs[mine], targets[mine], 4, 0.5)).item())
            engine.optimizer_step()
        engine.predict((inputs, targets))
        sharded = [isinstance(parameter, DTensor) for parameter in model.parameters()]
        return losses, engine.model_state(model), sharded

    return action


def test_shared_parameters_stay_shared_and_statistics_are_those_of_rank_0(tmp_path):
    ddp, fsdp = (on_ranks(2, steps(strategy), tmp_path / strategy) for strategy in ("ddp", "fsdp"))
    for ours, theirs in zip(fsdp, ddp, strict=True):
        assert ours[0] == pytest.approx(theirs[0], **NEAR)
        assert ours[1]["blocks.1.0.running_mean"].tolist() == pytest.approx(
            theirs[1]["blocks.1.0.running_mean"].tolist(), rel=1e-4, abs=1e-6
        )
    assert numbers(fsdp[0][1]) == pytest.approx(numbers(ddp[0][1]), rel=1e-4, abs=1e-5)
    for tied in ("blocks.1.1.weight", "blocks.2.weight"):
        assert torch.equal(fsdp[0][1]["blocks.0.weight"], fsdp[0][1][tied])


def test_between_calls_every_parameter_is_a_shard_and_rank_0_alone_has_the_whole(tmp_path):
    for rank, (_, state, sharded) in enumerate(on_ranks(2, steps("fsdp", count=1), tmp_path)):
        assert sharded
        assert all(sharded)
        assert state["embedding.weight"].shape == ((4, 3) if rank == 0 else (0,))


def test_a_single_number_cannot_be_divided(tmp_path):
    def scalar():
        model = nn.Linear(3, 3)
        model.register_parameter("gain", nn.Parameter(torch.tensor(1.0)))
        return model

    with pytest.raises(RanksFailedError, match=r"cannot divide the model's parameter gain, a single number.*\(1,\)"):
        on_ranks(2, steps("fsdp", scalar), tmp_path)

"""Cycles, cascades and grids in the one train loop: which batches, how much work, what is on record, what is saved."""

import math
from collections import Counter

import pytest
import torch
import yaml
from run_outcomes import At, equal, last_state, points, saved_steps
from toy_problem import plane

from accelerator.cli.compose.compose import composer, plain
from accelerator.errors import CheckpointError, ConfigError
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.callbacks.checkpoint import CheckpointCallback
from accelerator.runtime.context.build import build_context
from accelerator.runtime.data.feed import InMemoryFeed
from accelerator.runtime.loop.train import train
from accelerator.runtime.run import execute
from accelerator.runtime.trained import load_model
from accelerator.utilities.base_registry import registry

MODEL = {"name": "mlp", "hidden": [16, 16]}
CYCLE = {
    **{"levels": 3, "min_width": 2, "pre": 2, "post": 2, "coarse": 3, "k": 2},
    **{"tau": "minibatch", "guard": 0.1, "optimizer_state": "separate"},
}


class Watch(Callback):
    """What every step was: (level, in the window, inputs, learning rates, work before); and when else something was."""

    def __init__(self):
        self.steps, self.validations, self.passes = [], [], []

    def after_backward(self, context):
        rates = [group["lr"] for group in context.optimizer.param_groups]
        self.steps.append((context.level, context.in_window, context.batch[0].clone(), rates, context.state.work))

    def validation_end(self, context):
        self.validations.append((context.state.step, context.level))

    def epoch_end(self, context):
        self.passes.append((context.state.step, context.level))


def configured(tiny_config, method, **sections):
    sections = {"model": MODEL, "trainer": {"max_epochs": 20}} | sections
    config = tiny_config(**sections)
    config["multilevel"] = method
    config["callbacks"] = {name: config["callbacks"][name] for name in ("checkpoint", "metric_logger")}
    return config


def trained(config, **callbacks):
    watch = Watch()
    context = build_context(config | {"callbacks": {}}, None, callbacks={"watch": watch, **callbacks})
    train(context)
    return context, watch


def fed(number):
    """The n-th batch of plain training."""
    feed = InMemoryFeed(*plane()["train"], 8, shuffle=True)
    return list(feed.epoch(number // 3))[number % 3][0]


def fail(context):
    raise ZeroDivisionError


class Costs:
    """Counts every pass through a network while it trains, by level, in work units."""

    def __init__(self, context):
        self.work, self.context = 0.0, context
        for name, share in (("forward_backward", 1), ("predict", 1 / 3)):
            self.count(context.engine, name, share)

    def count(self, engine, name, share):
        inner = getattr(engine, name)

        def counted(batch):
            if engine.model.training:
                self.work += share * self.context.costs[self.context.levels.index(engine.model)]
            return inner(batch)

        setattr(engine, name, counted)


@pytest.mark.parametrize(
    ("method", "guarded"),
    [
        ({"name": "v_cycle", "guard": 1e9}, False),
        ({"name": "w_cycle", "guard": 1e9, "tau": "none"}, False),
        ({"name": "f_cycle", "subset": "whole_set", "guard": None}, False),
        ({"name": "fmg", "guard": 1e9, "tau": "wholeset"}, False),
        ({"name": "v_cycle", "guard": 0.0, "correction_scale": 4.0}, True),
        ({"name": "v_cycle", "line_search": True, "k": 1}, True),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else None,
)
def test_the_budget_is_spent_and_every_pass_through_a_network_is_counted(tiny_config, method, guarded):
    scheduler = {"name": "ExponentialLR", "gamma": 0.99, "interval": "step"}
    config = configured(tiny_config, CYCLE | method, scheduler=scheduler)
    config["optimizer"]["lr"] = 0.01
    watch = Watch()
    context = build_context(config | {"callbacks": {}}, None, callbacks={"watch": watch})
    costs = Costs(context)
    train(context)
    work = context.state.work
    assert work == pytest.approx(costs.work)
    assert work == pytest.approx(60 - context.state.spared, abs=1)
    assert abs(context.state.spared) <= 1
    planned = [stage.steps * context.costs[stage.level] + stage.overhead for stage in context.stages]
    if guarded:
        assert work < sum(planned) + 1
    else:
        assert context.state.spared == pytest.approx(0)
        assert work == pytest.approx(sum(planned))
        assert Counter(level for level, *_ in watch.steps) == sum(
            (Counter({stage.level: stage.steps}) for stage in context.stages), Counter()
        )
    for _, _, _, rates, before in watch.steps:
        assert rates[0] == pytest.approx(0.01 * 0.99 ** math.floor(before + 1e-6))
    assert context.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.99 ** math.floor(min(work, 60) + 1e-6))


def test_the_stages_are_those_of_the_cycle(tiny_config):
    config = configured(tiny_config, CYCLE | {"name": "v_cycle"})
    context, watch = trained(config)
    one = [(0, 2, False), (1, 2, True), (2, 3, True), (1, 2, True), (0, 2, True)]
    stages = [tuple(stage[:3]) for stage in context.stages]
    number = len(stages) // 5
    assert number >= 4
    assert stages[: 5 * number] == one * number
    assert [level for level, *_ in watch.steps][:11] == [0] * 2 + [1] * 2 + [2] * 3 + [1] * 2 + [0] * 2


@pytest.mark.parametrize("subset", ["next_k", "cycling_k", "whole_set"])
def test_coarse_levels_see_the_batches_of_their_window_and_the_finest_goes_on_with_its_pass(tiny_config, subset):
    method = CYCLE | {"name": "v_cycle", "subset": subset, "guard": None}
    context, watch = trained(configured(tiny_config, method))
    seen = [inputs for level, window, inputs, *_ in watch.steps if not window]
    assert len(seen) > 12
    assert all(torch.equal(inputs, fed(number)) for number, inputs in enumerate(seen))
    position = cycle = 0
    steps = iter(watch.steps)
    for stage in context.stages:
        if stage.level == 0:
            position += stage.steps
            cycle += stage.cycle
        window = {
            "next_k": [position, position + 1],
            "cycling_k": [(2 * cycle) % 3, (2 * cycle + 1) % 3],
            "whole_set": [position // 3 * 3 + number for number in range(3)],
        }[subset]
        for step in range(stage.steps):
            level, in_window, inputs, *_ = next(steps)
            assert (level, in_window) == (stage.level, stage.level > 0)
            if in_window:
                assert torch.equal(inputs, fed(window[step % len(window)])), (cycle, level, step)
    assert cycle >= 4
    assert context.state.epoch * 3 + context.state.batch == len(seen)


def test_what_a_cycle_measures_is_on_record_once(tiny_config, tmp_path):
    losses = []
    config = configured(tiny_config, CYCLE | {"name": "v_cycle"}, checkpoint={"keep": 1000})

    class Losses(Callback):
        def step_end(self, context):
            losses.append((context.level, context.in_window, context.loss.item(), len(context.batch[1])))

    watch, contexts = Watch(), []
    look = At("run_start", contexts.append)
    execute(config, tmp_path, callbacks={"losses": Losses(), "watch": watch, "look": look})
    stages = contexts[0].stages
    ends, step = [], 0
    expected = {"fine_loss": [], "coarse_loss/1": [], "coarse_loss/2": [], "final_loss": []}
    for stage in stages:
        inside = losses[step : step + stage.steps]
        name = f"coarse_loss/{stage.level}" if stage.level else "final_loss" if stage.cycle else "fine_loss"
        ends.append(step)
        step += stage.steps
        expected[name].append((step, pytest.approx(sum(loss for *_, loss, _ in inside) / stage.steps)))
    for key, values in expected.items():
        assert points(tmp_path, key) == values, key
    starts = dict.fromkeys(("down", "up"))
    starts["down"] = {level: [] for level in (1, 2)}
    starts["up"] = []
    for before, stage, at in zip(stages, stages[1:], ends[1:], strict=False):
        if stage.cycle and stage.level > before.level:
            starts["down"][stage.level].append(at)
        elif stage.cycle:
            starts["up"].append(at)
    for level in (1, 2):
        found = points(tmp_path, f"tau_norm/{level}")
        assert [at for at, _ in found] == starts["down"][level]
        assert all(norm > 0 for _, norm in found)
    for key in ("correction_norm", "correction_scale", "corrections_guarded"):
        assert [at for at, _ in points(tmp_path, key)] == starts["up"], key
    # A pass is what the finest level makes of the data, and nothing else is validated or saved.
    fine = [(loss, size) for _, window, loss, size in losses if not window]
    found = [value for _, value in points(tmp_path, "train/epoch_loss")]
    for number, value in enumerate(found):
        inside = fine[3 * number : 3 * number + 3]
        assert value == pytest.approx(sum(loss * size for loss, size in inside) / 20)
    assert len(found) == len(fine) // 3 >= 5
    last = len(losses)
    measured = watch.passes if last == watch.passes[-1][0] else [*watch.passes, (last, 0)]
    assert watch.validations == measured
    assert all(level == 0 for _, level in watch.passes)
    assert saved_steps(tmp_path) == [at for at, _ in measured]
    assert [at for at, _ in points(tmp_path, "train/loss")] == list(range(1, last + 1))
    starts = [(at, stage.level) for stage, at in zip(stages, ends, strict=True)]
    assert points(tmp_path, "level") == sorted(watch.passes + starts, key=lambda point: point[0])
    assert [value for _, value in points(tmp_path, "work")][-1] <= 60


def test_guarded_corrections_are_counted(tiny_config, tmp_path):
    method = CYCLE | {"name": "v_cycle", "guard": 0.0, "correction_scale": 50.0}
    execute(configured(tiny_config, method), tmp_path)
    scales = [value for _, value in points(tmp_path, "correction_scale")]
    counted = [value for _, value in points(tmp_path, "corrections_guarded")]
    assert scales[0] < 50
    assert counted == [sum(scale != 50 for scale in scales[: number + 1]) for number in range(len(scales))]


def test_of_nested_cycles_every_level_is_measured_before_it_is_left(tiny_config, tmp_path):
    config = configured(
        tiny_config, CYCLE | {"name": "fmg", "guard": None}, trainer={"max_epochs": 20, "validate_every": 1000}
    )
    watch, contexts = Watch(), []
    execute(config, tmp_path, callbacks={"watch": watch, "look": At("run_start", contexts.append)})
    step, expected = 0, []
    stages = contexts[0].stages
    for number, stage in enumerate(stages):
        step += stage.steps
        if number + 1 == len(stages) or (not stages[number + 1].cycle and stages[number + 1].level != stage.level):
            expected.append((step, stage.level))
    assert [level for _, level in expected] == [2, 1, 0]
    assert watch.validations == expected


FACTORS = [1, 2, 0.3]
SCHEDULERS = {
    "cosine": {"name": "CosineAnnealingLR", "T_max": 20, "eta_min": 1e-3, "interval": "epoch"},
    "step": {"name": "StepLR", "step_size": 7, "gamma": 0.5, "interval": "step"},
    "onecycle": {"name": "OneCycleLR", "max_lr": 0.05, "interval": "step"},
    "plateau": {"name": "ReduceLROnPlateau", "patience": 1, "factor": 0.5, "min_lr": 0.004},
}


@pytest.mark.parametrize("method", ["cascade", "v_cycle"])
@pytest.mark.parametrize("case", SCHEDULERS)
def test_a_level_learns_at_its_multiple_of_the_rate_of_plain_training(tiny_config, case, method):
    options = CYCLE if method == "v_cycle" else {"levels": 3, "min_width": 2}
    method = options | {"name": method, "lr_factors": FACTORS}
    config = configured(tiny_config, method, scheduler=SCHEDULERS[case])
    _, watch = trained(config)
    assert {level for level, *_ in watch.steps} == {0, 1, 2}
    plain = build_context(configured(tiny_config, {"name": "single"}, scheduler=SCHEDULERS[case]), None)
    if case == "plateau":
        # What is watched differs; the reductions are those of a scheduler shown the same values.
        rates = {round(rates[0] / FACTORS[level], 12) for level, _, _, rates, _ in watch.steps}
        assert rates <= {0.05, 0.025, 0.0125, 0.00625, 0.004}
        assert len(rates) > 1
        return
    for level, _, _, rates, work in watch.steps:
        plain.scheduler.catch_up(work)
        assert rates == [pytest.approx(FACTORS[level] * plain.optimizer.param_groups[0]["lr"])], (level, work)


@pytest.mark.parametrize("stop", [4, 40])
def test_a_new_run_from_a_checkpoint_keeps_the_rates_of_its_level(tiny_config, tmp_path, stop):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    method = {"name": "cascade", "levels": 3, "min_width": 2, "lr_factors": FACTORS}
    config = configured(tiny_config, method, checkpoint={"every_steps": stop, "every_epochs": 99})
    with pytest.raises(ZeroDivisionError):
        execute(config, old, callbacks={"fails": At("after_backward", fail, number=stop + 1)}, fingerprint="old")
    watch = Watch()
    path = old / f"checkpoints/step-{stop:08d}.safetensors"
    config["optimizer"]["lr"] = 0.02
    execute(config, new, resume=path, fingerprint="new", callbacks={"watch": watch})
    assert {level for level, *_ in watch.steps} >= {0}
    for level, _, _, rates, _ in watch.steps:
        assert rates == [pytest.approx(0.02 * FACTORS[level])]


def still(tiny_config, method=None, **sections):
    """A run that does not learn: every level comes to rest after its first validation and `patience` more."""
    method = method or {"advance": "plateau", "patience": 2, "fractions": [0.3, 0.3, 0.4]}
    method = {"name": "cascade", "levels": 3, "min_width": 2, **method}
    sections = {"optimizer": {"name": "SGD", "lr": 0.0}, "trainer": {"max_epochs": 20}} | sections
    return configured(tiny_config, method, **sections)


def test_a_level_that_came_to_rest_leaves_its_work_to_the_finer_ones(tiny_config):
    context, watch = trained(still(tiny_config))
    count = Counter(level for level, *_ in watch.steps)
    assert (count[2], count[1]) == (9, 9)
    cost = context.costs
    assert count[0] == pytest.approx(60 - 9 * cost[1] - 9 * cost[2], abs=1)
    assert context.state.work == pytest.approx(60, abs=1)
    assert watch.passes[-1][0] == len(watch.steps) // 3 * 3


def test_patience_that_ends_with_the_stage_does_not_end_the_next_one(tiny_config):
    costs = build_context(still(tiny_config), None).costs
    # Two passes and a step on level 2, and as much on level 1: the third validation is where the stage ends.
    fractions = [7 * costs[2] / 60, 7 * costs[1] / 60]
    config = still(tiny_config, {"advance": "plateau", "patience": 2, "fractions": [*fractions, 1 - sum(fractions)]})
    context, watch = trained(config)
    count = Counter(level for level, *_ in watch.steps)
    assert (count[2], count[1]) == (7, 7)
    assert count[0] == context.stages[-1].steps > 50


def test_a_level_that_still_improves_has_all_its_work(tiny_config):
    config = still(tiny_config, {"advance": "plateau", "patience": 1000}, optimizer={"name": "SGD", "lr": 0.01})
    context, watch = trained(config)
    assert [stage.steps for stage in context.stages] == [
        Counter(level for level, *_ in watch.steps)[level] for level in (2, 1, 0)
    ]


@pytest.mark.parametrize(("hook", "number"), [("after_backward", 15), ("stage_start", 2), ("epoch_end", 3)])
def test_a_plateau_resumed_in_the_middle_is_the_uninterrupted_one(tiny_config, tmp_path, hook, number):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    config = still(tiny_config, trainer={"max_epochs": 8})
    execute(config, whole)
    with pytest.raises(ZeroDivisionError):
        execute(config, parts, callbacks={"fails": At(hook, fail, number=number)})
    execute(config, parts, resume=parts / "checkpoints")
    assert equal(last_state(parts), last_state(whole))
    assert points(parts, "level") == points(whole, "level")


def test_a_kill_just_after_the_pass_in_which_a_level_came_to_rest(tiny_config, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    config = still(tiny_config, trainer={"max_epochs": 8})
    execute(config, whole)
    with pytest.raises(ZeroDivisionError):
        # The checkpoint of step 9 is there, the change of level after it is lost.
        execute(config, parts, callbacks={"fails": At("after_backward", fail, number=10)})
    assert saved_steps(parts)[-1] == 9
    execute(config, parts, resume=parts / "checkpoints")
    assert points(parts, "level") == points(whole, "level")
    assert equal(last_state(parts), last_state(whole))


def test_coarse_levels_have_the_passes_asked_for(tiny_config):
    context, watch = trained(still(tiny_config, {"level_epochs": [4, 2.5]}))
    count = Counter(level for level, *_ in watch.steps)
    assert (count[2], count[1]) == (12, 8)  # 2.5 passes of 3 batches: rounded to even
    assert context.state.work == pytest.approx(60, abs=0.5)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "v_cycle", "rematch_every": 2, "matching": "random"},
        {"name": "w_cycle", "optimizer_state": "carry", "subset": "whole_set", "tau": "wholeset"},
        {"name": "f_cycle", "optimizer_state": "reset", "pre": 0, "lr_factors": [1, 2, 3]},
        {"name": "fmg", "guard": 0.0, "correction_scale": 3.0},
    ],
    ids=lambda options: options["name"],
)
def test_a_cycle_cut_anywhere_and_resumed_is_the_uninterrupted_one(tiny_config, tmp_path, options):
    config = configured(
        tiny_config,
        CYCLE | options,
        model=MODEL | {"dropout": 0.1},
        optimizer={"name": "Adam", "lr": 0.01},
        scheduler={"name": "OneCycleLR", "max_lr": 0.02, "interval": "step"},
        trainer={"max_epochs": 14, "test": False, "validate_every": 5},
        checkpoint={"every_epochs": 99},
    )
    (tmp_path / "whole").mkdir()
    execute(config, tmp_path / "whole")
    expected, journal = last_state(tmp_path / "whole"), points(tmp_path / "whole")
    for cut in (4, 8):
        parts = tmp_path / str(cut)
        parts.mkdir()
        config["checkpoint"]["every_steps"] = cut
        with pytest.raises(ZeroDivisionError):
            execute(config, parts, callbacks={"fails": At("after_backward", fail, number=cut + 1)})
        assert saved_steps(parts)[-1] == cut
        config["checkpoint"]["every_steps"] = None
        execute(config, parts, resume=parts / "checkpoints")
        assert equal(last_state(parts), expected), cut
        assert points(parts) == journal, cut


def cut(config, folder, step, fingerprint="old"):
    folder.mkdir()
    config["checkpoint"] |= {"every_steps": step, "every_epochs": 99}
    with pytest.raises(ZeroDivisionError):
        execute(
            config,
            folder,
            fingerprint=fingerprint,
            callbacks={"fails": At("after_backward", fail, number=step + 1)},
        )
    return folder / f"checkpoints/step-{step:08d}.safetensors"


def test_another_config_cannot_go_on_inside_a_cycle_but_can_between_two(tiny_config, tmp_path):
    config = configured(tiny_config, CYCLE | {"name": "v_cycle"})
    inside, between = (cut(config, tmp_path / str(step), step) for step in (4, 11))
    config["optimizer"]["lr"] = 0.01
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with pytest.raises(CheckpointError, match=r"inside a multigrid cycle.*the finest level, or with the config unch"):
        execute(config, tmp_path / "a", resume=inside, fingerprint="new")
    watch = Watch()
    result = execute(config, tmp_path / "b", resume=between, fingerprint="new", callbacks={"watch": watch})
    assert {tuple(rates) for *_, rates, _ in watch.steps} == {(0.01,)}
    assert result.work == pytest.approx(60, abs=1)


@pytest.mark.parametrize("name", ["v_cycle", "w_cycle"])
def test_a_longer_budget_in_place_goes_on_with_more_cycles(tiny_config, tmp_path, name):
    def config(steps):
        method = CYCLE | {"name": name, "guard": None}
        return configured(tiny_config, method, trainer={"max_epochs": 99, "max_steps": steps})

    one = sum(stage.steps * cost + stage.overhead for stage, cost in staged(build_context(config(50), None), 1))
    short, long = math.ceil(3 * one), math.ceil(6 * one)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    execute(config(long), whole)
    assert execute(config(short), parts).work == pytest.approx(3 * one)
    assert execute(config(long), parts, resume=parts / "checkpoints").work == pytest.approx(6 * one)
    ours, theirs = last_state(parts), last_state(whole)
    for key in ("network", "optimizer", "rng", "cycle"):
        assert equal(ours[key], theirs[key]), key


def staged(context, cycles):
    """The stages of the first cycles, each with the cost of its step."""
    first = [number for number, stage in enumerate(context.stages) if not stage.cycle]
    return [(stage, context.costs[stage.level]) for stage in context.stages[: first[cycles]]]


def test_a_checkpoint_whose_place_the_schedule_does_not_have_is_refused(tiny_config, tmp_path):
    config = configured(tiny_config, CYCLE | {"name": "fmg"})
    execute(config, tmp_path)
    config["trainer"]["max_epochs"] = 60
    message = r"is of stage \d+ on level 0, where this run's schedule is on level [12].*trainer\.max_epochs"
    with pytest.raises(CheckpointError, match=message):
        execute(config, tmp_path, resume=tmp_path / "checkpoints")


def test_a_cycle_is_finished_before_a_run_ends_early(tiny_config):
    def finish(context):
        assert context.in_window
        context.finish_early = True

    config = configured(tiny_config, CYCLE | {"name": "v_cycle"})
    context, watch = trained(config, ends=At("step_end", finish, number=4))
    assert (context.level, context.cycle.top) == (0, None)
    assert [level for level, *_ in watch.steps] == [0, 0, 1, 1, 2, 2, 2, 1, 1]


FNO = [
    *("experiment=poisson_fno", "data.grid=16", "data.train=16", "data.val=8", "data.test=8", "tracking=none"),
    *("model.width=4", "model.layers=1", "model.projection=8", "model.modes=4", "engine.threads=1"),
    *("loader.batch_size=8", "trainer.max_epochs=6", "callbacks=none", "multilevel=cascade"),
    *("multilevel.axes=[modes,resolution]", "multilevel.levels=2"),
]


class Grids(Callback):
    """The grids of what each level is trained and measured on."""

    def __init__(self):
        self.trained, self.measured = Counter(), Counter()

    def run_start(self, context):
        predict = context.engine.predict

        def seen(batch):
            self.measured[context.level, batch[0].shape[2:], batch[1].shape[2:]] += 1
            return predict(batch)

        context.engine.predict = seen

    def after_backward(self, context):
        inputs, targets = context.batch
        self.trained[context.level, inputs.shape[2:], targets.shape[2:]] += 1


def test_a_level_trains_and_is_measured_on_its_own_grid_and_the_test_is_on_the_full_one(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with composer() as compose:
        config = plain(compose([*FNO, "hydra.run.dir=x"]))
    run_dir, grids, steps = tmp_path / "run", Grids(), {}
    run_dir.mkdir()
    look = At("run_start", lambda context: steps.update({s.level: s.steps for s in context.stages}))
    saving = {"checkpoint": CheckpointCallback()}
    result = execute(config, run_dir, callbacks={"grids": grids, "look": look, **saving})
    fine, coarse = (16, 16), (8, 8)
    assert grids.trained == {(1, coarse, coarse): steps[1], (0, fine, fine): steps[0]}
    assert set(grids.measured) == {(1, coarse, coarse), (0, fine, fine)}
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    model = load_model(run_dir)
    inputs, targets = registry("data").get("poisson")(
        **{key: value for key, value in config["data"].items() if key != "name"}
    )["test"]
    errors = (model(inputs) - targets).flatten(1).norm(dim=1) / targets.flatten(1).norm(dim=1)
    assert errors.mean().item() == pytest.approx(result.metrics["test/relative_l2"], rel=1e-4)


def test_modes_that_a_coarse_grid_cannot_carry_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with composer() as compose:
        config = plain(compose([*FNO, "model.modes=5", "multilevel.axes=[resolution]"]))
    message = r"multilevel: level 1: 'spectral.0' keeps 5×5 modes on a grid of 8×8.*coarsen the modes with the grid"
    with pytest.raises(ConfigError, match=message):
        build_context(config, None)

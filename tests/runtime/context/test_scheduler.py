import math

import pytest
from torch import nn
from torch.optim import SGD, Adam
from torch.optim import lr_scheduler as torch_schedulers

from accelerator.errors import ConfigError
from accelerator.runtime.checkpoint.operation import decode, encode
from accelerator.runtime.context.scheduler import WorkScheduler, check_scheduler

PER_EPOCH, EPOCHS = 4, 6
TOTAL = PER_EPOCH * EPOCHS


def adam():
    return Adam(nn.Linear(2, 2).parameters(), lr=0.1)


def ours(section, optimizer, **options):
    return WorkScheduler(
        section, optimizer, **{"steps_per_epoch": PER_EPOCH, "total_steps": TOTAL, "monitor": "val/loss", **options}
    )


def hyper(optimizer):
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


CASES = {
    "step": ({"name": "StepLR", "step_size": 2, "gamma": 0.5}, lambda o: torch_schedulers.StepLR(o, 2, 0.5)),
    "cosine": ({"name": "CosineAnnealingLR", "T_max": 6}, lambda o: torch_schedulers.CosineAnnealingLR(o, 6)),
    "cosine a step": (
        {"name": "CosineAnnealingLR", "T_max": TOTAL, "interval": "step"},
        lambda o: torch_schedulers.CosineAnnealingLR(o, TOTAL),
    ),
    "onecycle": (
        {"name": "OneCycleLR", "max_lr": 0.5, "interval": "step"},
        lambda o: torch_schedulers.OneCycleLR(o, 0.5, total_steps=TOTAL),
    ),
    "onecycle an epoch": ({"name": "OneCycleLR", "max_lr": 0.5}, lambda o: torch_schedulers.OneCycleLR(o, 0.5, EPOCHS)),
    "multistep": (
        {"name": "MultiStepLR", "milestones": [2, 3, 5]},
        lambda o: torch_schedulers.MultiStepLR(o, [2, 3, 5]),
    ),
}


def interval(section):
    return 1 if section.get("interval") == "step" else PER_EPOCH


@pytest.mark.parametrize("case", CASES)
def test_on_one_level_it_is_the_plain_scheduler_step_by_step(case):
    section, make = CASES[case]
    a, b = adam(), adam()
    scheduler, plain = ours(section, a), make(b)
    for step in range(1, TOTAL + 1):
        assert hyper(a) == hyper(b), step
        a.step()
        b.step()
        if step >= scheduler.next:
            scheduler.advance(step)
        if step % interval(section) == 0 and step < TOTAL:
            plain.step()
    scheduler.advance(TOTAL + 100)  # nothing is left to step


def test_plateau_is_stepped_by_validation_with_what_it_watches():
    a, b = adam(), adam()
    scheduler = ours({"name": "ReduceLROnPlateau", "patience": 1, "mode": "max"}, a, monitor="val/accuracy")
    plain = torch_schedulers.ReduceLROnPlateau(b, mode="max", patience=1)
    for epoch, value in enumerate([0.5, 0.6, 0.6, 0.4, 0.4, 0.4, 0.9], 1):
        scheduler.advance(epoch * PER_EPOCH)
        scheduler.validated({"val/loss": 100.0, "val/accuracy": value})
        plain.step(value)
        assert hyper(a) == hyper(b)
    assert a.param_groups[0]["lr"] < 0.1


def test_plateau_says_what_was_measured_when_its_metric_was_not():
    scheduler = ours({"name": "ReduceLROnPlateau"}, adam(), monitor="val/acc")
    with pytest.raises(ConfigError, match=r"checkpoint\.monitor=val/acc.*measured were: val/f1, val/loss"):
        scheduler.validated({"val/loss": 1.0, "val/f1": 1.0})


def test_other_schedulers_do_not_notice_validation():
    optimizer = adam()
    scheduler = ours({"name": "StepLR", "step_size": 1}, optimizer)
    scheduler.validated({})
    assert optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("cost", [0.1, 0.25, 0.3, 1 / 3, 1 / 7])
def test_coarse_steps_count_for_their_share_of_the_work(cost):
    optimizer = SGD(nn.Linear(2, 2).parameters(), lr=1.0)
    scheduler = ours({"name": "ExponentialLR", "gamma": 0.5, "interval": "step"}, optimizer)
    work = 0.0
    for step in range(1, round(10 / cost) + 1):
        optimizer.step()
        work += cost
        if work >= scheduler.next:
            scheduler.advance(work)
        assert optimizer.param_groups[0]["lr"] == 0.5 ** math.floor(step * cost + 1e-9), step


def test_one_dear_step_can_be_worth_several():
    optimizer = SGD(nn.Linear(2, 2).parameters(), lr=1.0)
    scheduler = ours({"name": "ExponentialLR", "gamma": 0.5, "interval": "step"}, optimizer)
    optimizer.step()
    scheduler.advance(3.5)
    assert optimizer.param_groups[0]["lr"] == 0.125
    assert 3.9 < scheduler.next <= 4.0


@pytest.mark.parametrize("case", CASES)
def test_a_change_of_level_keeps_learning_rates_and_momenta_and_the_course(case):
    section, _ = CASES[case]
    stayed, left = adam(), adam()
    expected, scheduler = ours(section, stayed), ours(section, left)
    for step in range(1, 11):
        for optimizer, one in ((stayed, expected), (left, scheduler)):
            optimizer.step()
            one.advance(step)
    arrived = adam()
    for group, source in zip(arrived.param_groups, hyper(left), strict=True):
        group.update(source)
    scheduler.move_to(arrived)
    for step in range(11, TOTAL):
        assert hyper(arrived) == hyper(stayed), step
        for optimizer, one in ((stayed, expected), (arrived, scheduler)):
            optimizer.step()
            one.advance(step)


@pytest.mark.parametrize("case", [*CASES, "plateau"])
def test_a_resumed_schedule_goes_on_as_the_uninterrupted_one(case, tmp_path):
    section = {"name": "ReduceLROnPlateau", "patience": 1} if case == "plateau" else CASES[case][0]
    losses = [3.0, 2.0, 2.5, 2.5, 2.5, 2.5, 1.0, 1.0]

    def train(optimizer, scheduler, first, last):
        for step in range(first, last):
            optimizer.step()
            if step >= scheduler.next:
                scheduler.advance(step)
            if step % PER_EPOCH == 0:
                scheduler.validated({"val/loss": losses[step // PER_EPOCH]})
            yield hyper(optimizer)

    whole = adam()
    expected = list(train(whole, ours(section, whole), 1, TOTAL))
    for stop in (1, 7, 8, 15, TOTAL - 1):
        first = adam()
        scheduler = ours(section, first)
        before = list(train(first, scheduler, 1, stop))
        (tmp_path / "x").write_bytes(encode([first.state_dict(), scheduler.state_dict()]))
        saved = decode(tmp_path / "x")
        second = adam()
        resumed = ours(section, second)
        second.load_state_dict(saved[0])
        resumed.move_to(second)
        resumed.load_state_dict(saved[1])
        found = before + list(train(second, resumed, stop, TOTAL))
        for step, (a, b) in enumerate(zip(found, expected, strict=True), 1):
            for x, y in zip(a, b, strict=True):
                assert {**x, "betas": list(x["betas"])} == {**y, "betas": list(y["betas"])}, (stop, step)


def test_a_longer_budget_goes_on_where_a_shorter_one_ended():
    short, long = adam(), adam()
    section = {"name": "StepLR", "step_size": 1, "gamma": 0.5}
    scheduler = ours(section, short, total_steps=8)
    for step in range(1, 9):
        short.step()
        scheduler.advance(step)
    assert scheduler.next == math.inf
    longer = ours(section, long)
    long.load_state_dict(short.state_dict())
    longer.move_to(long)
    longer.load_state_dict(scheduler.state_dict())
    long.step()
    longer.advance(12)
    assert long.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**3)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"name": "StepLR", "step_size": 1, "interval": "batch"},
            "scheduler.interval=batch: expected one of epoch, st",
        ),
        ({"name": "StepLR"}, "scheduler.step_size is required by 'StepLR'"),
        ({"name": "CosineAnnealingLr"}, "did you mean 'CosineAnnealingLR'"),
        ({"name": "StepLR", "step_size": 1, "gama": 1}, "scheduler.gama: 'StepLR' has no such argument.*'gamma'"),
    ],
)
def test_mistakes_in_the_section_are_told(section, message):
    problems = check_scheduler(section)
    assert len(problems) == 1
    with pytest.raises(ConfigError, match=message):
        raise ConfigError(problems)
    with pytest.raises(ConfigError, match=message):
        ours(section, adam())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("work", [0, 7, 10 - 1e-9, TOTAL - 1])
def test_begun_anew_it_is_where_the_work_done_puts_it(case, work):
    section, _ = CASES[case]
    stepped, fresh, used = adam(), adam(), adam()
    expected, scheduler = ours(section, stepped), ours(section, used)
    for step in range(1, round(work) + 1):
        stepped.step()
        used.step()
        expected.advance(step)
        scheduler.advance(step)
    scheduler.restart(fresh, work)
    assert hyper(fresh) == hyper(stepped)
    assert scheduler.next == expected.next


FACTOR_CASES = CASES | {
    "cosine to a floor": ({"name": "CosineAnnealingLR", "T_max": 6, "eta_min": 0.01}, None),
    "cyclic": ({"name": "CyclicLR", "base_lr": 0.01, "max_lr": 0.1, "step_size_up": 3, "cycle_momentum": False}, None),
    "linear": ({"name": "LinearLR", "total_iters": 5}, None),
    "polynomial": ({"name": "PolynomialLR", "total_iters": 6, "power": 2.0}, None),
}


def two_groups():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    return SGD([{"params": first.parameters()}, {"params": second.parameters(), "lr": 0.02}], lr=0.1, momentum=0.9)


def rates(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


@pytest.mark.parametrize("case", FACTOR_CASES)
def test_a_level_has_its_multiple_of_the_rates_to_come_too_in_every_group(case):
    section, _ = FACTOR_CASES[case]
    stayed, here = two_groups(), two_groups()
    expected, scheduler, factor = ours(section, stayed), ours(section, here), 1.0
    moves = {0: 3.0, 5: 0.5, 11: 1.0, 13: 7.0}
    for step in range(TOTAL - 1):
        if step in moves:
            arrived = two_groups()
            for group, source in zip(arrived.param_groups, hyper(here), strict=True):
                group.update(source)
            scheduler.move_to(arrived, moves[step] / factor)
            here, factor = arrived, moves[step]
        assert rates(here) == [pytest.approx(factor * rate) for rate in rates(stayed)], step
        for optimizer, one in ((stayed, expected), (here, scheduler)):
            optimizer.step()
            one.catch_up(step + 1)


def test_a_plateau_reduces_the_rates_of_every_level_alike_down_to_its_floor():
    section = {"name": "ReduceLROnPlateau", "patience": 0, "factor": 0.5, "min_lr": 0.01}
    stayed, here = two_groups(), two_groups()
    expected, scheduler = ours(section, stayed), ours(section, here)
    scheduler.move_to(here, 3.0)
    for _ in range(6):
        for one in (expected, scheduler):
            one.validated({"val/loss": 1.0})
        assert rates(here) == [pytest.approx(3 * rate) for rate in rates(stayed)]
    assert rates(stayed) == [0.01, 0.01]


def test_work_that_no_step_did_moves_the_rates_without_a_warning():
    optimizer = adam()
    ours({"name": "StepLR", "step_size": 1, "gamma": 0.5}, optimizer).catch_up(2 * PER_EPOCH)
    assert optimizer.param_groups[0]["lr"] == 0.025

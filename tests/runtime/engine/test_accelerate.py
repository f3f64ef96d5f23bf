"""engine=accelerate: the losses of vanilla_torch, and no silent surprise of Accelerate's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import accelerate  # noqa: F401 - before the forks: seconds of imports, once
import conftest
import pytest
import torch
from forked_ranks import RanksFailedError, on_ranks
from run_outcomes import points

from accelerator.errors import ConfigError
from accelerator.runtime.engine.accelerate import Accelerate
from accelerator.runtime.run import execute

NEAR = {"rel": 2e-5, "abs": 1e-6}
CASCADE = {"name": "cascade", "levels": 2, "min_width": 2}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_"))]:
        monkeypatch.delenv(name)


def config(make, name="accelerate", **sections):
    trainer, engine = sections.pop("trainer", {}), sections.pop("engine", {})
    return make(
        **{"model": {"name": "mlp", "hidden": [8, 8]}, "optimizer": {"name": "Adam", "lr": 0.01}, **sections},
        trainer={"max_epochs": 3, "clip_norm": 0.5, **trainer},
        engine={"name": name, "device": "cpu", "threads": 1, **engine},
    )


def run(config, folder, ranks=1):
    folder.mkdir(parents=True)
    if ranks == 1:
        execute(config, folder)
    else:
        on_ranks(ranks, lambda rank: execute(config, folder).metrics, folder / "ranks")
    return {(key, step): value for key, step, value in points(folder)}


def both(make, folder, ranks, sections):
    return [run(config(make, name, **dict(sections)), folder / name, ranks) for name in ("accelerate", "vanilla_torch")]


SECTIONS = {
    "plain": {},
    "cascade in pieces": {
        "multilevel": CASCADE,
        "trainer": {"accumulate": 2},
        "data": {"name": None, "_target_": "toy_problem.plane", "samples": 21},
    },
    "bf16": {"engine": {"precision": "bf16"}},
}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("case", SECTIONS)
def test_it_gives_the_losses_of_vanilla_torch_to_the_last_bit(tmp_path, tiny_config, case, ranks):
    ours, theirs = both(tiny_config, tmp_path, ranks, SECTIONS[case])
    assert len(ours) > 6
    assert ours == theirs


def test_a_missing_package_is_told_with_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ConfigError, match=r"pip install 'accelerator-platform\[accelerate\]'"):
        Accelerate("cpu")


def test_one_process_of_accelerate_launch_on_the_cpu_where_two_were_asked_for_is_refused(monkeypatch):
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    arguments = launch_command_parser().parse_args(["--cpu", "--num_processes", "2", "--mixed_precision", "no", "x.py"])
    arguments.num_machines, arguments.use_cpu, arguments.num_cpu_threads_per_process = 1, True, 1
    arguments.dynamo_backend, arguments.enable_cpu_affinity = "no", False
    _, environment = prepare_simple_launcher_cmd_env(arguments)
    monkeypatch.setattr(os, "environ", environment)
    with pytest.raises(ConfigError, match="several processes on the CPU, and started one.*torchrun --nproc-per-node 2"):
        Accelerate()


def test_accelerate_that_sees_fewer_processes_than_there_are_is_refused(tmp_path, monkeypatch):
    from accelerate import Accelerator

    monkeypatch.setattr(Accelerator, "num_processes", property(lambda self: 1))
    with pytest.raises(RanksFailedError, match=r"sees 1 process\(es\) where 2 were launched"):
        on_ranks(2, lambda rank: Accelerate("cpu"), tmp_path)


def test_devices_that_torchrun_did_not_start_are_refused(tmp_path):
    with pytest.raises(RanksFailedError, match=r"engine.devices=3 asks for 3 rank\(s\), torchrun started 2"):
        on_ranks(2, lambda rank: Accelerate("cpu", devices=3), tmp_path)


@pytest.mark.parametrize("how", [{"strategy": "fsdp"}, {}])
def test_fsdp_on_the_cpu_is_refused(monkeypatch, how):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "" if how else "true")
    with pytest.raises(ConfigError, match="each rank; use engine=vanilla_torch engine.strategy=fsdp"):
        Accelerate("cpu", **how)


def test_what_accelerate_config_says_counts_where_the_config_is_silent(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    model = torch.nn.Linear(2, 1)
    batch = torch.full((1, 2), 1 + 2**-10), torch.ones(1, 1)
    seen = {}
    model.register_forward_hook(lambda module, args, output: seen.update(dtype=output.dtype))
    for options, expected in (({}, torch.bfloat16), ({"precision": 32}, torch.float32)):
        engine = Accelerate("cpu", **options)
        engine.bind(model, torch.nn.functional.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1))
        engine.forward_backward(batch)
        assert seen["dtype"] == expected
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(ConfigError, match="mixed_precision=fp8; set engine.precision to 32, 16 or bf16"):
        Accelerate("cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "deepspeed"}, "engine.strategy=deepspeed: expected ddp or fsdp; what DeepSpeed's ZeRO does"),
        ({"plugin": {"cpu_offload": True}}, "engine.plugin has options of FSDP2, but engine.strategy=ddp"),
        ({"devices": [1, 2]}, "CUDA_VISIBLE_DEVICES=1,2 and engine.devices=2"),
        ({"precision": 8}, "engine.precision=8: expected 32, 16 or bf16"),
    ],
)
def test_mistakes_are_told(options, message):
    with pytest.raises(ConfigError, match=message):
        Accelerate("cpu", **options)


def test_runs_after_one_another_in_a_process_do_not_see_one_another(tmp_path):
    def action(rank):
        before = {name for name in os.environ if name.startswith("ACCELERATE")}
        for unused in (False, True):
            engine = Accelerate("cpu", find_unused_parameters=unused)
            model = engine.prepare(torch.nn.Linear(2, 1))
            engine.bind(model, torch.nn.functional.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1))
            assert engine._parallel.find_unused_parameters is unused
        return {name for name in os.environ if name.startswith("ACCELERATE")} - before

    assert on_ranks(2, action, tmp_path) == [set(), set()]


GPU_CASES = {
    "ddp": {"strategy": "ddp"},
    "fsdp": {"strategy": "fsdp"},
    "fsdp in halves": {"strategy": "fsdp", "precision": "bf16"},
    "fsdp with options": {"strategy": "fsdp", "plugin": {"reshard_after_forward": False, "cpu_offload": True}},
}
RUN = """
import json, sys
from pathlib import Path
from accelerator.runtime.run import execute
execute(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
"""


def run_by_torchrun(config, folder):
    """Two processes that start anew: a fork of one that used CUDA cannot use it."""
    folder.mkdir(parents=True)
    (folder / "run.py").write_text(RUN)
    (folder / "config.json").write_text(json.dumps(config))
    command = ["torchrun", "--standalone", "--nproc-per-node=2", "run.py", "config.json", "."]
    subprocess.run(
        command, check=True, cwd=folder, env={**os.environ, "PYTHONPATH": str(Path(conftest.__file__).parent)}
    )
    return {(key, step): value for key, step, value in points(folder)}


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("case", GPU_CASES)
def test_two_gpus_give_the_losses_of_one(tmp_path, tiny_config, case):
    engine = {"device": "cuda", **GPU_CASES[case]}
    precision = engine.get("precision", "32")
    one = run(config(tiny_config, "vanilla_torch", engine={"precision": precision}), tmp_path / "one")
    two = run_by_torchrun(config(tiny_config, engine=engine), tmp_path / "two")
    assert two == pytest.approx(one, rel=1e-4 if precision == "32" else 0.02, abs=1e-5)

"""``accelerator verify``: really uses what a run needs, and says what works here, what is absent, what is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from accelerator.cli.actions import run_alone

DISTRIBUTION = "accelerator-platform"
SECONDS = 300  # for one of the small runs

_EPILOG = """examples:
  accelerator verify                 half a minute; nothing is left behind
  accelerator verify --json          the same for programs
  accelerator doctor                 the same, and what ./configs is like

exit code: 0 all that is needed works · 1 something is broken"""

_TINY = [
    *("data.train=32", "data.val=16", "data.test=16", "data.grid=8", "model=mlp", "model.hidden=[8]"),
    *("trainer.max_epochs=1", "engine.threads=1", "callbacks.progress=null", "callbacks.pictures=null"),
    "tracking.uri=sqlite:///mlflow.db",
]


class AbsentError(Exception):
    """What a check needs is not installed, or not there; nothing that is asked for by default needs it."""


@dataclass
class Check:
    """One of them.

    Attributes:
        name: what was tried.
        status: ``works``, ``absent`` or ``broken``.
        detail: what it told, or what to do.
        seconds: it took.
    """

    name: str
    status: str
    detail: str
    seconds: float


def verify_command(arguments: list[str]) -> int:
    """The command line's entry; see `accelerator.cli.app.main` for the exit codes."""
    description = "Use what a run needs, in a temporary folder; say what works, what is absent, what is broken."
    return run_alone("verify", description, _EPILOG, _arguments, _verify, arguments)


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print it for programs")


def _verify(options: Namespace) -> int:
    found = verified(silent=options.json)
    if options.json:
        print(json.dumps([asdict(check) for check in found], indent=1))
    return 1 if any(check.status == "broken" for check in found) else 0


def verified(*, silent: bool) -> list[Check]:
    """Try everything, and print what is so unless ``silent``."""
    found = []
    for check in checks():
        found.append(check)
        if not silent:
            mark = {"works": "✓", "absent": "–", "broken": "✗"}[check.status]
            print(f"{mark} {check.name:<18} {check.detail}  ({check.seconds:.1f} s)", flush=True)
    if not silent:
        broken = [check.name for check in found if check.status == "broken"]
        print(f"broken: {', '.join(broken)}" if broken else "all that a run needs works here")
    return found


def checks() -> Iterator[Check]:
    """Try one thing after the other."""
    with tempfile.TemporaryDirectory(prefix="accelerator-verify-") as folder:
        for name, act in CHECKS.items():
            begin = time.perf_counter()
            try:
                status, detail = "works", act(Path(folder))
            except AbsentError as error:
                status, detail = "absent", str(error)
            except Exception as error:  # a broken environment raises what it likes
                status, detail = "broken", f"{type(error).__name__}: {error}".splitlines()[0]
            yield Check(name, status, detail, time.perf_counter() - begin)


def _packages(_: Path) -> str:
    from packaging.requirements import Requirement

    wrong, count = [], 0
    for text in requires(DISTRIBUTION) or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            there = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement} is not installed")
            continue
        if not requirement.specifier.contains(there, prereleases=True):
            wrong.append(f"{requirement.name} is {there}, needed is {requirement.specifier}")
    if wrong:
        raise RuntimeError("; ".join(wrong))
    return f"{DISTRIBUTION} {version(DISTRIBUTION)}, Python {sys.version.split()[0]}, {count} packages it needs"


def _torch(folder: Path) -> str:
    import torch
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    x = torch.randn(64, 3)
    y = x @ torch.tensor([[2.0], [-1.0], [0.5]])
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(200):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    distance = (model(x) - y).abs().max().item()
    if not distance < 0.05:
        raise RuntimeError(f"a line could not be fitted: it is off by {distance:.3g}")
    save_file(model.state_dict(), folder / "line.safetensors")
    if not torch.equal(load_file(folder / "line.safetensors")["weight"], model.weight):
        raise RuntimeError("weights came back from a file as others")
    devices = f"{torch.cuda.device_count()} GPU(s)" if torch.cuda.is_available() else "no GPU"
    return f"torch {torch.__version__} fits a line; {torch.get_num_threads()} threads, {devices}"


def _hydra(_: Path) -> str:
    from accelerator.cli.compose.compose import composer, group_options, groups

    with composer() as compose:
        config = compose([])
        found = {group: group_options(group) for group in groups()}
    options = sum(map(len, found.values()))
    return f"the default config composes: {len(config)} sections; {len(found)} groups with {options} options"


def _engine(name: str) -> Callable[[Path], str]:
    def act(folder: Path) -> str:
        place = folder / name
        place.mkdir()
        done = _python(["-m", "accelerator", "train", *_TINY, f"engine={name}"], place)
        (result,) = place.glob("outputs/*/*/result.json")
        told = json.loads(result.read_text())
        if told["run_id"] is None or "spooled" in done.stderr:
            raise RuntimeError(f"the run trained, but its record did not arrive: {done.stderr.strip()[-200:]}")
        return f"engine={name}: a run trained, saved, and is on record in MLflow {version('mlflow')}"

    return act


def _accelerate(folder: Path) -> str:
    _needs("accelerate", "accelerate")
    return _engine("accelerate")(folder)


def _single_gpu(folder: Path) -> str:
    import torch

    if not torch.cuda.is_available():
        raise AbsentError("engine=single_gpu: torch sees no GPU here")
    return _engine("single_gpu")(folder)


def _optuna(folder: Path) -> str:
    _needs("optuna", "tune")
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    backend = JournalFileBackend(str(folder / "study.log"))
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(backend), sampler=optuna.samplers.TPESampler(seed=0)
    )
    study.optimize(lambda trial: (trial.suggest_float("x", -4, 4) - 2) ** 2, n_trials=20)
    return f"optuna {optuna.__version__}: of 20 trials in a journal the best is x = {study.best_params['x']:.2f} for 2"


def _tensorflow(folder: Path) -> str:
    _needs("tensorflow", "tensorflow")
    # In a process of its own: what it says while it is imported is for its makers.
    script = (
        "import tensorflow as tf\n"
        "with tf.GradientTape() as tape:\n"
        "    x = tf.Variable(3.0)\n"
        "    y = x * x\n"
        "assert float(tape.gradient(y, x)) == 6.0, 'the gradient of x² at 3 is not 6'\n"
        "print(f'tensorflow {tf.__version__} differentiates; {len(tf.config.list_physical_devices(\"GPU\"))} GPU(s)')\n"
    )
    return _python(["-c", script], folder).stdout.strip().splitlines()[-1]


def _onnx(_: Path) -> str:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _needs(name, "onnx")
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}: {', '.join(onnxruntime.get_available_providers())}"


def _git(_: Path) -> str:
    try:
        done = subprocess.run(["git", "--version"], capture_output=True, text=True, check=True)  # noqa: S607
    except (OSError, subprocess.SubprocessError) as error:
        raise AbsentError("git is not there: runs do not tell their commit") from error
    return done.stdout.strip()


def _python(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_RUN_ID"}
    done = subprocess.run(  # noqa: S603 - this very interpreter
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=SECONDS, env=environment
    )
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip() or done.stdout.strip()).splitlines()[-1])
    return done


def _needs(module: str, extra: str) -> None:
    if find_spec(module) is None:
        raise AbsentError(f"not installed: pip install '{DISTRIBUTION}[{extra}]'")


CHECKS: dict[str, Callable[[Path], str]] = {
    "packages": _packages,
    "torch": _torch,
    "hydra": _hydra,
    "engine and MLflow": _engine("vanilla_torch"),
    "accelerate": _accelerate,
    "single_gpu": _single_gpu,
    "optuna": _optuna,
    "onnx": _onnx,
    "tensorflow": _tensorflow,
    "git": _git,
}

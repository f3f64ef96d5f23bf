"""``accelerator status``: what a project's configs override, and what in them is broken or unused."""

import json

import pytest

from accelerator.cli.app import main
from accelerator.cli.paths import packaged_configs


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def told(workplace, capsys):
    """A function that writes configs and gives the exit code and what is told of each."""

    def of(**files):
        for name, text in files.items():
            write(workplace / "configs" / (name.replace("__", "/") + ".yaml"), text)
        capsys.readouterr()
        code = main(["status", "--json"])
        return code, {each["file"]: each for each in json.loads(capsys.readouterr().out)["files"]}

    return of


def test_what_differs_from_the_packaged_config_is_told(told):
    code, files = told(
        model__mlp="name: mlp\nhidden: [3]\nactivation: gelu\nlayer_norm: false\nbias: 1\n",
        training_components__optimizer__adam="# @package optimizer\nname: Adam\nlr: 0.001\n",
    )
    assert files["model/mlp.yaml"]["differences"] == ["hidden: [64, 64] → [3]", "without dropout", "with bias: 1"]
    assert files["model/mlp.yaml"]["problems"] == ["it sets 'bias', which domain.cross.model.mlp:MLP does not take"]
    assert code == 3
    adam = files["training_components/optimizer/adam.yaml"]
    assert "lr: 1e-3 → 0.001" not in adam["differences"], "the same number, written otherwise"
    assert (adam["overrides"], adam["state"], adam["problems"]) == (True, "own", [])


def test_what_was_generated_edited_or_written_is_told_apart(told, workplace):
    assert main(["configure", "model=mlp,cnn"]) == 0
    assert main(["add", "callback", "ema"]) == 0
    with (workplace / "configs/model/cnn.yaml").open("a") as file:
        file.write("# mine\n")
    code, files = told(experiment__mine="# @package _global_\ndefaults:\n  - override /model: cnn\n")
    assert {name: each["state"] for name, each in files.items()} == {
        "callbacks/ema.yaml": "generated",
        "experiment/mine.yaml": "own",
        "model/cnn.yaml": "edited",
        "model/mlp.yaml": "generated",
    }
    assert files["model/cnn.yaml"]["chosen_by"] == ["experiment=mine"]
    assert code == 0


def test_a_copy_that_the_package_has_left_behind_is_outdated(told, workplace):
    assert main(["configure", "model=mlp"]) == 0
    file, manifest = workplace / "configs/model/mlp.yaml", workplace / "configs/.generated.json"
    from accelerator.cli.project.generated import sha256

    before = file.read_text().replace("[64, 64]", "[32, 32]")
    file.write_text(before)
    manifest.write_text(json.dumps({"model/mlp.yaml": {"sha256": sha256(before.encode()), "by": "configure"}}))
    code, files = told()
    assert files["model/mlp.yaml"]["outdated"]
    assert files["model/mlp.yaml"]["differences"] == ["hidden: [64, 64] → [32, 32]"]
    assert code == 0


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("model__bad", "hidden: [012]\n", "line 1: YAML reads 012 as 10"),
        ("model__gone", "name: mpl\n", "there is no model 'mpl' (any more) — did you mean 'mlp'?"),
        ("model__lost", "_target_: nowhere.Net\n", "nowhere.Net: no source code of a module 'nowhere'"),
        ("experiment__x", "# @package _global_\ntrainer: {epochs: 3}\n", "does not compose: "),
        (
            "experiment__x",
            "# @package _global_\ntrainer: {max_epochs: -3}\n",
            "trainer.max_epochs=-3: expected at least",
        ),
        (
            "experiment__x",
            "# @package _global_\nmodel: {hiden: [3]}\n",
            "model.hiden: 'multilevel_mlp' has no such arg",
        ),
        (
            "training_components__loss__x",
            "# @package loss\nname: huber\ndelta: abc\n",
            "loss.delta='abc': expected float",
        ),
        (
            "training_components__loss__x",
            "# @package loss\nnam: huber\n",
            "loss.name is missing: set it to a registered",
        ),
        ("training_components__loss__mse", "# @package loss\nname: huber\ndelta: a\n", "no run starts: loss.delta='a'"),
        ("training_components__loss__mse", "# @package loss\nname: mse\nfoo: 1\n", "it sets 'foo', which domain.cross"),
        (
            "training_components__optimizer__x",
            "# @package optimizer\n_target_: torch.nn.MSELoss\n",
            "torch.nn.modules.loss:MSELoss is no optimizer",
        ),
        (
            "project__default",
            "# @package _global_\noptimizer: {lrr: 3}\n",
            "no run starts: optimizer.lrr: 'Adam' has no",
        ),
        ("experiment__y", "# @package _global_\ndefaults:\n  - override /model: mpl\n", "does not compose: "),
        ("project__default", "# @package _global_\ntrainr: {}\n", "no run composes: "),
    ],
)
def test_what_is_broken_is_told_with_the_reason(told, name, text, problem):
    code, files = told(**{name: text})
    ((said,),) = [each["problems"] for each in files.values()]
    assert said.startswith(problem)
    assert code == 3


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import nothing_here\n", "no run starts: imports: mine could not be imported: ModuleNotFoundError"),
        ("raise SystemExit(4)\n", "no run starts: imports: importing mine ends the program: SystemExit: 4"),
    ],
)
def test_modules_that_cannot_be_imported_break_the_project(told, workplace, code, problem):
    (workplace / "mine.py").write_text(code)
    status, files = told(project__default="# @package _global_\nimports: [mine]\n", model__tiny="name: mlp\n")
    assert files["project/default.yaml"]["problems"][0].startswith(problem)
    assert files["model/tiny.yaml"]["problems"] == []
    assert status == 3


TWICE = """
from accelerator import register


@register("loss", "cubic")
def one(prediction, target): ...


@register("loss", "cubic")
def other(prediction, target, scale=1.0): ...
"""


@pytest.mark.parametrize(
    ("imports", "code", "problem"),
    [
        ("mine", TWICE, "two loss components are called 'cubic': mine:one and mine:other; rename one"),
        ("mine", "def f(:\n", "{file}, line 1: not valid Python: invalid syntax"),
        ("json", "", "configs/project/default.yaml: imports 'json', and 'json' is a module of Python's own: rename it"),
    ],
)
def test_what_is_wrong_with_the_modules_is_not_told_of_the_files(workplace, capsys, imports, code, problem):
    file = workplace / f"{imports}.py"
    file.write_text(code)
    write(workplace / "configs/project/default.yaml", f"# @package _global_\nimports: [{imports}]\n")
    write(workplace / "configs/training_components/loss/c.yaml", "# @package loss\nname: mse\n")
    if code == TWICE:
        write(workplace / "configs/training_components/loss/c.yaml", "# @package loss\nname: cubic\nscale: 2.0\n")
    assert main(["status", "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["problems"] == [problem.format(file=file)]
    assert [each["problems"] for each in told["files"]] == [[], []]


def test_what_the_command_line_is_to_give_is_no_problem(told):
    code, _ = told(
        model__open="_target_: ???\n",
        training_components__scheduler__x=(
            "# @package scheduler\nname: MultiStepLR\nmilestones: ???\ninterval: epoch\n"
        ),
    )
    assert code == 0


def test_what_modules_print_when_they_are_imported_is_not_in_the_answer(told, workplace):
    (workplace / "mine.py").write_text("print('hello')\n")
    code, _ = told(project__default="# @package _global_\nimports: [mine]\n")
    assert code == 0


def test_one_broken_file_is_not_told_of_the_others(told):
    _, files = told(project__default="# @package _global_\ntrainr: {}\n", model__tiny="name: mlp\nhidden: [3]\n")
    assert files["model/tiny.yaml"]["problems"] == []


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("modle__x", "name: mlp\n", "runs have no group 'modle' — did you mean 'model'?; +modle=x adds it"),
        ("mian", "a: 1\n", "it is in no group, and no defaults list names it — did you mean 'main'?"),
        ("project__other", "# @package _global_\nseed: 1\n", "runs begin with configs/project/default.yaml"),
    ],
)
def test_what_no_run_reads_is_unused(told, name, text, said):
    code, files = told(**{name: text})
    (unused,) = [each["unused"] for each in files.values()]
    assert unused.startswith(said)
    assert code == 0


def test_a_group_that_an_experiment_chooses_is_used(told):
    _, files = told(mine__x="a: 1\n", experiment__e="# @package _global_\ndefaults:\n  - /mine@vars: x\n")
    assert files["mine/x.yaml"]["unused"] is None
    assert files["mine/x.yaml"]["chosen_by"] == ["experiment=e"]


def test_a_yml_is_never_read(told, workplace):
    write(workplace / "configs/model/net.yml", "name: mlp\n")
    code, files = told()
    assert files["model/net.yml"]["problems"] == ["Hydra reads .yaml only: rename it to net.yaml"]
    assert code == 3


def test_paths_and_imports_are_shown_and_a_lost_one_is_broken(workplace, capsys):
    (workplace / "mine.py").write_text("raise SystemExit('imported')\n")
    write(workplace / "configs/project/default.yaml", "# @package _global_\nimports: [mine, gone]\n")
    assert main(["status"]) == 3
    printed = capsys.readouterr().out
    assert str(workplace / "configs") in printed
    assert f"{packaged_configs()}: packaged" in printed
    assert f"imports mine  {workplace / 'mine.py'}" in printed
    assert "configs/project/default.yaml: imports 'gone', and there is no such module here" in printed


def test_without_configs_there_is_little_to_tell(workplace, capsys):
    assert main(["status"]) == 0
    assert "not there (accelerator init)" in capsys.readouterr().out

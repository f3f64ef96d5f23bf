"""``accelerator add``: the YAML of a component from its signature, ready to be trained with."""

import json
import subprocess
import sys

import pytest
import yaml
from small_run import SMALL

from accelerator.cli.app import main
from accelerator.cli.project.component_yaml import written

MINE = """
import torch
from accelerator import register


@register("loss", "cubic")
def cubic(prediction, target, scale=1.0):
    '''Cubes.

    Args:
        scale: by what they are multiplied.
    '''
    return scale * (prediction - target).abs().pow(3).mean()


class Cubic(torch.nn.Module):
    def __init__(self, power: int = 3):
        super().__init__()
        self.power = power

    def forward(self, prediction, target):
        return (prediction - target).abs().pow(self.power).mean()
"""


def config(path):
    return yaml.safe_load((path if path.suffix else path.with_suffix(".yaml")).read_text())


def errors(capsys, *arguments):
    assert main([*arguments]) == 3
    return capsys.readouterr().err


def test_the_yaml_holds_defaults_types_and_texts_and_what_comes_next_is_printed(workplace, capsys):
    assert main(["add", "loss", "huber"]) == 0
    assert (workplace / "configs/training_components/loss/huber.yaml").read_text() == (
        "# @package loss\n"
        "# Huber's loss, mean over all entries of r²/2 where |r| ≤ δ and δ(|r| − δ/2) beyond, with r = p − t\n"
        "name: huber\n"
        "delta: 1.0 # float: δ > 0, where the square turns into a line; in the target's unit\n"
    )
    assert capsys.readouterr().out == (
        "configs/training_components/loss/huber.yaml: written\n"
        "it takes the place of the packaged configs/training_components/loss/huber.yaml\n"
        "component: domain.cross.loss.regression:huber\n"
        "next: accelerator train loss=huber\n"
    )


def test_add_loss_mse_imports_nothing_heavy(workplace):
    code = (
        "import sys\nfrom accelerator.cli.app import main\nassert main(['add', 'loss', 'mse']) == 0\n"
        "heavy = {'torch', 'numpy', 'hydra', 'omegaconf', 'pydantic', 'domain', 'yaml', 'rich', 'mlflow'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_what_the_run_fills_in_is_left_out_and_what_must_be_given_is_missing(workplace, capsys):
    assert main(["add", "model", "mlp"]) == 0
    assert config(workplace / "configs/model/mlp") == {
        "name": "mlp",
        "hidden": [64, 64],
        "activation": "gelu",
        "layer_norm": False,
        "dropout": 0.0,
    }
    capsys.readouterr()
    assert main(["add", "scheduler", "MultiStepLR"]) == 0
    scheduler = config(workplace / "configs/training_components/scheduler/MultiStepLR")
    assert scheduler == {"name": "MultiStepLR", "milestones": "???", "gamma": 0.1, "interval": "epoch"}
    printed = capsys.readouterr().out
    assert "next: accelerator train scheduler=MultiStepLR scheduler.milestones=…" in printed
    assert "or write the values into the file, in place of ???" in printed


def test_a_packaged_option_of_the_name_gives_what_must_be_given(workplace):
    assert main(["add", "scheduler", "cosine"]) == 0
    scheduler = config(workplace / "configs/training_components/scheduler/cosine")
    assert scheduler["name"] == "CosineAnnealingLR"
    assert scheduler["T_max"] == "${trainer.max_epochs}"


def test_deprecated_arguments_are_left_out(workplace):
    assert main(["add", "loss", "smooth", "--target", "torch.nn.SmoothL1Loss"]) == 0
    smooth = config(workplace / "configs/training_components/loss/smooth")
    assert smooth == {"_target_": "torch.nn.SmoothL1Loss", "reduction": "mean", "beta": 1.0}


def test_a_transform_is_placed(workplace, capsys):
    assert main(["add", "transform", "noise", "--place", "input,loss"]) == 0
    noise = {"noise": {"name": "noise", "std": 0.1}}
    assert config(workplace / "configs/training_components/transform/noise") == {
        "input": noise,
        "target": {},
        "loss": noise,
    }
    capsys.readouterr()
    assert "no place 'inptu' — did you mean 'input'?" in errors(capsys, "add", "transform", "noise", "--place", "inptu")
    assert "--place is for transforms: a loss has none" in errors(capsys, "add", "loss", "mse", "--place", "input")


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        (["model", "mlp"], ["model=mlp"]),
        (["data", "poisson"], ["data=poisson"]),
        (["loss", "relative_l2"], ["loss=relative_l2"]),
        (["optimizer", "AdamW"], ["optimizer=AdamW"]),
        (["optimizer", "ada", "--target", "torch.optim.Adagrad"], ["optimizer=ada"]),
        (["scheduler", "LinearLR"], ["scheduler=LinearLR"]),
        (["transform", "normalize", "--place", "input,target"], ["transform=normalize"]),
        (["metric", "r2"], ["metrics=r2"]),
        (["callback", "ema"], ["callbacks=[default,ema]"]),
        (["multilevel", "cascade"], ["multilevel=cascade", "model.hidden=[32,32]"]),
        (["engine", "vanilla_torch"], ["engine=vanilla_torch"]),
        (["acceleration", "prune"], ["acceleration=prune"]),
        (["experiment", "mine", "loss=mae", "optimizer.lr=0.01"], ["experiment=mine"]),
    ],
)
def test_what_was_added_is_trained_with_at_once(workplace, capsys, arguments, chosen):
    assert main(["add", *arguments]) == 0
    assert list(workplace.glob("configs/**/*.yaml")), "nothing was written"
    assert main(["train", *[a for a in SMALL if a != "model=mlp"], "model=mlp", *chosen, "--dry-run"]) == 0


def test_a_file_here_is_a_target_and_its_module_is_imported_by_every_run_from_then_on(workplace, capsys):
    (workplace / "mine.py").write_text(MINE)
    assert main(["add", "loss", "power", "--target", "mine.py:Cubic"]) == 0
    printed = capsys.readouterr().out
    assert "configs/project/default.yaml: has 'mine' among its imports" in printed
    assert config(workplace / "configs/training_components/loss/power") == {"_target_": "mine.Cubic", "power": 3}
    assert config(workplace / "configs/project/default.yaml") == {"imports": ["mine"]}
    assert main(["train", *SMALL, "loss=power", "loss.power=2"]) == 0
    assert "test/loss" in capsys.readouterr().out


def test_what_a_module_here_registers_is_found_by_its_name(workplace, capsys):
    (workplace / "mine.py").write_text(MINE)
    assert main(["add", "loss", "cubic"]) == 0
    assert config(workplace / "configs/training_components/loss/cubic") == {"name": "cubic", "scale": 1.0}
    assert main(["train", *SMALL, "loss=cubic", "--dry-run"]) == 0


def test_imports_are_added_to_without_a_word_of_the_file_being_lost(workplace, capsys):
    (workplace / "mine.py").write_text(MINE)
    (workplace / "configs/project").mkdir(parents=True)
    file = workplace / "configs/project/default.yaml"
    file.write_text("# @package _global_\nseed: 3 # of mine\nimports: [other] # what I need\n")
    assert main(["add", "loss", "cubic"]) == 0
    assert file.read_text() == "# @package _global_\nseed: 3 # of mine\nimports: [other, mine] # what I need\n"
    file.write_text("# @package _global_\nimports: # mine\n  - other # why\nseed: 3\n")
    assert main(["add", "loss", "cubic"]) == 0
    assert file.read_text() == "# @package _global_\nimports: # mine\n  - other # why\n  - mine\nseed: 3\n"
    file.write_text("# @package _global_\nimports: [\n  other]\n")
    message = errors(capsys, "add", "loss", "power", "--target", "mine.py:Cubic")
    assert "configs/project/default.yaml: add 'mine' to its imports" in message
    assert not (workplace / "configs/training_components/loss/power.yaml").exists()


def test_a_component_registered_with_a_hyphen_has_it_in_its_option(workplace):
    (workplace / "mine.py").write_text(MINE.replace('"cubic"', '"my-loss"'))
    assert main(["add", "loss", "my-loss"]) == 0
    assert config(workplace / "configs/training_components/loss/my-loss") == {"name": "my-loss", "scale": 1.0}
    assert main(["add", "experiment", "mine", "loss=my-loss", "loss.scale=2"]) == 0


@pytest.mark.parametrize("arguments", [["add", "loss", "xx", "--new"], ["add", "--sync"], ["configure", "model=mlp"]])
def test_a_folder_inside_a_project_does_not_become_another(workplace, capsys, monkeypatch, arguments):
    assert main(["add", "loss", "huber"]) == 0
    (workplace / "note books/a").mkdir(parents=True)
    monkeypatch.chdir(workplace / "note books/a")
    said = f"this folder is inside the project {workplace}: cd ../.. first; accelerator init begins another one here"
    assert said in errors(capsys, *arguments)
    assert list((workplace / "note books/a").iterdir()) == []
    assert main(["init"]) == 0
    assert main(["add", "loss", "xx", "--new"]) == 0


def test_nothing_is_overwritten_without_force(workplace, capsys):
    assert main(["add", "loss", "huber"]) == 0
    file = workplace / "configs/training_components/loss/huber.yaml"
    text = file.read_text()
    assert main(["add", "loss", "huber"]) == 0
    assert "huber.yaml: unchanged" in capsys.readouterr().out
    file.write_text("# mine\n" + text)
    assert "is there already, as somebody edited it, and differs: --force replaces it" in errors(
        capsys, "add", "loss", "huber"
    )
    assert file.read_text() == "# mine\n" + text
    assert main(["add", "loss", "huber", "--force"]) == 0
    assert file.read_text() == text


def test_a_dry_run_shows_the_file_and_writes_nothing(workplace, capsys):
    assert main(["add", "loss", "huber", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "huber.yaml: would write\n  # @package loss\n" in printed
    assert list(workplace.iterdir()) == []


def test_trust_imports_what_only_exists_at_run_time(workplace, capsys):
    (workplace / "made.py").write_text("def make(power=3):\n    return lambda p, t, scale=2.0: scale\nloss = make()\n")
    assert "made.loss is made when made is imported" in errors(capsys, "add", "loss", "x", "--target", "made.loss")
    assert main(["add", "loss", "x", "--target", "made.loss", "--trust"]) == 0
    assert config(workplace / "configs/training_components/loss/x") == {"_target_": "made.loss", "scale": 2.0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["los", "mse"], "there is no kind of component 'los' — did you mean 'loss'?"),
        (["loss", "mes"], "there is no loss 'mes' — did you mean 'mse'"),
        (["scheduler", "cosin"], "there is no scheduler 'cosin' — did you mean 'cosine'?"),
        (["scheduler", "zz"], "there is no scheduler 'zz' — choose from: ChainedScheduler, ConstantLR, "),
        (["optimizer", "LBFGS"], "torch.optim.lbfgs:LBFGS needs a closure that computes the loss anew in each step"),
        (["optimizer", "x", "--target", "torch.nn.MSELoss"], "it does not derive from torch.optim.Optimizer"),
        (["loss", "x", "--target", "torch.optim.Adam"], "adam:Adam is of the kind 'optimizer', and no loss"),
        (["experiment", "x", "loss=mae", "loss.weigth=3"], "loss.weigth: 'mae' has no such argument"),
        (["experiment", "x", "trainer.max_epochs=-3"], "trainer.max_epochs=-3: expected at least 1"),
        (["experiment", "x", "data=custom"], "data._target_ is required: set data._target_="),
        (["optimizer", "AdmaW"], "there is no optimizer 'AdmaW' — did you mean 'AdamW'"),
        (["loss"], "which loss? accelerator add loss NAME"),
        (["loss", "a-b"], "'a-b' cannot be the name of a loss — 'a_b' can: letters, digits and underscores"),
        (["loss", "class"], "'class' cannot be the name of a loss"),
        (["loss", "mse", "more"], "'more' is one argument too many"),
        (["loss", "x", "--target", "torch.nn.SmoothL1Los"], "— did you mean 'SmoothL1Loss'"),
        (["loss", "x", "--target", "mine.py"], "--target mine.py: which class or function in it? mine.py:Name"),
        (["loss", "x", "--target", "gone.py:f"], "there is no file gone.py"),
        (["loss", "x", "--target", "../up.py:f"], "../up.py is outside of the project"),
        (
            ["loss", "x", "--target", "torch.load"],
            "torch.load (torch.serialization.load) is not among what a config may",
        ),
        (["loss", "x", "--target", "shutil.rmtree"], "shutil.rmtree (shutil.rmtree) is not among what a config may"),
        (["loss", "x", "--target", "torch.nn.functional.torch.load"], "is not among what a config may build from"),
        (["loss", "x", "--new", "--target", "a.b"], "--new begins a component, --target names one that is there"),
        (["loss", "x", "--new", "--trust"], "--trust does not go with the rest"),
        (["--sync", "los"], "there is no kind of component 'los' — did you mean 'loss'?"),
        (["--sync", "loss", "mse", "more"], "'more' is one argument too many: accelerator add --sync KIND NAME"),
        (["--index", "loss"], "--index is about all kinds: leave out 'loss'"),
        (["engine", "x", "--new"], "a engine is written by hand"),
        (["experiment", "x", "modle=mlp"], "modle=mlp: there is no key 'modle' — did you mean 'model'?"),
        (["experiment", "x", "model"], "'model' is no override: write key=value, or group=option"),
        (["experiment", "x", "seed=1,2"], "seed=1,2 is a sweep: an experiment is one run"),
        (["experiment", "x", "hydra.run.dir=a"], "what is Hydra's own is set on the command line"),
        (["loss", "mse", "--forec"], "there is no flag --forec — did you mean '--force'?"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_written(workplace, capsys, arguments, said):
    assert said in errors(capsys, "add", *arguments)
    assert list(workplace.iterdir()) == []


@pytest.mark.parametrize("word", [[], ["--help"], ["loss", "--help"]])
def test_help_has_the_kinds_and_examples(capsys, word):
    assert main(["add", *word]) == 0
    printed = capsys.readouterr().out
    assert "callback, acceleration, multilevel" in printed
    assert "accelerator add loss cubic --new" in printed


def test_an_experiment_is_what_was_typed(workplace):
    typed = [
        "model=mlp",
        "loss=mae",
        "model.hidden=[8,8]",
        'tracking.tags={a: "012", b: no}',
        "metrics=[field,regression]",
    ]
    assert main(["add", "experiment", "mine", *typed]) == 0
    assert config(workplace / "configs/experiment/mine") == {
        "defaults": [
            {"override /model": "mlp"},
            {"override /training_components/loss": "mae"},
            {"override /metrics": ["field", "regression"]},
        ],
        "model": {"hidden": [8, 8]},
        "tracking": {"tags": {"a": "012", "b": "no"}},
    }
    assert not (workplace / "configs/.generated.json").exists(), "the user's own words are nothing generated"


def test_an_experiment_knows_what_the_project_registers_and_tells_of_no_import_that_is_well(workplace, capsys):
    (workplace / "mine.py").write_text(MINE)
    assert main(["add", "loss", "cubic"]) == 0
    assert main(["add", "experiment", "mine", "loss=cubic", "loss.scale=2"]) == 0
    sys.modules.pop("mine")
    message = errors(capsys, "add", "experiment", "wrong", "loss=cubic", "model=mpl")
    assert message == "error: model=mpl: no 'mpl' in configs/model/ — did you mean 'mlp'?\n"
    assert [path.name for path in (workplace / "configs/experiment").iterdir()] == ["mine.yaml"]


def test_what_is_of_a_kind_may_lie_behind_a_class_that_is_not_found(workplace, capsys):
    (workplace / "mine.py").write_text(
        "from nowhere import Base\nfrom torch import nn\n\n\n"
        "class Maybe(Base):\n    pass\n\n\nclass Net(nn.Module):\n    pass\n"
    )
    assert main(["add", "optimizer", "maybe", "--target", "mine.py:Maybe", "--dry-run"]) == 0
    assert main(["add", "model", "net", "--target", "mine.py:Net", "--dry-run"]) == 0
    message = errors(capsys, "add", "optimizer", "net", "--target", "mine.py:Net")
    assert message == "error: mine:Net is no optimizer: it does not derive from torch.optim.Optimizer\n"


@pytest.mark.filterwarnings("default:configs/.generated.json")
def test_a_manifest_that_cannot_be_read_is_told_of(workplace, capsys):
    assert main(["add", "loss", "huber"]) == 0
    (workplace / "configs/.generated.json").write_text("{")
    assert main(["add", "loss", "mae"]) == 0
    assert "warning: configs/.generated.json cannot be read (Expecting property name" in capsys.readouterr().err
    assert list(json.loads((workplace / "configs/.generated.json").read_text())) == [
        "training_components/loss/mae.yaml"
    ]


def test_an_experiment_stands_on_another(workplace, capsys):
    assert main(["add", "experiment", "mine", "model=fno", "experiment=digits", "checkpoint.monitor=val/loss"]) == 0
    assert main(["train", "experiment=mine", "--cfg", "job", "--resolve"]) == 0
    composed = yaml.safe_load(capsys.readouterr().out.partition("next: accelerator train experiment=mine\n")[2])
    assert (composed["data"]["name"], composed["model"]["name"]) == ("digits", "fno")
    assert (composed["checkpoint"]["monitor"], composed["checkpoint"]["mode"]) == ("val/loss", "max")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("gelu", "gelu"),
        ("NO", '"NO"'),
        ("012", '"012"'),
        ("1e-3", '"1e-3"'),
        ("a: b", '"a: b"'),
        ("", '""'),
        ("# x", '"# x"'),
        (1e-8, "1.0e-08"),
        (1e20, "1.0e+20"),
        (0.5, "0.5"),
        (float("-inf"), "-.inf"),
        (True, "true"),
        (None, "null"),
        ([1, "x", [2.0]], "[1, x, [2.0]]"),
        ({"on": 1}, '{"on": 1}'),
    ],
)
def test_values_are_read_back_as_they_were(tmp_path, value, text):
    from omegaconf import OmegaConf

    assert written(value) == text
    (tmp_path / "a.yaml").write_text(f"a: {text}\n")
    read = OmegaConf.to_container(OmegaConf.load(tmp_path / "a.yaml"))["a"]
    assert (read, type(read)) == (value, type(value))


def test_the_manifest_remembers_the_signature(workplace):
    assert main(["add", "loss", "huber"]) == 0
    kept = json.loads((workplace / "configs/.generated.json").read_text())
    entry = kept["training_components/loss/huber.yaml"]
    assert (entry["by"], entry["component"]) == ("add", "domain.cross.loss.regression:huber")
    assert entry["defaults"] == {"delta": "1.0"}

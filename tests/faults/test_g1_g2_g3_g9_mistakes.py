"""Rows G1, G2, G3, G9: what is typed wrong is told by its key, its value and what to type instead; exit 3."""

import pytest

from accelerator.cli.app import main

TRAIN = ["train"]
FEW = ["data.train=4", "data.val=2", "data.test=2", "data.grid=8"]

TYPOS = {
    "a key": ([*TRAIN, "optmizer.lr=1"], "optmizer.lr=1: there is no key 'optmizer.lr' — did you mean 'optimizer.lr'?"),
    "a key of a closed section": (
        [*TRAIN, "trainer.max_epoch=1"],
        "there is no key 'trainer.max_epoch' — did you mean 'trainer.max_epochs'?",
    ),
    "a group": ([*TRAIN, "modle=mlp"], "modle=mlp: there is no key 'modle' — did you mean 'model'?"),
    "an option": ([*TRAIN, "model=mpl"], "model=mpl: no 'mpl' in configs/model/ — did you mean 'mlp'?"),
    "an option by short name": (
        [*TRAIN, "loss=mes"],
        "loss=mes: no 'mes' in configs/training_components/loss/ — did you mean 'mse'",
    ),
    "an experiment": ([*TRAIN, "experiment=digit"], "no 'digit' in configs/experiment/ — did you mean 'digits'"),
    "an argument": ([*TRAIN, "model.hiden=[3]"], "model.hiden: 'multilevel_mlp' has no such argument — did you mean"),
    "a registered name": ([*TRAIN, "model.name=mpl"], "model.name: unknown model 'mpl' — did you mean 'mlp'?"),
    "a class of torch": ([*TRAIN, "optimizer.name=Adan"], "unknown optimizer 'Adan' — did you mean 'Adam'"),
    "the case of letters": ([*TRAIN, "optimizer.name=adamw"], "unknown optimizer 'adamw' — did you mean 'AdamW'"),
    "a callback": ([*TRAIN, "callbacks.progres.refresh=1"], "callbacks.progres: there is none of that name — did you"),
    "a metric": ([*TRAIN, "metrics.x.name=accurcy"], "unknown metric 'accurcy' — did you mean 'accuracy'?"),
    "a role of a transform": ([*TRAIN, "transform.inputs.a.name=noise"], "transform.inputs: no such role of a"),
    "a flag": ([*TRAIN, "--explian"], "there is no flag --explian — did you mean '--explain'?"),
    "a command": (["trian"], "there is no command 'trian' — did you mean 'train'"),
    "a flag before the command": (["--vesion"], "there is no flag '--vesion' — did you mean '--version'?"),
    "an action": (["runs", "shwo"], "there is no action 'shwo' — did you mean 'show'?; see accelerator runs --help"),
    "a flag of an action": (["runs", "list", "--jsn"], "there is no flag --jsn — did you mean '--json'?"),
    "a flag of a command": (["status", "--jsn"], "no flag --jsn — did you mean '--json'?; see accelerator status"),
    "a pipeline": (["pipeline", "digit"], "there is no pipeline 'digit' in configs/pipeline/ — did you mean 'digits'?"),
    "a kind to list": (["list", "modl"], "there is no kind of component 'modl' — did you mean 'model'?"),
    "a component to list": (["list", "model", "mpl"], "there is no model 'mpl' — did you mean 'mlp'?"),
    "a kind to add": (["add", "losss", "mse"], "there is no kind of component 'losss' — did you mean 'loss'?"),
    "a group to configure": (["configure", "modl"], "modl: there is no group 'modl' — did you mean 'model'?"),
    "a group of another command": (["tune", "tune=optimiser"], "no 'optimiser' in configs/tune/ — did you mean"),
    "a shell": (["completion", "bahs"], "there is no completion for 'bahs' — did you mean 'bash'"),
    "a key in a file": (
        [*TRAIN, "experiment=key"],
        "configs/experiment/key.yaml sets 'optmizer', and there is no such key — did you mean 'optimizer'?",
    ),
    "an option in a file": (
        [*TRAIN, "experiment=option"],
        "no 'mpl' in configs/model/ — did you mean 'mlp'? (named in configs/experiment/option.yaml)",
    ),
    "an argument in a file": (
        [*TRAIN, "experiment=argument"],
        "model.hiden: 'multilevel_mlp' has no such argument — did you mean 'hidden'? (in ",
    ),
    "the last value of a sweep": (
        [*TRAIN, "-m", "model=mlp,multilevel_mlp,mpl"],
        "model=mpl: no 'mpl' in configs/model/ — did you mean 'mlp'?",
    ),
}

TYPES = {
    "text for a whole number": (
        ["trainer.max_epochs=abc"],
        "trainer.max_epochs=abc: expected a whole number",
    ),
    "a fraction for a whole number": (
        ["trainer.max_epochs=1.5"],
        "trainer.max_epochs=1.5: expected a whole number",
    ),
    "a word for true or false": (["trainer.test=maybe"], "trainer.test=maybe: expected true or false"),
    "a word that is none of a few": (
        ["evaluate.split=tets"],
        "evaluate.split=tets: expected test or val or train",
    ),
    "a value for a section": (["trainer=5"], "trainer=5: trainer is a section, not a value: set one of its keys"),
    "text for an argument": (
        ["optimizer.lr=abc"],
        "optimizer.lr='abc': expected float | torch.Tensor: Input should be a",
    ),
    "quoted digits for a number": (["optimizer.lr='5'"], "optimizer.lr='5': expected float | torch.Tensor"),
    "text for a list": (["model.hidden=abc"], "model.hidden='abc': expected"),
    "in a file": (
        ["experiment=type"],
        "configs/experiment/type.yaml sets trainer.max_epochs to abc: expected a whole number",
    ),
    "a section in a file": (
        ["experiment=section"],
        "configs/experiment/section.yaml sets trainer to 5: expected a mapping",
    ),
    "an argument in a file": (
        ["experiment=lr"],
        "optimizer.lr='abc': expected float | torch.Tensor: Input should be a",
    ),
    "from the environment": (["trainer.max_epochs=${oc.env:WORD}"], "trainer.max_epochs: While dereferencing"),
    "in the last value of a sweep": (["-m", "optimizer.lr=0.1,0.2,abc"], "optimizer.lr='abc': expected float"),
}

PATHS = {
    "no such class": (
        ["model=custom", "model._target_=torch.nn.Linearr"],
        "model._target_=torch.nn.Linearr: no 'Linearr' there — did you mean 'Linear' or 'Bilinear'",
    ),
    "no such class of one's own": (
        ["model=custom", "model._target_=g3_good.Nett", "imports=[g3_good]"],
        "model._target_=g3_good.Nett: no 'Nett' there — did you mean 'Net'?",
    ),
    "no such module": (
        ["model=custom", "model._target_=torch.nnn.Linear"],
        "'torch' is not among the packages a config may build from",
    ),
    "a module whose name is near": (["model=custom", "model._target_=torch.nnn.Linear"], "— did you mean 'torch.nn'?"),
    "no module at all": (
        ["model=custom", "model._target_=Linear"],
        "model._target_=Linear: expected a dotted path, <package>.<module>.Linear",
    ),
    "not allowed": (["model=custom", "model._target_=os.system"], "if it is your own, add it: imports=[os]"),
    "no class": (
        ["model=custom", "model._target_=g3_good.NUMBER", "imports=[g3_good]"],
        "model._target_=g3_good.NUMBER is not a class or function",
    ),
    "a name and a path": (["model._target_=torch.nn.Linear"], "both a name"),
    "an import that is not there": (
        ["imports=[g3_god]"],
        "could not be imported: ModuleNotFoundError: No module named 'g3_god' — did you mean 'g3_good'?; it is looked",
    ),
    "an import that lacks another": (
        ["imports=[g3_outer]"],
        "imports: g3_outer could not be imported: ModuleNotFoundError: No module named 'no_such_library'",
    ),
    "where the root of it is": (["imports=[g3_outer]"], "g3_inner.py, line 2)"),
    "an import that raises": (
        ["imports=[g3_raises]"],
        "imports: g3_raises could not be imported: RuntimeError: the licence server is away",
    ),
    "an import that is no Python": (["imports=[g3_syntax]"], "imports: g3_syntax could not be imported: SyntaxError"),
    "a class that raises": (
        [*FEW, "model=custom", "model._target_=g3_good.Net", "model.width=3", "imports=[g3_good]"],
        "model: g3_good.Net: width=3 is odd",
    ),
    "a class without what it needs": (
        ["model=custom", "model._target_=g3_good.Net", "imports=[g3_good]"],
        "model.width is required by 'g3_good.Net': set model.width=…",
    ),
}

VALUES = {
    "no such variable": (
        ["optimizer.lr=${oc.env:NOT_SET_HERE}"],
        "optimizer.lr: the environment variable NOT_SET_HERE is not set: export NOT_SET_HERE=…, or give a default: "
        "${oc.env:NOT_SET_HERE,…}",
    ),
    "no such variable, in a closed section": (
        ["trainer.max_epochs=${oc.env:NOT_SET_HERE}"],
        "trainer.max_epochs: the environment variable NOT_SET_HERE is not set",
    ),
    "no such variable, in a file": (["experiment=variable"], "optimizer.lr: the environment variable NOT_SET_HERE is"),
    "no such variable, for the folder": (["hydra.run.dir=${oc.env:NOT_SET_HERE}"], "hydra.run.dir: the environment"),
    "no such key": (
        ["optimizer.lr=${trainer.max_epoch}"],
        "optimizer.lr: there is no key 'trainer.max_epoch' to take its value from — did you mean 'trainer.max_epochs'?",
    ),
    "no such interpolation": (
        ["optimizer.lr=${gti:commit}"],
        "optimizer.lr: there is no interpolation ${gti:…} — did you",
    ),
    "git without a repository": (["vars.commit=${git:commit}"], "vars.commit: ${git:commit}: no git repository here"),
    "something git does not tell": (["vars.commit=${git:comit}"], "git tells no 'comit' — did you mean 'commit'?"),
    "a circle": (
        ["optimizer.lr=${optimizer.eps}", "optimizer.eps=${optimizer.lr}"],
        "optimizer.lr: it takes its value from itself (optimizer.lr → optimizer.eps → optimizer.lr): give one of them",
    ),
    "itself": (["optimizer.lr=${optimizer.lr}"], "(optimizer.lr → optimizer.lr)"),
    "??? in a component": (["data=arrays"], "data.path is required"),
    "??? in a closed section": (["seed=???"], "seed is required: set seed=…"),
    "??? at the end of an interpolation": (["vars.a=???", "optimizer.lr=${vars.a}"], "vars.a"),
    "??? for a class": (["model=custom"], "model._target_ is required: set model._target_=<package>.<module>.<Class>"),
}

# What differs little from another case: `make test-faults` has them too.
LONG = {
    "a key of a closed section",
    "an option by short name",
    "an experiment",
    "a registered name",
    "the case of letters",
    "a metric",
    "a group of another command",
    "an option in a file",
    "a fraction for a whole number",
    "a word for true or false",
    "quoted digits for a number",
    "an argument in a file",
    "text for a list",
    "no such class of one's own",
    "no such module",
    "an import that lacks another",
    "an import that is no Python",
    "a class that raises",
    "no such variable, in a closed section",
    "no such variable, in a file",
    "itself",
    "??? in a component",
    "??? at the end of an interpolation",
}


def of(cases):
    return [pytest.param(name, marks=pytest.mark.faults if name in LONG else ()) for name in cases]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("WORD", "abc")
    monkeypatch.delenv("NOT_SET_HERE", raising=False)
    experiments = tmp_path / "configs/experiment"
    experiments.mkdir(parents=True)
    for name, text in {
        "key": "optmizer: {lr: 1}",
        "option": "defaults:\n  - override /model: mpl",
        "argument": "model: {hiden: [4]}",
        "type": "trainer: {max_epochs: abc}",
        "section": "trainer: 5",
        "lr": "optimizer: {lr: abc}",
        "variable": "optimizer: {lr: '${oc.env:NOT_SET_HERE}'}",
    }.items():
        (experiments / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    for name, text in {
        "g3_good": "from torch import nn\n\n\nNUMBER = 3\n\n\nclass Net(nn.Module):\n    def __init__(self, width):\n"
        "        super().__init__()\n        raise ValueError(f'width={width} is odd')\n",
        "g3_outer": "import g3_inner\n",
        "g3_inner": "\nimport no_such_library\n",
        "g3_raises": "raise RuntimeError('the licence server is away')\n",
        "g3_syntax": "def f(:\n",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def told(arguments, folder, capfd):
    """What stands on stderr of a command that has to be refused, and leave nothing."""
    assert main(arguments) == 3
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err
    assert "Error executing job" not in printed.err
    assert not list(folder.glob("outputs/*/*")) + list(folder.glob("multirun/*/*")), "it left a folder"
    return printed.err


@pytest.mark.parametrize("case", of(TYPOS))
def test_g1_a_typing_error_is_told_with_the_nearest_name(case, folder, capfd):
    arguments, fragment = TYPOS[case]
    assert fragment in told(arguments, folder, capfd)


def test_g1_all_of_them_are_told_together(folder, capfd):
    printed = told(["train", "model=mpl", "optmizer.lr=1", "trainer.max_epochs=abc", "optimizer.lrr=2"], folder, capfd)
    assert "4 errors" in printed
    for fragment in ("'mlp'", "optmizer.lr=1", "trainer.max_epochs=abc", "optimizer.lrr"):
        assert fragment in printed


@pytest.mark.parametrize("case", of(TYPES))
def test_g2_a_wrong_type_is_told_with_key_type_and_file(case, folder, capfd):
    arguments, fragment = TYPES[case]
    assert fragment in told([*TRAIN, *arguments], folder, capfd)


@pytest.mark.parametrize("case", of(PATHS))
def test_g3_a_class_path_that_leads_nowhere_is_told_with_its_reason(case, folder, capfd):
    arguments, fragment = PATHS[case]
    assert fragment in told([*TRAIN, *arguments], folder, capfd)


@pytest.mark.parametrize("case", of(VALUES))
def test_g9_a_value_that_comes_from_nowhere_is_told_by_its_key(case, folder, capfd):
    arguments, fragment = VALUES[case]
    assert fragment in told([*TRAIN, *arguments], folder, capfd)


def test_g9_values_that_come_from_nowhere_are_told_together_and_what_follows_them_is_not(folder, capfd):
    arguments = ["optimizer.lr=${oc.env:NOT_SET_HERE}", "trainer.max_epochs=${oc.env:NOT_SET_EITHER}"]
    printed = told(["train", *arguments], folder, capfd)
    assert "2 errors" in printed
    assert "scheduler.T_max" not in printed

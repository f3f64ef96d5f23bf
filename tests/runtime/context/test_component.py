import pickle
import sys

import pytest
import torch
from torch import nn

from accelerator.errors import ConfigError
from accelerator.runtime.context.component import build, check, find, is_component, present

MINE = ("toy_problem",)


def problems_of(kind, section, **options):
    return check(kind, section, kind, imports=MINE, **options)


@pytest.mark.parametrize(
    ("value", "expected"),
    [({"name": "mlp"}, True), ({"_target_": "torch.nn.ReLU"}, True), ({"lr": 1}, False), ("mlp", False), (None, False)],
)
def test_a_component_is_a_mapping_with_a_name_or_a_target(value, expected):
    assert is_component(value) is expected


def test_a_section_set_to_null_is_removed():
    assert present({"a": {"name": "x"}, "b": None}) == {"a": {"name": "x"}}
    assert present(None) == {}


def test_a_name_is_looked_up_in_the_registry_of_its_kind():
    assert find("optimizer", {"name": "AdamW"}, "optimizer") is torch.optim.AdamW
    assert find("model", {"name": "mlp"}, "model").__name__ == "MLP"


def test_an_unknown_name_gives_key_and_nearest_names():
    with pytest.raises(ConfigError, match=r"^model\.name: unknown model 'mpl' — did you mean 'mlp'"):
        find("model", {"name": "mpl"}, "model")


@pytest.mark.parametrize("section", [{}, {"name": None}, {"name": "???"}, {"name": "???", "_target_": None}])
def test_a_missing_name_lists_what_there_is(section):
    with pytest.raises(ConfigError, match=r"loss\.name is missing: set it to a registered loss.*cross_entropy"):
        find("loss", section, "loss")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("torch.nn.SmoothL1Loss", nn.SmoothL1Loss),
        ("torch.nn.functional.relu", nn.functional.relu),
        ("torch.nn.functional.gelu", nn.functional.gelu),
        ("torch.nn.modules.linear.Linear", nn.Linear),
        ("torch.optim.lr_scheduler.StepLR", torch.optim.lr_scheduler.StepLR),
    ],
)
def test_a_target_inside_the_allowed_packages_is_found(path, expected):
    assert find("model", {"_target_": path}, "model") is expected


def test_a_target_in_the_users_own_package_needs_it_among_the_imports():
    section = {"_target_": "toy_problem.Scale"}
    with pytest.raises(ConfigError, match=r"'toy_problem' is not among the packages.*imports=\[toy_problem\]"):
        find("model", section, "model")
    assert find("model", section, "model", MINE).__name__ == "Scale"


ESCAPES = [
    "os.system",
    "builtins.eval",
    "torch.load",
    "torch.hub.load",
    "torchvision.datasets.MNIST",
    "torch.nnx.Linear",
    # out of the package through a module it imports
    "torch.nn.functional.torch.load",
    "torch.nn.functional.torch.hub.load",
    "torch.nn.functional.importlib.import_module",
    "torch.nn.modules.module.functools.partial",
    "torch.utils.data.dataloader.os.system",
    "torch.utils.data.dataloader.multiprocessing.Process",
    "torch.optim.optimizer.torch.load",
    "domain.cross.data.arrays.Path",
    "domain.cross.data.tables.pd.read_pickle",
    "domain.cross.data.cache.np.load",
    "kornia.core.torch.load",
    "torchmetrics.metric.torch.load",
    # through the innards of an allowed object
    "torch.nn.functional.relu.__globals__.get",
    "torch.nn.functional.relu.__class__",
    "torch.nn.Module.__subclasses__",
    "torch.nn.Linear.__init__.__globals__",
    # inside the package, and yet able to import, to unpickle or to write
    "torch.nn.attention._fa4._fa4_import_module",
    "torch.utils.data.datapipes.utils.decoder.basichandlers",
    "torch.utils.data.datapipes.datapipe._IterDataPipeSerializationWrapper",
    "accelerator.runtime.journal.Journal",
    "accelerator.runtime.run.execute",
    "accelerator.runtime.context.component.build",
    "accelerator.runtime.engine.vanilla_torch.torch.load",
    "accelerator.cli.app.main",
    # a module or a value, not something to call
    "torch.nn.functional",
    "torch.nn.functional.torch",
]


@pytest.mark.parametrize("path", ESCAPES)
def test_a_config_cannot_reach_what_is_not_on_the_list(path):
    with pytest.raises(ConfigError, match="_target_="):
        find("model", {"_target_": path}, "model", MINE)


@pytest.mark.parametrize(
    ("imported", "path"),
    [
        ("os", "os.system"),
        ("subprocess", "subprocess.run"),
        ("runpy", "runpy.run_path"),
        ("torch.serialization", "torch.serialization.load"),
        ("accelerator.runtime.run", "accelerator.runtime.run.execute"),
    ],
)
def test_importing_python_torch_or_the_platform_does_not_open_them(imported, path):
    with pytest.raises(ConfigError, match=f"_target_={path}"):
        find("model", {"_target_": path}, "model", (imported,))


def test_a_pickle_in_a_config_is_never_loaded():
    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("unpickled",)

    target = "torch.utils.data.datapipes.utils.decoder.basichandlers"
    with pytest.raises(ConfigError):
        build("model", {"_target_": target, "extension": "pkl", "data": pickle.dumps(Bomb())}, "model")


def test_a_private_name_of_the_users_own_package_is_theirs_to_use(tmp_path, monkeypatch):
    (tmp_path / "own_package_with").mkdir()
    (tmp_path / "own_package_with" / "_private.py").write_text("class Net: pass")
    monkeypatch.syspath_prepend(tmp_path)
    path = "own_package_with._private.Net"
    assert find("model", {"_target_": path}, "model", ("own_package_with",)).__name__ == "Net"


def test_a_misspelt_target_names_what_is_near():
    with pytest.raises(ConfigError, match=r"no 'Linaer' there — did you mean 'Linear'"):
        find("model", {"_target_": "torch.nn.Linaer"}, "model")


def test_a_module_that_fails_to_import_says_why(tmp_path, monkeypatch):
    (tmp_path / "broken_on_import.py").write_text("1 / 0")
    (tmp_path / "needs_another.py").write_text("import no_such_package_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    for module, reason in (("broken_on_import", "ZeroDivisionError"), ("needs_another", "no_such_package_at_all")):
        with pytest.raises(ConfigError, match=f"importing it failed: .*{reason}"):
            find("model", {"_target_": f"{module}.Net"}, "model", (module,))


def test_every_mistake_is_collected():
    section = {"name": "mlp", "hiden": [3], "hidden": "many", "dropout": "???", "layer_norm": "perhaps"}
    found = "\n".join(problems_of("model", section))
    assert "model.hiden: 'mlp' has no such argument — did you mean 'hidden'" in found
    assert "model.hidden='many': expected" in found
    assert "model.dropout is required: set model.dropout=" in found
    assert "model.layer_norm='perhaps': expected bool" in found
    assert "model.input_shape is required by 'mlp'" in found
    assert "model.output_shape is required by 'mlp'" in found
    assert len(problems_of("model", section)) == 6
    with pytest.raises(ConfigError) as caught:
        build("model", section, "model")
    assert len(caught.value.problems) == 6


def test_what_the_run_offers_is_not_missing():
    assert problems_of("model", {"name": "mlp"}, offered=("input_shape", "output_shape")) == []


@pytest.mark.parametrize(("lr", "right"), [(0.1, True), (1, True), ("abc", False), ([0.1], False), (None, False)])
def test_a_value_is_compared_with_the_annotation(lr, right):
    found = problems_of("optimizer", {"name": "Adam", "lr": lr}, offered=("params",))
    assert (found == []) is right
    assert right or found[0].startswith(f"optimizer.lr={lr!r}: expected ")


def test_nested_components_are_checked_and_built():
    inner = {"_target_": "toy_problem.Scale", "start": 3.0}
    section = {"_target_": "toy_problem.Wrapped", "inner": inner, "others": {"a": inner, "b": inner}}
    built = build("model", section, "model", imports=MINE)
    assert built.inner.factor.item() == 3.0
    assert sorted(built.others) == ["a", "b"]
    assert built.others["a"] is not built.others["b"]
    wrong = {**section, "inner": {**inner, "strat": 1.0}, "others": {"a": {**inner, "power": "two"}}}
    found = problems_of("model", wrong)
    assert len(found) == 2
    assert "model.inner.strat" in found[0]
    assert "did you mean 'start'" in found[0]
    assert found[1].startswith("model.others.a.power='two': expected int")


def test_a_nested_target_is_held_to_the_list_too():
    section = {"_target_": "toy_problem.Wrapped", "inner": {"_target_": "os.system", "command": "true"}}
    with pytest.raises(ConfigError, match="model.inner._target_=os.system"):
        build("model", section, "model", imports=MINE)
    deep = {"_target_": "toy_problem.Wrapped", "others": {"a": {"b": {"_target_": "os.system"}}}}
    with pytest.raises(ConfigError, match="model.others.a.b._target_=os.system"):
        build("model", deep, "model", imports=MINE)


def test_an_offer_fills_what_is_open_and_yields_to_what_is_set():
    section = {"_target_": "toy_problem.Wrapped"}
    offers = {"num_classes": 10, "never_asked_for": 1}
    assert build("model", section, "model", imports=MINE, **offers).num_classes == 10
    assert build("model", {**section, "num_classes": None}, "model", imports=MINE, **offers).num_classes == 10
    assert build("model", {**section, "num_classes": 3}, "model", imports=MINE, **offers).num_classes == 3


def test_a_required_argument_set_to_null_is_open_to_an_offer():
    section = {"name": "mlp", "input_shape": None, "output_shape": [2], "hidden": [3]}
    network = build("model", section, "model", input_shape=(5,), output_shape=(7,))
    assert network(torch.zeros(1, 5)).shape == (1, 2)


def test_a_loss_function_is_bound_and_called_later():
    loss = build("loss", {"_target_": "toy_problem.shifted_error", "shift": 1.0}, "loss", imports=MINE)
    assert loss(torch.tensor([2.0]), torch.tensor([1.0])).item() == 4.0
    assert problems_of("loss", {"_target_": "toy_problem.shifted_error", "prediction": 1}) == [
        "loss.prediction: 'toy_problem.shifted_error' has no such argument — choose from: shift"
    ]


def test_a_compiled_function_of_torch_has_no_signature_to_check():
    act = build("loss", {"_target_": "torch.nn.functional.gelu", "approximate": "tanh"}, "loss")
    x = torch.linspace(-2, 2, 5)
    assert torch.equal(act(x), nn.functional.gelu(x, approximate="tanh"))


def test_what_a_constructor_refuses_is_told_with_key_and_name():
    with pytest.raises(ConfigError, match=r"^data: toy_problem\.refuse: value 3 will not do$"):
        build("data", {"_target_": "toy_problem.refuse", "value": 3}, "data", imports=MINE)


OTHERS = {
    "model": ("Plain", "is no torch.nn.Module"),
    "transform": ("Plain", "is no torch.nn.Module"),
    "optimizer": ("Plain", "is no torch.optim.Optimizer"),
    "callback": ("Plain", "is no accelerator.runtime.callbacks.base.Callback"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_of_another_kind_is_told_with_its_place(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "other_kinds.py").write_text("\n\nclass Plain:\n    pass\n")
    name, told = OTHERS[kind]
    with pytest.raises(ConfigError) as caught:
        build(kind, {"_target_": f"other_kinds.{name}"}, kind, imports=("other_kinds",))
    assert caught.value.problems == [f"{kind}: other_kinds:{name} (other_kinds.py, line 3) {told}"]


def test_an_optimizer_that_needs_a_closure_is_refused():
    parameters = [nn.Parameter(torch.zeros(1))]
    with pytest.raises(ConfigError, match=r"^optimizer: LBFGS evaluates the loss several times a step, by a closure"):
        build("optimizer", {"name": "LBFGS"}, "optimizer", params=parameters)
    assert isinstance(build("optimizer", {"name": "Adam"}, "optimizer", params=parameters), torch.optim.Adam)


def test_a_name_takes_the_place_of_a_target_that_is_still_open():
    section = {"_target_": "???", "name": "huber", "delta": 2.0}
    assert problems_of("loss", section) == []
    loss = build("loss", section, "loss")
    assert loss(torch.tensor([3.0]), torch.tensor([0.0])).item() == 4.0  # δ(|r| − δ/2)
    assert problems_of("loss", {**section, "dleta": 1}) == [
        "loss.dleta: 'huber' has no such argument — did you mean 'delta'?"
    ]
    with pytest.raises(
        ConfigError, match=r"^loss\._target_ is required: .*; what is registered has a name: loss.name=…$"
    ):
        find("loss", {"_target_": "???"}, "loss")


def test_what_the_run_fills_in_is_not_offered():
    (found,) = problems_of("model", {"name": "mlp", "zzz": 1}, offered=("input_shape", "output_shape"))
    assert found == "model.zzz: 'mlp' has no such argument — choose from: activation, dropout, hidden, layer_norm"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("unknown activation 'gelo'", "model.activation: unknown activation 'gelo'"),
        ("too narrow", "model: too narrow"),
        ("width=3: too narrow", "model.width=3: too narrow"),
        ("width is too small", "model.width is too small"),
        ("'gelo' beside 'wide'", "model: 'gelo' beside 'wide'"),  # two arguments: the section is named
        ("model.width=3: too narrow", "model.width=3: too narrow"),
        ("trainer.accumulate=0: expected more", "trainer.accumulate=0: expected more"),
    ],
)
def test_what_a_constructor_says_has_the_key_before_it(said, told, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "says_so", raising=False)
    (tmp_path / "says_so.py").write_text(
        "from accelerator.errors import ConfigError\n\n\n"
        f"def net(activation, width):\n    raise ConfigError({said!r})\n"
    )
    section = {"_target_": "says_so.net", "activation": "gelo", "width": "wide"}
    with pytest.raises(ConfigError) as caught:
        build("model", section, "model", imports=("says_so",))
    assert caught.value.problems == [told]


def test_mlps_unknown_activation_is_told_by_its_key():
    section = {"name": "mlp", "activation": "gelo", "input_shape": [2], "output_shape": [1]}
    with pytest.raises(ConfigError, match=r"^model\.activation: unknown activation 'gelo' — did you mean 'gelu'"):
        build("model", section, "model")

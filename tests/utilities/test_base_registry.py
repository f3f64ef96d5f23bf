import subprocess
import sys
from pathlib import Path

import pytest
import torch

from accelerator.errors import ConfigError
from accelerator.utilities import base_registry
from accelerator.utilities.base_registry import KINDS, Registry, load, register, registries, registry


def shown(file):
    return Path(file).relative_to(Path.cwd()) if Path(file).is_relative_to(Path.cwd()) else file


@pytest.fixture
def fresh(monkeypatch):
    """The registries as after an import, and again as before when the test is over."""
    registries.cache_clear()
    yield
    registries.cache_clear()


def modules_after(code):
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_listing_every_name_imports_nothing_heavy():
    modules = modules_after(
        "from accelerator.utilities.base_registry import KINDS, registry\n"
        "assert all(registry(kind).names() for kind in KINDS if kind not in ('optimizer', 'scheduler'))"
    )
    heavy = {"torch", "numpy", "hydra", "omegaconf", "mlflow", "rich", "pydantic", "kornia", "torchmetrics", "sklearn"}
    assert not modules & heavy


def test_a_member_is_imported_when_it_is_asked_for():
    code = "from accelerator.utilities.base_registry import registry\nregistry('model').get('mlp')"
    modules = modules_after(code)
    assert {"torch", "domain.cross.model.mlp"} <= modules
    assert "domain.physics.model.fno" not in modules


@pytest.mark.parametrize("kind", KINDS)
def test_every_listed_member_is_there(kind):
    for name in registry(kind).names():
        member = registry(kind).get(name)
        assert callable(member)
        assert registry(kind).path(name) == f"{member.__module__}:{member.__qualname__}"


def test_names_are_sorted_and_leave_the_namespace_out():
    some = Registry("optimizer", "torch.optim")
    some.add("b", "torch.nn:ReLU")
    some.add("a", "torch.nn:GELU")
    assert some.names() == ["a", "b"]


def test_a_path_is_loaded_and_an_object_taken_as_it_is():
    some = Registry("model")

    class Mine:
        pass

    some.add("relu", "torch.nn:ReLU")
    some.add("mine", Mine)
    assert some.get("relu") is load("torch.nn:ReLU") is torch.nn.ReLU
    assert some.get("mine") is Mine


def test_one_name_for_two_objects_is_refused_naming_both():
    some = Registry("loss")
    some.add("x", "a.b:c")
    some.add("x", "a.b:c")
    with pytest.raises(ConfigError, match="two loss components are called 'x': a.b:c and a.b:d"):
        some.add("x", "a.b:d")
    assert some.path("x") == "a.b:c"


def test_an_unknown_name_gives_the_nearest_or_all():
    some = Registry("loss")
    some.add("mse", "a:b")
    some.add("mae", "a:c")
    with pytest.raises(ConfigError, match="^unknown loss 'mes' — did you mean 'mse'"):
        some.get("mes")
    with pytest.raises(ConfigError, match="^unknown loss 'hinge' — choose from: mae, mse$"):
        some.get("hinge")


def test_classes_of_torch_answer_to_their_own_names():
    assert registry("optimizer").get("AdamW") is torch.optim.AdamW
    assert registry("scheduler").get("CosineAnnealingLR") is torch.optim.lr_scheduler.CosineAnnealingLR
    assert registry("optimizer").path("AdamW") == "torch.optim:AdamW"
    with pytest.raises(ConfigError, match=r"unknown optimizer 'AdmW' — did you mean .*'AdamW'"):
        registry("optimizer").get("AdmW")


@pytest.mark.parametrize("name", ["Counter", "Tensor", "Any", "bisect_right", "partial", "math", "_LRScheduler_"])
def test_what_torch_itself_imports_is_no_member(name):
    with pytest.raises(ConfigError, match=f"unknown scheduler '{name}'") as caught:
        registry("scheduler").get(name)
    assert "Counter'" not in str(caught.value).split("—")[-1]


def test_an_unknown_kind_gives_the_nearest():
    with pytest.raises(ConfigError, match="unknown kind of component 'optimiser' — did you mean 'optimizer'"):
        registry("optimiser")


def test_the_decorator_registers_and_returns_its_target(fresh):
    @register("loss", "mine_alone")
    def mine(prediction, target):
        return 0

    assert registry("loss").get("mine_alone") is mine
    assert "mine_alone" in registry("loss").names()
    first = mine.__code__.co_firstlineno
    with pytest.raises(ConfigError) as caught:
        register("loss", "mse")(mine)
    assert str(caught.value) == (
        "two loss components are called 'mse': domain.cross.loss.regression:mse and "
        f"{mine.__module__}:{mine.__qualname__} ({shown(__file__)}, line {first}); rename one"
    )


class Entry:
    def __init__(self, value):
        self.value = value


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ('{"loss": {"theirs": "torch.nn:L1Loss"}}', None),
        ('{"loss": {"mse": "torch.nn:L1Loss"}}', "two loss components are called 'mse'"),
        ('{"losses": {"theirs": "torch.nn:L1Loss"}}', "third_party_domain.*'losses'.*did you mean 'loss'"),
    ],
)
def test_an_entry_point_adds_a_domain(fresh, monkeypatch, tmp_path, table, expected):
    (tmp_path / "third_party_domain.py").write_text(f"COMPONENTS = {table}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "third_party_domain", raising=False)
    known = list(base_registry.entry_points(group=base_registry.ENTRY_POINT_GROUP))
    monkeypatch.setattr(base_registry, "entry_points", lambda group: [*known, Entry("third_party_domain")])
    if expected is None:
        assert registry("loss").get("theirs") is torch.nn.L1Loss
    else:
        with pytest.raises(ConfigError, match=expected):
            registry("loss")

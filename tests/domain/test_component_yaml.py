"""Each component has a YAML that lists its knobs with the defaults of its constructor."""

import inspect
import re

import pytest
from domain_members import CONFIGS, REQUIRED, component, knobs, members, read_yaml

FOLDERS = {"model": "model", "data": "data", "loss": "training_components/loss"}
TRANSFORMS = sorted((CONFIGS / "training_components/transform").glob("*.yaml"))

# Presets: a second name of a component, with these values of its own.
PRESETS = {"multilevel_mlp": {"hidden": [1024, 1024]}}

NAMED = [(kind, name) for kind in FOLDERS for name in members(kind)]
ALL = [(kind, name) for kind in ("model", "data", "loss", "transform", "metric") for name in members(kind)]


def as_yaml(value):
    return list(value) if isinstance(value, tuple) else value


def assert_mirrors_signature(kind, name, values):
    parameters = knobs(kind, name)
    assert set(values) == set(parameters), "the YAML lists every knob, and no other"
    for key, parameter in parameters.items():
        default = REQUIRED if parameter.default is inspect.Parameter.empty else as_yaml(parameter.default)
        expected = PRESETS.get(name, {}).get(key, default)
        assert values[key] == expected, key
        assert type(values[key]) is type(expected), key


@pytest.mark.parametrize(("kind", "name"), NAMED)
def test_yaml_lists_every_knob_with_the_constructors_default(kind, name):
    values = read_yaml(CONFIGS / FOLDERS[kind] / f"{name}.yaml")
    values.pop("defaults", None)
    assert values.pop("name") == name
    assert_mirrors_signature(kind, name, values)


@pytest.mark.parametrize("kind", FOLDERS)
def test_every_yaml_names_a_component(kind):
    names = {file.stem for file in (CONFIGS / FOLDERS[kind]).glob("*.yaml")}
    assert names - {"custom"} == set(members(kind))  # custom.yaml is for what no registry knows


@pytest.mark.parametrize("name", members("loss"))
def test_loss_yaml_is_packaged_at_the_root(name):
    assert (CONFIGS / FOLDERS["loss"] / f"{name}.yaml").read_text().startswith("# @package loss\n")


@pytest.mark.parametrize("file", TRANSFORMS, ids=lambda file: file.stem)
def test_transform_yaml_composes_three_mappings_of_named_entries(file):
    assert file.read_text().startswith("# @package transform\n")
    places = read_yaml(file)
    assert list(places) == ["input", "target", "loss"]
    for entries in places.values():
        for key, entry in entries.items():
            values = dict(entry)
            assert values.pop("name") == key
            assert_mirrors_signature("transform", key, values)


def test_every_transform_stands_in_a_yaml():
    used = {key for file in TRANSFORMS for entries in read_yaml(file).values() for key in entries}
    assert used == set(members("transform"))


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_docstring_gives_an_equation_or_shapes_and_every_knob(kind, name):
    member = component(kind, name)
    text = inspect.getdoc(member) or ""
    assert re.search(r"[=→σΣ‖²|]|\(batch|\(n[,)]", text)
    if kind != "metric":
        documented = re.findall(r"^ {4}(\w+): ", text, re.MULTILINE)
        undocumented = [key for key in knobs(kind, name) if key not in documented]
        assert not undocumented

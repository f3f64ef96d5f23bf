from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelerator.cli.function_config import load_config
from accelerator.errors import ConfigError
from accelerator.experiment import experiment_config
from accelerator.experiment.runner import merged

FLAT = st.dictionaries(st.sampled_from("abc"), st.integers(), max_size=3)


def test_sections_become_a_config_with_the_defaults_of_the_dataclasses():
    config = experiment_config(
        {"experiment": {"seed": 3}, "hyperparameters": {"lr": 0.1}, "tuning": {"n_trials": 7}, "mlflow": {"group": "g"}}
    )
    assert (config.seed, config.device, config.hyperparameters, config.mlflow.group) == (3, "auto", {"lr": 0.1}, "g")
    assert (config.tuning.n_trials, config.tuning.workers, config.mlflow.enabled) == (7, 1, True)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ConfigError) as error:
        experiment_config({"experiment": {"sed": 1}, "tunning": {}, "mlflow": {"url": "x"}, "tuning": 3}, "my.yaml")
    assert error.value.problems == [
        "experiment.sed: there is no such key in my.yaml — did you mean 'seed'?",
        "tunning: there is no such section in my.yaml — did you mean 'tuning'?",
        "mlflow.url: there is no such key in my.yaml — did you mean 'uri'?",
        "tuning=3 in my.yaml: expected a mapping of keys to values",
    ]
    with pytest.raises(ConfigError) as error:
        experiment_config({"experiment": {"seed": "x", "framework": "jax"}, "tuning": {"n_trials": 1.5}}, "my.yaml")
    assert [problem.split(" in my.yaml")[0] for problem in error.value.problems] == [
        "experiment.seed='x'",
        "experiment.framework='jax'",
        "tuning.n_trials=1.5",
    ]
    with pytest.raises(ConfigError) as error:
        experiment_config(
            {"tuning": {"n_trial": 3, "n_trials": 0, "retries": -1, "timeout": 0, "heartbeat": None}}, "my.yaml"
        )
    assert error.value.problems == [
        "tuning.n_trial: there is no such key in my.yaml — did you mean 'n_trials'?",
        "tuning.n_trials=0 in my.yaml: expected at least 1",
        "tuning.retries=-1 in my.yaml: expected at least 0",
        "tuning.timeout=0 in my.yaml: expected a number above 0, or null",
    ]


def test_a_file_and_the_command_line_are_joined(tmp_path, monkeypatch):
    monkeypatch.setenv("PLACE", "here")
    file = tmp_path / "config.yaml"
    file.write_text("experiment: {name: '${oc.env:PLACE}'}\nhyperparameters: {lr: 0.1, model: {depth: 2}}\ntuning:\n")
    config = load_config(file, ["hyperparameters.lr=1e-3", "hyperparameters.model.width=8"])
    assert config.name == "here"
    assert config.hyperparameters == {"lr": 1e-3, "model": {"depth": 2, "width": 8}}
    assert load_config(None, ["experiment.seed=4"]).seed == 4


def test_what_is_typed_takes_the_place_of_all_that_the_file_says_of_the_key(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(
        "hyperparameters: {optimizer: {name: sgd, lr: 1}}\n"
        "tuning: {sampler: {name: tpe, seed: 1}, space: {lr: {uniform: [0, 1]}, optimizer.lr: {uniform: [0, 1]}}}\n"
    )

    def space(*overrides):
        return load_config(file, list(overrides)).tuning.space

    one = {"uniform": [0, 1]}
    assert space("tuning.space={x: {int: [1, 2]}}") == {"x": {"int": [1, 2]}}
    assert space("tuning.space={}") == {}
    assert space("tuning.space.lr={log_uniform: [1, 2]}") == {"lr": {"log_uniform": [1, 2]}, "optimizer.lr": one}
    assert space("tuning.space.optimizer.lr={int: [1, 2]}") == {"lr": one, "optimizer.lr": {"int": [1, 2]}}
    assert space("tuning.space.x={int: [1, 2]}") == {"lr": one, "optimizer.lr": one, "x": {"int": [1, 2]}}
    assert space("~tuning.space.optimizer.lr") == {"lr": one}
    assert load_config(file, ["tuning.sampler={name: random}"]).tuning.sampler == {"name": "random"}
    assert load_config(file, ["hyperparameters.optimizer={lr: 2}"]).hyperparameters == {"optimizer": {"lr": 2}}
    with pytest.raises(ConfigError, match="~tuning.space.lrr: there is nothing to take out"):
        space("~tuning.space.lrr")


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("{uniform:[0.1,0.2]}", {"uniform": [0.1, 0.2]}),
        ("{a:1}", {"a": 1}),
        ("{a: {b:[1e-4, x]}, c: null}", {"a": {"b": [1e-4, "x"]}, "c": None}),
        ("'a, b=c'", "a, b=c"),
        ("012", "012"),
        ("yes", "yes"),
        ("", ""),
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("${experiment.seed}", 3),
    ],
)
def test_what_is_typed_is_read_as_accelerator_train_reads_it(typed, value):
    for sign in ("", "+", "++"):
        config = load_config(None, [f"{sign}hyperparameters.x={typed}", "experiment.seed=3"])
        assert config.hyperparameters == {"x": value}


def test_a_key_is_taken_out_if_it_has_the_value_that_is_said(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("hyperparameters: {x: {a: 1}, y: 2}\n")
    assert load_config(file, ["~hyperparameters.x={a:1}"]).hyperparameters == {"y": 2}
    with pytest.raises(ConfigError) as error:
        load_config(file, ["~hyperparameters.y=3"])
    assert error.value.problems == [
        "~hyperparameters.y=3: hyperparameters.y has another value; ~hyperparameters.y takes it out, whatever it is"
    ]


def test_what_is_typed_and_cannot_be_used_is_told_at_once_and_not_of_the_file(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("hyperparameters: {x: 1}\n")
    expected = "expected section.key=value, as in hyperparameters.lr=0.1"
    told = {
        "hyperparameters.x=[1": "'hyperparameters.x=[1' cannot be read: no viable alternative at input '[1'; write "
        "key=value, and quote what has spaces or commas",
        "hyperparameters.x=1,5": "hyperparameters.x=1,5 is a sweep: a list is written [1, 5], a number 1.5, and text "
        "'1,5' in quotes",
        "lr": f"'lr': {expected}",
        "hyperparameters@x=1": f"'hyperparameters@x=1': {expected}",
        "=3": f"'=3': {expected}",
    }
    with pytest.raises(ConfigError) as error:
        load_config(file, list(told))
    assert error.value.problems == list(told.values())
    for override, sentence in [
        ("hyperparameters={null:1}", "hyperparameters={null:1}: Incompatible key type 'NoneType'"),
        ("hyperparameters.x=${y}", "the command line: Interpolation key 'y' not found"),
    ]:
        with pytest.raises(ConfigError) as error:
            load_config(file, [override])
        assert error.value.problems == [sentence]
    with pytest.raises(ConfigError) as error, pytest.warns(UserWarning, match="extend_list"):
        load_config(file, ["hyperparameters.x=extend_list(1)"])
    assert error.value.problems == ["hyperparameters.x=extend_list(1): write the whole list, hyperparameters.x=[…]"]


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("tuning.space=3", "tuning.space=3 in the command line: input should be a valid dictionary"),
        ("tuning=3", "tuning=3 in the command line: expected a mapping of keys to values"),
        ("experiment=", "experiment='' in the command line: expected a mapping of keys to values"),
        ("tuning.workers=0", "tuning.workers=0 in the command line: expected at least 1"),
        ("tuning.timeout=0", "tuning.timeout=0 in the command line: expected a number above 0, or null"),
        ("experiment.sed=3", "experiment.sed: there is no such key in the command line — did you mean 'seed'?"),
        ("tunning.space.x=3", "tunning: there is no such section in the command line — did you mean 'tuning'?"),
    ],
)
def test_a_mistake_is_told_of_where_it_stands(tmp_path, typed, told):
    file = tmp_path / "config.yaml"
    file.write_text("mlflow: {url: x}\ntuning: {space: {}}\n")
    of_file = f"mlflow.url: there is no such key in {file} — did you mean 'uri'?"
    with pytest.raises(ConfigError) as error:
        load_config(file, [typed])
    assert sorted(error.value.problems) == sorted([of_file, told])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a: [", ", line 2: not valid YAML: while parsing a flow node did not find expected node content"),
        ("- 1\n", ", line 1: a list: a config file holds a mapping, key: value"),
        ("", ", line 1: the file is empty; write {} if nothing is meant to be set"),
        ("hyperparameters: {lr: 1,5}", ", line 1: YAML reads 1,5 as two entries: write 1.5, or [1, 5]"),
        (
            "hyperparameters: {x: 012}",
            ', line 1: YAML reads 012 as 10, an octal number: write 12, or "012" for the text',
        ),
        ("hyperparameters: {x: no}", ', line 1: YAML reads no as false: write false, or "no" for the word'),
        ("hyperparameters:\n\tx: 1", ", line 2: not valid YAML: a tab in column 1: indent by spaces"),
        (
            "hyperparameters:\n  x: 1\n  x: 2",
            ", line 3: the key 'x' stands in line 2 already; keep one of the two",
        ),
        (
            "experiment: {name: '${oc.env:NO_SUCH_VARIABLE}'}",
            ": KeyError raised while resolving interpolation: \"Environment variable 'NO_SUCH_VARIABLE' not found\"",
        ),
        (None, ": No such file or directory; give the config's YAML file, or none"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_line(tmp_path, monkeypatch, content, told):
    monkeypatch.chdir(tmp_path)
    file = Path("config.yaml")
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError) as error:
        load_config(file, ["hyperparameters.y=1"])
    assert error.value.problems == [f"config.yaml{told}"]


def test_a_file_that_is_no_mapping_to_merge_is_told(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("hyperparameters: {<<: 3}")
    with pytest.raises(ConfigError, match="config.yaml is not valid YAML: while constructing a mapping"):
        load_config(file, [])


def test_a_key_without_a_blank_behind_its_colon_is_told():
    values = {"hyperparameters": {"lr:0.1": None, "model": {"depth:2": None}, "a:b": 1, "c": None}}
    with pytest.raises(ConfigError) as error:
        experiment_config(values, "my.yaml")
    assert error.value.problems == [
        "hyperparameters.lr:0.1 in my.yaml: YAML reads a key 'lr:0.1' with no value; write a blank, lr: 0.1",
        "hyperparameters.model.depth:2 in my.yaml: YAML reads a key 'depth:2' with no value; write a blank, depth: 2",
    ]


def test_a_dotted_key_reaches_into_a_nested_mapping():
    values = {"optimizer": {"lr": 1, "name": "adam"}, "a.b": 0}
    assert merged(values, {"optimizer.lr": 2, "a.b": 1, "new.key": 3}) == {
        "optimizer": {"lr": 2, "name": "adam"},
        "a.b": 1,
        "new": {"key": 3},
    }
    assert values == {"optimizer": {"lr": 1, "name": "adam"}, "a.b": 0}


@given(FLAT, FLAT)
def test_flat_mappings_are_updated(values, others):
    assert merged(values, others) == values | others

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
    ("content", "overrides", "told"),
    [
        ("a: [", [], "is not valid YAML"),
        ("- 1\n", [], "holds a list"),
        ("experiment: {name: '${oc.env:NO_SUCH_VARIABLE}'}", [], "NO_SUCH_VARIABLE"),
        ("", ["lr"], "'lr': expected section.key=value"),
        (None, [], "No such file or directory; give the config's YAML file, or none"),
    ],
)
def test_a_file_that_is_none_is_told(tmp_path, content, overrides, told):
    file = tmp_path / "config.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError) as error:
        load_config(file, overrides)
    assert told in str(error.value)


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

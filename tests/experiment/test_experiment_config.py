import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelerator.cli.run_command import load_config
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
        "tunning: my.yaml has no such section — did you mean 'tuning'?",
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
    with pytest.raises(ConfigError, match="n_trials and tuning.workers: expected at least 1"):
        experiment_config({"tuning": {"n_trials": 0}})


def test_a_file_and_the_command_line_are_joined(tmp_path, monkeypatch):
    monkeypatch.setenv("PLACE", "here")
    file = tmp_path / "config.yaml"
    file.write_text("experiment: {name: '${oc.env:PLACE}'}\nhyperparameters: {lr: 0.1, model: {depth: 2}}\ntuning:\n")
    config = load_config(file, ["hyperparameters.lr=1e-3", "hyperparameters.model.width=8"])
    assert config.name == "here"
    assert config.hyperparameters == {"lr": 1e-3, "model": {"depth": 2, "width": 8}}
    assert load_config(None, ["experiment.seed=4"]).seed == 4


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

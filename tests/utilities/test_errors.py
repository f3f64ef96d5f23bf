import pytest

from accelerator.errors import (
    AcceleratorError,
    CheckpointError,
    ConfigError,
    DataError,
    NonFiniteLossError,
    RunDirectoryError,
    UserError,
    did_you_mean,
)


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("mpl", ["mlp", "cnn", "fno"], " — did you mean 'mlp'?"),
        ("mlp", ["mlp2", "mlp1", "cnn"], " — did you mean 'mlp2' or 'mlp1'?"),
        ("zzz", ["b", "a", "a"], " — choose from: a, b"),
        ("zzz", [], ""),
        ("", ["b", "a"], " — choose from: a, b"),
    ],
)
def test_the_nearest_names_or_all_when_none_is_near(word, known, expected):
    assert did_you_mean(word, known) == expected


def test_no_more_names_than_asked_for():
    assert did_you_mean("abcd", ["abc", "abcde", "abd", "acd"], most=1).count("'") == 2
    assert did_you_mean("zzz", [f"n{i:02}" for i in range(20)], show=2) == " — choose from: n00, n01, … (20 in all)"
    assert did_you_mean("zzz", ["a"], show=0) == ""


def test_a_config_error_holds_its_mistakes_apart_and_prints_them_together():
    error = ConfigError(["a is wrong", "b is wrong"])
    assert error.problems == ["a is wrong", "b is wrong"]
    assert str(error) == "a is wrong\nb is wrong"
    assert ConfigError("one").problems == ["one"]


@pytest.mark.parametrize("kind", [ConfigError, DataError, CheckpointError, RunDirectoryError])
def test_what_the_user_can_mend_exits_with_3(kind):
    assert issubclass(kind, UserError)
    assert kind("x").exit_code == 3


def test_what_nobody_did_wrong_exits_with_1():
    assert NonFiniteLossError("x").exit_code == AcceleratorError("x").exit_code == 1
    assert not issubclass(NonFiniteLossError, UserError)

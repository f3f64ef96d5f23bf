import sys

import pytest
import train_functions
from train_functions import parabola

from accelerator.errors import ConfigError
from accelerator.experiment import TrainFunctionError, TrainingContext, find_train_function
from accelerator.experiment.train_function import call, check_train_function, identity


def context(tmp_path, **hyperparameters):
    class Silent:
        def __getattr__(self, name):
            return lambda *args: None

    return TrainingContext(hyperparameters, Silent(), checkpoint_dir=tmp_path)


def test_a_function_is_found_by_module_or_file(tmp_path, monkeypatch):
    assert find_train_function("train_functions:parabola") is parabola
    (tmp_path / "lonely_part.py").write_text("VALUE = 7\n")
    (tmp_path / "lonely_function.py").write_text("from lonely_part import VALUE\ndef train(ctx): return VALUE\n")
    monkeypatch.setattr("sys.path", list(sys.path))
    assert find_train_function(f"{tmp_path}/lonely_function.py:train")(None) == 7


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("train_functions", "expected module:function or file.py:function"),
        ("train_functions:", "expected module:function"),
        ("train_functions:parabolla", "train_functions has no 'parabolla' — did you mean 'parabola'?"),
        ("train_functoins:parabola", "there is no module 'train_functoins' here"),
        ("nowhere.py:train", "there is no file "),
        ("train_functions:CONSTANT", "it is of type int, no function; a train function takes one argument"),
        ("train_functions:two", "two(a, b) cannot be called with one argument (missing a required argument: 'b');"),
        ("train_functions:keyword_only", "too many positional arguments"),
        ("train_functions:later", "a generator or a coroutine"),
    ],
)
def test_what_is_no_train_function_is_told(name, told):
    with pytest.raises(ConfigError) as error:
        find_train_function(name)
    assert f"--train-fn {name}: " in str(error.value)
    assert told in str(error.value)


def test_a_module_that_fails_is_told_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_function.py").write_text("1 / 0\n")
    (tmp_path / "missing_part.py").write_text("import no_such_thing_at_all\n")
    with pytest.raises(
        ConfigError, match=r"broken_function could not be imported: ZeroDivisionError: .*function.py, line 1\)$"
    ):
        find_train_function("broken_function:train")
    told = r"missing_part could not be imported: No module named 'no_such_thing_at_all' \(.*missing_part.py, line 1\)$"
    with pytest.raises(ConfigError, match=told):
        find_train_function("missing_part:train")


def test_a_function_is_known_by_its_place_and_name(tmp_path, monkeypatch):
    (tmp_path / "known_one.py").write_text("def train(ctx): ...\n")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "known_two.py").write_text("def train(ctx): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(tmp_path), *sys.path])
    assert identity(find_train_function("known_one:train")) == "known_one:train"
    assert identity(find_train_function("known_one.py:train")) == "known_one:train"
    below = find_train_function("below/known_two.py:train")
    assert identity(below) == "below.known_two:train"
    monkeypatch.chdir(tmp_path / "below")
    assert identity(below) == "known_two:train"
    assert identity(pytest.raises) == "_pytest.raises:raises"  # of a package that is installed
    assert identity(parabola) == f"{train_functions.__file__}:parabola"


def test_objects_that_can_be_called_are_functions_too():
    class Trains:
        def __call__(self, ctx):
            return ctx

    check_train_function(Trains(), "it")
    with pytest.raises(ConfigError, match=r"it: Trains\(\) cannot be called with one argument \(too many"):
        check_train_function(Trains, "it")


def test_what_a_framework_measures_becomes_plain_numbers(tmp_path):
    result = call(parabola, context(tmp_path, x=3.0))
    assert type(result.primary_metric) is float
    assert result.primary_metric == 1.125
    assert result.metrics == {"x": 1.0}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nothing", "nothing() returned None: expected return TrainingResult(primary_metric=…)"),
        ("a_number", "a_number() returned what is of type float: expected"),
        ("not_a_number", "not_a_number() returned primary_metric=nan (loss)"),
        ("text", "text() returned primary_metric='low': expected a number"),
        ("no_model", "no_model() returned best_model_path=/nowhere/best.pt: there is no such file"),
    ],
)
def test_what_is_no_result_is_told(tmp_path, name, told):
    with pytest.raises(TrainFunctionError) as error:
        call(getattr(train_functions, name), context(tmp_path))
    assert told in str(error.value)


def test_a_forked_child_that_returns_or_raises_ends_there(tmp_path, capfd):
    assert call(train_functions.forking, context(tmp_path)).primary_metric == 2.0

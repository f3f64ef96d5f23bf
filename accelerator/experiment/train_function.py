"""The user's train function: found by its name, called with care, its answer looked at."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import numbers
import os
import sys
from pathlib import Path
from typing import Any

from accelerator.errors import ConfigError, did_you_mean
from accelerator.experiment.protocols import TrainFunction, TrainFunctionError, TrainingContext, TrainingResult
from accelerator.utilities.places import where_raised

_EXPECTED = "a train function takes one argument, the TrainingContext, and returns a TrainingResult"


def find_train_function(name: str) -> TrainFunction:
    """The function called ``module:function`` or ``file.py:function``; its module is imported.

    Raises:
        ConfigError: there is none of that name, or it cannot be called with one argument.
    """
    module_name, colon, function_name = name.rpartition(":")
    if not colon or not module_name or not function_name:
        raise ConfigError(
            f"--train-fn {name}: expected module:function or file.py:function, as in my_module:train_model"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # what TensorFlow says while it is imported is for its makers
    module = _module(module_name, name)
    function: Any = module
    for part in function_name.split("."):
        if not hasattr(function, part):
            functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            raise ConfigError(
                f"--train-fn {name}: {module_name} has no '{function_name}'{did_you_mean(function_name, functions)}"
            )
        function = getattr(function, part)
    check_train_function(function, f"--train-fn {name}")
    return function


def check_train_function(function: Any, said: str) -> None:
    """See whether it can be called with one argument.

    Raises:
        ConfigError: it cannot.
    """
    if not callable(function):
        raise ConfigError(f"{said}: it is of type {type(function).__name__}, no function; {_EXPECTED}")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise ConfigError(f"{said}: it is a generator or a coroutine; {_EXPECTED}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins tell nothing
        return
    try:
        signature.bind(None)
    except TypeError as error:
        raise ConfigError(
            f"{said}: {_name(function)}{signature} cannot be called with one argument ({error}); {_EXPECTED}"
        ) from error


def call(function: TrainFunction, context: TrainingContext) -> TrainingResult:
    """Call it, and look at what it returns.

    A child process that it forked and that returns, or fails, ends here: the record is the parent's.

    Raises:
        TrainFunctionError: it returned no result, or a metric that is no finite number.
        Exception: whatever it raised.
    """
    process = os.getpid()
    try:
        result = function(context)
    except BaseException:
        if os.getpid() != process:
            os._exit(1)
        raise
    if os.getpid() != process:
        os._exit(0)
    name = f"{_name(function)}()"
    if not isinstance(result, TrainingResult):
        given = "None" if result is None else f"what is of type {type(result).__name__}"
        raise TrainFunctionError(f"{name} returned {given}: expected return TrainingResult(primary_metric=…)")
    return _checked(result, name)


def identity(function: TrainFunction) -> str:
    """Which function it is, for telling it from others: by its dotted name as seen from the working directory.

    A function of a file that is neither below it nor installed is told by the file's path. What it does is not looked
    at: mending it makes no other of it.
    """
    module = sys.modules.get(getattr(function, "__module__", ""))
    place = getattr(module, "__name__", "")
    if (file := getattr(module, "__file__", None)) is not None:
        path = Path(file).absolute()
        if path.is_relative_to(Path.cwd()) and not path.is_relative_to(sys.prefix):
            place = ".".join(path.relative_to(Path.cwd()).with_suffix("").parts).removesuffix(".__init__")
        elif not path.is_relative_to(sys.prefix):
            place = str(path)
    return f"{place}:{getattr(function, '__qualname__', type(function).__name__)}"


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _checked(result: TrainingResult, name: str) -> TrainingResult:
    """The result with plain numbers in it: what a framework measures is an array of its own."""
    metrics = {}
    for key, value in {"primary_metric": result.primary_metric, **result.metrics}.items():
        try:
            metrics[key] = value if isinstance(value, numbers.Real) else float(value)
        except (TypeError, ValueError):
            raise TrainFunctionError(f"{name} returned {key}={value!r}: expected a number") from None
    primary = float(metrics.pop("primary_metric"))
    if not math.isfinite(primary):
        raise TrainFunctionError(
            f"{name} returned primary_metric={primary} ({result.primary_metric_name}), which compares with nothing: "
            "expected a finite number"
        )
    path = result.best_model_path
    if path is not None and not Path(path).exists():
        raise TrainFunctionError(f"{name} returned best_model_path={path}: there is no such file or folder")
    result.primary_metric, result.metrics = primary, {key: float(value) for key, value in metrics.items()}
    return result


def _module(module_name: str, said: str) -> Any:
    path = Path(module_name)
    try:
        if path.suffix == ".py":
            if not path.is_file():
                raise ConfigError(f"--train-fn {said}: there is no file {path.absolute()}")
            # Its neighbours are found as `python file.py` would find them; workers import it by its own name.
            sys.path.insert(0, str(path.absolute().parent))
            return importlib.import_module(path.stem)
        return importlib.import_module(module_name)
    except ConfigError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and module_name.split(".")[0] == error.name.split(".")[0]:
            beside = [path.stem for path in Path.cwd().glob("*.py")]
            near = did_you_mean(module_name, beside) if beside else ""
            raise ConfigError(
                f"--train-fn {said}: there is no module '{module_name}' here or in this environment{near}"
            ) from error
        where = where_raised(error)
        raise ConfigError(f"--train-fn {said}: {module_name} could not be imported: {error} {where}") from error
    except Exception as error:
        told = f"{type(error).__name__}: {error} {where_raised(error)}".rstrip()
        raise ConfigError(f"--train-fn {said}: {module_name} could not be imported: {told}") from error

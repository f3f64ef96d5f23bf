"""A pipeline's config: the order of its steps, and every mistake told at once, by name."""

import pytest

from accelerator.errors import ConfigError
from accelerator.pipeline.plan import read

TRAIN = {"run": "train"}


def problems(**values):
    with pytest.raises(ConfigError) as told:
        read("mine", values)
    return told.value.problems


def problems_of(**steps):
    return problems(steps={name.rstrip("_"): step for name, step in steps.items()})


def test_steps_run_after_what_they_need_and_else_as_they_are_written():
    pipeline = read(
        "mine",
        {
            "steps": {
                "report": {"run": "evaluate", "load_from": "tune"},
                "look": {"run": "analyze_data"},
                "tune": {"run": "train", "load_from": "train:last", "needs": ["look"]},
                "train": TRAIN,
            }
        },
    )
    assert list(pipeline.steps) == ["look", "train", "tune", "report"]
    assert pipeline.steps["tune"].needs == ("look", "train")
    assert (pipeline.steps["tune"].source, pipeline.steps["tune"].choice) == ("train", "last")
    assert (pipeline.steps["report"].source, pipeline.steps["report"].choice) == ("tune", None)
    assert pipeline.until("train") == ["look", "train"]


def test_previous_is_the_nearest_step_above_that_makes_a_model():
    steps = {
        "a": TRAIN,
        "b": TRAIN,
        "look": {"run": "analyze_data"},
        "c": {"run": "export", "load_from": "previous:best"},
    }
    step = read("mine", {"steps": steps}).steps["c"]
    assert (step.source, step.choice, step.needs, step.out) == ("b", "best", ("b",), "model.safetensors")


def test_who_loads_a_model_has_the_shared_overrides_from_the_step_that_made_it():
    values = {
        "overrides": ["experiment=digits"],
        "steps": {"train": {"run": "train", "overrides": ["seed=1"]}, "tune": {"run": "train", "load_from": "train"}},
    }
    steps = read("mine", values, {"all": ["seed=2"], "tune": ["seed=3"]}).steps
    assert steps["train"].overrides == ("experiment=digits", "seed=1", "seed=2")
    assert steps["tune"].overrides == ("seed=2", "seed=3")


def test_all_mistakes_are_told_at_once():
    told = problems(
        stpes=1,
        on_error="wait",
        parallel=0,
        overrides="seed=1",
        steps={
            "train": {"run": "trian", "overides": []},
            "test": {"run": "evaluate"},
            "tune": {"load_from": "train"},
            "a b": TRAIN,
            "previous": TRAIN,
            "look": {"run": "analyze_data", "needs": ["tset"], "out": "x.onnx"},
            "out": {"run": "export", "load_from": "look", "out": "model.pth", "overrides": ["seed=1"]},
            "last": {"run": "evaluate", "load_from": "train:newest"},
            "first": {
                "run": "train",
                "overrides": ["--debug", "seed 1", "hydra.run.dir=x", "load=y"],
                "load_from": "train",
            },
        },
    )
    assert told == [
        "there is no key 'stpes' in a pipeline — did you mean 'steps'?",
        "on_error=wait: expected stop or continue",
        "parallel=0: expected a number of steps, at least 1",
        "overrides=seed=1: expected a list, [seed=1]",
        "steps.train.overides: there is no such key of a step — did you mean 'overrides'?",
        "steps.train.run=trian: there is no such step — did you mean 'train'?",
        "steps.test: evaluate needs a model; say load_from: the name of a step that makes one, or previous",
        "steps.tune: run is missing — choose from: accelerate, analyze_data, analyze_model, evaluate, export, train",
        "steps.a b: 'a b' cannot name a step: it is the name of a folder: letters, digits, - and _",
        "steps.previous: 'previous' cannot name a step: it is taken",
        "steps.look.needs: there is no step 'tset' — did you mean 'test'?",
        "steps.look.out=x.onnx: only an export writes a file of your choice; analyze_data does not",
        "steps.out.load_from=look: step 'look' makes no model; train, tune, a b, previous, first would",
        "steps.out.overrides: export composes no config; it has none",
        "steps.out.out=model.pth: expected a file's name that ends in .safetensors, .onnx or .pt2",
        "steps.last.load_from=train:newest: 'newest' is no checkpoint of a step; expected best or last",
        "steps.first.overrides: '--debug' is no override; write key=value",
        "steps.first.overrides: 'seed 1' is no override; write key=value",
        "steps.first.overrides: hydra.run.dir=x: the pipeline itself says that to its steps; leave it out",
        "steps.first.overrides: load=y, and load_from=train; one of them says it",
    ]


@pytest.mark.parametrize(
    ("steps", "circle"),
    [
        ({"a": {"run": "train", "needs": ["a"]}}, "a → a"),
        ({"a": {"run": "train", "load_from": "b"}, "b": {"run": "train", "needs": ["a"]}}, "a → b → a"),
        (
            {
                "first": TRAIN,
                "a": {"run": "train", "needs": ["c", "first"]},
                "b": {"run": "train", "needs": ["a"]},
                "c": {"run": "train", "needs": ["b"]},
            },
            "a → c → b → a",
        ),
    ],
)
def test_a_circle_is_shown(steps, circle):
    assert problems(steps=steps) == [f"steps need one another in a circle, and none can be the first: {circle}"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "the pipeline 'mine' has no steps; name them below steps:, as in train: {run: train}"),
        ({"steps": {"a": "train"}}, "steps.a=train: expected a mapping such as {run: train}"),
        (
            {"steps": {"a": {"run": "train", "overrides": [{"seed": 1}]}}},
            "steps.a.overrides=[{'seed': 1}]: expected a list of words; quote each as in ['seed=1']",
        ),
        (
            {"steps": {"a": {"run": "export", "load_from": "previous"}}},
            "steps.a.load_from=previous: no step above it makes a model",
        ),
        (
            {"steps": {"a": {"run": "evaluate", "load_from": "trian"}, "train": TRAIN}},
            "steps.a.load_from=trian: there is no step 'trian' — did you mean 'train'?",
        ),
    ],
)
def test_a_mistake_is_told(values, told):
    assert problems(**values) == [told]


def test_an_override_for_a_step_that_is_not_there_is_told():
    with pytest.raises(ConfigError, match=r"^trian:seed=1: there is no step 'trian' — did you mean 'train'\?$"):
        read("mine", {"steps": {"train": TRAIN}}, {"trian": ["seed=1"]})

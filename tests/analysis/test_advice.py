"""What is wrong with the data is told by severity, with what to do; what is right is not complained of."""

import torch
from toy_problem import Items

from accelerator.analysis.advice import advise, suggest
from accelerator.analysis.data_report import describe
from accelerator.analysis.look import Options, look
from accelerator.analysis.report import Report

CONFIG = {"loss": {"name": "mse"}, "metrics": {}, "transform": {"input": {}, "target": {}}, "model": {"name": "mlp"}}


def told(splits, *, takes=(), typed=(), names=None, config=CONFIG, **options):
    report = Report("data")
    looked = look(splits, Options(**options), names)
    describe(looked, report)
    advise(looked, report, {"name": "own"}, takes)
    suggest(looked, report, config, typed)
    report.sort()
    return report


def found(report, *severities):
    return [finding.text for finding in report.findings if finding.severity in severities]


def numbers(train=400, val=100, test=100, width=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    counts = {"train": train, "val": val, "test": test}
    return {
        name: (torch.randn(count, width, generator=generator), torch.randn(count, 1, generator=generator))
        for name, count in counts.items()
    }


def labelled(*counts):
    """Samples with these numbers of each class, in train, val and test."""
    generator = torch.Generator().manual_seed(0)
    splits = {}
    for name, of_class in zip(("train", "val", "test"), counts, strict=True):
        labels = torch.repeat_interleave(torch.arange(len(of_class)), torch.tensor(of_class))
        splits[name] = (torch.randn(len(labels), 9, generator=generator), labels)
    return splits


def test_good_data_is_not_complained_of():
    report = told(numbers())
    assert report.findings == []
    assert report.metrics["analysis/errors"] == report.metrics["data/copies"] == report.metrics["data/leaks"] == 0
    assert report.metrics["data/train/samples"] == 400


def test_gaps_are_errors_with_their_place_and_the_remedy_where_there_is_one():
    splits = numbers()
    splits["val"][0][[3, 8], 1] = torch.nan
    splits["val"][0][8, 4] = torch.inf
    text = (
        "the val inputs hold 2 NaN and 1 infinite value in 2 samples (column 1, column 4; samples 3, 8): training "
        "refuses them"
    )
    report = told(splits, takes=("missing",))
    assert found(report, "error") == [text]
    assert report.findings[0].overrides == ("data.missing=drop",)
    assert "data.missing=drop" in report.suggestion
    assert told(splits).findings[0].overrides == ()
    assert report.metrics["data/non_finite_samples"] == 2


def test_a_leak_is_an_error_where_it_is_more_than_a_hundredth_of_the_split():
    splits = numbers()
    for part in (0, 1):
        splits["test"][part][5] = splits["train"][part][7]
    (text,) = found(told(splits), "warning")
    assert text.startswith("1 sample of test (1 %) is in train too (test 5 = train 7): what test measures is partly")
    for part in (0, 1):
        splits["test"][part][6] = splits["train"][part][9]
    errors = found(told(splits), "error")
    assert len(errors) == 1
    assert errors[0].startswith("2 samples of test (2 %) are in train too")


def test_copies_and_contradictions():
    splits = numbers()
    splits["train"][0][10] = splits["train"][0][11]
    report = told(splits)
    assert found(report, "note")[0].startswith(
        "1 sample of train (0.25 %) repeat the inputs of others (samples 10, 11)"
    )
    assert found(report, "warning") == [
        "1 input has more than one target (train 10 and train 11): no network can be right on all of them"
    ]
    assert report.metrics["data/contradictions"] == 1


def test_classes_missing_unseen_and_unbalanced():
    report = told(labelled([300, 20, 100, 0], [40, 0, 40, 0], [40, 30, 40, 1]))
    assert found(report, "error") == ["test has classes that train has not: 3"]
    texts = found(report, "warning")
    assert texts[0] == "val has no sample of class 1"
    assert texts[1] == "classes are unbalanced: class 0 has 300 samples in train, class 1 has 20"
    assert report.findings[2].overrides == ("loss.class_weights=[0.4667,7,1.4,1]",)
    assert found(told(labelled([50], [10], [10])), "error") == [
        "train has a single class, 0: there is nothing to learn"
    ]
    negative = labelled([50, 50], [40, 40], [40, 40])
    negative["train"][1].sub_(1)
    assert "the train labels go down to -1: class labels start at 0" in found(told(negative), "error")


def test_channels_that_say_nothing_or_the_answer():
    splits = numbers()
    for inputs, targets in splits.values():
        inputs[:, 2] = 5.0
        inputs[:, 3] = 3 * inputs[:, 0] - 1
        inputs[:, 4] = 2 * targets[:, 0] + 1
        inputs[:, 5] = 1e6 + inputs[:, 5]
    names = {"inputs": [*"abcdefghij"], "targets": ["y"]}
    texts = found(told(splits, names=names), "warning")
    assert texts[0] == "the inputs do not change in train: c = 5"
    assert texts[1].startswith("the inputs of f lie around 1e+06 and differ by ")
    assert "float32 keeps about 1 digit;" in texts[1]
    assert texts[2] == "input a is input d times a number plus another (correlation 1): one is enough"
    assert texts[3].startswith("input e is target y times a number plus another (correlation 1): the network sees the")


def test_splits_of_another_distribution():
    splits = numbers()
    splits["test"][0][:, 6] += 2.0
    (text,) = found(told(splits), "warning")
    assert text.startswith("the inputs of test are not like those of train: column 6 has median ")


def test_outliers_are_told_once_for_all_splits_and_by_the_farthest():
    splits = numbers()
    splits["train"][0][4, 2], splits["val"][0][9, 3] = 40.0, -90.0
    (text,) = found(told(splits), "warning")
    assert text.startswith(
        "the inputs hold outliers in 1 sample of train, 1 sample of val: the farthest is -90 in column 3, val sample 9"
    )
    assert told(splits, outlier=0.0).findings == []


def test_nearly_equal_samples_across_splits_are_a_warning():
    splits = numbers()
    splits["test"][0][5] = splits["train"][0][7] + 1e-3
    (text,) = found(told(splits), "warning")
    assert text.startswith("1 pair of samples is nearly the same, 1 of them across splits (among 600 samples; nearest:")
    assert told(splits, near_duplicates=0).findings == []
    assert told(splits, tolerance=1e-6).findings == []


def test_unreadable_samples_and_small_splits():
    class Torn(Items):
        def __getitem__(self, index):
            if index in (3, 5):
                raise OSError(f"scan {index} is torn")
            return super().__getitem__(index)

    splits = numbers(val=12)
    del splits["test"]
    splits["train"] = Torn(*splits["train"])
    report = told(splits)
    assert found(report, "error") == ["2 samples of train cannot be read; the first, 3, raised OSError: scan 3 is torn"]
    assert found(report, "warning") == ["there is no test split: nothing tells how good a network is"]
    assert found(report, "note") == ["val has only 12 samples: what is measured on it is mostly chance"]


def test_suggestions_name_what_fits_the_data_and_nothing_that_was_typed():
    assert told(numbers()).suggestion == ("model=mlp",)
    scaled = {name: (100 * x, y) for name, (x, y) in numbers().items()}
    assert told(scaled).suggestion == ("model=mlp", "transform=normalize")
    assert told(scaled, typed=("model", "transform")).suggestion == ()
    flowers = labelled([50, 50], [40, 40], [40, 40])
    assert told(flowers).suggestion == ("model=mlp", "loss=cross_entropy", "metrics=classification")
    images = {name: (x[:, :1, None, None] * torch.rand(len(x), 1, 9, 9), y) for name, (x, y) in flowers.items()}
    assert told(images).suggestion[0] == "model=cnn"
    grid = torch.linspace(0, 2 * torch.pi, 33)[:-1]
    waves = {
        name: torch.sin(3 * grid)[None, None, None] * torch.rand(n, 1, 32, 1)
        for name, n in (("train", 90), ("val", 40))
    }
    fields = {name: (field, field) for name, field in waves.items()}
    assert told(fields).suggestion[:2] == ("model=fno", "model.modes=16")
    tokens = {
        name: (torch.randint(0, 9, (n, 12)), torch.randint(0, 9, (n, 12))) for name, n in (("train", 90), ("val", 40))
    }
    assert told(tokens).suggestion == ("model=transformer", "loss=cross_entropy", "metrics=language")
    unseen = {name: Items(*pair) for name, pair in flowers.items()}
    assert "model.output_shape=[2]" in told(unseen).suggestion


def test_everything_is_plain_in_json():
    import json

    splits = numbers()
    splits["train"][0][0, 0] = torch.nan
    splits["train"][0][:, 1] = torch.nan
    text = json.dumps(told(splits).json(), allow_nan=False)
    values = json.loads(text)
    assert values["inputs"]["train"]["mean"][1] == "nan"
    assert values["inputs"]["train"]["samples_not_finite"] == 400
    assert values["splits"] == {
        name: {"samples": n, "looked_at": n} for name, n in (("train", 400), ("val", 100), ("test", 100))
    }

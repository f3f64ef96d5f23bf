import pytest

from accelerator.errors import ConfigError
from accelerator.runtime.checkpoint.naming import check_filename, file_name

FIELDS = {"step": 120, "epoch": 3, "level": 0, "val/loss": 0.123456, "val/top5.acc": 0.5}
METRICS = ("val/loss", "val/top5.acc")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("step-{step:08d}", "step-00000120"),
        ("epoch-{epoch}-{val/loss:.4f}", "epoch-3-0.1235"),
        ("{level}_{val/top5.acc:.0%}", "0_50%"),
        ("{{{step}}}", "{120}"),
        ("plain", "plain"),
        ("{val/not measured:.2f}", "nan"),
    ],
)
def test_a_template_is_filled_in(template, expected):
    assert file_name(template, FIELDS) == expected


@pytest.mark.parametrize("template", ["step-{step:08d}", "{epoch}", "{val/loss:.4f}-{level}", "{val/top5.acc}", "x"])
def test_a_template_that_can_be_filled_in_is_right(template):
    check_filename(template, METRICS)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{stpe}",
            r"there is no \{stpe\} — did you mean 'step'\?; known are "
            r"\{step\}, \{epoch\}, \{level\}, \{val/loss\}, \{val/top5.acc\}$",
        ),
        ("{val/lss:.2f}", r"no \{val/lss\} — did you mean 'val/loss'"),
        ("{step.real}", r"no \{step.real\}"),
        ("{}", r"there is no \{\}"),
        ("{step", "expected '}'"),
        ("{step:q}", "Unknown format code .q."),
        ("{val/loss:d}", "Unknown format code 'd'"),
        ("{step!r}", "!r has no meaning here"),
        ("a/{step}", "expected the name of a file, without folders"),
        (".{step}", "without a dot in front"),
        ("", "expected the name of a file"),
    ],
)
def test_one_that_cannot_is_told_with_what_is_known(template, message):
    with pytest.raises(ConfigError, match=message) as caught:
        check_filename(template, METRICS)
    assert str(caught.value).startswith(f"checkpoint.filename={template}: ")

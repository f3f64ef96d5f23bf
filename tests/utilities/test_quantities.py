"""Values, times and sizes as people read them."""

import pytest

from accelerator.utilities.quantities import duration, measured, number, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.0004, "0 ms"),
        (0.85, "850 ms"),
        (12.34, "12.3 s"),
        (59.96, "1 min"),
        (245, "4 min 5 s"),
        (3599.6, "1 h"),
        (12000, "3 h 20 min"),
        (187200, "2 d 4 h"),
    ],
)
def test_a_time_is_told_in_the_units_that_matter(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_234_567, "1.23 MB"), (5_000_000_000, "5 GB")]
)
def test_a_size_has_three_digits(count, text):
    assert size(count) == text


def test_a_value_has_five_digits():
    assert [number(value) for value in (0.123456789, 46757.6, float("nan"), None)] == ["0.12346", "46758", "nan", "–"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456789, "0.12346"),
        (46757.6, "46758"),
        (3.0, "3"),
        (112400.0, "112,400"),
        (99999.7, "100,000"),
        (380150.4, "380,150"),
        (-1e-7, "-1e-07"),
        (3e20, "3e+20"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
    ],
)
def test_a_count_is_printed_whole_and_a_measured_value_to_its_digits(value, text):
    assert measured(value) == text

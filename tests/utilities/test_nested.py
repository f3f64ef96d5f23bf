"""Nested mappings by dotted key."""

from accelerator.utilities.nested import leaves


def test_every_value_has_its_dotted_key_and_what_is_empty_is_a_value():
    nested = {"a": {"b": {"c": 1}, "d": {}}, "e": [{"f": 2}], 3: {"g": None}}
    assert list(leaves(nested)) == [("a.b.c", 1), ("a.d", {}), ("e", [{"f": 2}]), ("3.g", None)]
    assert list(leaves({})) == []

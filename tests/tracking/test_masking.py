import pytest

from accelerator.tracking.masking import MASK, is_secret, mask_arguments, mask_text, mask_value, masked

SECRET = """
    password db_passwd api_key apikey APIKey data.apiKeys HF_TOKEN hfToken token GITHUB_TOKEN client-secret
    aws.secretAccessKey access_key private_key credentials login.credential pwd auth_token secretKey
"""
HARMLESS = """
    tokens max_tokens tokenizer pad_token_id eos_token num_token token_dim token_embedding monkey keyboard key
    secretary passes compass key_size author
"""


@pytest.mark.parametrize("name", SECRET.split())
def test_names_of_secrets_are_known(name):
    assert is_secret(name)


@pytest.mark.parametrize("name", HARMLESS.split())
def test_names_that_only_resemble_secrets_are_left(name):
    assert not is_secret(name)


def test_a_config_is_masked_by_name_in_every_depth_and_keeps_its_shape():
    config = {
        "data": {"url": "postgresql://bob:pw@host/db", "api_key": "CANARY", "list": [{"password": 12345}, 3]},
        "credentials": {"user": "CANARY", "more": {"x": "CANARY"}, "on": True},
        "token": None,
        "model": {"pad_token_id": 0, "width": 64, 1: 2.5},
        "path": "/plain",
    }
    assert masked(config) == {
        "data": {"url": f"postgresql://{MASK}@host/db", "api_key": MASK, "list": [{"password": MASK}, 3]},
        "credentials": {"user": MASK, "more": {"x": MASK}, "on": True},
        "token": None,
        "model": {"pad_token_id": 0, "width": 64, 1: 2.5},
        "path": "/plain",
    }


def test_what_came_from_the_environment_is_shown_as_it_was_written():
    resolved = {"a": "CANARY-value", "b": "at CANARY-value", "c": 3, "d": "plain", "e": ["CANARY-value"]}
    unresolved = {"a": "${oc.env:X}", "b": "at ${a}", "c": "${d.size}", "d": "plain", "e": ["${oc.env:X, none}"]}
    assert masked(resolved, unresolved) == {
        "a": "${oc.env:X}",
        "b": "at ${a}",
        "c": 3,
        "d": "plain",
        "e": ["${oc.env:X, none}"],
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("password: hunter2", "password: ***"),
        ("+    api_key = 'x y'", "+    api_key = '***'"),
        ("{api_key: abc, x: 1}", "{api_key: ***, x: 1}"),
        ("api_keys: [A, B]", "api_keys: ***"),
        ("hf_token: abcdefg12345", "hf_token: ***"),
        ("token = next(stream)", "token = next(stream)"),
        ("token = tokens[0]", "token = tokens[0]"),
        ("see http://u:p@h/x", "see http://***@h/x"),
        ("password:\nwidth: 3", "password:\nwidth: 3"),
        ("width=3 seed: 4", "width=3 seed: 4"),
    ],
)
def test_running_text_loses_what_follows_a_secret_name(text, shown):
    assert mask_text(text) == shown


@pytest.mark.parametrize("text", ["hf_" + "a1B2" * 6, "ghp_" + "x" * 30, "AKIA" + "Z" * 16, "sk-" + "q" * 24])
def test_keys_of_well_known_form_are_masked_under_any_name(text):
    assert mask_value(text) == MASK


def test_a_command_line_is_masked_in_every_way_of_writing_it():
    argv = [
        "accelerator",
        "--token",
        "CANARY",
        "+a.api_key=CANARY,CANARY",
        "-P",
        'overrides=lr=1 p.password="CANARY" b=2',
    ]
    assert mask_arguments(argv) == [
        "accelerator",
        "--token",
        MASK,
        "+a.api_key=***",
        "-P",
        'overrides=lr=1 p.password="***" b=2',
    ]


@pytest.mark.timeout(20)  # quadratic would take hours
@pytest.mark.parametrize("piece", ["A", "a=", "[a=", "-", "://", "=", " \t", "a: ", "-----BEGIN PRIVATE KEY-----"])
def test_hostile_text_is_masked_in_linear_time(piece):
    mask_text(piece * (300_000 // len(piece)))

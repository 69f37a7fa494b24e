import argparse

import pytest

from mlx_websockets.cli.app import parser_of
from mlx_websockets.cli.serve import settings_of
from mlx_websockets.errors import UsageError
from mlx_websockets.settings import Settings


def settings(*flags: str) -> Settings:
    return settings_of(parser_of("serve").parse(list(flags)))


def test_without_flags_the_settings_are_the_defaults():
    assert Settings() == settings()


def test_every_flag_of_the_manual_reaches_its_setting(tmp_path):
    config = tmp_path / "tokenizer_config.json"
    config.write_text("{}")

    got = settings(
        "--model", "some/model", "--port", "8080", "--auto-port", "--host", "localhost", "--trust-remote-code",
        "--tokenizer-config", str(config), "--chat-template", "chatml", "--max-tokens", "1000", "--temperature", "0.9",
        "--seed", "42", "--rows", "4", "--debug", "--show-warnings",
    )  # fmt: skip

    assert got == Settings(
        model="some/model", port=8080, auto_port=True, host="localhost", trust_remote_code=True,
        tokenizer_config=str(config), chat_template="chatml", max_tokens=1000, temperature=0.9, seed=42, rows=4,
        debug=True, show_warnings=True,
    )  # fmt: skip


@pytest.mark.parametrize("flag", ["--temperature", "--seed", "--port"])
def test_zero_is_a_value_like_any_other(flag):
    got = settings(flag, "0")

    assert getattr(got, flag[2:]) == 0
    assert got != Settings()


def test_a_flag_is_never_guessed_from_its_beginning():
    with pytest.raises(UsageError, match="no flag --temp"):
        settings("--temp", "0")


def test_the_settings_need_nothing_but_the_flags():
    arguments = parser_of("serve").parse([])

    assert isinstance(arguments, argparse.Namespace)
    assert set(vars(arguments)) == set(Settings.__slots__)

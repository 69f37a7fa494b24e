from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mlx_websockets.cli.flags import Given, takes_settings


def given_by(*flags: str) -> dict[str, Any]:
    """What a command is given of these flags."""
    found: list[Given] = []
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(takes_settings(found.append))
    result = CliRunner().invoke(app, flags)
    assert result.exit_code == 0, result.output
    return found[0]


def test_without_flags_nothing_is_given():
    assert given_by() == {}


def test_every_flag_of_the_manual_reaches_its_setting():
    got = given_by(
        "--model", "some/model", "--port", "8080", "--auto-port", "--host", "localhost", "--trust-remote-code",
        "--tokenizer-config", "some.json", "--chat-template", "chatml", "--max-tokens", "1000", "--temperature", "0.9",
        "--seed", "42", "--rows", "4", "--debug", "--show-warnings",
    )  # fmt: skip

    assert got == {
        "model": ("some/model",), "port": 8080, "auto_port": True, "host": "localhost", "trust_remote_code": True,
        "tokenizer_config": "some.json", "chat_template": "chatml", "max_tokens": 1000, "temperature": 0.9, "seed": 42,
        "rows": 4, "debug": True, "show_warnings": True,
    }  # fmt: skip


@pytest.mark.parametrize("flag", ["--temperature", "--seed", "--port"])
def test_zero_is_a_value_like_any_other(flag):
    assert given_by(flag, "0") == {flag[2:]: 0}


def test_a_switch_can_be_said_to_be_off():
    assert given_by("--no-debug") == {"debug": False}


def test_a_commands_own_flags_come_after_the_settings():
    found: list[tuple[Given, bool]] = []
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    @takes_settings
    def command(given: Given, quick: bool = False) -> None:
        found.append((given, quick))

    result = CliRunner().invoke(app, ["--quick", "--port", "1"])

    assert (result.exit_code, found) == (0, [({"port": 1}, True)])

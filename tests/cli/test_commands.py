"""The real `mlx`: as a program of its own, and in this process where only its words and its status matter."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from mlx_websockets.cli.app import COMMANDS, main
from mlx_websockets.cli.flags import default_text, opposite_of
from mlx_websockets.settings import Settings

Told = subprocess.CompletedProcess[str]


def mlx(*arguments: str, **environment: str) -> Told:
    command = [sys.executable, "-m", "mlx_websockets", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "100", **environment}
    )


@pytest.fixture
def mlx_here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Told]:
    """As `mlx`, but in this process: a program's start takes longer than any help."""
    monkeypatch.setenv("COLUMNS", "100")

    def told(*arguments: str) -> Told:
        status = main(arguments)
        return Told(arguments, status, *capsys.readouterr())

    return told


# --- help and version -----------------------------------------------------------------


@pytest.mark.parametrize("arguments", [(), ("help",), ("--help",), ("-h",)])
def test_help_is_there_whichever_way_one_asks_and_names_every_command(arguments):
    told = mlx(*arguments)

    assert told.returncode == 0
    assert told.stdout.startswith("Usage: mlx [OPTIONS] COMMAND")
    assert all(f"  {name.split()[0]} " in told.stdout for name in COMMANDS)
    assert told.stderr == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_help_is_the_same_with_help_before_or_after(mlx_here, name):
    before, after = mlx_here("help", *name.split()), mlx_here(*name.split(), "--help")

    assert (before.returncode, before.stderr) == (0, "")
    assert before.stdout == after.stdout
    assert COMMANDS[name].summary in before.stdout


def test_serve_has_a_flag_for_each_setting_and_no_other(mlx_here):
    told = mlx_here("serve", "--help").stdout

    flags = {word for line in told.splitlines() for word in line.split()[:1] if word.startswith("--")}

    assert {"--" + each.name.replace("_", "-") for each in dataclasses.fields(Settings)} == flags


def test_the_help_of_serve_says_each_default(mlx_here):
    told = " ".join(mlx_here("serve", "--help").stdout.split())

    for each in dataclasses.fields(Settings):
        if default_text(each):
            assert f"Default: {default_text(each)}.".replace("-", "") in told.replace("- ", "").replace("-", "")


def test_every_switch_has_an_opposite_of_its_own():
    names = {each.name for each in dataclasses.fields(Settings)}

    opposites = {opposite_of(each.name) for each in dataclasses.fields(Settings) if each.default is False}

    assert "no_debug" in opposites
    assert not opposites & names


def test_the_version_is_the_installed_packages():
    from importlib.metadata import version

    told = mlx("--version")

    assert (0, f"mlx-websockets {version('mlx-websockets')}\n") == (told.returncode, told.stdout)


def test_help_into_a_closed_pipe_ends_without_a_traceback():
    reader, writer = os.pipe()
    os.close(reader)

    told = subprocess.run(
        [sys.executable, "-m", "mlx_websockets"], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(writer)

    assert told.stderr == ""


@pytest.mark.parametrize("arguments", [["--help"], ["help", "serve"], ["serve", "--port", "none"]])
def test_nothing_heavy_is_imported_before_a_command_really_starts(arguments):
    heavy = ["mlx", "mlx_vlm", "transformers", "uvicorn", "starlette", "PIL", "huggingface_hub", "rich", "msgspec",
             "asyncio", "numpy"]  # fmt: skip
    program = (
        "import sys\nfrom mlx_websockets.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        f"print('loaded:', [name for name in {heavy} if name in sys.modules])"
    )

    told = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60)

    assert told.stdout.splitlines()[-1] == "loaded: []"


# --- mistakes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "reason", "hint"),
    [
        (("serv",), "No such command 'serv'. Did you mean 'serve'", "mlx --help"),
        (("help", "srve"), "No such command 'srve'. Did you mean 'serve'", "mlx --help"),
        (("background", "strat"), "No such command 'strat'. Did you mean", "mlx background --help"),
        (("background", "--port", "1"), "No such option: --port", "mlx background --help"),
        (("xyzzy",), "No such command 'xyzzy'.", "mlx --help"),
        (("--versio",), "--versio (Possible options: --version)", "mlx --help"),
        (("serve", "--prot", "1"), "--prot (Possible options:", "mlx serve --help"),
        (("serve", "--modle=demo"), "--modle (Possible options:", "mlx serve --help"),
        (("serve", "--debu"), "(Possible options: --debug", "mlx serve --help"),
        (("serve", "demo"), "unexpected extra argument(s) (demo)", "mlx serve --help"),
        (("serve", "--port"), "'--port' requires an argument.", "mlx --help"),
        (("serve", "--port", "many"), "'--port': Input should be a valid integer", "mlx serve --help"),
        (("serve", "--port", "70000"), "--port must be between 0 and 65535, got 70000.", "--port 8765"),
        (("serve", "--temperature", "warm"), "'--temperature': Input should be a valid number", "mlx serve --help"),
        (("serve", "--temperature", "nan"), "--temperature must be between 0 and 2, got nan.", "--temperature 0.7"),
        (("serve", "--max-tokens", "0"), "--max-tokens must be between 1 and 1000000, got 0.", "--max-tokens"),
        (("serve", "--seed", "-1"), "--seed must be between", "--seed"),
        (("serve", "--model", " "), "--model is empty.", "--model demo"),
        (("serve", "--tokenizer-config", "nowhere.json"), "there is no file nowhere.json.", "existing file"),
    ],
)
def test_a_mistake_ends_with_status_2_what_is_wrong_and_what_to_do_next(mlx_here, arguments, reason, hint):
    told = mlx_here(*arguments)

    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith("✗ ")
    assert reason in told.stderr
    assert hint in told.stderr.partition("→ ")[2]
    assert "Traceback" not in told.stderr


def test_with_debug_a_mistake_also_has_its_traceback():
    told = mlx("serve", "--port", "many", "--debug")

    assert told.returncode == 2
    assert "Traceback" in told.stderr
    assert "✗ Invalid value for '--port'" in told.stderr


def test_a_terminal_that_knows_no_marks_gets_the_words():
    told = mlx("serv", PYTHONIOENCODING="ascii", PYTHONUTF8="0")

    assert told.returncode == 2
    assert "? No such command 'serv'." in told.stderr

"""What a shell is told when Tab is pressed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = str(Path(sys.executable).parent / "mlx")


def completed(words: str) -> list[str]:
    """What bash is offered for the last of these words."""
    count = len(words.split(" ")) - 1
    environment = {"_MLX_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(count)}
    told = subprocess.run([PROGRAM], capture_output=True, text=True, timeout=60, env={**os.environ, **environment})
    return told.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("mlx ser", {"serve", "service"}),
        ("mlx background st", {"stop", "status"}),
        ("mlx bg res", {"restart"}),
        ("mlx serve --max-t", {"--max-tokens"}),
        ("mlx config show --ori", {"--origin"}),
    ],
)
def test_commands_and_flags_are_completed(words, offered):
    assert set(completed(words)) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_common_shell_has_a_script(shell):
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}

    told = subprocess.run(
        [PROGRAM, "--show-completion", shell], capture_output=True, text=True, timeout=60, env=environment
    )

    assert (told.returncode, told.stderr) == (0, "")
    assert f"complete_{shell}" in told.stdout

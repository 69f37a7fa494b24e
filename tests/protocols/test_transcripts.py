"""The golden dialogues, replayed; they are also the examples of the documentation."""

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from mlx_websockets.protocols import native_schema
from mlx_websockets.protocols.native import NativeProtocol
from mlx_websockets.testing import Talk, TranscriptMismatch, play, read_transcript

TRANSCRIPTS = sorted(Path(__file__).parent.parent.joinpath("transcripts").glob("*.txt"))
PLAYED_HERE = [path for path in TRANSCRIPTS if "\n= served\n" not in path.read_text("utf-8")]
"""The others need a server: tests/server/test_refusals.py."""

REPOSITORY = Path(__file__).parents[2]


def native_talk(setup: dict[str, str]) -> Talk:
    return Talk(
        NativeProtocol(version=int(setup.get("version", "1"))),
        max_waiting=int(setup.get("waiting", "10")),
        stats={"model": "scripted", "waiting": 0},
    )


@pytest.mark.parametrize("path", PLAYED_HERE, ids=lambda path: path.stem)
def test_the_dialogue_goes_as_it_is_written(path: Path) -> None:
    transcript = read_transcript(path.read_text())

    play(transcript, native_talk(transcript.setup))


def test_a_wrong_answer_is_noticed_with_its_line() -> None:
    transcript = read_transcript('> {"type": "ping", "t": 1}\n< {"type": "pong", "t": 2}')

    with pytest.raises(TranscriptMismatch, match="Line 2"):
        play(transcript, native_talk({}))


def test_a_message_without_its_line_is_noticed() -> None:
    transcript = read_transcript('> {"type": "ping", "t": 1}')

    with pytest.raises(TranscriptMismatch, match="no line for it"):
        play(transcript, native_talk({}))


def test_a_missing_message_is_noticed() -> None:
    transcript = read_transcript('< {"type": "pong", "t": 2}')

    with pytest.raises(TranscriptMismatch, match="nothing was said"):
        play(transcript, native_talk({}))


def test_a_line_without_a_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="Line 2"):
        read_transcript("# title\nhello")


def test_the_documentation_shows_the_dialogues_as_they_are() -> None:
    script = REPOSITORY / "scripts" / "update_protocol_docs.py"

    checked = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("kind", [*get_args(native_schema.PeerMessage), *get_args(native_schema.ServerMessage)])
def test_the_documentation_names_every_message_and_field(kind: type[msgspec.Struct]) -> None:
    page = (REPOSITORY / "docs/reference/protocol.md").read_text("utf-8")
    told = {kind.__struct_config__.tag, *kind.__struct_encode_fields__}

    assert {name for name in told if f"`{name}`" not in page} == set()


def test_every_code_that_the_documentation_names_has_a_dialogue() -> None:
    page = (REPOSITORY / "docs/reference/protocol.md").read_text("utf-8")
    _, _, after = page.partition("\n## Error codes\n")
    cells = re.findall(r"^\| (`[a-z_`, ]+`) \|", after.partition("\n## ")[0], re.MULTILINE)
    codes = {code for cell in cells for code in re.findall(r"[a-z_]+", cell)} - {"code"}
    told = {code for path in TRANSCRIPTS for code in re.findall(r'"code": "([a-z_]+)"', path.read_text("utf-8"))}

    assert len(codes) > 30
    assert codes - told == set()


def test_the_documentation_names_every_code_of_the_protocol() -> None:
    page = (REPOSITORY / "docs/reference/protocol.md").read_text("utf-8")
    source = (REPOSITORY / "src/mlx_websockets/protocols/native.py").read_text("utf-8")
    codes = set(
        re.findall(r'"((?:invalid|missing|unknown|too|text|image|un|resume|inference)_[a-z_]+|unsupported)"\)', source)
    )

    assert len(codes) > 5
    assert {code for code in codes if f"| `{code}` |" not in page} == set()

"""Nobody who gets an error is left without advice."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_websockets import errors
from mlx_websockets.errors import START_ERRORS, StartError

DOCS = Path(__file__).parents[1] / "docs"
SOURCE = Path(errors.__file__).parent
BY_NAME = {error.__name__: error for error in START_ERRORS.values()}
ADVICE = (DOCS / "howto/troubleshooting.md").read_text("utf-8")


def codes_in(page: str, heading: str) -> set[str]:
    """The codes in the first column of the table under a heading."""
    _, _, after = page.partition(f"\n## {heading}\n")
    cells = re.findall(r"^\| (`[a-z_`, ]+`) \|", after.partition("\n## ")[0], re.MULTILINE)
    return {code for cell in cells for code in re.findall(r"[a-z_]+", cell)} - {"code"}


def test_every_code_on_the_wire_has_advice_and_no_other():
    on_the_wire = codes_in((DOCS / "reference/protocol.md").read_text("utf-8"), "Error codes")

    assert len(on_the_wire) > 30
    assert codes_in(ADVICE, "A message is answered with `error`") == on_the_wire


@pytest.mark.parametrize("error", START_ERRORS.values(), ids=START_ERRORS)
def test_every_way_of_a_command_to_fail_has_advice(error: type[StartError]):
    assert re.search(rf"\| {error.exit_code} \|", ADVICE)


# --- by what is said --------------------------------------------------------------------


MIN_LETTERS = 8


def sentences() -> Iterator[tuple[type[StartError], str]]:
    """What commands say when they fail, with … for what is filled in, and as which error."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in BY_NAME and node.args:
                said = text_of(node.args[0])
                if re.search(r"[a-z]{3}", said):
                    yield BY_NAME[node.func.id], said


def text_of(node: ast.expr) -> str:
    match node:
        case ast.Constant(str(text)):
            return text
        case ast.JoinedStr(parts):
            return "".join(text_of(part) for part in parts)
        case _:
            return "…"


def rows() -> Iterator[tuple[list[str], set[int]]]:
    """What a row is about, and the exit statuses that it names."""
    for cell, statuses in re.findall(r"^\| (\".+?\") \| ([\d, ]+) \|", ADVICE, re.MULTILINE):
        yield re.findall(r"\"(.+?)\"", cell), {int(each) for each in statuses.split(",")}


def is_about(phrase: str, said: str) -> bool:
    """A phrase with few letters of its own stands for that sentence alone."""
    parts = [part.strip() for part in phrase.split("…")]
    if sum(map(len, parts)) < MIN_LETTERS:
        return phrase == said.rstrip(".")
    return re.search(".*".join(map(re.escape, filter(None, parts))), said, re.DOTALL) is not None


@pytest.mark.parametrize(("error", "said"), sorted(set(sentences()), key=str), ids=lambda value: str(value)[:60])
def test_every_sentence_of_a_command_that_fails_has_a_row_with_its_status(error: type[StartError], said: str):
    assert any(
        error.exit_code in statuses and any(is_about(each, said) for each in phrases) for phrases, statuses in rows()
    )


@pytest.mark.parametrize("phrase", [phrase for phrases, _ in rows() for phrase in phrases])
def test_no_row_is_about_what_nobody_says(phrase: str):
    everything = "\n".join(path.read_text("utf-8") for path in SOURCE.rglob("*.py"))

    assert all(part.strip() in everything for part in phrase.split("…")), phrase


def test_what_the_page_says_is_what_the_table_says():
    page = "".join(path.read_text("utf-8") for path in (SOURCE / "server/playground").iterdir())
    table = ADVICE.partition("\n## The page says\n")[2]

    phrases = re.findall(r"\"([^\"]+)\"", table)

    assert phrases
    assert [each for each in phrases if each not in page] == []

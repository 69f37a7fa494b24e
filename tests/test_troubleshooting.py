"""Nobody who gets an error is left without advice."""

import re
from pathlib import Path

import pytest

from mlx_websockets.errors import START_ERRORS, StartError

DOCS = Path(__file__).parents[1] / "docs"
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

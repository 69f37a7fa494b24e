"""The table of threats names tests; they are there."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
PAGE = TESTS.parent / "docs/reference/threats.md"
ROW = re.compile(r"^\| (T[0-9]+) \| .* \| (.+) \|$", re.MULTILINE)
ROWS = ROW.findall(PAGE.read_text("utf-8"))


def test_every_threat_has_a_row():
    names = [name for name, _ in ROWS]

    assert len(names) >= 31
    assert sorted(names) == sorted(f"T{number}" for number in range(1, len(names) + 1))


@pytest.mark.parametrize(("threat", "shown"), ROWS)
def test_the_tests_that_a_row_names_are_there(threat, shown):
    path, named = "", re.findall(r"`([\w/.]*test_\w+\.py)?(?:::)?(test_\w+)?`", shown)

    assert named, f"{threat} names no test"
    for file, test in named:
        path = file or path
        source = (TESTS / path).read_text("utf-8")
        assert not test or re.search(rf"^(async )?def {test}\(", source, re.MULTILINE), f"{threat}: {path}::{test}"

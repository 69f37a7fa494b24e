"""What we stand on is new enough to be without the holes that are known: in every lock file."""

import re
from pathlib import Path

import pytest
from packaging.version import Version

LOCKS = sorted((Path(__file__).parents[2] / "requirements").glob("*.lock"))

FLOORS = {
    "jinja2": "3.1.6",  # ways out of the template sandbox
    "mlx": "0.32.4",  # reading past the end of weight files
    "mlx-lm": "0.32.2",  # CVE-2026-5843
    "pillow": "12.3.0",  # CVE-2026-40192 and thirteen more
    "transformers": "5.3.0",  # CVE-2026-4372
    "websockets": "17.4",  # unbounded fragments
}


TOOLS = ("conformance", "page")
"""What only tests run; the others are for servers."""


@pytest.mark.parametrize("lock", [lock for lock in LOCKS if lock.stem not in TOOLS], ids=lambda lock: lock.stem)
def test_every_lock_is_past_the_known_holes(lock: Path):
    pinned = dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", lock.read_text(), re.MULTILINE))

    assert {name: pinned[name] for name in FLOORS if Version(pinned[name]) < Version(FLOORS[name])} == {}


def test_no_lock_names_a_place_to_fetch_from():
    assert [lock.name for lock in LOCKS if re.search(r"https?://|file:|--(extra-)?index-url", lock.read_text())] == []

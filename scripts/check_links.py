#!/usr/bin/env python
"""Checks that every link from one page of the documentation to another leads somewhere.

Links to headings count, too. Nothing is looked up on the network.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def main() -> int:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")]
    broken = [f"✗ {page.relative_to(ROOT)}: {link}" for page in sorted(pages) for link in broken_links(page)]
    print("\n".join(broken) or f"✓ the links of {len(pages)} pages")
    return 1 if broken else 0


def broken_links(page: Path) -> list[str]:
    text = CODE.sub("", page.read_text("utf-8"))
    links = [link for link in LINK.findall(text) if not re.match(r"[a-z]+:", link)]
    return [link for link in links if not leads_somewhere(page, link)]


def leads_somewhere(page: Path, link: str) -> bool:
    path, _, heading = link.partition("#")
    target = (page.parent / path) if path else page
    return target.exists() and (not heading or heading in headings(target))


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    lines = re.findall(r"^#+ +(.*)$", CODE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


if __name__ == "__main__":
    sys.exit(main())

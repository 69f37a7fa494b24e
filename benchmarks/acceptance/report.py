"""One promise's outcome, shown on a terminal and kept in a report."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass
class Outcome:
    """Attributes:
    promise: what was tried.
    kept: whether it held.
    seen: the figures.
    """

    promise: str
    kept: bool
    seen: dict[str, Any]

    def show(self) -> None:
        print(f"{'kept  ' if self.kept else 'BROKEN'}  {self.promise}")
        for name, value in self.seen.items():
            print(f"        {name}: {value}")

    def as_markdown(self) -> str:
        rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in self.seen.items())
        return (
            f"## {self.promise}\n\n**{'Kept' if self.kept else 'Broken'}.**\n\n| measure | seen |\n|---|---|\n{rows}\n"
        )


def _cell(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value)).replace("|", "\\|")

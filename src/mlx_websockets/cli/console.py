"""All that `mlx` prints: colour and moving bars on a terminal, plain lines everywhere else.

Four marks: ✓ done, ✗ failed, ! take care, → what happens or what to do next. Nothing here
decides anything, and nothing else prints.
"""

import contextlib
import io
import os
import shutil
import sys
import textwrap
import traceback
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

STYLES = {"✓": "32", "✗": "31", "!": "33", "→": "36"}
"""The colour of each mark, as a terminal's number for it."""

# A name or a line that comes from a model's folder must not steer the terminal.
_CONTROL_CODES = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class Console:
    """One output stream.

    Attributes:
        is_terminal: a person reads it, and nothing keeps it.
        is_fancy: colours are wanted: it is a terminal, and nobody set NO_COLOR.
        is_busy: something else writes to the terminal meanwhile, so nothing may move on it.
        is_optional: what can't be written is lost: a server outlives a full disk and a terminal that is gone.
    """

    def __init__(
        self,
        stream: TextIO,
        environment: Mapping[str, str] = os.environ,
        *,
        is_busy: bool = False,
        is_optional: bool = False,
    ) -> None:
        self.is_busy = is_busy
        self.is_optional = is_optional
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no ✓ shows a question mark
        self._stream = stream
        self.is_terminal = stream.isatty()
        self.is_fancy = self.is_terminal and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
        self._wrap = WordWrap()
        self._footnote = ""

    def success(self, text: str) -> None:
        self._marked("✓", text)

    def failure(self, text: str) -> None:
        self._marked("✗", text)

    def warning(self, text: str) -> None:
        self._marked("!", text)

    def info(self, text: str) -> None:
        self._marked("→", text)

    def text(self, text: str) -> None:
        """Lines without a mark."""
        self._write(_harmless(text))

    def words(self, text: str) -> None:
        """A part of a line, as it comes. On a terminal the line breaks between words."""
        text = _harmless(text)
        self._stream.write(self._wrap.broken(text, _columns()) if self.is_fancy else text)
        self._stream.flush()

    def aside(self, text: str) -> None:
        """A line of lesser weight."""
        self._write(f"\x1b[2m{_harmless(text)}\x1b[0m" if self.is_fancy else _harmless(text))

    def entry(self, facts: str, text: str) -> None:
        """A line of facts of lesser weight and a text; on a terminal one that is long goes on below itself."""
        facts, text = _harmless(facts), _harmless(text)
        if not self.is_fancy:
            self._write(f"{facts}  {text}")
            return
        indent = " " * (len(facts) + 2)
        lines = textwrap.wrap(text, max(20, _columns() - len(indent))) or [""]
        self._write("\n".join([f"\x1b[2m{facts}\x1b[0m  {lines[0]}", *(indent + line for line in lines[1:])]))

    def footnote(self, text: str = "") -> None:
        """Keep a line below all others, on a terminal; it changes in its place, and without a text it goes."""
        if self.is_fancy and not self.is_busy:
            self._footnote = _harmless(text)[: _columns() - len("^C")]
            self._stream.write(self._erased + self._shown_footnote)
            self._stream.flush()

    @property
    def _erased(self) -> str:
        return "\r\x1b[K"

    @property
    def _shown_footnote(self) -> str:
        return f"\x1b[2m{self._footnote}\x1b[0m" if self._footnote else ""

    @contextlib.contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Show meanwhile that something is awaited, on a terminal; nothing of it stays."""
        if not self.is_fancy or self.is_busy:
            yield
            return
        from rich.console import Console as RichConsole
        from rich.status import Status

        with Status(f"{_harmless(text)} …", console=RichConsole(file=self._stream), spinner="line"):
            yield

    def problem(self, reason: str, hint: str) -> None:
        """What went wrong and why, then what to run or to change next."""
        self.failure(reason)
        if hint:
            self.info(hint)

    def table(self, rows: Sequence[tuple[str, str]], after_name: str = ":") -> None:
        """Names and values, in two columns, indented."""
        width = max((len(name) for name, _ in rows), default=0) + len(after_name)
        for name, value in rows:
            self.text(f"  {name + after_name:<{width}}  {value}")

    def drawing(self, lines: Sequence[str]) -> None:
        """Lines of our own making that steer the terminal, where there is one and they fit."""
        columns, rows = shutil.get_terminal_size()
        width = max((len(line) for line in lines), default=0)
        if self.is_fancy and width <= columns and len(lines) < rows:
            self._write("\n".join(f"\x1b[97;40m{line}\x1b[0m" for line in lines))

    def over_echo(self) -> None:
        """Let the next line cover the ^C that a terminal has just echoed."""
        if self.is_fancy:
            self._stream.write("\r")

    def traceback(self) -> None:
        """The traceback of the exception that is being handled."""
        self._write(traceback.format_exc().rstrip())

    def _marked(self, mark: str, text: str) -> None:
        first, *more = _harmless(text).split("\n")
        shown = f"\x1b[{STYLES[mark]}m{mark}\x1b[0m" if self.is_fancy else mark
        self._write("\n".join([f"{shown} {first}", *(f"  {line}" for line in more)]))

    def _write(self, text: str) -> None:
        if self._footnote:
            text = f"{self._erased}{text}"
        try:
            self._stream.write(f"{text}\n{self._shown_footnote}")
            self._stream.flush()
        except OSError:
            if not self.is_optional:
                raise
            # From here on to nowhere, lest what the stream still holds fail again when the program ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


class WordWrap:
    """Breaks a terminal's lines between words, while the words are still being written."""

    def __init__(self) -> None:
        self._column = 0
        self._word = ""

    def broken(self, text: str, columns: int) -> str:
        """What to write for the next part of the text; a word that becomes too long for its line moves to the next."""
        return "".join(self._next(character, columns) for character in text.replace("\t", "    "))

    def _next(self, character: str, columns: int) -> str:
        if character == "\n":
            self._column, self._word = 0, ""
            return character
        is_full = self._column + cells(character) > columns
        if character == " ":
            self._word = ""
            self._column += not is_full
            return "" if is_full else character  # the break that comes stands for it
        moved = self._make_room(columns) if is_full else ""
        self._word += character
        self._column += cells(character)
        return moved + character

    def _make_room(self, columns: int) -> str:
        word = self._word
        width = sum(map(cells, word))
        if not word or width >= self._column:  # nothing to move, or no word of any line's length
            self._column, self._word = 0, ""
            return "\n"
        self._column = width
        return "\b" * width + f"\x1b[K\n{word}"


def cells(character: str) -> int:
    """How many places a character takes on a terminal."""
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Me", "Mn"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "FW" else 1


def _columns() -> int:
    """Of the terminal, but for the last, after which it would break the line itself."""
    return max(20, shutil.get_terminal_size().columns - 1)


class LoadingDisplay:
    """How far loading is: a bar that moves on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._told: tuple[str, int] = ("", 0)

    def show(self, stage: str, done: int, total: int, unit: str) -> None:
        """Loading is at `done` of `total` (0 = not known) of this stage; `unit` is "bytes" or ""."""
        stage = _harmless(stage)
        stage = stage[:1].upper() + stage[1:]
        if self._console.is_fancy and not self._console.is_busy:
            self._move(stage, done, total, unit)
        else:
            self._tell(stage, done, total, unit)

    def close(self) -> None:
        """Take the bar off the screen. May be called again."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None

    def _move(self, stage: str, done: int, total: int, unit: str) -> None:
        if self._bar is None:
            self._bar = _moving_bar()
            self._bar.start()
        if self._task is None or stage != self._told[0]:  # rich takes a task that was once full for finished
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(stage, total=None, amount="")
        self._told = (stage, 0)
        amount = f"{size(done)} of {size(total)}" if total and unit == "bytes" else ""
        self._bar.update(self._task, completed=done, total=total or None, amount=amount)

    def _tell(self, stage: str, done: int, total: int, unit: str) -> None:
        quarter = 4 * done // total if total else 0
        if (stage, quarter) == self._told or (stage == self._told[0] and unit != "bytes"):
            return
        self._told = (stage, quarter)
        amount = f": {size(done)} of {size(total)}" if total and unit == "bytes" else ""
        self._console.info(f"{stage}{amount}")


def print_json(value: object) -> None:
    """A value for a program, on standard output."""
    import json

    Console(sys.stdout).text(json.dumps(value, indent=2))


def size(count: int) -> str:
    """A number of bytes for a person: `87 MB`, `2.61 GB`."""
    if count >= 1_000_000_000:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1_000_000 else f"{count / 1e3:.0f} kB"


def _moving_bar() -> "Progress":
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = (
        SpinnerColumn("line"),
        TextColumn("{task.description}", markup=False),
        BarColumn(28),
        TextColumn("{task.fields[amount]}", markup=False),
    )
    return Progress(*columns, console=RichConsole(file=sys.stdout), transient=True)


def _harmless(text: str) -> str:
    return text.translate(_CONTROL_CODES)

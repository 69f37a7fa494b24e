import io
import subprocess
import sys

import pytest

from mlx_websockets.cli.console import Console, LoadingDisplay, WordWrap, size


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_lines_are_plain_where_nobody_looks():
    stream = io.StringIO()

    Console(stream, {}).success("Ready")

    assert stream.getvalue() == "✓ Ready\n"


def test_a_mark_is_coloured_on_a_terminal_unless_no_color_is_set():
    coloured, plain = Terminal(), Terminal()

    Console(coloured, {}).failure("No")
    Console(plain, {"NO_COLOR": "1"}).failure("No")

    assert coloured.getvalue() == "\x1b[31m✗\x1b[0m No\n"
    assert plain.getvalue() == "✗ No\n"


def test_what_a_model_is_called_can_not_steer_the_terminal():
    stream = io.StringIO()

    Console(stream, {}).info("Loading \x1b]0;owned\x07\x1b[2Jmodel\nsecond line")

    assert stream.getvalue() == "→ Loading ]0;owned[2Jmodel\n  second line\n"


def test_a_problem_is_what_and_why_then_what_to_do():
    stream = io.StringIO()

    Console(stream, {}).problem("Port 1 is taken.\nBy another server.", "mlx serve --port 2")

    assert stream.getvalue() == "✗ Port 1 is taken.\n  By another server.\n→ mlx serve --port 2\n"


def test_a_download_is_told_at_every_quarter_and_a_stage_once():
    stream = io.StringIO()
    display = LoadingDisplay(Console(stream, {}))

    for done in range(0, 101):
        display.show("Downloading", done * 1_000_000, 100_000_000, "bytes")
    display.show("Loading", 0, 0, "")
    display.show("Loading", 1, 9, "")
    display.close()

    assert stream.getvalue().splitlines() == [
        "→ Downloading: 0 kB of 100 MB",
        "→ Downloading: 25 MB of 100 MB",
        "→ Downloading: 50 MB of 100 MB",
        "→ Downloading: 75 MB of 100 MB",
        "→ Downloading: 100 MB of 100 MB",
        "→ Loading",
    ]


def test_sizes_are_said_as_a_person_would():
    assert [size(0), size(87_400_000), size(2_612_000_000)] == ["0 kB", "87 MB", "2.61 GB"]


# --- words that come one by one --------------------------------------------------------


def on_screen(written: str) -> list[str]:
    """The lines of a terminal to which that was written."""
    lines, column = [""], 0
    for part in written.replace("\x1b[K", "\x00"):
        if part == "\n":
            lines.append("")
            column = 0
        elif part == "\b":
            column -= 1
        elif part == "\x00":
            lines[-1] = lines[-1][:column]
        else:
            lines[-1] = lines[-1][:column] + part
            column += 1
    return lines


@pytest.mark.parametrize("step", [1, 3, 100], ids=["a character at a time", "three", "all at once"])
@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("The picture shows a circle.", ["The picture", "shows a", "circle."]),
        ("Twelve chars exactly so", ["Twelve chars", "exactly so"]),
        ("A word of incomprehensibility", ["A word of", "incomprehens", "ibility"]),
        ("One\n\nTwo  and three", ["One", "", "Two  and", "three"]),
        ("", [""]),
    ],
)
def test_lines_break_between_words_however_these_come(text, lines, step):
    wrap = WordWrap()

    written = "".join(wrap.broken(text[at : at + step], 12) for at in range(0, len(text), step))

    assert [line.rstrip() for line in on_screen(written)] == lines


def test_wide_characters_take_two_places():
    wrap = WordWrap()

    assert wrap.broken("赤い丸が見えます", 8) == "赤い丸が\n見えます"


def test_in_a_pipe_no_word_is_moved():
    stream = io.StringIO()

    Console(stream, {}).words("word " * 100)

    assert stream.getvalue() == "word " * 100


# --- a stream's lines -------------------------------------------------------------------


def test_a_long_entry_goes_on_below_itself_on_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "41")
    terminal, pipe = Terminal(), io.StringIO()

    for stream in (terminal, pipe):
        Console(stream, {}).entry("12:00:00  demo", "A red circle is left of a blue square.")

    assert (
        terminal.getvalue() == "\x1b[2m12:00:00  demo\x1b[0m  A red circle is left of\n" + 16 * " " + "a blue square.\n"
    )
    assert pipe.getvalue() == "12:00:00  demo  A red circle is left of a blue square.\n"


def test_a_footnote_stays_below_what_is_said_and_leaves_nothing():
    terminal, pipe = Terminal(), io.StringIO()

    for stream in (terminal, pipe):
        console = Console(stream, {})
        console.footnote("1 of 2")
        console.text("said")
        console.footnote("2 of 2")
        console.footnote()
        console.text("done")

    shown = ["\r\x1b[K\x1b[2m1 of 2\x1b[0m", "\r\x1b[Ksaid\n\x1b[2m1 of 2\x1b[0m", "\r\x1b[K\x1b[2m2 of 2\x1b[0m"]
    assert terminal.getvalue() == "".join([*shown, "\r\x1b[K", "done\n"])
    assert pipe.getvalue() == "said\ndone\n"


def test_a_server_s_words_may_be_lost_and_another_command_s_may_not():
    program = (
        "import sys; from mlx_websockets.cli.console import Console;"
        "console = Console(sys.stdout, is_optional={}); console.info('a'); console.info('b');"
        "print('c', file=sys.stderr)"
    )

    def told(is_optional: bool) -> tuple[int, str]:
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-c", program.format(is_optional)], stdout=full, stderr=subprocess.PIPE, text=True
            )
        return done.returncode, done.stderr.splitlines()[-1]

    assert told(is_optional=True) == (0, "c")
    assert told(is_optional=False)[0] != 0

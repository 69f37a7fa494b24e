import io
import subprocess
import sys

from mlx_websockets.cli.console import Console, LoadingDisplay, size


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

"""`mlx chat` as a program of its own, talking to a real server."""

import os
import pty
import sys
import time
from pathlib import Path

import pytest
from asking import PATIENCE, mlx
from tests.client.answering import answering_elsewhere

from mlx_websockets.generation import Delta, Finished, GenerationRequest, Started, Update, Usage

CIRCLE = Path(__file__).parents[2] / "examples/circle.png"


def memory(request: GenerationRequest) -> list[Update]:
    """Says how many messages and pictures it was shown, how, and after which system text."""
    pictures = sum(len(each.images) for each in request.messages)
    system = [each.text for each in request.messages if each.role == "system"]
    count = sum(each.role != "system" for each in request.messages)
    said = f"{count} messages, {pictures} pictures, {request.choice.temperature}, {system}"
    return [Started(request.id), Delta(request.id, said), Finished(request.id, "stop", Usage(output_tokens=1))]


def talk(*lines: str, script=memory) -> list[str]:
    with answering_elsewhere(script) as url:
        told = mlx("chat", "--url", url, given="\n".join(lines) + "\n")
    assert (told.returncode, "✗" in told.stderr) == (0, False)
    return told.stdout.splitlines()


def test_a_piped_conversation_is_answered_line_by_line_and_remembered():
    assert [line.split(",")[0] for line in talk("Hi", "", "Again")] == ["1 messages", "3 messages"]


def test_clear_forgets_what_was_said_and_keeps_what_is_set():
    first, second = talk("/set temperature 0.25", "Hi", "/clear", "Hi")

    assert first == second
    assert "0.25" in first


def test_several_answers_are_told_if_they_are_set():
    with answering_elsewhere() as url:
        told = mlx("chat", "--url", url, given="/set candidate_count 3\nHi\n")

    assert told.stdout.splitlines() == ["Hi", "--- 2 of 3 ---", "Hi", "--- 3 of 3 ---", "Hi"]


def test_pictures_go_with_the_next_question_and_stay_in_the_conversation():
    first, second = talk(f"/image {CIRCLE} '{CIRCLE}'", "What is it?", "Sure?")

    assert "1 messages, 2 pictures" in first
    assert "3 messages, 2 pictures" in second


def test_a_picture_needs_no_question():
    assert "1 pictures" in talk(f"/image {CIRCLE}", "")[0]


def test_the_system_text_holds_until_it_is_taken_back():
    first, second = talk("/system Be brief.", "Hi", "/clear", "/system", "Hi")

    assert "['Be brief.']" in first
    assert "[]" in second


def test_what_is_asked_of_the_chat_itself_is_answered():
    lines = "\n".join(talk("/help", "/set", "Hi", "/stats", "/bye", "never asked"))

    assert "/image FILE" in lines
    assert "temperature:" in lines
    assert "Tokens said:" in lines
    assert lines.count("messages") == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/frobnicate", "There is no /frobnicate"),
        ("/image", "Which picture?"),
        ("/image no-such.png", "no-such.png can't be read"),
        ("/set temprature 1", "Settings are candidate_count"),
        ("/stats", "Nothing has been answered yet"),
    ],
)
def test_in_a_pipe_what_can_not_be_done_ends_it(line, said):
    with answering_elsewhere() as url:
        told = mlx("chat", "--url", url, given=f"{line}\nHi\n")

    assert (told.returncode, told.stdout) == (2, "")
    assert said in told.stderr


def test_no_server_ends_with_3():
    assert mlx("chat", "--url", "ws://localhost:9").returncode == 3


# --- on a terminal --------------------------------------------------------------------


class Terminal:
    """`mlx chat` on a terminal of its own."""

    def __init__(self, url: str) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            environment = {**os.environ, "TERM": "dumb"}
            os.execve(sys.executable, [sys.executable, "-m", "mlx_websockets", "chat", "--url", url], environment)
        os.set_blocking(self._terminal, False)
        self.shown = ""

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def wait_for(self, text: str) -> str:
        """Read until `text` is shown, and forget what was shown up to its end; what stood before it."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            try:
                self.shown += os.read(self._terminal, 4096).decode()
            except BlockingIOError:
                time.sleep(0.02)
        before, _, self.shown = self.shown.partition(text)
        return before

    def status(self) -> int:
        """Wait for the end."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self._terminal)
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        raise TimeoutError


def never_ending(request: GenerationRequest) -> list[Update]:
    if request.messages[-1].text == "Hi":
        return memory(request)
    return [Started(request.id), Delta(request.id, "Once upon")]


def test_a_person_is_greeted_told_what_went_wrong_and_may_go_on():
    with answering_elsewhere() as url:
        terminal = Terminal(url)
        terminal.wait_for("/help")
        terminal.wait_for(">>> ")
        terminal.type("/image no-such.png\n")
        terminal.wait_for("✗ no-such.png can't be read")
        terminal.wait_for(">>> ")
        terminal.type("Hi there\n")
        terminal.wait_for("2 tokens")
        terminal.wait_for(">>> ")
        terminal.type("\x04")

        assert terminal.status() == 0


def test_an_interrupt_stops_the_reply_and_a_second_one_leaves():
    with answering_elsewhere(never_ending) as url:
        terminal = Terminal(url)
        terminal.wait_for(">>> ")
        terminal.type("A story\n")
        terminal.wait_for("Once upon")
        terminal.type("\x03")
        terminal.wait_for("Ctrl+C once more leaves")
        terminal.wait_for(">>> ")
        terminal.type("Hi\n")
        terminal.wait_for("messages")
        terminal.wait_for(">>> ")
        terminal.type("\x03")
        terminal.wait_for("once more leaves")
        terminal.wait_for(">>> ")
        terminal.type("\x03")

        assert terminal.status() == 0


def test_what_is_typed_while_the_model_speaks_is_not_shown_amid_its_words():
    with answering_elsewhere(never_ending) as url:
        terminal = Terminal(url)
        terminal.wait_for(">>> ")
        terminal.type("A story\n")
        terminal.wait_for("Once upon")
        terminal.type("typed too early\n\x03")

        assert "typed" not in terminal.wait_for("once more leaves")
        terminal.wait_for(">>> ")
        terminal.type("now")
        terminal.wait_for("now")
        terminal.type("\x03")

        assert terminal.status() == 0


def test_a_model_that_the_server_lacks_ends_a_chat_before_it_begins():
    with answering_elsewhere(memory) as url:
        chosen = mlx("chat", "--model", "scripted", "--url", url, given="Hi\n")
        refused = mlx("chat", "--model", "another", "--url", url, given="Hi\n")

    assert (chosen.returncode, chosen.stdout.split(",")[0]) == (0, "1 messages")
    assert (refused.returncode, refused.stdout) == (5, "")
    assert "has no model 'another'; it has scripted." in refused.stderr

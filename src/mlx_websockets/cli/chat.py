"""`mlx chat`: a conversation in the terminal, or one that is piped in.

What is said is kept by the server, for this connection, and nowhere else.
"""

import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mlx_websockets.cli.ask import show
from mlx_websockets.cli.console import Console
from mlx_websockets.cli.flags import takes
from mlx_websockets.cli.reach import Asking, Reach, failures_told, pictures_of
from mlx_websockets.client import Result, SyncClient, connect_sync
from mlx_websockets.errors import ModelNotFound, NotRunning, StartError, UsageError
from mlx_websockets.protocols.native_schema import DEFAULT_PROMPT, SETTING_NAMES

PROMPT = ">>> "


@takes(Asking)
def chat(asking: Asking) -> None:
    """Talk until /bye.

    Raises:
        NotRunning: there is no server.
        ModelNotFound: it has no such model.
        StartError: the connection is lost; in a pipe, also what a line asked for did not work.
    """
    where = asking.reach()
    is_typed = sys.stdin.isatty() and sys.stdout.isatty()
    with failures_told(where), Chat(where, asking.system, asking.model, is_typed=is_typed) as talk:
        talk.configure(asking.settings)
        if is_typed:
            import readline  # noqa: F401 - input() edits its line with it

            talk.greet()
            _converse(talk)
        else:
            for line in sys.stdin:
                if not talk.take(line):
                    break


def _converse(talk: "Chat") -> None:
    """Take lines from a person until they leave: with /bye, Ctrl-D, or Ctrl-C twice."""
    was_interrupted = False
    while True:
        try:
            line = input(PROMPT)
            was_interrupted = False
            if not talk.take_or_tell(line):
                return
        except EOFError:
            talk.out.text("")
            return
        except KeyboardInterrupt:
            talk.out.text("")
            if was_interrupted:
                return
            was_interrupted = True
            talk.notes.info("Stopped. Ctrl+C once more leaves.")


class Chat:
    """A conversation: what is set, which pictures wait for a question, what the last reply cost."""

    def __init__(self, where: Reach, system: str | None, model: str | None = None, *, is_typed: bool) -> None:
        self.out = Console(sys.stdout)
        self.notes = self.out if is_typed else Console(sys.stderr)
        self._where = where
        self._system = system
        self._model = model
        self._is_typed = is_typed
        self._settings: dict[str, Any] = {}
        self._pictures: list[bytes] = []
        self._last: Result | None = None
        self._connection = contextlib.ExitStack()
        self._mlx = self._connected()

    def __enter__(self) -> "Chat":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def greet(self) -> None:
        default = self._mlx.hello.model.get("id", "A model") if self._mlx.hello is not None else "A model"
        self.out.success(f"{self._model or default} at {self._where.url}")
        self.out.aside("  /image FILE shows it a picture, /help says what else there is, Ctrl+D leaves.")

    def take_or_tell(self, line: str) -> bool:
        """As `take`; what did not work is told, and the conversation goes on."""
        try:
            with failures_told(self._where):
                return self.take(line)
        except NotRunning:
            raise
        except StartError as error:
            self._mlx.ping()  # if the connection is gone, this says so
            self.notes.problem(error.reason, error.hint)
            return True

    def take(self, line: str) -> bool:
        """Answer a line, or do what it says. False: it was a goodbye.

        Raises:
            UsageError: there is no such command, or it can't be done.
            ClientError: see `SyncReply.result`.
        """
        line = line.strip()
        if not line.startswith("/"):
            if line or self._pictures:
                self._ask(line or DEFAULT_PROMPT)
            return True
        name, _, argument = line[1:].partition(" ")
        if name in ("bye", "exit", "quit"):
            return False
        command = COMMANDS.get(name)
        if command is None:
            raise UsageError(f"There is no /{name}.", "/help says what there is.")
        command.do(self, argument.strip())
        return True

    def configure(self, settings: dict[str, Any]) -> None:
        """Set it, for the rest of the conversation. Raises ReplyError: the server refuses a value."""
        if settings:
            self._mlx.configure(**settings)
            self._settings |= settings

    # --- the commands -------------------------------------------------------------------

    def image(self, argument: str) -> None:
        paths = _words(argument)
        if not paths:
            raise UsageError("Which picture?", "/image cat.jpg")
        self._pictures += pictures_of(paths)
        count = len(self._pictures)
        self.notes.success("It goes with your next question." if count == 1 else f"{count} go with your next question.")

    def set(self, argument: str) -> None:
        name, _, value = argument.partition(" ")
        if not name:
            self.out.table([(name, _said(value)) for name, value in self._mlx.configure().items()])
            return
        if name not in SETTING_NAMES or not value.strip():
            raise UsageError(f"Settings are {', '.join(SETTING_NAMES)}.", "/set temperature 0.2")
        self.configure({name: _value(value.strip())})
        self.notes.success(f"{name} is {value.strip()}")

    def system(self, argument: str) -> None:
        self._system = argument or None
        self.notes.success("That holds from now on." if argument else "The model's own system text holds again.")

    def stats(self, argument: str) -> None:
        if self._last is None:
            raise UsageError("Nothing has been answered yet.", "Ask something.")
        self.out.table(_figures(self._last))

    def clear(self, argument: str) -> None:
        self._connection.close()
        self._mlx = self._connected()
        settings, self._settings = self._settings, {}
        self._pictures = []
        self.configure(settings)
        self.notes.success("Forgotten. What is /set stays.")

    def help(self, argument: str) -> None:
        commands = [(f"/{name} {each.takes}".rstrip(), each.summary) for name, each in COMMANDS.items()]
        leaving = [("/bye", "Leave; Ctrl+D does so too."), ("Ctrl+C", "Stop the reply; twice: leave.")]
        self.out.table([*commands, *leaving], after_name="")

    # --- inside -------------------------------------------------------------------------

    def _ask(self, question: str) -> None:
        pictures, self._pictures = self._pictures, []
        reply = self._mlx.ask(question, images=pictures, system=self._system, history=True)
        with quiet_keys() if self._is_typed else contextlib.nullcontext():
            self._last = show(self.out, reply)
        if self._is_typed:
            self.out.aside(_in_short(self._last))

    def _connected(self) -> SyncClient:
        where, model = self._where, self._model
        mlx = self._connection.enter_context(connect_sync(where.url, token=where.token, model=model))
        known = [each.id for each in mlx.models()] if model is not None else []
        if model is not None and model not in known:
            raise ModelNotFound(
                f"{where.url} has no model {model!r}; it has {', '.join(known)}.", f"mlx chat --model {known[0]}"
            )
        return mlx


@dataclass(frozen=True, slots=True)
class Command:
    """A line that begins with a slash."""

    do: Callable[[Chat, str], None]
    takes: str
    summary: str


COMMANDS = {
    "image": Command(Chat.image, "FILE …", "Show pictures with the next question."),
    "set": Command(Chat.set, "NAME VALUE", "Change a setting, such as temperature; alone: show them."),
    "system": Command(Chat.system, "TEXT", "Say how the model should answer; alone: take that back."),
    "stats": Command(Chat.stats, "", "What the last reply cost."),
    "clear": Command(Chat.clear, "", "Begin anew: the model forgets what was said."),
    "help": Command(Chat.help, "", "This."),
}


@contextlib.contextmanager
def quiet_keys() -> Iterator[None]:
    """What is typed meanwhile is not shown amid other words; the next prompt shows it."""
    import termios

    before = termios.tcgetattr(sys.stdin)
    quiet = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _words(argument: str) -> list[str]:
    try:
        return shlex.split(argument)  # a name dragged into a terminal comes quoted
    except ValueError:
        return [argument]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _figures(result: Result) -> list[tuple[str, str]]:
    rows = [("Ended by", result.finish_reason or "-"), ("Seconds", f"{result.seconds:.2f}")]
    if result.usage is not None:
        rows.append(("Tokens read", f"{result.usage.input_tokens}, {result.usage.image_tokens} of them of pictures"))
        rows.append(("Known before", f"{result.usage.cached_tokens} of the tokens read"))
        rows.append(("Tokens said", str(result.usage.output_tokens)))
    if result.timings is not None:
        rows.append(("First after", f"{result.timings.ttft_ms:.0f} ms"))
        rows.append(("Tokens/s", f"{result.timings.tokens_per_second:.1f}"))
    return rows


def _in_short(result: Result) -> str:
    if result.usage is None or result.timings is None:
        return f"  {result.seconds:.2f} s"
    cut = ", cut there: /set max_tokens N" if result.finish_reason == "length" else ""
    rate = f"{result.timings.tokens_per_second:.1f} tokens/s, first after {result.timings.ttft_ms / 1000:.2f} s"
    return f"  {result.usage.output_tokens} tokens{cut}, {rate}"

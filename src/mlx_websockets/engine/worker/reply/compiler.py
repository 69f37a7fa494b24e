"""A JSON schema to a grammar, and a process of its own in which that is tried out first.

llguidance bounds what a step of a grammar takes, but not all of what it takes to make one: a
thousand bytes of schema can keep it busy for minutes, where a string has to match many patterns
at once. So a schema is made into a grammar here only after a process that can be stopped has
done so in time. Nothing here knows MLX, nor a model's tokenizer.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from mlx_websockets.errors import EngineError

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

OPTIONS: "JsonCompileOptions" = {
    # One space where people put one. A small model that may write more, may write nothing else.
    "whitespace_flexible": False,
    "whitespace_pattern": None,
    "item_separator": ", ?",
    "key_separator": ": ?",
    # What a schema says is followed to the letter or not at all.
    "coerce_one_of": False,
    "lenient": False,
}

START_SECONDS = 20.0
REHEARSAL_SECONDS = 0.5
"""Of a processor, for one schema. Everybody who is being answered waits for it."""

WAIT_SECONDS = 5.0
"""For those of a processor that others use too."""

MAX_REASON_LENGTH = 160


def compiled(json_schema: str, tokenizer: LLTokenizer) -> LLMatcher:
    """The grammar of a schema at its beginning.

    Raises:
        EngineError: `unsupported_schema` or `schema_too_complex`.
    """
    limits = LLParserLimits(
        max_lexer_states=20_000,  # up to 2 kB each
        step_lexer_fuel=100_000,  # 7 ms
        step_max_items=50_000,
        precompute_large_lexemes=False,  # makes nothing faster that is slow here
        verbose_errors=False,
    )
    try:
        grammar = LLMatcher.grammar_from_json_schema(json_schema, overrides=OPTIONS)
    except ValueError as error:
        raise _refusal(str(error)) from error
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if matcher.is_error():
        raise _refusal(matcher.get_error())
    return matcher


def too_complex() -> EngineError:
    return EngineError("schema_too_complex", "This JSON schema is too complex to follow. Make it smaller or plainer.")


def _refusal(reason: str) -> EngineError:
    if any(words in reason for words in ("too large", "too complex", "too many", "Too many", "fuel", "Unable to")):
        return too_complex()
    words = " ".join(reason.partition("\n")[0].split())
    if len(words) > MAX_REASON_LENGTH:
        words = words[:MAX_REASON_LENGTH] + "..."
    return EngineError("unsupported_schema", f"This JSON schema can't be followed: {words.removesuffix('.')}.")


class Rehearsal:
    """The process in which schemas are tried out; started at once. It ends with `close`, or with this process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = _started()
        self._is_ready = False

    def __call__(self, json_schema: str) -> None:
        """Return if a grammar can be made of the schema in time.

        Args:
            json_schema: JSON text in one line.

        Raises:
            EngineError: as `compiled` does; `schema_too_complex` after `REHEARSAL_SECONDS`; `engine_failed`
                where the process can't be started.
        """
        answer = _answer(self._ready(), json_schema)
        if not answer:
            self.close()
            raise too_complex()
        refusal = json.loads(answer)
        if refusal is not None:
            raise EngineError(*refusal)

    def close(self) -> None:
        """End the process, whatever it is at."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.communicate()

    def _ready(self) -> subprocess.Popen[bytes]:
        """The process, waiting for a schema; another one if somebody ended it meanwhile."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process, self._is_ready = _started(), False
        self._is_ready = self._is_ready or _line(self._process, START_SECONDS) != b""
        if not self._is_ready:
            self.close()
            raise EngineError("engine_failed", "The JSON schema could not be tried out. Ask again.", retryable=True)
        return self._process


def _started() -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", __name__],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # where a library might quote a schema
    )


def _answer(process: subprocess.Popen[bytes], json_schema: str) -> bytes:
    """What the process says to a schema; nothing if it came to its end over it."""
    assert process.stdin is not None
    try:
        process.stdin.write(json_schema.encode() + b"\n")
    except OSError:  # it has ended
        return b""
    return _line(process, WAIT_SECONDS)


def _line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    """The next line of the process; nothing if it has ended, or none comes in time."""
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    line = b""
    while not line.endswith(b"\n"):
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return b""
        piece = os.read(process.stdout.fileno(), 4096)
        if not piece:
            return b""
        line += piece
    return line


# --- in the process ---------------------------------------------------------------------


def main() -> None:
    """Try out each line of the standard input; answer each with a line: null, or the code and the sentence."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it will say when
    tokenizer = LLTokenizer("byte")
    _say(None)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, REHEARSAL_SECONDS)  # nobody handles its signal: it ends the process
        refusal = _tried_out(line, tokenizer)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _say(refusal)


def _tried_out(json_schema: str, tokenizer: LLTokenizer) -> list[str] | None:
    try:
        compiled(json_schema, tokenizer).compute_bitmask()
    except EngineError as error:
        return [error.code, str(error)]
    return None


def _say(refusal: list[str] | None) -> None:
    sys.stdout.write(json.dumps(refusal) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

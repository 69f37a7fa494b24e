"""Token ids of one reply to pieces of text, as they come.

Two things are held back: bytes that are not yet a whole code point, and text that may turn
out to be the beginning of a stop string. The pieces joined are the reply.
"""

from collections.abc import Callable
from typing import Any, Protocol

UNFINISHED = "\ufffd"
"""What a tokenizer writes for bytes that make no code point (yet)."""

MAX_HELD_TOKENS = 8
"""No code point takes more bytes than this; what is still unfinished then, is broken."""


Decode = Callable[[list[int]], str]
"""Ids to text. Control tokens that a model says are shown as the library shows them: the reply is what it said."""


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is needed here."""

    def decode(self, token_ids: list[int], **options: bool) -> str: ...


def decoder(tokenizer: Tokenizer) -> Decode:
    """What the tokenizer makes of ids, without the Python around it where it has a core in Rust: five times as fast."""
    core: Any = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:
        return lambda ids: tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return lambda ids: core.decode(ids, skip_special_tokens=False)


class Detokenizer:
    """One reply's ids to text.

    Args:
        decode: see `decoder`.
        stop: strings that end the reply.

    Attributes:
        stopped: a stop string has appeared; what follows is not part of the reply.
    """

    def __init__(self, decode: Decode, stop: tuple[str, ...] = ()) -> None:
        self._text = decode
        self._stop = stop
        self._ids: list[int] = []
        self._context = 0  # where the window begins: some ids read differently at the start of a text
        self._told = 0  # ids whose text is out
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """The text that `token` completes; often its own, sometimes none."""
        self._ids.append(token)
        before = self._text(self._ids[self._context : self._told])
        text = self._text(self._ids[self._context :])
        unfinished = text.endswith(UNFINISHED) and len(self._ids) - self._told < MAX_HELD_TOKENS
        if unfinished or len(text) <= len(before):
            return ""
        self._context, self._told = self._told, len(self._ids)
        return self._released(text[len(before) :])

    def finish(self) -> str:
        """What was held back; the reply ends here."""
        if self.stopped:
            return ""
        before = self._text(self._ids[self._context : self._told])
        rest = self._text(self._ids[self._context :])[len(before) :]
        self._told = len(self._ids)
        piece = self._released(rest)
        held, self._held = self._held, ""
        return piece if self.stopped else piece + held

    def _released(self, text: str) -> str:
        text = self._held + text
        ends = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        if ends:
            self.stopped = True
            self._held = ""
            return text[: min(ends)]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """How much of the end of `text` may be the beginning of `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)

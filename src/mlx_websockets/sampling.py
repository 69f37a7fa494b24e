"""The settings of a connection: how the tokens of a reply are chosen and what gets one; ranges, and how they merge.

Says each setting once: its default, its bounds and its meaning. Knows no wire names
(a protocol translates) and no model (the worker's sampler acts on it).
"""

import dataclasses
import reprlib
from dataclasses import dataclass, field
from typing import Any

from mlx_websockets.errors import InvalidMessage

REPETITION_CONTEXT_TOKENS = 20
"""How far back a penalty looks; fixed by the seed's contract."""

MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 256


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers that a setting may be, both ends included."""

    kind: type[int] | type[float]
    least: float
    most: float

    def checked(self, name: str, value: Any) -> int | float:
        """`value` as `kind`.

        Raises:
            InvalidMessage: it is of another type, not finite, or out of range. A bool is
                no number, an int is a fine float.
        """
        is_number = isinstance(value, (int, self.kind)) and not isinstance(value, bool)
        if is_number and self.least <= value <= self.most:  # NaN is in no range
            return self.kind(value)
        raise _refusal(name, str(self), value)

    def __str__(self) -> str:
        if self.least == self.most:
            return f"{self.least}"
        kind = "a whole number" if self.kind is int else "a number"
        return f"{kind} between {self.least} and {self.most}"


def _refusal(name: str, wanted: str, value: object) -> InvalidMessage:
    return InvalidMessage(f"`{name}` must be {wanted}, got {_shown(value)}", f"$.{name}", "invalid_config")


def _shown(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 128:
        return "a far larger number" if value > 0 else "a far smaller number"  # Python refuses to print the longest
    text = _brief.repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


_brief = reprlib.Repr()
_brief.maxlevel = 2  # peers may send anything, also a list of a million lists


MAX_SEED = 2**63 - 1

MAX_CANDIDATES = 8
MAX_TOP_LOGPROBS = 20

MAX_TOKENS = 1_000_000
"""Of a reply whatever the server's limit, which is lower unless its owner set it to this."""

RANGES: dict[str, Range] = {
    "candidate_count": Range(int, 1, MAX_CANDIDATES),
    "max_tokens": Range(int, 1, MAX_TOKENS),
    "max_tokens_image": Range(int, 1, MAX_TOKENS),
    "temperature": Range(float, 0, 2),
    "top_p": Range(float, 0, 1),
    "top_k": Range(int, 0, 2**31 - 1),
    "presence_penalty": Range(float, 0, 2),
    "frequency_penalty": Range(float, 0, 2),
    "seed": Range(int, 0, MAX_SEED),
    "logprobs": Range(int, 0, MAX_TOP_LOGPROBS),
    "min_p": Range(float, 0, 1),
    "unchanged_threshold": Range(float, 0, 1),
}

NULLABLE = ("seed", "logprobs")
"""Settings of which null is a value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """The settings of a connection or of one request.

    Attributes:
        candidate_count: replies per request, each with chances of its own.
        max_tokens: longest reply to text, in tokens.
        max_tokens_image: longest reply to a picture or a frame, in tokens.
        temperature: 0 always takes the likeliest token.
        top_p: keep the likeliest tokens until their probabilities add up to this; 1 = all.
        top_k: keep this many likeliest tokens; 0 = all.
        presence_penalty, frequency_penalty: against repetition; the larger one counts.
        seed: the same request with the same seed gets the same reply; None = a fresh one each time.
        response_modalities: only text.
        logprobs: how many likely tokens to tell of beside each chosen one; None = not even the chosen one's.
        min_p: leave out tokens less likely than this share of the likeliest one's probability; 0 = none.
        unchanged_threshold: a frame that differs by less from the last one described gets no reply; 0 = all do.
        limit: what neither `max_tokens` may pass, set by `--max-tokens`.
        rows: what `candidate_count` may not pass: replies that the engine computes together.
    """

    candidate_count: int = 1
    max_tokens: int = 200
    max_tokens_image: int = 100
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 50
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    response_modalities: tuple[str, ...] = ("TEXT",)
    logprobs: int | None = None
    min_p: float = 0.0
    unchanged_threshold: float = 0.0
    limit: int = field(default=512, repr=False)
    rows: int = field(default=MAX_CANDIDATES, repr=False)

    @property
    def repetition_penalty(self) -> float:
        """Both penalties as the one that MLX models take: 1 (none) to 1.5."""
        return 1.0 + 0.25 * max(self.presence_penalty, self.frequency_penalty)

    def merged_with(self, changes: dict[str, object], names: dict[str, str] | None = None) -> "Sampling":
        """These settings with `changes` applied, all or none of them.

        Args:
            changes: by the field names of this class; values as a peer sent them.
            names: how the peer calls each field, for the error's sentence and path.

        Raises:
            InvalidMessage: code `invalid_config`, naming the field, the value and the range.
        """
        checked = {key: self._checked(key, (names or {}).get(key, key), value) for key, value in changes.items()}
        return dataclasses.replace(self, **checked)

    def _checked(self, key: str, name: str, value: object) -> Any:
        if key == "response_modalities":
            if not isinstance(value, list | tuple) or list(value) != ["TEXT"]:
                raise _refusal(name, '["TEXT"]', value)
            return ("TEXT",)
        if key in NULLABLE and value is None:
            return None
        allowed = RANGES[key]
        if key in ("max_tokens", "max_tokens_image"):
            allowed = dataclasses.replace(allowed, most=self.limit)
        if key == "candidate_count":
            allowed = dataclasses.replace(allowed, most=min(allowed.most, self.rows))
        return allowed.checked(name, value)

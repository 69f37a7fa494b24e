"""What peers ask and what they are told, in no protocol's dialect.

A protocol's `parse` makes the first kind from messages, its `render` makes messages from
the second. Pictures stay as they came, encoded: most frames are superseded and never opened.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from mlx_websockets.generation import FinishReason, Priority, Timings, TokenLogprob, Usage
from mlx_websockets.sampling import Sampling

DropReason = Literal["processing_queue_full", "superseded", "unchanged", "expired", "decode_error", "overloaded"]
InputType = Literal["text", "image"]


# --- what peers ask -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """A picture as it arrived: file bytes, or base64 text with or without a data URL's head.

    `path` is where it stood in its message, for an error that names the field.
    """

    data: bytes | str = field(repr=False)
    path: str = "$.image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One question, with or without pictures.

    Attributes:
        text: the user's words.
        images: pictures that belong to it, in order.
        context: goes into the same user turn, before the text.
        system: replaces the template's own system text for this request.
        history: join the connection's conversation: see it, and be kept in it.
        stop: strings that end the reply and are not part of it.
        json_schema: what the reply has to meet, as JSON text; None: it is free.
        changes: sampling settings for this request alone, already translated to the
            field names of `Sampling`, not yet checked.
        names: how the peer calls these fields.
        id: the peer's own name for this request; None for a peer of the seed's contract.
        source: the peer's name for where a picture came from; echoed.
        model: which of the server's models is asked; None: the default.
        priority: the class that it steps back to; it goes no further to the front than its kind.
        start_seconds: if it has not begun within so long of its arrival, it is over.
    """

    text: str
    images: tuple[EncodedImage, ...] = ()
    context: str = ""
    system: str | None = None
    history: bool = False
    stop: tuple[str, ...] = ()
    json_schema: str | None = None
    changes: dict[str, object] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    id: str | None = None
    source: str | None = None
    model: str | None = None
    priority: Priority = "interactive"
    start_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameInput:
    """One picture of a running stream; a newer one of its source may take its place.

    Attributes:
        ask: the question about it; it has exactly one image, and `source` is set.
        frame_id: the peer's name for the frame; echoed.
        captured_at: when it was taken, in seconds since 1970; used for `frame_age_ms`.
        policy: "latest" is superseded by a newer frame of its source, "queue" waits its turn.
    """

    ask: Ask
    frame_id: str | int | None = None
    captured_at: float | None = None
    policy: Literal["latest", "queue"] = "latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Configure:
    """New settings for this connection. `sent` is what the peer wrote, to be echoed."""

    changes: dict[str, object]
    names: dict[str, str]
    sent: dict[str, Any]
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupt:
    """End a request by its id, or a source's, or (neither given) everything of this connection."""

    id: str | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """Asks how the server is."""

    id: str | None = None


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for a `Pong` with the same `t`."""

    t: Any = None
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Go on with a session whose connection broke; makes sense only as the first thing said.

    Attributes:
        token: from the `Hello` of that session.
        last_seq: how many messages have arrived in it, not counting `Hello` and `Resumed`.
    """

    token: str = field(repr=False)
    last_seq: int
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelWish:
    """Asks which models there are, or to have one of them in memory or out of it."""

    wish: Literal["list", "load", "unload"]
    model: str = ""
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A message that made no sense; the peer is told why. Nothing was begun."""

    reason: str
    code: str = "invalid_message"
    path: str = "$"
    id: str | None = None


PeerEvent = Ask | FrameInput | Configure | Interrupt | StatusRequest | Ping | Resume | ModelWish | Unreadable


# --- what peers are told ------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnLabel:
    """What identifies a turn to its peer; echoed in everything about it."""

    id: str | None = None
    input_type: InputType = "text"
    source: str | None = None
    frame_id: str | int | None = None
    is_frame: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The first message to a peer that asked for the v2 subprotocol. `resume_token` is for `Resume`."""

    server: str
    session: str
    resume_token: str = field(repr=False)
    model: dict[str, Any]
    limits: dict[str, float]
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReplyStarted:
    """The model has begun on a turn. `queue_ms`: from arrival until the engine had room."""

    turn: TurnLabel
    model: str
    queue_ms: float


@dataclass(frozen=True, slots=True)
class ReplyDelta:
    """The next piece of a reply. `seq` counts from 0 without gaps, over all candidates.

    `candidate` is None where there is only one; `text` may be empty where there are `logprobs`.
    """

    turn: TurnLabel
    text: str
    seq: int
    candidate: int | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of several replies to the same question, whole or as far as it came."""

    text: str = field(repr=False)
    reason: FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyFinished:
    """A reply is whole, or was ended early with what it had. Terminal.

    Attributes:
        text, reason: of the first candidate, where there are several.
        candidates: all of them, in order; empty where there is one.
        seconds: from the turn's start in the engine to its end.
        queue_ms: from arrival until the engine had room; opening pictures comes after it.
        image_ms: spent on opening the pictures.
        frame_age_ms: a frame's age at the end of its reply: from its `ts` where that makes
            sense, else from its arrival.
    """

    turn: TurnLabel
    text: str = field(repr=False)
    reason: FinishReason
    usage: Usage
    timings: Timings
    seconds: float
    queue_ms: float
    image_ms: float
    frame_age_ms: float | None = None
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class FrameDropped:
    """A frame that will not be analysed. Terminal."""

    turn: TurnLabel
    reason: DropReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The peer has its session back; the messages that it missed follow.

    Attributes:
        session: the one that `Hello` named when it began.
        missed: how many messages are sent again.
        received: how many messages of the peer have arrived in this session, not counting `Resume`.
    """

    session: str
    missed: int
    received: int
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something went wrong. Terminal for the turn that `turn` names, if it names one."""

    message: str = field(repr=False)
    code: str
    turn: TurnLabel = TurnLabel()
    path: str = "$"
    retryable: bool = False
    retry_after_ms: int | None = None
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class ConfigUpdated:
    """The connection's settings after a change. `sent` is the change as the peer wrote it."""

    sent: dict[str, Any]
    sampling: Sampling
    id: str | None = None


@dataclass(frozen=True, slots=True)
class StatusReport:
    """How the server is; `stats` is made by the server, see `server/status.py`.

    `sampling` is what the connection's settings are now.
    """

    stats: dict[str, Any]
    id: str | None = None
    sampling: Sampling | None = None


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to `Ping`."""

    t: Any = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class ModelList:
    """The models of the server, the default first; each as the engine sums it up."""

    models: list[dict[str, Any]]
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelProgress:
    """How far the loading of a model is. `total` 0 = not known; `unit` is "bytes" or ""."""

    model: str
    stage: str
    done: int
    total: int
    unit: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class ModelLoaded:
    """The model is in memory. `sees`: it takes pictures."""

    model: str
    sees: bool
    id: str | None = None


@dataclass(frozen=True, slots=True)
class ModelUnloaded:
    """The model is out of memory; it comes back when somebody asks it something."""

    model: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class GoAway:
    """The server will close the connection; `reason` is a sentence."""

    reason: str
    time_left_ms: int


ServerEvent = (
    Hello | Resumed | ReplyStarted | ReplyDelta | ReplyFinished | FrameDropped | Problem
    | ConfigUpdated | StatusReport | Pong | ModelList | ModelProgress | ModelLoaded | ModelUnloaded | GoAway
)  # fmt: skip

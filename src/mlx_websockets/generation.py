"""What the server asks of the engine for one turn, and what comes back.

Values only, the same on both sides of the channel: msgspec packs them as they are.
Nothing here knows about sockets, sessions or MLX.
"""

from typing import Literal

import msgspec

FinishReason = Literal["stop", "length", "cancelled", "timeout"]

Priority = Literal["interactive", "frame", "background"]
"""Who goes first where not all can: someone who waits, a live picture, work that nobody watches."""


class Image(msgspec.Struct, frozen=True):
    """A decoded picture: `pixels` is `height * width * 3` bytes, RGB, rows from the top."""

    width: int
    height: int
    pixels: bytes


class ChatMessage(msgspec.Struct, frozen=True):
    """One message of the dialogue that a model is to continue.

    `images` come before `text` within the message, in this order.
    """

    role: Literal["system", "user", "assistant"]
    text: str
    images: tuple[Image, ...] = ()


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """How the tokens of this one reply are chosen; everything already settled and in range.

    Attributes:
        min_p: leave out tokens less likely than this share of the likeliest one's probability; 0 = none.
        candidates: replies to compute from the one prompt, each with chances of its own.
        logprobs: how many likely tokens to report beside each chosen one; None: report nothing, not even the chosen.
        json_schema: the reply is JSON that meets this schema, itself JSON text; None: free text.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    candidates: int = 1
    logprobs: int | None = None
    json_schema: str | None = None


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One reply wanted.

    Attributes:
        id: unique among the requests of one engine, never reused.
        messages: oldest first; the last one is the user's.
        choice: how to sample and when to stop.
        droppable: how many messages, from the first that is not the system's, may be left
            out (oldest first, two by two) when the whole does not fit the model's window.
        priority: whose prompt is computed first.
    """

    id: int
    messages: tuple[ChatMessage, ...]
    choice: Choice
    droppable: int = 0
    priority: Priority = "interactive"


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts. `image_tokens` and `cached_tokens` are part of `input_tokens`."""

    input_tokens: int = 0
    image_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker spent on a request. Milliseconds.

    Attributes:
        vision_ms: preparing the pictures and the vision tower.
        prefill_ms: the prompt through the language model.
        first_token_ms: from arrival in the worker to the first token.
        tokens_per_second: of the reply, after its first token; 0 when it has one or none.
    """

    vision_ms: float = 0.0
    prefill_ms: float = 0.0
    first_token_ms: float = 0.0
    tokens_per_second: float = 0.0


class Started(msgspec.Struct, frozen=True, tag="started"):
    """The request was tokenized, fits, and has begun."""

    id: int


class TokenLogprob(msgspec.Struct, frozen=True):
    """A chosen token's text, the natural logarithm of its probability, and the likeliest tokens in its place.

    `top` is likeliest first. Probabilities are the model's own: before temperature, penalties and filters.
    """

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


class Delta(msgspec.Struct, frozen=True, tag="delta"):
    """The next piece of the reply: whole code points, never part of a stop string.

    `text` is never empty, but where `logprobs` were asked for: a token may have no text yet.
    `candidate` counts from 0.
    """

    id: int
    text: str
    candidate: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """The reply is whole, all candidates of it. Last update of its request.

    `reason` is candidate 0's; `candidate_reasons` those of all, given where there are several.
    """

    id: int
    reason: FinishReason
    usage: Usage = Usage()
    timings: Timings = Timings()
    candidate_reasons: tuple[FinishReason, ...] = ()


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The reply ends here. Last update of its request."""

    id: int
    code: str
    message: str
    retryable: bool = False
    retry_after_ms: int | None = None


Update = Started | Delta | Finished | Failed

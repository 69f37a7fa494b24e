"""Every limit of the server, said once: its default, its unit, what it bounds, how its end is told.

`hello`, `/v1/status` and `docs/reference/limits.md` are made from this. A test may make a
server less patient. What can be set by a flag comes from `Settings`; what the protocol and
the opener of pictures check is fixed there, and only declared here.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from mlx_websockets import settings as fixed
from mlx_websockets.protocols.response_format import MAX_SCHEMA_BYTES, MAX_SCHEMA_DEPTH
from mlx_websockets.settings import Settings


def limit(default: float, unit: str, meaning: str, told: str, *, wire_name: str = "") -> Any:
    """A field of `Limits`. `told`: the error code, or what else becomes of whoever is past it."""
    return dataclasses.field(
        default=default, metadata={"unit": unit, "meaning": meaning, "told": told, "wire_name": wire_name}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of every wait and every store at the server's edge. See each field's meaning."""

    max_connections: int = limit(fixed.MAX_CONNECTIONS, "connections", "open at once, from everywhere", "HTTP 503")
    max_connections_per_address: int = limit(
        fixed.MAX_CONNECTIONS_PER_ADDRESS,
        "connections",
        "open at once from one address (of IPv6, one /64); the server's own machine is exempt",
        "HTTP 503",
    )
    handshake_seconds: float = limit(10.0, "seconds", "for a peer to have sent its HTTP request", "disconnected")
    idle_seconds: float = limit(
        fixed.IDLE_SECONDS,
        "seconds",
        "without a message either way and with nothing waiting or running",
        "close 1000",
    )
    send_seconds: float = limit(fixed.SEND_SECONDS, "seconds", "for a peer to take one message", "disconnected")
    reply_seconds: float = limit(
        fixed.REPLY_SECONDS, "seconds", "for one reply", '`finish_reason` "timeout"; version 1: `inference_timeout`'
    )
    waiting_seconds: float = limit(
        fixed.WAITING_SECONDS, "seconds", "for an input to be begun on", "`waited_too_long`; a frame: `expired`"
    )
    max_waiting: int = limit(
        fixed.MAX_WAITING,
        "inputs",
        "of one connection that wait",
        "`queue_full`; a frame: `processing_queue_full`",
        wire_name="max_queue",
    )
    requests_per_minute: int = limit(
        fixed.REQUESTS_PER_MINUTE,
        "requests",
        "a minute from one address, or with one token that has a name and may have a number of its own; "
        "with a sixth of it at once; the server's own machine is exempt",
        "`rate_limited`",
    )
    bad_messages_per_minute: int = limit(
        600,
        "messages",
        "a minute on one connection that make no sense; the server's own machine is exempt",
        "`too_many_errors`, then close 1008",
    )
    max_fragments: int = limit(4096, "fragments", "of one message", "close 1009")
    max_held_bytes: int = limit(
        256 * 1024 * 1024,
        "bytes",
        "of pictures held for all connections: waiting, running or remembered",
        "`overloaded`; a frame: `overloaded`",
    )
    max_owed_messages: int = limit(512, "messages", "that a slow peer has yet to take", "disconnected")
    max_owed_bytes: int = limit(1024 * 1024, "bytes", "that a slow peer has yet to take", "disconnected")
    max_kept_messages: int = limit(
        8192, "messages", "sent of late, kept for a peer whose socket breaks", "`resume_failed`"
    )
    max_kept_bytes: int = limit(
        1024 * 1024, "bytes", "sent of late, kept for a peer whose socket breaks", "`resume_failed`"
    )
    # Later than two pings and their deadlines: a socket that still lives has brought it over.
    kept_seconds: float = limit(90.0, "seconds", "that what was sent is kept at least", "`resume_failed`")
    max_parked: int = limit(
        100,
        "sessions",
        "without a socket, waiting for their peer to come back; the oldest makes way",
        "`resume_failed`",
    )
    park_seconds: float = limit(600.0, "seconds", "that a session without a socket waits", "`resume_failed`")
    drain_seconds: float = limit(
        fixed.DRAIN_SECONDS, "seconds", "for a reply to finish when the server stops", "`shutting_down`"
    )
    shutdown_step_seconds: float = limit(
        fixed.SHUTDOWN_STEP_SECONDS, "seconds", "for each step of a shutdown", "close 1001"
    )
    close_seconds: float = limit(1.0, "seconds", "for a peer to answer a close", "disconnected")

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """The limits with what a flag can set taken from `settings`."""
        names = {each.name for each in dataclasses.fields(cls)} & {each.name for each in dataclasses.fields(Settings)}
        return cls(**{name: getattr(settings, name) for name in names})


@dataclass(frozen=True, slots=True)
class Declared:
    """One limit as it is told: by name, with its value in `unit`."""

    name: str
    value: float
    unit: str
    meaning: str
    told: str
    flag: str = ""


FIXED = (
    Declared(
        "max_message_bytes",
        fixed.MAX_MESSAGE_BYTES,
        "bytes",
        "of one WebSocket message, fragments joined",
        "close 1009",
    ),
    Declared("max_json_depth", fixed.MAX_JSON_DEPTH, "levels", "of lists and objects in a message", "`json_too_deep`"),
    Declared(
        "max_json_items",
        fixed.MAX_JSON_ITEMS,
        "marks",
        "of strings, lists and objects in a message",
        "`json_too_large`",
    ),
    Declared("max_id_length", fixed.MAX_ID_LENGTH, "characters", "of an `id`", "`invalid_message`"),
    Declared(
        "max_name_length", fixed.MAX_NAME_LENGTH, "characters", "of a `source`, `frame_id` or `t`", "`invalid_message`"
    ),
    Declared(
        "max_text_bytes",
        fixed.MAX_TEXT_BYTES,
        "bytes",
        "of text in one request, in UTF-8: `content`, `context`, `prompt` and `system` together",
        "`text_too_large`",
    ),
    Declared(
        "max_schema_bytes",
        MAX_SCHEMA_BYTES,
        "bytes",
        "of the JSON schema in a `response_format`, written without spaces",
        "`schema_too_large`",
    ),
    Declared(
        "max_schema_depth",
        MAX_SCHEMA_DEPTH,
        "levels",
        "of lists and objects in that schema",
        "`schema_too_large`",
    ),
    Declared("max_image_bytes", fixed.MAX_IMAGE_BYTES, "bytes", "of one picture as a file", "`image_too_large`"),
    Declared(
        "max_image_pixels",
        fixed.MAX_IMAGE_PIXELS,
        "pixels",
        "of one picture, seen before it is unpacked; of an animation only the first frame is",
        "`image_too_large`",
    ),
    Declared("max_image_side", fixed.MAX_IMAGE_SIDE, "pixels", "of a picture's longer side", "`image_too_large`"),
    Declared(
        "max_images", fixed.MAX_IMAGES, "pictures", "in one request, or fewer if the model says so", "`too_many_images`"
    ),
)
"""The limits that no server moves."""


def declared(limits: Limits = Limits()) -> list[Declared]:
    """Every limit of a server with these `limits`."""
    flags = {each.name for each in dataclasses.fields(Settings)}
    movable = [
        Declared(
            each.metadata["wire_name"] or each.name,
            getattr(limits, each.name),
            each.metadata["unit"],
            each.metadata["meaning"],
            each.metadata["told"],
            "--" + each.name.replace("_", "-") if each.name in flags else "",
        )
        for each in dataclasses.fields(limits)
    ]
    return [*FIXED, *movable]


def told(limits: Limits, *, max_output_tokens: int, context_tokens: int | None) -> dict[str, float]:
    """The limits by name, as `hello` and `/v1/status` have them.

    Args:
        max_output_tokens: of one reply.
        context_tokens: what the model takes, prompt and reply together; None: not known yet.
    """
    of_model: dict[str, float] = {"max_output_tokens": max_output_tokens}
    if context_tokens is not None:
        of_model["context_tokens"] = context_tokens
    return {each.name: each.value for each in declared(limits)} | of_model

"""The native protocol's messages as they stand on the wire, both ways.

The server reads the first half and writes the second, the client library does the reverse.
A field that is `None` is absent. What the fields mean: `docs/reference/protocol.md`.
Shapes only: no limits, no sessions, no sockets.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Struct

from mlx_websockets.generation import Priority, Usage
from mlx_websockets.sampling import NULLABLE

SUBPROTOCOL = "mlx-websockets.v2.json"
"""What a peer offers in its handshake to get `hello`, ids and timings without asking for each."""

MDNS_SERVICE = "_mlx-ws._tcp.local."
"""Under what servers are announced on a local network."""

VERSION = "mlx-websockets.v2"
"""What `hello` calls this protocol."""

FEATURES = (
    "ids",
    "cancel",
    "history",
    "stop",
    "system",
    "images",
    "binary_media",
    "usage",
    "timings",
    "ping",
    "resume",
    "models",
    "candidates",
    "logprobs",
    "unchanged_frames",
    "priority",
    "deadline",
    "response_format",
)
"""What `hello` lists: the optional parts that this implementation has."""

DEFAULT_PROMPT = "Describe what you see."
DEFAULT_SOURCE = "unknown"

SETTING_NAMES = {
    "candidate_count": "candidateCount",
    "max_tokens": "maxOutputTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
    "response_modalities": "responseModalities",
    "max_tokens_image": "max_tokens_image",
    "seed": "seed",
    "logprobs": "logprobs",
    "min_p": "minP",
    "unchanged_threshold": "unchangedThreshold",
}
"""How the wire calls each field of `Sampling`. The mixture of cases is the seed's."""

LATER_SETTINGS = ("logprobs", "min_p", "unchanged_threshold")
"""Settings that the seed's contract does not have; its peers are told of those alone that they have sent."""

Number = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | float
Name = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | str


class Settings(Struct, frozen=True, kw_only=True, omit_defaults=True, rename=SETTING_NAMES):
    """Any of the settings; their values are checked by `Sampling.merged_with`."""

    candidate_count: Any = UNSET
    max_tokens: Any = UNSET
    temperature: Any = UNSET
    top_p: Any = UNSET
    top_k: Any = UNSET
    presence_penalty: Any = UNSET
    frequency_penalty: Any = UNSET
    response_modalities: Any = UNSET
    max_tokens_image: Any = UNSET
    seed: Any = UNSET
    logprobs: Any = UNSET
    min_p: Any = UNSET
    unchanged_threshold: Any = UNSET

    @property
    def given(self) -> dict[str, Any]:
        """The values that were sent, by the names of `Sampling`. Null is a value only of the `NULLABLE`."""
        values = {name: getattr(self, name) for name in SETTING_NAMES}
        return {
            name: value
            for name, value in values.items()
            if value is not UNSET and (value is not None or name in NULLABLE)
        }


# --- peer to server -----------------------------------------------------------------


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """What every message has: `type`, and an `id` where the peer gave one."""

    id: str | None = None


class Request(Message, frozen=True, kw_only=True, omit_defaults=True):
    """What every question may have."""

    config: Settings | None = None
    history: bool | None = None
    stop: list[str] | None = None
    system: str | None = None
    response_format: Any = None
    model: str | None = None
    priority: Priority | None = None
    deadline_ms: float | None = None


class TextInput(Request, frozen=True, kw_only=True, omit_defaults=True, tag="text_input"):
    content: str
    context: str | None = None


class Picture(Request, frozen=True, kw_only=True, omit_defaults=True):
    """`image` and `frame` are two names of one field. `mime` belongs to binary messages."""

    image: str | None = None
    frame: str | None = None
    prompt: str | None = None
    source: str | None = None
    mime: str | None = None


class ImageInput(Picture, frozen=True, kw_only=True, omit_defaults=True, tag="image_input"):
    images: list[str] | None = None


class Frame(Picture, frozen=True, kw_only=True, omit_defaults=True):
    frame_id: Name | None = None
    ts: float | None = None
    policy: Literal["latest", "queue"] | None = None


class VideoFrame(Frame, frozen=True, kw_only=True, omit_defaults=True, tag="video_frame"):
    pass


class ScreenFrame(Frame, frozen=True, kw_only=True, omit_defaults=True, tag="screen_frame"):
    pass


class Config(
    Settings, frozen=True, kw_only=True, omit_defaults=True, rename=SETTING_NAMES, tag_field="type", tag="config"
):
    id: str | None = None


class GetStatus(Message, frozen=True, kw_only=True, omit_defaults=True, tag="get_status"):
    pass


class Cancel(Message, frozen=True, kw_only=True, omit_defaults=True, tag="cancel"):
    source: str | None = None


class Ping(Message, frozen=True, kw_only=True, omit_defaults=True, tag="ping"):
    t: Number | str | None = None


class ListModels(Message, frozen=True, kw_only=True, omit_defaults=True, tag="list_models"):
    pass


class LoadModel(Message, frozen=True, kw_only=True, omit_defaults=True, tag="load_model"):
    model: str


class UnloadModel(Message, frozen=True, kw_only=True, omit_defaults=True, tag="unload_model"):
    model: str


class Resume(Message, frozen=True, kw_only=True, omit_defaults=True, tag="resume"):
    token: str
    last_seq: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


PeerMessage = (
    TextInput
    | ImageInput
    | VideoFrame
    | ScreenFrame
    | Config
    | GetStatus
    | Cancel
    | Ping
    | Resume
    | ListModels
    | LoadModel
    | UnloadModel
)

PEER_MESSAGE_TYPES: tuple[str, ...] = tuple(
    str(kind.__struct_config__.tag)
    for kind in (
        TextInput,
        ImageInput,
        VideoFrame,
        ScreenFrame,
        Config,
        GetStatus,
        Cancel,
        Ping,
        Resume,
        ListModels,
        LoadModel,
        UnloadModel,
    )
)


# --- server to peer -----------------------------------------------------------------


class Hello(Struct, frozen=True, kw_only=True, tag_field="type", tag="hello"):
    protocol: str
    server: str
    session: str
    model: dict[str, Any]
    limits: dict[str, float]
    features: list[str]
    resume_token: str = ""


class Resumed(Message, frozen=True, kw_only=True, omit_defaults=True, tag="resumed"):
    session: str
    missed: int
    received: int


class ResponseStart(Message, frozen=True, kw_only=True, omit_defaults=True, tag="response_start"):
    timestamp: float
    input_type: Literal["text", "image"]
    model: str | None = None
    source: str | None = None
    frame_id: str | int | None = None
    queue_ms: float | None = None


class LikelyToken(Struct, frozen=True):
    """A token that might have been chosen, and the natural logarithm of its probability."""

    token: str
    logprob: float


class TokenLogprob(Struct, frozen=True):
    """A token that was chosen, and the likeliest ones in its place, likeliest first."""

    token: str
    logprob: float
    top: list[LikelyToken]


class Token(Message, frozen=True, kw_only=True, omit_defaults=True, tag="token"):
    content: str
    timestamp: float
    seq: int | None = None
    candidate: int | None = None
    logprobs: list[TokenLogprob] | None = None


class Timings(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Milliseconds, except the tokens per second."""

    queue_ms: float
    image_ms: float
    vision_ms: float
    prefill_ms: float
    ttft_ms: float
    tokens_per_second: float
    frame_age_ms: float | None = None


class Candidate(Struct, frozen=True):
    """One of several replies to the same question."""

    index: int
    text: str
    finish_reason: str


class ResponseComplete(Message, frozen=True, kw_only=True, omit_defaults=True, tag="response_complete"):
    full_text: str
    timestamp: float
    input_type: Literal["text", "image"]
    inference_time: float
    finish_reason: str | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    candidates: list[Candidate] | None = None


class FrameDropped(Message, frozen=True, kw_only=True, omit_defaults=True, tag="frame_dropped"):
    reason: str
    source: str | None = None
    frame_id: str | int | None = None


class Error(Message, frozen=True, kw_only=True, omit_defaults=True, tag="error"):
    error: str
    timestamp: float
    code: str
    param: str | None = None
    retryable: bool | None = None
    retry_after_ms: int | None = None
    fatal: bool | None = None


class ConfigUpdated(Message, frozen=True, kw_only=True, omit_defaults=True, tag="config_updated"):
    updated_fields: dict[str, Any]
    current_config: Settings


class Status(Message, frozen=True, kw_only=True, omit_defaults=True, tag="status"):
    stats: dict[str, Any]


class Pong(Message, frozen=True, kw_only=True, omit_defaults=True, tag="pong"):
    t: Any = None


class ModelState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of `models`. `vision` is absent until the model was loaded once."""

    id: str
    state: str
    memory_bytes: int
    running: int
    vision: bool | None = None


class Models(Message, frozen=True, kw_only=True, omit_defaults=True, tag="models"):
    models: list[ModelState]


class ModelProgress(Message, frozen=True, kw_only=True, omit_defaults=True, tag="model_progress"):
    model: str
    stage: str
    done: int
    total: int
    unit: str


class ModelLoaded(Message, frozen=True, kw_only=True, tag="model_loaded"):
    model: str
    vision: bool


class ModelUnloaded(Message, frozen=True, kw_only=True, omit_defaults=True, tag="model_unloaded"):
    model: str


class GoAway(Struct, frozen=True, kw_only=True, tag_field="type", tag="goaway"):
    time_left_ms: int
    reason: str


ServerMessage = (
    Hello
    | Resumed
    | ResponseStart
    | Token
    | ResponseComplete
    | FrameDropped
    | Error
    | ConfigUpdated
    | Status
    | Pong
    | Models
    | ModelProgress
    | ModelLoaded
    | ModelUnloaded
    | GoAway
)


# --- binary messages ----------------------------------------------------------------

MEDIA_MARK = 0x4D
MEDIA_VERSION = 1
MAX_HEADER_BYTES = 0xFFFF


def encode_binary_media(header: dict[str, Any] | Struct, data: bytes) -> bytes:
    """One binary message: mark, version, length of the header, the header, the file's bytes.

    Args:
        header: the fields of the JSON message without its base64 one, plus `mime`.
        data: a picture file as it is.

    Raises:
        ValueError: the header is longer than its two length bytes can say.
    """
    text = msgspec.json.encode(header)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"The header of a binary message takes at most {MAX_HEADER_BYTES} bytes, got {len(text)}.")
    return bytes((MEDIA_MARK, MEDIA_VERSION)) + len(text).to_bytes(2, "big") + text + data

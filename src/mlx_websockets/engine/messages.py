"""Everything that crosses to the worker and back.

One message a packet, MessagePack, tagged by `type`. Both ends of `channel.py` use the
same two unions, so a message that one side can't send, the other can't receive.
"""

from typing import Any

import msgspec

from mlx_websockets.generation import GenerationRequest, Update


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Which model to load and how. `None` = as the model has it.

    Attributes:
        adapter: a folder or a file with LoRA weights to put on top.
        kv_bits: of the numbers in the cache of keys and values; None: as the model computes.
        kv_group_size, kv_scheme: how they are quantised, as mlx-vlm names it.
        draft_model: a head that guesses ahead for the model, a folder or an id.
    """

    model: str
    trust_remote_code: bool = False
    tokenizer_config: str | None = None
    chat_template: str | None = None
    adapter: str | None = None
    kv_bits: float | None = None
    kv_group_size: int = 64
    kv_scheme: str = "uniform"
    draft_model: str | None = None
    rows: int = 16
    show_warnings: bool = False


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What was loaded.

    Attributes:
        id: as the user named it.
        sees: it takes pictures.
        max_images: pictures in one request; 0 where it does not see.
        context_tokens: the longest prompt and reply together.
        backend: "metal", "cuda" or "cpu".
        weights_bytes: memory of the weights, a drafter's among them.
        device_bytes: memory of the device that computes; 0 = not known.
        versions: of mlx and the libraries around it.
        drafts: how its drafter guesses, as mlx-vlm names it; "" where it has none.
    """

    id: str
    sees: bool
    max_images: int
    context_tokens: int
    backend: str
    weights_bytes: int
    versions: dict[str, str]
    device_bytes: int = 0
    drafts: str = ""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes, as MLX counts them, and the worker's resident set.

    Attributes:
        active: arrays in use.
        cached: buffers that MLX holds back for the next arrays.
        kept: what waits for a prompt that begins alike: keys, values and picture features, which are in use, and
            resized pictures, which are not MLX's.
    """

    active: int = 0
    cached: int = 0
    peak: int = 0
    resident: int = 0
    kept: int = 0


# --- to the worker ------------------------------------------------------------------


class Load(msgspec.Struct, frozen=True, tag="load"):
    """The first message: what to load."""

    spec: ModelSpec


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    request: GenerationRequest


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Give up a request wherever it is. No update of it follows the worker's reading of this."""

    id: int


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Leave now, with exit status 0."""


ToWorker = Load | Submit | Cancel | Stop


# --- from the worker ----------------------------------------------------------------


class Loading(msgspec.Struct, frozen=True, tag="loading"):
    """How far loading is. `total` 0 = not known. `unit` is "bytes" or ""."""

    stage: str
    done: int = 0
    total: int = 0
    unit: str = ""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    info: ModelInfo
    memory: Memory


class LoadFailed(msgspec.Struct, frozen=True, tag="load_failed"):
    """`code` is that of a `StartError`; the worker exits after this."""

    code: str
    reason: str
    hint: str = ""


class Updates(msgspec.Struct, frozen=True, tag="updates"):
    """What one step brought, for all of its requests."""

    updates: list[Update]


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """Sent between steps, at least once a second while nothing blocks."""

    running: int
    waiting: int
    memory: Memory
    tokens: int
    """Tokens generated since the worker started."""
    wants_renewal: bool = False
    """Memory that it can't give back has gathered: it is better begun anew when nothing is under way."""


FromWorker = Loading | Ready | LoadFailed | Updates | Heartbeat


# --- from the programs of `worker/probe.py`, in JSON lines ----------------------------


class Backend(msgspec.Struct, frozen=True, tag="backend"):
    """What MLX computes on: "metal", "cuda" or "cpu"; bytes that weights could take now; versions."""

    name: str
    memory_bytes: int
    versions: dict[str, str]


ProbeMessage = Backend | Loading | LoadFailed


def encode(message: ToWorker | FromWorker) -> bytes:
    return msgspec.msgpack.encode(message)


_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


def decode_to_worker(packet: bytes | bytearray | memoryview) -> ToWorker:
    return _to_worker.decode(packet)


def decode_from_worker(packet: bytes | bytearray | memoryview) -> FromWorker:
    return _from_worker.decode(packet)


def as_plain(message: Any) -> Any:
    """A message as dicts and lists, for status output."""
    return msgspec.to_builtins(message)

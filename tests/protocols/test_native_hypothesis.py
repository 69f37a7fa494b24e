"""Whatever a peer sends, the native protocol gives events, and what they lead to can be told."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_websockets.events import PeerEvent, Ping, Pong, Problem, ReplyDelta, TurnLabel, Unreadable
from mlx_websockets.protocols.native import NativeProtocol, encode_binary_media
from mlx_websockets.protocols.native_schema import PEER_MESSAGE_TYPES
from mlx_websockets.sampling import Sampling
from mlx_websockets.testing import Talk

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)

VALID: list[dict[str, Any]] = [
    {"type": "text_input", "content": "Hi", "context": "c", "id": "q", "history": True},
    {"type": "text_input", "content": "Hi", "config": {"topP": 0.5}, "stop": ["."], "system": "s"},
    {"type": "image_input", "image": "aGk=", "images": ["aGk="], "prompt": "p", "source": "s", "system": "s"},
    {"type": "video_frame", "frame": "aGk=", "frame_id": 1, "ts": 1.5, "policy": "queue", "id": "f"},
    {"type": "screen_frame", "frame": "aGk=", "policy": "latest"},
    {"type": "config", "temperature": 0.5, "topK": 3, "seed": None, "id": "c"},
    {"type": "get_status"},
    {"type": "cancel", "id": "q"},
    {"type": "ping", "t": 1, "id": "p"},
    {"type": "resume", "token": "t"},
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """A sound message with a field taken out, replaced, added or renamed."""
    message = dict(draw(st.sampled_from(VALID)))
    field = draw(st.sampled_from(sorted(message)))
    match draw(st.integers(0, 3)):
        case 0:
            del message[field]
        case 1:
            message[field] = draw(JSON)
        case 2:
            message[draw(st.text(max_size=10))] = draw(JSON)
        case _:
            message["type"] = draw(st.sampled_from(PEER_MESSAGE_TYPES))
    return message


def events_of(message: str | bytes) -> list[PeerEvent]:
    """The events of a message, once everything that could follow from them has been told."""
    events = NativeProtocol().parse(message)
    for event in events:
        if isinstance(event, Unreadable):
            check_error(event)
    talk = Talk(NativeProtocol(version=2), sampling=Sampling())
    talk.receive(message)
    talk.close(code="shutting_down", reason="Bye.")
    for answer in talk.sent:
        json.loads(answer)
    return events


def check_error(event: Unreadable) -> None:
    problem = Problem(message=event.reason, code=event.code, turn=TurnLabel(id=event.id), path=event.path)
    (message,) = NativeProtocol().render(problem, 1.5)
    error = json.loads(message)
    assert ("error", event.code) == (error["type"], error["code"])
    assert error["error"]


@settings(max_examples=2500, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_bytes_and_any_text_become_events(message: str | bytes) -> None:
    assert len(events_of(message)) == 1


@settings(max_examples=2000, deadline=None)
@given(JSON)
def test_any_json_becomes_events(value: object) -> None:
    text = json.dumps(value)

    assert 1 == len(events_of(text)) == len(events_of(text.encode()))


@settings(max_examples=3500, deadline=None)
@given(mutated(), st.booleans())
def test_a_sound_message_with_a_flaw_becomes_events(message: dict[str, Any], is_compact: bool) -> None:
    text = json.dumps(message, ensure_ascii=is_compact)

    assert len(events_of(text)) == 1


@settings(max_examples=1500, deadline=None)
@given(st.binary(max_size=40), mutated(), st.integers(0, 3), st.integers(0, 60))
def test_a_binary_message_with_a_flaw_becomes_events(data: bytes, header: dict[str, Any], at: int, cut: int) -> None:
    message = bytearray(b"M\x01" + (len(text := json.dumps(header).encode())).to_bytes(2, "big") + text + data)
    message[at] ^= cut % 7

    assert len(events_of(bytes(message))) == 1
    assert len(events_of(bytes(message[:cut]))) == 1


@settings(max_examples=500, deadline=None)
@given(st.binary(min_size=1, max_size=200))
def test_the_bytes_of_a_picture_pass_unchanged(data: bytes) -> None:
    (event,) = NativeProtocol().parse(encode_binary_media({"type": "image_input", "mime": "image/png"}, data))

    assert data == event.images[0].data  # type: ignore[union-attr]


@settings(max_examples=500, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 2**31))
def test_a_delta_arrives_as_it_was_said(text: str, seq: int) -> None:
    (message,) = NativeProtocol().render(ReplyDelta(TurnLabel(id="q"), text, seq), 1.5)

    token = json.loads(message)

    assert (text, seq) == (token["content"], token["seq"])


@settings(max_examples=500, deadline=None)
@given(st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=50))
def test_a_ping_comes_back_as_it_went(t: int | float | str) -> None:
    try:
        text = json.dumps({"type": "ping", "t": t}, ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError:
        return

    (event,) = NativeProtocol().parse(text)
    assert isinstance(event, Ping)
    (message,) = NativeProtocol().render(Pong(event.t), 1.5)

    assert t == json.loads(message)["t"]

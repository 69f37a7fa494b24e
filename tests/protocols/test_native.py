"""The native protocol alone: what messages mean, what is refused, and what peers are told."""

import json
from typing import Any

import pytest

from mlx_websockets.events import (
    Ask,
    ConfigUpdated,
    Configure,
    EncodedImage,
    FrameDropped,
    FrameInput,
    GoAway,
    Hello,
    Interrupt,
    PeerEvent,
    Ping,
    Pong,
    Problem,
    ReplyDelta,
    ReplyFinished,
    ReplyStarted,
    ServerEvent,
    StatusReport,
    StatusRequest,
    TurnLabel,
    Unreadable,
)
from mlx_websockets.generation import Timings, Usage
from mlx_websockets.protocols.native import NativeProtocol, encode_binary_media
from mlx_websockets.protocols.native_schema import SETTING_NAMES
from mlx_websockets.protocols.response_format import MAX_SCHEMA_BYTES
from mlx_websockets.sampling import Sampling
from mlx_websockets.settings import MAX_IMAGE_BYTES, MAX_IMAGES, MAX_TEXT_BYTES

FRAME = TurnLabel(input_type="image", source="webcam", frame_id=7, is_frame=True)
NAMED_FRAME = TurnLabel(id="f", input_type="image", source="webcam", frame_id=7, is_frame=True)


def read(message: object) -> PeerEvent:
    """The one event in a message, which is JSON unless it is text or bytes already."""
    raw = message if isinstance(message, str | bytes) else json.dumps(message)
    (event,) = NativeProtocol().parse(raw)
    return event


def refusal(message: object) -> tuple[str, str, str | None]:
    """The code, the path and the id of what a refused message becomes."""
    event = read(message)
    assert isinstance(event, Unreadable), event
    assert event.reason.endswith((".", "?", "."))
    return event.code, event.path, event.id


def told(event: ServerEvent, version: int = 1) -> list[dict[str, Any]]:
    return [json.loads(message) for message in NativeProtocol(version).render(event, 5.0)]


def finished(turn: TurnLabel, reason: str = "stop", **rest: Any) -> ReplyFinished:
    timings = Timings(vision_ms=3.0, prefill_ms=4.0, first_token_ms=5.0, tokens_per_second=60.0)
    return ReplyFinished(
        turn=turn, text="Hi", reason=reason, usage=Usage(input_tokens=9), timings=timings,  # type: ignore[arg-type]
        seconds=0.25, queue_ms=1.0, image_ms=2.0, **rest,
    )  # fmt: skip


# --- what messages mean -----------------------------------------------------------------


def test_a_question_of_the_seeds_contract() -> None:
    event = read({"type": "text_input", "content": "Hi", "context": "We met."})

    assert Ask(text="Hi", context="We met.", names=SETTING_NAMES) == event


def test_a_question_with_everything() -> None:
    event = read(
        {
            "type": "text_input", "content": "Hi", "id": "q", "config": {"topP": 0.5, "maxOutputTokens": 9, "x": 1},
            "history": True, "stop": ["."], "system": "Be brief.", "response_format": {"type": "json_object"},
        }
    )  # fmt: skip

    expected = Ask(
        text="Hi", id="q", changes={"top_p": 0.5, "max_tokens": 9}, names=SETTING_NAMES,
        history=True, stop=(".",), system="Be brief.", json_schema='{"type":"object"}',
    )  # fmt: skip
    assert expected == event


def test_null_is_absent() -> None:
    optional = ("context", "id", "config", "history", "stop", "system", "response_format")

    event = read({"type": "text_input", "content": "Hi"} | dict.fromkeys(optional))

    assert Ask(text="Hi", names=SETTING_NAMES) == event


def test_a_picture_has_a_prompt_and_a_source_even_if_not_given() -> None:
    event = read({"type": "image_input", "image": "aGk=", "prompt": ""})

    assert isinstance(event, Ask)
    assert (event.text, event.source) == ("Describe what you see.", "unknown")
    assert (EncodedImage("aGk=", "$.image"),) == event.images


@pytest.mark.parametrize("kind", ["image_input", "video_frame", "screen_frame"])
@pytest.mark.parametrize("field", ["image", "frame"])
def test_image_and_frame_are_one_field(kind: str, field: str) -> None:
    event = read({"type": kind, field: "aGk="})

    ask = event.ask if isinstance(event, FrameInput) else event
    assert isinstance(ask, Ask)
    assert (EncodedImage("aGk=", f"$.{field}"),) == ask.images


def test_a_frame_with_everything() -> None:
    event = read(
        {"type": "video_frame", "frame": "aGk=", "source": "cam", "frame_id": 3, "ts": 9, "policy": "queue", "id": "f"}
    )

    assert isinstance(event, FrameInput)
    assert (
        event.frame_id, event.captured_at, event.policy, event.ask.id, event.ask.source,
    ) == (3, 9.0, "queue", "f", "cam")  # fmt: skip


def test_several_pictures_keep_their_order_and_paths() -> None:
    event = read({"type": "image_input", "image": "MA==", "images": ["MQ==", "Mg=="]})

    assert isinstance(event, Ask)
    assert [image.path for image in event.images] == ["$.image", "$.images[0]", "$.images[1]"]


def test_a_limit_for_one_picture_request_governs_its_reply() -> None:
    event = read({"type": "image_input", "image": "aGk=", "config": {"maxOutputTokens": 7}})

    assert isinstance(event, Ask)
    assert event.changes == {"max_tokens": 7, "max_tokens_image": 7}
    assert event.names["max_tokens_image"] == "maxOutputTokens"


def test_the_limit_meant_for_pictures_comes_first() -> None:
    event = read({"type": "video_frame", "frame": "aGk=", "config": {"maxOutputTokens": 7, "max_tokens_image": 8}})

    assert isinstance(event, FrameInput)
    assert event.ask.changes == {"max_tokens": 7, "max_tokens_image": 8}


def test_settings_pass_unchecked_and_are_echoed_as_sent() -> None:
    event = read({"type": "config", "temperature": "hot", "seed": None, "topK": None, "unknown": 1, "id": "c"})

    expected = Configure(
        changes={"temperature": "hot", "seed": None},
        names=SETTING_NAMES,
        sent={"temperature": "hot", "seed": None},
        id="c",
    )
    assert expected == event


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_lacks_reach_the_settings_check(number: str) -> None:
    settings = f'{{"temperature": {number}}}'

    connection = read(settings.replace("{", '{"type": "config", '))
    request = read(f'{{"type": "text_input", "content": "Hi", "config": {settings}}}')

    assert isinstance(connection, Configure)
    assert isinstance(request, Ask)
    assert {"temperature"} == connection.changes.keys() == request.changes.keys()


@pytest.mark.parametrize(
    ("message", "event"),
    [
        ({"type": "get_status"}, StatusRequest()),
        ({"type": "get_status", "id": "s"}, StatusRequest("s")),
        ({"type": "ping"}, Ping()),
        ({"type": "ping", "t": 1.5, "id": "p"}, Ping(1.5, "p")),
        ({"type": "cancel"}, Interrupt()),
        ({"type": "cancel", "id": "q"}, Interrupt(id="q")),
        ({"type": "cancel", "source": "cam"}, Interrupt(source="cam")),
    ],
)
def test_short_messages(message: dict[str, object], event: PeerEvent) -> None:
    assert event == read(message)


def test_unknown_fields_are_ignored() -> None:
    assert Ping(1) == read({"type": "ping", "t": 1, "new": {"in": "version 3"}})


def test_json_may_come_in_a_binary_message() -> None:
    assert Ping(1) == read(b'{"type": "ping", "t": 1}')


def test_a_binary_message_carries_the_file_as_it_is() -> None:
    message = encode_binary_media({"type": "screen_frame", "mime": "image/png", "source": "desk"}, b"\x89PNG \xff")

    event = read(message)

    assert message[:11] == b'M\x01\x00:{"type"'
    assert isinstance(event, FrameInput)
    assert (EncodedImage(b"\x89PNG \xff", "$.frame"),) == event.ask.images
    assert event.ask.source == "desk"


# --- what is refused --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "code", "path"),
    [
        ("", "invalid_json", "$"),
        ("{", "invalid_json", "$"),
        ("hello", "invalid_json", "$"),
        ('{"type": "ping"} {}', "invalid_json", "$"),
        (b"\xff\xfe", "invalid_json", "$"),
        (b'{"type": "text_input", "content": "\xff"}', "invalid_json", "$"),
        ('{"type": "text_input", "content": "\\ud800"}', "invalid_json", "$"),
        ('{"type": "text_input", "content": "\ud800"}', "invalid_json", "$"),
        ('{"type": "ping", "t": NaN}', "invalid_json", "$"),
        ('{"type": "config", "x": NaN}', "invalid_json", "$"),
        ("[" * 100_000, "json_too_deep", "$"),
        ('{"type": ' * 100_000, "json_too_deep", "$"),
        (('{"type": ' * 65).encode(), "json_too_deep", "$"),
        ('{"type": "config", "seed": ' + "[" * 100_000, "json_too_deep", "$"),
        ('{"type": "ping", "x": ' + "[" * 64 + "]" * 64 + "}", "json_too_deep", "$"),
        ('{"type": "ping", "x": [' + "[]," * 20_000 + "[]]}", "json_too_large", "$"),
        ("[]", "invalid_message", "$"),
        ("null", "invalid_message", "$"),
        ("12", "invalid_message", "$"),
        ("{}", "missing_field", "$.type"),
        ({"type": None}, "invalid_message", "$.type"),
        ({"type": ["ping"]}, "invalid_message", "$.type"),
        ({"type": "sing"}, "unknown_type", "$.type"),
        ({"type": "x" * 100_000}, "unknown_type", "$.type"),
        ({"type": "text_input"}, "missing_field", "$.content"),
        ({"type": "text_input", "content": None}, "invalid_message", "$.content"),
        ({"type": "text_input", "content": ""}, "invalid_message", "$.content"),
        ({"type": "text_input", "content": "Hi", "history": 1}, "invalid_message", "$.history"),
        ({"type": "text_input", "content": "Hi", "config": 5}, "invalid_config", "$.config"),
        ({"type": "text_input", "content": "Hi", "id": ""}, "invalid_message", "$.id"),
        ({"type": "text_input", "content": "Hi", "id": "i" * 65}, "invalid_message", "$.id"),
        ({"type": "text_input", "content": "Hi", "id": 5}, "invalid_message", "$.id"),
        ({"type": "text_input", "content": "Hi", "stop": "x"}, "invalid_message", "$.stop"),
        ({"type": "text_input", "content": "Hi", "stop": ["a", 5]}, "invalid_message", "$.stop[1]"),
        ({"type": "text_input", "content": "Hi", "stop": ["a", ""]}, "invalid_message", "$.stop[1]"),
        ({"type": "text_input", "content": "Hi", "stop": ["x" * 257]}, "invalid_message", "$.stop[0]"),
        ({"type": "text_input", "content": "Hi", "stop": ["x"] * 17}, "invalid_message", "$.stop"),
        ({"type": "text_input", "content": "Hi", "response_format": []}, "invalid_schema", "$.response_format"),
        (
            {"type": "text_input", "content": "Hi", "response_format": {"properties": {"a": 5}}},
            "invalid_schema",
            "$.response_format.properties.a",
        ),
        (
            {"type": "text_input", "content": "Hi", "response_format": {"title": "t" * MAX_SCHEMA_BYTES}},
            "schema_too_large",
            "$.response_format",
        ),
        ({"type": "image_input"}, "missing_field", "$.image"),
        ({"type": "image_input", "images": []}, "missing_field", "$.image"),
        ({"type": "video_frame", "frame": ""}, "missing_field", "$.frame"),
        ({"type": "image_input", "images": ["aGk=", ""]}, "missing_field", "$.images[1]"),
        ({"type": "image_input", "images": ["aGk="] * (MAX_IMAGES + 1)}, "too_many_images", "$.images"),
        ({"type": "image_input", "image": "aGk=", "source": "s" * 257}, "invalid_message", "$.source"),
        ({"type": "video_frame", "frame": "aGk=", "frame_id": 1.5}, "invalid_message", "$.frame_id"),
        ({"type": "video_frame", "frame": "aGk=", "frame_id": 2**64}, "invalid_message", "$.frame_id"),
        ({"type": "video_frame", "frame": "aGk=", "frame_id": "f" * 257}, "invalid_message", "$.frame_id"),
        ({"type": "video_frame", "frame": "aGk=", "policy": "newest"}, "invalid_message", "$.policy"),
        ({"type": "video_frame", "frame": "aGk=", "ts": "now"}, "invalid_message", "$.ts"),
        ({"type": "ping", "t": []}, "invalid_message", "$.t"),
        ({"type": "ping", "t": "t" * 257}, "invalid_message", "$.t"),
        ({"type": "resume", "token": "t"}, "missing_field", "$.last_seq"),
        ({"type": "resume", "token": "t", "last_seq": -1}, "invalid_message", "$.last_seq"),
        ({"type": "resume", "token": "t" * 257, "last_seq": 1}, "invalid_message", "$.token"),
        (b"M", "invalid_media", "$"),
        (b"M\x02\x00\x02{}", "invalid_media", "$"),
        (b"M\x01\x00", "invalid_media", "$"),
        (b"M\x01\x00\x05{}", "invalid_media", "$"),
        (b"M\x01\x00\x01{", "invalid_json", "$"),
        (b"M\x01\x00\x02{}", "missing_field", "$.type"),
        (encode_binary_media({"type": "ping"}, b""), "invalid_media", "$.type"),
        (encode_binary_media({"type": "video_frame"}, b"GIF"), "invalid_message", "$.mime"),
        (encode_binary_media({"type": "video_frame", "mime": "text/plain"}, b"GIF"), "invalid_message", "$.mime"),
        (encode_binary_media({"type": "video_frame", "mime": "image/gif"}, b""), "missing_field", "$.frame"),
    ],
)  # fmt: skip
def test_a_refusal_has_a_code_and_a_path(message: object, code: str, path: str) -> None:
    assert (code, path, None) == refusal(message)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '\\"' + "{[" * 100, "]}" * 9, "\\\\"], ids=["open", "quoted", "closed", "escape"]
)
def test_brackets_inside_a_string_nest_nothing(text: str) -> None:
    message = f'{{"type": "text_input", "content": "{text}", "x": {"[" * 63 + "]" * 63}}}'

    [event] = NativeProtocol().parse(message)

    assert isinstance(event, Ask)


def test_many_brackets_side_by_side_nest_nothing() -> None:
    message = f'{{"type": "ping", "x": [{",".join(["[]"] * 1000)}]}}'

    assert NativeProtocol().parse(message) == [Ping()]


def test_a_number_out_of_every_range_is_refused_wherever_it_stands() -> None:
    long_number = '{"type": "config", "topK": 1%s}' % ("0" * 5000)

    assert refusal(long_number) == ("invalid_config", "$.topK", None)


def test_a_refusal_keeps_the_id() -> None:
    assert refusal({"type": "text_input", "id": "q"}) == ("missing_field", "$.content", "q")
    assert refusal({"type": "sing", "id": "q"}) == ("unknown_type", "$.type", "q")
    assert refusal(encode_binary_media({"type": "video_frame", "id": "q"}, b"-")) == ("invalid_message", "$.mime", "q")


def test_an_unknown_type_is_told_what_is_close_or_what_there_is() -> None:
    close, far = read({"type": "video_frames"}), read({"type": "translate"})

    assert isinstance(close, Unreadable)
    assert isinstance(far, Unreadable)
    assert 'Did you mean "video_frame"?' in close.reason
    assert "text_input, image_input" in far.reason


def test_the_texts_of_a_request_share_one_limit_in_bytes() -> None:
    half = "ö" * (MAX_TEXT_BYTES // 4)

    assert isinstance(read({"type": "text_input", "content": half, "context": half}), Ask)
    assert refusal({"type": "text_input", "content": half, "context": half, "system": "x"}) == (
        "text_too_large",
        "$.content",
        None,
    )
    assert refusal({"type": "image_input", "image": "aGk=", "prompt": half, "system": half + "x"}) == (
        "text_too_large",
        "$.prompt",
        None,
    )


def test_a_picture_is_measured_as_the_file_it_will_be() -> None:
    most = "A" * (MAX_IMAGE_BYTES // 3 * 4)

    assert isinstance(read({"type": "image_input", "image": "data:image/png;base64," + most}), Ask)
    assert refusal({"type": "image_input", "image": most + "AAAA"}) == ("image_too_large", "$.image", None)
    header = {"type": "image_input", "mime": "image/png"}
    assert isinstance(read(encode_binary_media(header, bytes(MAX_IMAGE_BYTES))), Ask)
    assert refusal(encode_binary_media(header, bytes(MAX_IMAGE_BYTES + 1))) == ("image_too_large", "$.image", None)


def test_a_header_that_its_length_can_not_say_is_refused_to_the_sender() -> None:
    with pytest.raises(ValueError, match="65535 bytes"):
        encode_binary_media({"type": "image_input", "prompt": "x" * 65536}, b"GIF")


# --- what peers are told ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (ReplyStarted(FRAME, "m", 1.0), {"type": "response_start", "timestamp": 5.0, "input_type": "image"}),
        (ReplyDelta(TurnLabel(), "Hi", 0), {"type": "token", "content": "Hi", "timestamp": 5.0}),
        (
            finished(TurnLabel()),
            {
                "type": "response_complete",
                "full_text": "Hi",
                "timestamp": 5.0,
                "input_type": "text",
                "inference_time": 0.25,
            },
        ),
        (FrameDropped(FRAME, "superseded"), {"type": "frame_dropped", "reason": "superseded"}),
        (
            Problem(message="No.", code="c", retryable=True, retry_after_ms=5, fatal=True),
            {"type": "error", "error": "No.", "timestamp": 5.0, "code": "c"},
        ),
        (StatusReport({"model": None}), {"type": "status", "stats": {"model": None}}),
    ],
)
def test_a_peer_of_the_seeds_contract_sees_the_seeds_fields(event: ServerEvent, message: dict[str, object]) -> None:
    assert [message] == told(event)


@pytest.mark.parametrize(("turn", "version"), [(NAMED_FRAME, 1), (NAMED_FRAME, 2), (FRAME, 2)])
def test_an_id_or_version_2_brings_the_rest(turn: TurnLabel, version: int) -> None:
    id = {"id": "f"} if turn.id else {}
    place = id | {"source": "webcam", "frame_id": 7}

    (start,) = told(ReplyStarted(turn, "m", 1.5), version)
    (token,) = told(ReplyDelta(turn, "Hi", 0), version)
    (dropped,) = told(FrameDropped(turn, "expired"), version)
    (end,) = told(finished(turn, frame_age_ms=8.5), version)

    assert id | {"type": "token", "content": "Hi", "timestamp": 5.0, "seq": 0} == token
    assert place | {"type": "frame_dropped", "reason": "expired"} == dropped
    assert start == place | {
        "type": "response_start", "timestamp": 5.0, "input_type": "image", "model": "m", "queue_ms": 1.5,
    }  # fmt: skip
    assert end == id | {
        "type": "response_complete", "full_text": "Hi", "timestamp": 5.0, "input_type": "image",
        "inference_time": 0.25, "finish_reason": "stop",
        "usage": {"input_tokens": 9, "image_tokens": 0, "output_tokens": 0, "cached_tokens": 0},
        "timings": {
            "queue_ms": 1.0, "image_ms": 2.0, "vision_ms": 3.0, "prefill_ms": 4.0, "ttft_ms": 8.0,
            "tokens_per_second": 60.0, "frame_age_ms": 8.5,
        },
    }  # fmt: skip


def test_only_frames_have_an_age() -> None:
    (end,) = told(finished(TurnLabel(id="q")))

    assert "frame_age_ms" not in end["timings"]


def test_a_timeout_is_an_error_only_to_a_peer_of_the_seeds_contract() -> None:
    (plain,) = told(finished(TurnLabel(), "timeout"))
    (named,) = told(finished(TurnLabel(id="q"), "timeout"))

    assert (plain["type"], plain["code"]) == ("error", "inference_timeout")
    assert (named["type"], named["finish_reason"]) == ("response_complete", "timeout")


def test_an_error_with_everything() -> None:
    problem = Problem(
        message="Full.", code="queue_full", turn=TurnLabel(id="q"), path="$.content",
        retryable=True, retry_after_ms=1000, fatal=True,
    )  # fmt: skip

    (error,) = told(problem)

    assert error == {
        "type": "error", "error": "Full.", "timestamp": 5.0, "code": "queue_full", "id": "q",
        "param": "$.content", "retryable": True, "retry_after_ms": 1000, "fatal": True,
    }  # fmt: skip


def test_an_error_without_param_names_the_field_in_its_sentence() -> None:
    (unnamed,) = told(Problem(message="Not base64.", code="invalid_image", path="$.image"))
    (named,) = told(Problem(message="`topP` is wrong.", code="invalid_config", path="$.topP"))

    assert unnamed["error"] == "Not base64 (at $.image)"
    assert named["error"] == "`topP` is wrong."


def test_the_settings_are_shown_by_their_wire_names() -> None:
    (message,) = told(ConfigUpdated({"topP": 0.5}, Sampling(top_p=0.5)))

    assert message == {
        "type": "config_updated",
        "updated_fields": {"topP": 0.5},
        "current_config": {
            "candidateCount": 1, "maxOutputTokens": 200, "temperature": 0.7, "topP": 0.5, "topK": 50,
            "presencePenalty": 0.0, "frequencyPenalty": 0.0, "responseModalities": ["TEXT"],
            "max_tokens_image": 100, "seed": None,
        },
    }  # fmt: skip


def test_what_was_asked_by_id_is_answered_by_id() -> None:
    assert [message["id"] for message in told(ConfigUpdated({}, Sampling(), "c"))] == ["c"]
    assert told(Pong(1, "p")) == [{"type": "pong", "t": 1, "id": "p"}]
    assert told(StatusReport({}, "s")) == [{"type": "status", "stats": {}, "id": "s"}]


def test_greeting_and_farewell_are_words_of_version_2() -> None:
    hello = Hello(
        server="0.3.0", session="s", resume_token="s.t", model={"id": "m"}, limits={"max_queue": 10}, features=("ids",)
    )

    assert [] == told(hello, 1) == told(GoAway("Bye.", 5), 1)
    assert told(GoAway("Bye.", 5), 2) == [{"type": "goaway", "reason": "Bye.", "time_left_ms": 5}]
    assert told(hello, 2) == [
        {
            "type": "hello", "protocol": "mlx-websockets.v2", "server": "0.3.0", "session": "s",
            "model": {"id": "m"}, "limits": {"max_queue": 10}, "features": ["ids"], "resume_token": "s.t",
        }
    ]  # fmt: skip


def test_every_message_is_text() -> None:
    (message,) = NativeProtocol().render(ReplyDelta(TurnLabel(), "ö\u2028", 0), 1.5)

    assert isinstance(message, str)
    assert json.loads(message)["content"] == "ö\u2028"

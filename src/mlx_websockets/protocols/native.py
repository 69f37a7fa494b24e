"""The native protocol: JSON in text messages, pictures also in binary ones.

A peer of the seed's contract sees the seed's messages and not a field more (an `error` also
has its `code`). The fields of version 2 appear in everything about a request that has an `id`,
and everywhere for a peer that asked for version 2. `native_schema` draws the messages; here
they become events and events become them. Pictures are measured but never opened here.
"""

import difflib
import json
import re
from collections.abc import Iterator
from typing import Any, Literal, NoReturn, TypeVar

import msgspec

from mlx_websockets import events
from mlx_websockets.errors import InvalidMessage
from mlx_websockets.events import Ask, EncodedImage, FrameInput, PeerEvent, ServerEvent, TurnLabel, Unreadable
from mlx_websockets.generation import TokenLogprob
from mlx_websockets.protocols import native_schema as wire
from mlx_websockets.protocols.native_schema import SUBPROTOCOL, encode_binary_media
from mlx_websockets.protocols.response_format import json_schema
from mlx_websockets.sampling import MAX_STOP_LENGTH, MAX_STOP_STRINGS, Sampling
from mlx_websockets.settings import (
    MAX_ID_LENGTH,
    MAX_IMAGE_BYTES,
    MAX_IMAGES,
    MAX_JSON_DEPTH,
    MAX_JSON_ITEMS,
    MAX_NAME_LENGTH,
    MAX_TEXT_BYTES,
)

__all__ = ["SUBPROTOCOL", "NativeProtocol", "encode_binary_media"]

LEAST_LOGPROB = -9999.0
"""What the logarithm of the probability 0 is told as."""

MAX_DEADLINE_MS = 86_400_000
"""A day; the server gives up much sooner."""

MAX_SETTINGS_LENGTH = 16 * 1024
"""Longest message that is searched for numbers which JSON lacks."""


class NativeProtocol:
    """One connection's dialect; meets `WireProtocol`.

    Args:
        version: 2 for a peer that offered the subprotocol `SUBPROTOCOL`, else 1.
    """

    def __init__(self, version: int = 1) -> None:
        self._version = version

    def parse(self, message: str | bytes) -> list[PeerEvent]:
        """The event in one WebSocket message; an `Unreadable` if there is none. Never raises."""
        text: str | bytes = b""
        try:
            text, media = _split(message)
            return [_event(_decode(text), media)]
        except InvalidMessage as error:
            return [Unreadable(reason=error.reason, code=error.code, path=error.path, id=_id_in(text))]

    def render(self, event: ServerEvent, timestamp: float) -> Iterator[str | bytes]:
        """The message that tells the peer of `event`, or none if its version has no word for it."""
        message = self._message(event, timestamp)
        if message is not None:
            yield _encoder.encode(message).decode()

    # --- events to messages -----------------------------------------------------------

    def _message(self, event: ServerEvent, timestamp: float) -> msgspec.Struct | None:
        match event:
            case events.ReplyDelta():
                return self._token(event, timestamp)
            case events.ReplyStarted():
                return self._response_start(event, timestamp)
            case events.ReplyFinished():
                return self._response_complete(event, timestamp)
            case events.FrameDropped():
                return self._frame_dropped(event)
            case events.Problem():
                return self._error(event, timestamp)
            case events.Hello() | events.Resumed() | events.GoAway():
                return self._greeting(event)
            case _:
                return _answer(event, is_plain=self._version < 2 and event.id is None)

    def _is_plain(self, turn: TurnLabel) -> bool:
        """The peer knows only the seed's fields, as far as this turn goes."""
        return turn.id is None and self._version < 2

    def _token(self, event: events.ReplyDelta, timestamp: float) -> wire.Token:
        is_plain = self._is_plain(event.turn)
        return wire.Token(
            content=event.text,
            timestamp=timestamp,
            id=event.turn.id,
            seq=None if is_plain else event.seq,
            candidate=event.candidate,
            logprobs=_logprobs(event.logprobs),
        )

    def _frame_dropped(self, event: events.FrameDropped) -> wire.FrameDropped:
        turn = event.turn
        if self._is_plain(turn):
            return wire.FrameDropped(reason=event.reason)
        return wire.FrameDropped(reason=event.reason, id=turn.id, source=turn.source, frame_id=turn.frame_id)

    def _response_start(self, event: events.ReplyStarted, timestamp: float) -> wire.ResponseStart:
        turn = event.turn
        if self._is_plain(turn):
            return wire.ResponseStart(timestamp=timestamp, input_type=turn.input_type)
        return wire.ResponseStart(
            timestamp=timestamp,
            input_type=turn.input_type,
            id=turn.id,
            model=event.model,
            source=turn.source,
            frame_id=turn.frame_id,
            queue_ms=event.queue_ms,
        )

    def _response_complete(self, event: events.ReplyFinished, timestamp: float) -> wire.ResponseComplete | wire.Error:
        turn, seconds = event.turn, round(event.seconds, 6)
        if not self._is_plain(turn):
            return wire.ResponseComplete(
                full_text=event.text,
                timestamp=timestamp,
                input_type=turn.input_type,
                inference_time=seconds,
                id=turn.id,
                finish_reason=event.reason,
                usage=event.usage,
                timings=_timings(event),
                candidates=_candidates(event),
            )
        if event.reason == "timeout":  # the seed's peers have no `finish_reason` to look at
            message = "The reply took too long and ends here, with what has been sent."
            return wire.Error(error=message, timestamp=timestamp, code="inference_timeout")
        return wire.ResponseComplete(
            full_text=event.text,
            timestamp=timestamp,
            input_type=turn.input_type,
            inference_time=seconds,
            candidates=_candidates(event),
        )

    def _error(self, event: events.Problem, timestamp: float) -> wire.Error:
        if self._is_plain(event.turn):
            return wire.Error(error=_sentence(event), timestamp=timestamp, code=event.code)
        return wire.Error(
            error=event.message,
            timestamp=timestamp,
            code=event.code,
            id=event.turn.id,
            param=event.path if event.path != "$" else None,
            retryable=event.retryable,
            retry_after_ms=event.retry_after_ms,
            fatal=event.fatal or None,
        )

    def _greeting(
        self, event: events.Hello | events.Resumed | events.GoAway
    ) -> wire.Hello | wire.Resumed | wire.GoAway | None:
        if self._version < 2:
            return None
        if isinstance(event, events.Resumed):
            return wire.Resumed(session=event.session, missed=event.missed, received=event.received, id=event.id)
        if isinstance(event, events.GoAway):
            return wire.GoAway(time_left_ms=event.time_left_ms, reason=event.reason)
        return wire.Hello(
            protocol=wire.VERSION,
            server=event.server,
            session=event.session,
            model=event.model,
            limits=event.limits,
            features=list(event.features),
            resume_token=event.resume_token,
        )


_encoder = msgspec.json.Encoder()


Answer = (
    events.ConfigUpdated | events.StatusReport | events.Pong
    | events.ModelList | events.ModelProgress | events.ModelLoaded | events.ModelUnloaded
)  # fmt: skip


def _answer(event: Answer, *, is_plain: bool) -> msgspec.Struct:
    """What a peer is told because it asked."""
    match event:
        case events.ConfigUpdated(sent, sampling, id):
            names = _shown_settings(sent, is_plain=is_plain)
            return wire.ConfigUpdated(updated_fields=sent, current_config=_current_config(sampling, names), id=id)
        case events.StatusReport():
            return _status(event, _shown_settings({}, is_plain=is_plain))
        case events.Pong(t, id):
            return wire.Pong(t=t, id=id)
        case events.ModelList(models, id):
            return wire.Models(models=msgspec.convert(models, list[wire.ModelState]), id=id)
        case events.ModelProgress(model=model, stage=stage, done=done, total=total, unit=unit, id=id):
            return wire.ModelProgress(model=model, stage=stage, done=done, total=total, unit=unit, id=id)
        case events.ModelLoaded(model, sees, id):
            return wire.ModelLoaded(model=model, vision=sees, id=id)
        case events.ModelUnloaded(model, id):
            return wire.ModelUnloaded(model=model, id=id)


def _status(event: events.StatusReport, names: list[str]) -> wire.Status:
    if event.sampling is None:
        return wire.Status(stats=event.stats, id=event.id)
    return wire.Status(stats=event.stats | {"config": _current_config(event.sampling, names)}, id=event.id)


def _shown_settings(sent: dict[str, Any], *, is_plain: bool) -> list[str]:
    """The fields of `Sampling` that a peer is told of: a plain one knows the seed's, and those that it sent."""
    names = wire.SETTING_NAMES
    return [name for name in names if not is_plain or name not in wire.LATER_SETTINGS or names[name] in sent]


def _current_config(sampling: Sampling, names: list[str]) -> wire.Settings:
    return wire.Settings(**{name: getattr(sampling, name) for name in names})


def _timings(event: events.ReplyFinished) -> wire.Timings:
    spent = event.timings
    return wire.Timings(
        queue_ms=event.queue_ms,
        image_ms=event.image_ms,
        vision_ms=spent.vision_ms,
        prefill_ms=spent.prefill_ms,
        ttft_ms=round(event.queue_ms + event.image_ms + spent.first_token_ms, 3),
        tokens_per_second=spent.tokens_per_second,
        frame_age_ms=event.frame_age_ms,
    )


def _candidates(event: events.ReplyFinished) -> list[wire.Candidate] | None:
    """None where there is one: the message's own fields say it."""
    each = enumerate(event.candidates)
    return [wire.Candidate(index, one.text, one.reason) for index, one in each] or None


def _logprobs(tokens: tuple[TokenLogprob, ...]) -> list[wire.TokenLogprob] | None:
    return [
        wire.TokenLogprob(
            token.text,
            _finite(token.logprob),
            [wire.LikelyToken(text, _finite(logprob)) for text, logprob in token.top],
        )
        for token in tokens
    ] or None


def _finite(logprob: float) -> float:
    """JSON has no minus infinity."""
    return max(LEAST_LOGPROB, round(logprob, 6))


def _sentence(event: events.Problem) -> str:
    """The message, naming its field for a peer that gets no `param`."""
    field = event.path.rpartition(".")[2]
    if event.path == "$" or f"`{field}`" in event.message:
        return event.message
    return f"{event.message.removesuffix('.')} (at {event.path})"


# --- messages to structs ------------------------------------------------------------

_decoder: msgspec.json.Decoder[wire.PeerMessage] = msgspec.json.Decoder(wire.PeerMessage)


def _split(message: str | bytes) -> tuple[str | bytes, bytes | None]:
    """The JSON in a message, and the picture's bytes if it is a binary one with a header."""
    if isinstance(message, str) or message[:1] != bytes((wire.MEDIA_MARK,)):
        return message, None  # some peers send their JSON in binary messages
    if message[1:2] != bytes((wire.MEDIA_VERSION,)):
        raise InvalidMessage("A binary message starts with the bytes 0x4D, 1.", code="invalid_media")
    end = 4 + int.from_bytes(message[2:4], "big")
    if len(message) < max(end, 4):
        raise InvalidMessage("A binary message ends before its header does.", code="invalid_media")
    return message[4:end], message[end:]


def _decode(text: str | bytes) -> wire.PeerMessage:
    _check_depth(text)
    try:
        return _decoder.decode(text)
    except RecursionError:
        raise _too_deep() from None
    except UnicodeError:
        raise InvalidMessage("The message is not valid Unicode.", code="invalid_json") from None
    except msgspec.MsgspecError as error:
        return _decode_with_strange_settings(text) or _explain(error, text)


_MARKS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)
_BYTE_MARKS = re.compile(_MARKS.pattern.encode(), re.DOTALL)


def _check_depth(text: Any) -> None:
    """Refuse JSON nested deeper than `MAX_JSON_DEPTH` before it is parsed. Counting alone clears most messages."""
    marks: Any
    marks, openings, closings = (_MARKS, "[{", "]}") if isinstance(text, str) else (_BYTE_MARKS, b"[{", b"]}")
    if sum(map(text.count, openings)) <= MAX_JSON_DEPTH:
        return
    depth = 0
    for count, mark in enumerate(marks.finditer(text), start=1):
        first = text[mark.start()]
        depth += (first in openings) - (first in closings)
        if depth > MAX_JSON_DEPTH:
            raise _too_deep()
        if count > MAX_JSON_ITEMS:  # reading on would hold up everybody
            raise InvalidMessage(f"The JSON has more than {MAX_JSON_ITEMS} parts.", code="json_too_large")


def _too_deep() -> InvalidMessage:
    return InvalidMessage(f"The JSON is nested more than {MAX_JSON_DEPTH} levels deep.", code="json_too_deep")


def _decode_with_strange_settings(text: str | bytes) -> wire.PeerMessage | None:
    """A message that is sound but for settings that are NaN or infinite, or None.

    Python's json writes such numbers though JSON has none. They pass here, so that the
    session's error names the setting and its range.
    """
    if len(text) > MAX_SETTINGS_LENGTH:
        return None
    try:
        message = json.loads(text)
        place = message if message["type"] == "config" else message["config"]
        strange = {name: place.pop(name) for name in wire.SETTING_NAMES.values() if isinstance(place.get(name), float)}
        _decoder.decode(json.dumps(message, allow_nan=False))
        place.update(strange)
        sound: wire.PeerMessage = msgspec.convert(message, wire.PeerMessage)
        return sound
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _explain(error: msgspec.MsgspecError, text: str | bytes) -> NoReturn:
    """Say in our own words what msgspec says in its own."""
    if not isinstance(error, msgspec.ValidationError):
        raise InvalidMessage("The message is not valid JSON.", code="invalid_json") from None
    what, _, where = str(error).partition(" - at `")
    path = where.removesuffix("`") or "$"
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", what):
        field = missing[1]
        raise InvalidMessage(f"The field `{field}` is missing.", f"{path}.{field}", "missing_field") from None
    if path == "$.type" and what.startswith("Invalid value"):
        raise InvalidMessage(_unknown_type(text), "$.type", "unknown_type") from None
    if path == "$":
        raise InvalidMessage("A message must be a JSON object with a `type`.") from None
    is_setting = path == "$.config" or path.startswith("$.config.") or path[2:] in wire.SETTING_NAMES.values()
    code = "invalid_config" if is_setting else "invalid_message"
    raise InvalidMessage(_wrong_value(what, path), path, code) from None


def _unknown_type(text: str | bytes) -> str:
    kind = str(_glimpse(text).type)[:MAX_NAME_LENGTH]
    close = difflib.get_close_matches(kind, wire.PEER_MESSAGE_TYPES, n=1)
    hint = f'Did you mean "{close[0]}"?' if close else f"Known are {', '.join(wire.PEER_MESSAGE_TYPES)}."
    return f"There is no message `type` {json.dumps(kind[:40], ensure_ascii=False)}. {hint}"


KINDS = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


WORDS = {"policy": '"latest" or "queue"', "priority": '"interactive", "frame" or "background"'}
"""Fields that take only certain words."""


def _wrong_value(what: str, path: str) -> str:
    field = path.rpartition(".")[2]
    if field in WORDS:
        return f"`{field}` must be {WORDS[field]}."
    if kinds := re.fullmatch(r"Expected `([\w |]+)`(?:, got `(\w+)`)?", what):
        wanted = [KINDS.get(kind, kind) for kind in kinds[1].split(" | ") if kind != "null"]
        got = f", got {KINDS.get(kinds[2], kinds[2])}" if kinds[2] else ""
        return f"`{field}` must be {' or '.join(wanted)}{got}."
    return f"`{field}` is out of range."


class _Glimpse(msgspec.Struct):
    """The two fields worth reading of a message that is otherwise wrong."""

    type: Any = None
    id: Any = None


def _glimpse(text: str | bytes) -> _Glimpse:
    try:
        return msgspec.json.decode(text, type=_Glimpse)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _Glimpse()


def _id_in(text: str | bytes) -> str | None:
    """The id of a message that can't be read, if that much of it can."""
    id = _glimpse(text).id
    return id if isinstance(id, str) and 0 < len(id) <= MAX_ID_LENGTH else None


# --- structs to events --------------------------------------------------------------


def _event(message: wire.PeerMessage, media: bytes | None) -> PeerEvent:
    _check_envelope(message, media)
    match message:
        case wire.TextInput():
            return _question(message)
        case wire.ImageInput():
            return _picture_question(message, media)
        case wire.VideoFrame() | wire.ScreenFrame():
            return _frame(message, media)
        case wire.Config():
            return _configure(message)
        case wire.GetStatus():
            return events.StatusRequest(message.id)
        case wire.Cancel():
            return events.Interrupt(id=message.id, source=_short(message.source, "source"))
        case wire.Ping():
            _short(message.t, "t")
            return events.Ping(message.t, message.id)
        case wire.ListModels() | wire.LoadModel() | wire.UnloadModel():
            return _model_wish(message)
        case wire.Resume(token=token, last_seq=last_seq):
            return events.Resume(token=_short(token, "token"), last_seq=last_seq, id=message.id)


def _model_wish(message: wire.ListModels | wire.LoadModel | wire.UnloadModel) -> events.ModelWish:
    if isinstance(message, wire.ListModels):
        return events.ModelWish(wish="list", id=message.id)
    wish: Literal["load", "unload"] = "load" if isinstance(message, wire.LoadModel) else "unload"
    return events.ModelWish(wish=wish, model=_short(message.model, "model"), id=message.id)


def _check_envelope(message: wire.PeerMessage, media: bytes | None) -> None:
    """Refuse an id that no error could echo, and bytes that belong to nothing."""
    if message.id is not None and not 0 < len(message.id) <= MAX_ID_LENGTH:
        raise InvalidMessage(f"An `id` has 1 to {MAX_ID_LENGTH} characters.", "$.id")
    if media is not None and not isinstance(message, wire.Picture):
        raise InvalidMessage("A binary message carries a picture; send the rest as text.", "$.type", "invalid_media")


def _question(message: wire.TextInput) -> Ask:
    if not message.content:
        raise InvalidMessage("`content` must not be empty.", "$.content")
    _check_text(content=message.content, context=message.context, system=message.system)
    return Ask(text=message.content, context=message.context or "", **_options(message))


def _picture_question(message: wire.ImageInput, media: bytes | None) -> Ask:
    more = message.images or []
    images = [EncodedImage(picture, f"$.images[{at}]") for at, picture in enumerate(more)]
    if media is not None or message.image or message.frame or not images:
        images.insert(0, _picture(message, media))
    if len(images) > MAX_IMAGES:
        raise InvalidMessage(f"One question has at most {MAX_IMAGES} images.", "$.images", "too_many_images")
    return _about(message, images)


def _frame(message: wire.Frame, media: bytes | None) -> FrameInput:
    return FrameInput(
        ask=_about(message, [_picture(message, media)]),
        frame_id=_short(message.frame_id, "frame_id"),
        captured_at=message.ts,
        policy=message.policy or "latest",
    )


def _configure(message: wire.Config) -> events.Configure:
    changes = message.given
    sent = {wire.SETTING_NAMES[name]: value for name, value in changes.items()}
    return events.Configure(changes=changes, names=wire.SETTING_NAMES, sent=sent, id=message.id)


def _about(message: wire.Picture, images: list[EncodedImage]) -> Ask:
    """A question about pictures."""
    for image in images:
        _check_picture(image)
    prompt = message.prompt or wire.DEFAULT_PROMPT
    _check_text(prompt=prompt, system=message.system)
    options = _options(message)
    changes = options["changes"]
    if "max_tokens" in changes and "max_tokens_image" not in changes:
        # A peer that limits this one reply means this one, whatever it is about.
        changes["max_tokens_image"] = changes["max_tokens"]
        options["names"] = {**wire.SETTING_NAMES, "max_tokens_image": wire.SETTING_NAMES["max_tokens"]}
    source = _short(message.source, "source") or wire.DEFAULT_SOURCE
    return Ask(text=prompt, images=tuple(images), source=source, **options)


def _options(message: wire.Request) -> dict[str, Any]:
    """What every question may have, as arguments of `Ask`."""
    return {
        "id": message.id,
        "changes": message.config.given if message.config else {},
        "names": wire.SETTING_NAMES,
        "history": bool(message.history),
        "stop": _stop(message.stop or []),
        "json_schema": json_schema(message.response_format),
        "system": message.system,
        "model": _short(message.model, "model"),
        "priority": message.priority or "interactive",
        "start_seconds": _start_seconds(message.deadline_ms),
    }


def _start_seconds(deadline_ms: float | None) -> float | None:
    if deadline_ms is None:
        return None
    if not 0 < deadline_ms <= MAX_DEADLINE_MS:
        reason = f"`deadline_ms` is more than 0 and at most {MAX_DEADLINE_MS}, got {deadline_ms:g}."
        raise InvalidMessage(reason, "$.deadline_ms")
    return deadline_ms / 1000


def _stop(strings: list[str]) -> tuple[str, ...]:
    if len(strings) > MAX_STOP_STRINGS:
        raise InvalidMessage(f"`stop` has at most {MAX_STOP_STRINGS} strings.", "$.stop")
    for at, string in enumerate(strings):
        if not 0 < len(string) <= MAX_STOP_LENGTH:
            raise InvalidMessage(f"A stop string has 1 to {MAX_STOP_LENGTH} characters.", f"$.stop[{at}]")
    return tuple(strings)


def _picture(message: wire.Picture, media: bytes | None) -> EncodedImage:
    """The one picture of a message, whichever of its two names it has."""
    usual, other = ("frame", "image") if isinstance(message, wire.Frame) else ("image", "frame")
    if media is not None:
        if not (message.mime or "").startswith("image/"):
            raise InvalidMessage('The header\'s `mime` must be an image type, such as "image/jpeg".', "$.mime")
        return EncodedImage(media, f"$.{usual}")
    for name in (usual, other):
        if encoded := getattr(message, name):
            return EncodedImage(encoded, f"$.{name}")
    raise InvalidMessage(f"The field `{usual}` is missing.", f"$.{usual}", "missing_field")


def _check_picture(image: EncodedImage) -> None:
    """Refuse what is too large, without opening or copying it."""
    size = len(image.data)
    if isinstance(image.data, str):
        size = (size - image.data.find(",", 0, MAX_NAME_LENGTH) - 1) * 3 // 4
    if size > MAX_IMAGE_BYTES:
        reason = f"A picture has at most {MAX_IMAGE_BYTES} bytes, this one has {size}."
        raise InvalidMessage(reason, image.path, "image_too_large")
    if not image.data:
        raise InvalidMessage("The picture is empty.", image.path, "missing_field")


def _check_text(**fields: str | None) -> None:
    size = sum(len(text.encode()) for text in fields.values() if text)
    if size > MAX_TEXT_BYTES:
        names = " and ".join(f"`{name}`" for name, text in fields.items() if text)
        reason = f"The text in {names} has at most {MAX_TEXT_BYTES} bytes, this one has {size}."
        raise InvalidMessage(reason, f"$.{next(iter(fields))}", "text_too_large")


Echoed = TypeVar("Echoed", bound=object)


def _short(value: Echoed, name: str) -> Echoed:
    """`value`, which will be echoed, unless it is a very long string."""
    if isinstance(value, str) and len(value) > MAX_NAME_LENGTH:
        raise InvalidMessage(f"`{name}` has at most {MAX_NAME_LENGTH} characters.", f"$.{name}")
    return value

"""The supported stand-ins, for tests of anything above the engine.

`ScriptedEngine` meets the same protocol as `engine.client.Engine`. Nothing happens in it by
itself: a test says when it is ready and what each request gets. `Talk` is a connection
without a socket. `play` replays a dialogue that is kept as text:

    # what the dialogue shows
    = version 2                      how the talk is set up; the test gives it a meaning
    > {"type": "text_input", …}      the peer sends text, as it stands
    >> {"type": "video_frame", …}    the peer sends a binary message: this header, a small picture
    ~ says "Once" " upon"            what happens to the oldest running request, see `ENGINE_VERBS`
    ~ #2 says "Hello"                the same for the second request that reached the engine
    ~ 61 seconds pass                see `SERVER_VERBS` for what else happens on the server
    < {"type": "token", …}           the peer is told this; "*" stands for any value

Every message to the peer has its line, in this order; more is a mismatch, as is less.
"""

import base64
import itertools
import json
import shlex
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mlx_websockets.engine.messages import Loading
from mlx_websockets.errors import InvalidImage, Refused
from mlx_websockets.events import (
    GoAway,
    Hello,
    ModelList,
    ModelLoaded,
    ModelProgress,
    ModelUnloaded,
    ModelWish,
    Problem,
    ServerEvent,
    StatusReport,
    TurnLabel,
)
from mlx_websockets.generation import (
    ChatMessage,
    Delta,
    Failed,
    Finished,
    GenerationRequest,
    Started,
    Timings,
    TokenLogprob,
    Update,
    Usage,
)
from mlx_websockets.images import open_images
from mlx_websockets.likeness import difference, view_of
from mlx_websockets.protocols.native_schema import encode_binary_media
from mlx_websockets.protocols.wire import WireProtocol
from mlx_websockets.sampling import Sampling
from mlx_websockets.sessions.session import Action, Cancel, ReportStatus, Send, Session, Submit, TendModels

Listener = Callable[[Update], None]


class ScriptedEngine:
    """An engine whose replies a test writes.

    Attributes:
        requests: every request submitted, by id.
        cancelled: the ids that were given up, in order.
        said: how many deltas each request has got, by id; those that started have an entry.
        script: if set, called for each request on submission; what it returns is said at once.
    """

    model_id = "scripted"
    sees = True
    max_images = 8
    rows = 16

    def __init__(self, script: Callable[[GenerationRequest], list[Update]] | None = None) -> None:
        self.script = script
        self.requests: dict[int, GenerationRequest] = {}
        self.cancelled: list[int] = []
        self.said: dict[int, int] = {}
        self._listeners: dict[int, Listener] = {}
        self._state_listeners: list[Callable[[], None]] = []
        self._ready = True

    @property
    def is_ready(self) -> bool:
        return self._ready

    def on_state_change(self, listener: Callable[[], None]) -> None:
        self._state_listeners.append(listener)

    def submit(self, request: GenerationRequest, listener: Listener) -> None:
        self.requests[request.id] = request
        self._listeners[request.id] = listener
        if self.script is not None:
            for update in self.script(request):
                self.say(update)

    def cancel(self, request_id: int) -> None:
        if self._listeners.pop(request_id, None) is not None:
            self.cancelled.append(request_id)

    def engine_of(self, model: str | None) -> "ScriptedEngine | None":
        return self if model in (None, self.model_id) else None

    def wake(self) -> None:
        """It wakes when a test says so."""

    async def load(self, model: str, on_progress: Callable[[Any], None] | None = None) -> None:
        """It is loaded, in two steps, if it is the one."""
        if self.engine_of(model) is None:
            raise Refused("model_not_found", f"This server has no model {model!r}; it has {self.model_id}.")
        if on_progress is not None:
            for done in (1, 2):
                on_progress(Loading("Reading the weights", done, 2))

    async def unload(self, model: str) -> None:
        """Pretend."""
        await self.load(model)

    def models(self) -> list[dict[str, Any]]:
        state, running = "ready" if self._ready else "restarting", len(self._listeners)
        return [{"id": self.model_id, "state": state, "vision": self.sees, "memory_bytes": 0, "running": running}]

    def status(self) -> dict[str, Any]:
        return {"state": "ready" if self._ready else "restarting", "model": self.model_id}

    # --- what a test does ---------------------------------------------------------------

    def say(self, update: Update) -> None:
        """Deliver one update; of a request that was cancelled nothing arrives."""
        self.said[update.id] = self.said.get(update.id, 0) + isinstance(update, Delta)
        listener = self._listeners.get(update.id)
        if isinstance(update, Finished | Failed):
            self._listeners.pop(update.id, None)
        if listener is not None:
            listener(update)

    @property
    def running(self) -> list[GenerationRequest]:
        """The requests that have not ended, oldest first."""
        return [self.requests[id] for id in self._listeners]

    def reply(self, request_id: int, *deltas: str, reason: str = "stop") -> None:
        """A whole reply in one go."""
        for update in whole_reply(request_id, *deltas, reason=reason):
            self.say(update)

    def crash(self) -> None:
        """End every running request as a dead worker does, and stop being ready."""
        self._ready = False
        for request_id in list(self._listeners):
            self.say(
                Failed(
                    request_id, "engine_restarted", "The model's process died; it is being restarted. Ask again.", True
                )
            )
        self._tell()

    def recover(self) -> None:
        self._ready = True
        self._tell()

    def _tell(self) -> None:
        for listener in self._state_listeners:
            listener()


def whole_reply(request_id: int, *deltas: str, reason: str = "stop") -> list[Update]:
    """The updates of a reply that says `deltas` and ends."""
    usage = Usage(input_tokens=1, output_tokens=len(deltas))
    return [Started(request_id), *(Delta(request_id, text) for text in deltas), Finished(request_id, reason, usage)]  # type: ignore[arg-type]


# --- a connection without a socket ------------------------------------------------------

START_OF_TIME = 1_750_000_000.0
"""What a `Talk` takes for the time of day when its clock shows 0."""

SMALL_GIF = base64.b64decode("R0lGODdhAQABAIAAAP///////ywAAAAAAQABAAACAkQBADs=")
"""A white picture of one pixel."""


class Talk:
    """One peer's protocol and session with an engine, and a clock that only a test moves.

    Args:
        protocol: the dialect of the peer.
        engine: what answers; may be shared by several talks.
        numbers: where turn numbers come from; share it where the engine is shared.
        stats: what a request for the status is told.

    Attributes:
        sent: the messages to the peer that nobody has taken yet, oldest first.
        now: seconds; set it or `advance` it.
    """

    def __init__(
        self,
        protocol: WireProtocol,
        engine: ScriptedEngine | None = None,
        *,
        sampling: Sampling = Sampling(),
        max_waiting: int = 10,
        numbers: Iterator[int] | None = None,
        stats: dict[str, Any] | None = None,
    ) -> None:
        self.engine = engine or ScriptedEngine()
        self.sent: deque[str | bytes] = deque()
        self.now = 0.0
        self._protocol = protocol
        self._stats = stats or {}
        self.session = Session(
            sampling, numbers or itertools.count(1), max_waiting=max_waiting, clock_offset=START_OF_TIME
        )
        self.engine.on_state_change(self._start_turns)

    def receive(self, message: str | bytes) -> None:
        """The peer sends `message`."""
        for event in self._protocol.parse(message):
            self._perform(self.session.receive(event, self.now))
        self._start_turns()

    def tell(self, event: ServerEvent) -> None:
        """The server tells the peer something of its own."""
        self.sent.extend(self._protocol.render(event, START_OF_TIME + self.now))

    def advance(self, seconds: float) -> None:
        """Time passes, and the turns that have run too long end."""
        self.now += seconds
        self._perform(self.session.tick(self.now))
        self._start_turns()

    def close(self, *, code: str = "", reason: str = "") -> None:
        """End everything, see `Session.close`."""
        self._perform(self.session.close(self.now, code=code, reason=reason))

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(event):
                    self.tell(event)
                case Submit():
                    self._submit(action)
                case Cancel(turn):
                    self.engine.cancel(turn)
                case ReportStatus(id):
                    self.tell(StatusReport(self._stats, id, self.session.sampling))
                case TendModels(wish):
                    self._tend(wish)

    def _tend(self, wish: ModelWish) -> None:
        if wish.wish == "list":
            self.tell(ModelList(self.engine.models(), wish.id))
        elif self.engine.engine_of(wish.model) is None:
            reason = f"This server has no model {wish.model!r}; it has {self.engine.model_id}."
            self.tell(Problem(message=reason, code="model_not_found", turn=TurnLabel(id=wish.id)))
        elif wish.wish == "load":
            stage = "Reading the weights"
            for done in (1_000_000, 2_000_000):
                self.tell(
                    ModelProgress(model=wish.model, stage=stage, done=done, total=2_000_000, unit="bytes", id=wish.id)
                )
            self.tell(ModelLoaded(wish.model, self.engine.sees, wish.id))
        else:
            self.tell(ModelUnloaded(wish.model, wish.id))

    def _submit(self, draft: Submit) -> None:
        try:
            messages = tuple(
                ChatMessage(each.role, each.text, open_images(each.images))  # type: ignore[arg-type]
                for each in draft.messages
            )
        except InvalidImage as error:
            self._perform(self.session.pictures_failed(draft.turn, error))
            return
        view = view_of(messages[-1].images[0]) if draft.unchanged_threshold else None
        before = draft.view_before
        if view is not None and before is not None and difference(before, view) < draft.unchanged_threshold:
            self._perform(self.session.picture_unchanged(draft.turn))
            return
        self.session.pictures_opened(draft.turn, 0.0, view)
        request = GenerationRequest(
            id=draft.turn, messages=messages, choice=draft.choice, droppable=draft.droppable, priority=draft.priority
        )
        self.engine.submit(request, self._update)

    def _update(self, update: Update) -> None:
        self._perform(self.session.update(update, self.now, self.engine.model_id))
        self._start_turns()

    def _start_turns(self) -> None:
        while self.engine.is_ready and (turn := self.session.next_turn(self._has_room)) is not None:
            self._perform(self.session.start(turn.number, self.now))

    def _has_room(self, model: str | None, rows: int) -> bool:
        return self.session.rows + rows <= self.engine.rows


# --- dialogues kept as text -------------------------------------------------------------


class TranscriptMismatch(AssertionError):
    """A dialogue did not go as its transcript says."""


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a transcript: what its mark says of its text."""

    line: int
    mark: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """A dialogue.

    Attributes:
        title: its first comment.
        setup: the words after `=`, by the first of them.
        steps: the rest, in order.
    """

    title: str
    setup: dict[str, str] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()


def read_transcript(text: str) -> Transcript:
    """The dialogue in `text`.

    Raises:
        ValueError: a line begins with none of the marks.
    """
    title, setup, steps = "", {}, []
    for number, line in enumerate(text.splitlines(), start=1):
        mark, _, rest = line.partition(" ")
        if mark == "#":
            title = title or rest
        elif mark == "=":
            name, _, value = rest.partition(" ")
            setup[name] = value.strip()
        elif mark in (">", ">>", "<", "~"):
            steps.append(Step(number, mark, rest))
        elif line.strip():
            raise ValueError(f"Line {number} begins with none of the marks # = > >> < ~: {line}")
    return Transcript(title=title, setup=setup, steps=tuple(steps))


def play(transcript: Transcript, talk: Talk) -> None:
    """Replay a dialogue.

    Raises:
        TranscriptMismatch: something was said that it does not have, or the reverse.
    """
    for step in transcript.steps:
        if step.mark == "<":
            _expect(step, talk.sent)
            continue
        _expect_silence(talk.sent, f"before line {step.line}")
        if step.mark == ">":
            talk.receive(step.text)
        elif step.mark == ">>":
            talk.receive(encode_binary_media(json.loads(step.text), SMALL_GIF))
        else:
            _happen(step, talk)
    _expect_silence(talk.sent, "at the end")


def _expect(step: Step, sent: deque[str | bytes]) -> None:
    if not sent:
        raise TranscriptMismatch(f"Line {step.line}: nothing was said, expected {step.text}")
    said = sent.popleft()
    if not matches(json.loads(step.text), json.loads(said)):
        raise TranscriptMismatch(f"Line {step.line}:\n  expected {step.text}\n  got      {said!s}")


def _expect_silence(sent: deque[str | bytes], where: str) -> None:
    if sent:
        raise TranscriptMismatch(f"Said {where}, with no line for it: {sent[0]!s}")


def matches(expected: object, got: object) -> bool:
    """Equal, but for the places where `expected` has "*"."""
    if expected == "*":
        return True
    if isinstance(expected, dict) and isinstance(got, dict):
        return expected.keys() == got.keys() and all(matches(expected[key], got[key]) for key in expected)
    if isinstance(expected, list) and isinstance(got, list):
        return len(expected) == len(got) and all(map(matches, expected, got))
    return expected == got and isinstance(expected, bool) == isinstance(got, bool)


# --- what happens on the server's side of a dialogue ------------------------------------


def _happen(step: Step, talk: Talk) -> None:
    words = shlex.split(step.text)
    if words[1:] == ["seconds", "pass"]:
        talk.advance(float(words[0]))
        return
    number = int(words.pop(0)[1:]) if words[0].startswith("#") else None
    verb, *rest = words
    if verb in SERVER_VERBS:
        SERVER_VERBS[verb](talk, *rest)
    else:
        request = talk.engine.running[0] if number is None else list(talk.engine.requests.values())[number - 1]
        ENGINE_VERBS[verb](talk.engine, request, *rest)


def _starts(engine: ScriptedEngine, request: GenerationRequest) -> None:
    if request.id not in engine.said:
        engine.say(Started(request.id))


def _says(engine: ScriptedEngine, request: GenerationRequest, *deltas: str) -> None:
    _starts(engine, request)
    for delta in deltas:
        engine.say(Delta(request.id, delta))


def _candidate(engine: ScriptedEngine, request: GenerationRequest, index: str, *deltas: str) -> None:
    _starts(engine, request)
    for delta in deltas:
        engine.say(Delta(request.id, delta, int(index)))


def _weighs(engine: ScriptedEngine, request: GenerationRequest, text: str, *likely: str) -> None:
    _starts(engine, request)
    chosen, *top = zip(likely[::2], map(float, likely[1::2]), strict=True)
    engine.say(Delta(request.id, text, logprobs=(TokenLogprob(*chosen, tuple(top)),)))


def _finishes(engine: ScriptedEngine, request: GenerationRequest, *reasons: str) -> None:
    _starts(engine, request)
    pictures = sum(len(message.images) for message in request.messages)
    usage = Usage(input_tokens=12 + 256 * pictures, image_tokens=256 * pictures, output_tokens=engine.said[request.id])
    timings = Timings(
        vision_ms=40.0 * pictures, prefill_ms=25.0, first_token_ms=30.0 + 40 * pictures, tokens_per_second=50.0
    )
    several = reasons if request.choice.candidates > 1 else ()
    engine.say(Finished(request.id, reasons[0], usage, timings, several))  # type: ignore[arg-type]


def _fails(engine: ScriptedEngine, request: GenerationRequest, code: str, message: str) -> None:
    engine.say(Failed(request.id, code, message))


def _refuses(engine: ScriptedEngine, request: GenerationRequest, code: str, message: str, milliseconds: str) -> None:
    engine.say(Failed(request.id, code, message, retryable=True, retry_after_ms=int(milliseconds)))


def _greets(talk: Talk) -> None:
    talk.tell(
        Hello(
            server="0.0.0",
            session="s-1",
            resume_token="s-1.DvzFWmYJQ5wTqkbnOy1hFMNQ",  # noqa: S106 - opens nothing
            model={"id": talk.engine.model_id, "vision": talk.engine.sees},
            limits={"max_queue": 10},
            features=("ids", "cancel"),
        )
    )


ENGINE_VERBS: dict[str, Callable[..., None]] = {
    "starts": _starts,  # implied by the next two
    "says": _says,  # says "a delta" "another"
    "candidate": _candidate,  # candidate 1 "a delta" "another"
    "weighs": _weighs,  # weighs "a delta" "its token" -0.1 "likely" -0.1 "less" -2.5
    "finishes": _finishes,  # finishes stop, or length; of several candidates: one word for each
    "fails": _fails,  # fails some_code "A sentence."
    "refuses": _refuses,  # refuses some_code "A sentence." 2500 (milliseconds)
}

SERVER_VERBS: dict[str, Callable[..., None]] = {
    "greets": _greets,
    "crashes": lambda talk: talk.engine.crash(),
    "recovers": lambda talk: talk.engine.recover(),
    "leaves": lambda talk, reason: talk.tell(GoAway(reason, 2000)),
    "closes": lambda talk, code, reason: talk.close(code=code, reason=reason),
}

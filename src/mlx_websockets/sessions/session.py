"""What one peer has said and is owed: events and updates in, actions out.

The session decides, the connection does. It knows no socket, no model and no clock: `now`
is an argument, in seconds of a monotonic clock. Two rules hold it together:

- every accepted request ends in exactly one terminal event (`ReplyFinished`, `Problem` with
  its label, `FrameDropped`), because a turn is told of its end where it is forgotten, and no
  other `Problem` carries the id of a turn that has not ended;
- a turn starts only when `start` is called, so a waiting frame can be superseded up to
  the moment when the engine really has room for it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mlx_websockets.errors import InvalidImage, InvalidMessage, Refused
from mlx_websockets.events import (
    Ask,
    Candidate,
    ConfigUpdated,
    Configure,
    EncodedImage,
    FrameDropped,
    FrameInput,
    InputType,
    Interrupt,
    ModelWish,
    PeerEvent,
    Ping,
    Pong,
    Problem,
    ReplyDelta,
    ReplyFinished,
    ReplyStarted,
    Resume,
    ServerEvent,
    StatusRequest,
    TurnLabel,
    Unreadable,
)
from mlx_websockets.generation import Choice, Delta, Failed, Finished, Priority, Started, Update
from mlx_websockets.likeness import View
from mlx_websockets.sampling import Sampling
from mlx_websockets.sessions.conversation import MAX_PICTURES, Conversation, Exchange
from mlx_websockets.sessions.frames import FrameSlots, LastViews
from mlx_websockets.sessions.turns import Turn

MAX_ROWS = 16
"""Rows of the engine that one session may have at once."""

MAX_TRANSIT_SECONDS = 60.0
"""A frame that claims to have travelled longer has a clock that we don't believe."""


@dataclass(frozen=True, slots=True)
class Send:
    """Tell the peer."""

    event: ServerEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftMessage:
    """A `ChatMessage` whose pictures are still encoded."""

    role: str
    text: str
    images: tuple[EncodedImage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """Open the pictures, then hand the request to the engine. `turn` is its id there.

    If a picture can't be opened, tell the session: `pictures_failed`. If it differs by less than
    `unchanged_threshold` from `view_before`, leave the engine alone: `picture_unchanged`.
    """

    turn: int
    messages: tuple[DraftMessage, ...]
    choice: Choice
    droppable: int = 0
    model: str | None = None
    priority: Priority = "interactive"
    unchanged_threshold: float = 0.0
    view_before: View | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Make the engine (or the opening of pictures) give up on a turn."""

    turn: int


@dataclass(frozen=True, slots=True)
class ReportStatus:
    """The peer asked how the server is; answer with a `StatusReport`."""

    id: str | None


@dataclass(frozen=True, slots=True)
class TendModels:
    """The peer asked about models, or for one; answer it, if it may."""

    wish: ModelWish


Action = Send | Submit | Cancel | ReportStatus | TendModels

HasRoom = Callable[[str | None, int], bool]
"""Whether a model takes a turn of so many rows now; None is the default model."""


def _everywhere(model: str | None, rows: int) -> bool:
    return True


class Session:
    """One peer's side of the talk.

    Args:
        sampling: what the settings start from.
        numbers: where turn numbers come from; shared by all sessions of a server.
        max_waiting: inputs that may wait.
        reply_seconds: a turn that has run this long is ended with what it has.
        waiting_seconds: a turn that has waited this long is told so: the engine may be gone for good.
        clock_offset: what to add to `now` to get seconds since 1970, for the `ts` of frames.
    """

    def __init__(
        self,
        sampling: Sampling,
        numbers: Iterator[int],
        *,
        max_waiting: int = 10,
        reply_seconds: float = 60.0,
        waiting_seconds: float = 300.0,
        clock_offset: float = 0.0,
    ) -> None:
        self.sampling = sampling
        self._numbers = numbers
        self._max_waiting = max_waiting
        self._reply_seconds = reply_seconds
        self._waiting_seconds = waiting_seconds
        self._clock_offset = clock_offset
        self._queue: list[Turn] = []  # questions and "queue" frames, oldest first
        self._slots = FrameSlots()
        self._views = LastViews()
        self._refusal: tuple[str, str] | None = None  # code and reason, once nothing new is taken
        self._running: dict[int, Turn] = {}
        self._in_line: list[Turn] | None = None  # see `in_line`; None: to be found out anew
        self._conversation = Conversation()

    # --- in ---------------------------------------------------------------------------

    def refuse(self, event: Ask | FrameInput, refused: Refused) -> list[Action]:
        """Tell the peer that a sound request is not taken; a frame of an overloaded server is dropped."""
        ask = event if isinstance(event, Ask) else event.ask
        if self._is_taken(ask.id):
            return [Send(_duplicate(ask.id))]
        label = _label(event)
        if label.is_frame and refused.code == "overloaded":
            return [Send(FrameDropped(label, "overloaded"))]
        problem = Problem(
            message=refused.reason,
            code=refused.code,
            turn=label,
            retryable=refused.retryable,
            retry_after_ms=refused.retry_after_ms,
        )
        return [Send(problem)]

    def receive(self, event: PeerEvent, now: float) -> list[Action]:
        """What to do about something that the peer said."""
        match event:
            case Ask():
                return self._accept_question(event, now)
            case FrameInput():
                return self._accept_frame(event, now)
            case Configure():
                return self._configure(event)
            case Interrupt():
                return self._interrupt(event, now)
            case StatusRequest(id):
                return [ReportStatus(id)]
            case Ping(t, id):
                return [Send(Pong(t, id))]
            case ModelWish():
                return [TendModels(event)]
            case Resume():
                message = "Only the first message of a connection of version 2 can resume a session."
                return [Send(Problem(message=message, code="resume_failed", turn=self._label_beside_turns(event.id)))]
            case Unreadable():
                label = self._label_beside_turns(event.id)
                return [Send(Problem(message=event.reason, code=event.code, turn=label, path=event.path))]

    def update(self, update: Update, now: float, model: str = "") -> list[Action]:
        """What to do about something that happened to a turn in the engine."""
        turn = self._running.get(update.id)
        if turn is None:
            return []  # closed already; these are late words
        match update:
            case Started():
                turn.started_at = now
                return [Send(ReplyStarted(turn.label, model, _queue_ms(turn, now)))]
            case Delta():
                return [Send(_told(turn, update))]
            case Finished():
                return self._finish(turn, update, now)
            case Failed():
                return self._fail(turn, update)

    def pictures_opened(self, turn: int, milliseconds: float, view: View | None = None) -> None:
        """Note what opening a turn's pictures took, and how a frame looks that is to be compared with the next."""
        if turn in self._running:
            self._running[turn].image_ms = milliseconds
            self._running[turn].view = view

    def picture_unchanged(self, turn: int) -> list[Action]:
        """Drop a frame that looks like the last one that was described."""
        ended = self._running.get(turn)
        if ended is None:
            return []
        self._forget(ended)
        return [Send(FrameDropped(ended.label, "unchanged"))]

    def pictures_failed(self, turn: int, error: InvalidImage) -> list[Action]:
        """End a turn one of whose pictures can't be opened: a frame is dropped, a question gets `error`."""
        ended = self._running.get(turn)
        if ended is None:
            return []
        self._forget(ended)
        if ended.label.is_frame:
            return [Send(FrameDropped(ended.label, "decode_error"))]
        return [Send(Problem(message=error.reason, code=error.code, turn=ended.label, path=error.path))]

    def start(self, turn_number: int, now: float) -> list[Action]:
        """Start a turn that waits, one that `next_turn` has named."""
        turn = next(turn for turn in (*self._queue, *self._slots) if turn.number == turn_number)
        self._forget(turn)
        turn.submitted_at = now
        self._running[turn.number] = turn
        return [self._submission(turn)]

    def tick(self, now: float) -> list[Action]:
        """End the turns that have run, or waited, too long."""
        late = [turn for turn in self._all_turns() if now >= self._deadline(turn)]
        return [action for turn in late for action in self._expire(turn, now)]

    def drain(self, code: str, reason: str) -> list[Action]:
        """Take nothing new: what waits is told why, and so is what still comes; what runs goes on."""
        self._refusal = (code, reason)
        return self._give_up([*self._queue, *self._slots], code, reason)

    def close(self, now: float, *, code: str = "", reason: str = "") -> list[Action]:
        """End everything: with `code` each turn is told of it, without (the peer is gone) none is."""
        return self._give_up(self._all_turns(), code, reason)

    # --- look -------------------------------------------------------------------------

    @property
    def wants_to_start(self) -> bool:
        """A turn waits that could run now, if its model has room."""
        return self.next_turn() is not None

    def next_turn(self, has_room: HasRoom = _everywhere, priority: Priority | None = None) -> Turn | None:
        """The first turn in line, of this class or of any, that may start: its lanes and its model have room."""
        fitting = (turn for turn in self.in_line if priority in (None, turn.priority))
        return next((turn for turn in fitting if has_room(turn.ask.model, turn.rows)), None)

    @property
    def in_line(self) -> list[Turn]:
        """The waiting turns whose lanes are free, in the order of their `place`."""
        if self._in_line is None:  # all sessions are looked at whenever one of them changes
            self._in_line = sorted(self._unblocked(), key=lambda turn: turn.place)
        return self._in_line

    def _unblocked(self) -> list[Turn]:
        """The waiting turns whose lanes are free. What waits in the queue uses a lane in the order it came."""
        running = {lane for turn in self._running.values() for lane in turn.lanes}
        busy, rows_left, free = set(running), MAX_ROWS - self.rows, []
        for turn in self._queue:
            if busy.isdisjoint(turn.lanes):
                free.append(turn)
            busy |= turn.lanes
        free += [frame for frame in self._slots if running.isdisjoint(frame.lanes)]
        return [turn for turn in free if turn.rows <= rows_left]

    @property
    def awaited_models(self) -> set[str | None]:
        """The models of the turns that wait; None is the default."""
        return {turn.ask.model for turn in (*self._queue, *self._slots)}

    def rows_on(self, model: str | None) -> int:
        """How many rows of a model the running turns take."""
        return sum(turn.rows for turn in self._running.values() if turn.ask.model == model)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def rows(self) -> int:
        """How many rows of the engine the running turns take."""
        return sum(turn.rows for turn in self._running.values())

    @property
    def waiting(self) -> int:
        return len(self._queue) + len(self._slots)

    @property
    def held_bytes(self) -> int:
        """Bytes of the pictures that wait, run or are remembered, as they came."""
        turns = sum(len(image.data) for turn in self._all_turns() for image in turn.ask.images)
        return turns + sum(len(image.data) for image in self._conversation.images)

    @property
    def next_deadline(self) -> float | None:
        """When `tick` will have something to do."""
        return min((self._deadline(turn) for turn in self._all_turns()), default=None)

    # --- requests ---------------------------------------------------------------------

    def _accept_question(self, ask: Ask, now: float) -> list[Action]:
        label = _label(ask)
        turn = self._turn(ask, label, now)
        if isinstance(turn, Problem):
            return [Send(turn)]
        if self.waiting >= self._max_waiting:
            return [Send(self._no_room(label))]
        self._queue.append(turn)
        self._in_line = None
        return []

    def _accept_frame(self, frame: FrameInput, now: float) -> list[Action]:
        ask = frame.ask
        label = _label(frame)
        turn = self._turn(ask, label, now)
        if isinstance(turn, Problem):
            return [Send(turn)]
        turn.captured_at = self._captured_at(frame.captured_at, now)
        self._in_line = None
        if label.source not in self._slots and self.waiting >= self._max_waiting:
            return [Send(FrameDropped(label, "processing_queue_full"))]
        if frame.policy == "latest":
            superseded = self._slots.offer(turn)
            if superseded is not None:
                turn.in_line_since = superseded.in_line_since
        else:  # waits in line, but it is newer than the source's frame in the slot all the same
            superseded = self._slots.take(label.source)
            self._queue.append(turn)
        return [Send(FrameDropped(superseded.label, "superseded"))] if superseded else []

    def _turn(self, ask: Ask, label: TurnLabel, now: float) -> Turn | Problem:
        """A turn for `ask`, its settings settled, or why there can't be one."""
        if self._is_taken(label.id):
            return _duplicate(label.id)
        if self._refusal is not None:
            code, reason = self._refusal
            return Problem(message=reason, code=code, turn=label, retryable=True)
        try:
            sampling = self.sampling.merged_with(ask.changes, ask.names)
        except InvalidMessage as error:
            path = error.path.replace("$", "$.config", 1)
            return Problem(message=error.reason, code=error.code, turn=label, path=path)
        return Turn(number=next(self._numbers), label=label, ask=ask, sampling=sampling, arrived_at=now)

    def _is_taken(self, id: str | None) -> bool:
        return id is not None and any(turn.label.id == id for turn in self._all_turns())

    def _label_beside_turns(self, id: str | None) -> TurnLabel:
        """The label of a `Problem` that ends no turn: a taken id is left out, lest it seem to end that one."""
        return TurnLabel(id=None if self._is_taken(id) else id)

    def _captured_at(self, ts: float | None, now: float) -> float:
        """When a frame was taken, on our clock; its arrival where the peer's clock makes no sense."""
        captured = now if ts is None else ts - self._clock_offset
        return captured if now - MAX_TRANSIT_SECONDS <= captured <= now else now

    def _no_room(self, label: TurnLabel) -> Problem:
        message = f"{self._max_waiting} requests of this connection wait already. Ask again when one has ended."
        return Problem(message=message, code="queue_full", turn=label, retryable=True, retry_after_ms=1000)

    def _configure(self, event: Configure) -> list[Action]:
        try:
            self.sampling = self.sampling.merged_with(event.changes, event.names)
        except InvalidMessage as error:
            label = self._label_beside_turns(event.id)
            return [Send(Problem(message=error.reason, code=error.code, turn=label, path=error.path))]
        return [Send(ConfigUpdated(event.sent, self.sampling, event.id))]

    def _interrupt(self, event: Interrupt, now: float) -> list[Action]:
        turns = [turn for turn in self._all_turns() if _is_meant(turn, event)]
        if not turns:
            label = TurnLabel(id=event.id, source=event.source)
            return [Send(Problem(message="Nothing of that name is waiting or running.", code="not_active", turn=label))]
        actions: list[Action] = []
        for turn in turns:
            if turn.number in self._running:
                actions.append(Cancel(turn.number))
            actions += self._finish(turn, Finished(turn.number, "cancelled"), now)
        return actions

    # --- turns ------------------------------------------------------------------------

    def _submission(self, turn: Turn) -> Submit:
        ask, sampling = turn.ask, turn.sampling
        messages: list[DraftMessage] = []
        if ask.system is not None:
            messages.append(DraftMessage(role="system", text=ask.system))
        past = self._conversation.recall(MAX_PICTURES - len(ask.images)) if ask.history else []
        for exchange in past:
            messages.append(DraftMessage(role="user", text=exchange.text, images=exchange.images))
            messages.append(DraftMessage(role="assistant", text=exchange.reply))
        messages.append(DraftMessage(role="user", text=_user_text(ask), images=ask.images))
        choice = Choice(
            max_tokens=sampling.max_tokens_image if ask.images else sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            seed=sampling.seed,
            stop=ask.stop,
            json_schema=ask.json_schema,
            candidates=sampling.candidate_count,
            logprobs=sampling.logprobs,
        )
        threshold = sampling.unchanged_threshold if turn.label.is_frame else 0.0
        return Submit(
            priority=turn.priority,
            unchanged_threshold=threshold,
            view_before=self._views.before(turn) if threshold else None,
            turn=turn.number,
            messages=tuple(messages),
            choice=choice,
            droppable=2 * len(past),
            model=ask.model,
        )

    def _finish(self, turn: Turn, finished: Finished, now: float) -> list[Action]:
        self._forget(turn)
        if finished.reason != "cancelled":
            self._views.note(turn)
        texts = turn.texts
        if turn.ask.history and texts[0]:
            self._conversation.add(Exchange(_user_text(turn.ask), turn.ask.images, texts[0]))
        started = turn.started_at if turn.started_at is not None else now
        age = None if turn.captured_at is None else _ms(turn.captured_at, now)
        reply = ReplyFinished(
            turn=turn.label, text=texts[0], reason=finished.reason, usage=finished.usage, timings=finished.timings,
            seconds=now - started, queue_ms=_queue_ms(turn, now), image_ms=turn.image_ms, frame_age_ms=age,
            candidates=_candidates(texts, finished),
        )  # fmt: skip
        return [Send(reply)]

    def _fail(self, turn: Turn, update: Failed) -> list[Action]:
        self._forget(turn)
        if turn.label.is_frame and update.code == "overloaded":
            return [Send(FrameDropped(turn.label, "overloaded"))]
        problem = Problem(
            message=update.message,
            code=update.code,
            turn=turn.label,
            retryable=update.retryable,
            retry_after_ms=update.retry_after_ms,
        )
        return [Send(problem)]

    def _give_up(self, turns: list[Turn], code: str, reason: str) -> list[Action]:
        """End `turns`; without a `code` nobody is there to be told."""
        actions: list[Action] = []
        for turn in turns:
            if turn.number in self._running:
                actions.append(Cancel(turn.number))
            if code:
                actions.append(Send(Problem(message=reason, code=code, turn=turn.label, retryable=True)))
            self._forget(turn)
        return actions

    def _forget(self, turn: Turn) -> None:
        self._in_line = None
        if self._running.pop(turn.number, None) is not None:
            return
        if turn in self._queue:
            self._queue.remove(turn)
        else:
            self._slots.take(turn.label.source)

    def _deadline(self, turn: Turn) -> float:
        if turn.submitted_at is None:
            deadline = turn.arrived_at + self._waiting_seconds
        else:
            deadline = turn.submitted_at + self._reply_seconds
        if turn.started_at is None and turn.expires_at is not None:
            return min(deadline, turn.expires_at)
        return deadline

    def _expire(self, turn: Turn, now: float) -> list[Action]:
        if turn.started_at is None and turn.expires_at is not None and now >= turn.expires_at:
            return self._give_up_late(turn)
        if turn.submitted_at is not None:
            return [Cancel(turn.number), *self._finish(turn, Finished(turn.number, "timeout"), now)]
        self._forget(turn)
        if turn.label.is_frame:
            return [Send(FrameDropped(turn.label, "expired"))]
        message = f"The model had no time for this within {self._waiting_seconds:g} seconds. Ask again later."
        return [Send(Problem(message=message, code="waited_too_long", turn=turn.label, retryable=True))]

    def _give_up_late(self, turn: Turn) -> list[Action]:
        """End a turn that has not begun by the time that its peer named."""
        cancel: list[Action] = [Cancel(turn.number)] if turn.number in self._running else []
        self._forget(turn)
        if turn.label.is_frame:
            return [*cancel, Send(FrameDropped(turn.label, "expired"))]
        message = f"It had not begun after {turn.ask.start_seconds:g} seconds, which is all that its deadline gave it."
        return [*cancel, Send(Problem(message=message, code="expired", turn=turn.label, retryable=True))]

    def _all_turns(self) -> list[Turn]:
        return [*self._running.values(), *self._queue, *self._slots]


def _told(turn: Turn, delta: Delta) -> ReplyDelta:
    """Note a piece of the reply, and how the peer is told of it."""
    turn.replies[delta.candidate].append(delta.text)
    turn.told += 1
    candidate = delta.candidate if turn.rows > 1 else None
    return ReplyDelta(turn.label, delta.text, turn.told - 1, candidate, delta.logprobs)


def _candidates(texts: list[str], finished: Finished) -> tuple[Candidate, ...]:
    """Every candidate's end, where there are several; one that is cut short ends for the reply's reason."""
    if len(texts) == 1:
        return ()
    reasons = finished.candidate_reasons or (finished.reason,) * len(texts)
    return tuple(Candidate(text, reason) for text, reason in zip(texts, reasons, strict=True))


def _label(event: Ask | FrameInput) -> TurnLabel:
    if isinstance(event, Ask):
        input_type: InputType = "image" if event.images else "text"
        return TurnLabel(id=event.id, input_type=input_type, source=event.source)
    ask = event.ask
    return TurnLabel(id=ask.id, input_type="image", source=ask.source, frame_id=event.frame_id, is_frame=True)


def _duplicate(id: str | None) -> Problem:
    return Problem(message=f"The id {id!r} is already in use on this connection.", code="duplicate_id", path="$.id")


def _user_text(ask: Ask) -> str:
    return f"{ask.context}\n\n{ask.text}" if ask.context else ask.text


def _is_meant(turn: Turn, event: Interrupt) -> bool:
    if event.id is not None:
        return turn.label.id == event.id
    if event.source is not None:
        return turn.label.source == event.source
    return True


def _queue_ms(turn: Turn, now: float) -> float:
    return _ms(turn.arrived_at, now if turn.submitted_at is None else turn.submitted_at)


def _ms(since: float, now: float) -> float:
    return round((now - since) * 1000, 3)

"""One peer's session, and what is under way for it. Connections come and go.

The session decides; what it decides is done here. Nothing here waits: pictures are opened in
threads, and what the peer is to be told goes into the outbox, which the connection empties.
A desk whose connection breaks waits for the next one, if its peer knows how to come back.
"""

import asyncio
import enum
import logging
import math
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from mlx_websockets.errors import InvalidImage, Refused
from mlx_websockets.events import (
    Ask,
    EncodedImage,
    FrameInput,
    GoAway,
    ModelWish,
    PeerEvent,
    Problem,
    StatusReport,
    TurnLabel,
    Unreadable,
)
from mlx_websockets.generation import ChatMessage, Failed, Finished, GenerationRequest, Image, Started, Update
from mlx_websockets.images import open_images
from mlx_websockets.likeness import View, difference, view_of
from mlx_websockets.metrics import Metrics
from mlx_websockets.protocols.wire import WireProtocol
from mlx_websockets.sampling import Sampling
from mlx_websockets.server.farewell import STOPPING, Farewell
from mlx_websockets.server.floor import Engine, Floor
from mlx_websockets.server.limits import Limits
from mlx_websockets.server.outbox import Outbox
from mlx_websockets.server.parking import Parking, new_token
from mlx_websockets.server.parties import Party
from mlx_websockets.server.pictures import OpenedPictures
from mlx_websockets.server.rates import Allowance, RequestRates
from mlx_websockets.server.replay import Replay
from mlx_websockets.server.status import Status
from mlx_websockets.server.tending import tend
from mlx_websockets.sessions.session import (
    Action,
    Cancel,
    DraftMessage,
    ReportStatus,
    Send,
    Session,
    Submit,
    TendModels,
)
from mlx_websockets.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What the desks of one server share. `openers` opens pictures, a bounded number at once; `pictures` keeps some."""

    settings: Settings
    engine: Engine
    floor: Floor
    status: Status
    parking: Parking
    openers: Executor
    pictures: OpenedPictures
    limits: Limits
    metrics: Metrics
    rates: RequestRates


class Ending(enum.Enum):
    """What ended a connection."""

    GONE = enum.auto()
    """The peer closed it."""
    LOST = enum.auto()
    """It broke."""
    STALLED = enum.auto()
    MOVED = enum.auto()
    """The peer goes on with its session on another socket."""
    IDLE = enum.auto()
    UNRULY = enum.auto()
    """Too much of what the peer sent made no sense."""
    BUG = enum.auto()
    SHUTDOWN = enum.auto()


class Link(Protocol):
    """The connection that serves a desk."""

    @property
    def is_local(self) -> bool:
        """Its peer is on this machine."""
        ...

    def end(self, ending: Ending) -> None: ...


class Desk:
    """A peer's session, and what is under way for it.

    Args:
        protocol: the peer's dialect.
        house: what is shared.
        is_resumable: the peer may come back on another socket if this one breaks.
        party: with whom the peer shares its turns and its allowance; None: with this machine.

    Attributes:
        name: the session's; public.
        limits: what holds for this peer.
        resume_token: who has it may come back; empty if nobody may.
        received: messages of the peer that were taken.
        farewell: why the server ends, once it does.
        error_id: under what a mistake of ours is in the log, once there was one.
    """

    def __init__(self, protocol: WireProtocol, house: House, *, is_resumable: bool, party: Party | None = None) -> None:
        self.name = secrets.token_hex(8)
        self.resume_token = new_token(self.name) if is_resumable else ""
        self.protocol = protocol
        self.party = party
        self.limits = _limits_of(party, house.limits)
        self.session = Session(
            _sampling(house),
            house.floor.numbers,
            max_waiting=house.limits.max_waiting,
            reply_seconds=house.limits.reply_seconds,
            waiting_seconds=house.limits.waiting_seconds,
            clock_offset=time.time() - time.monotonic(),
        )
        self.received = 0
        self.farewell = STOPPING
        self.error_id = ""
        self._house = house
        self._engine = house.engine
        self._replay = _replay(house.limits) if is_resumable else None
        self.outbox = Outbox(
            lambda event: protocol.render(event, time.time()),
            on_stalled=self._stalled,
            limits=house.limits,
            replay=self._replay,
        )
        self._link: Link | None = None
        self._openings: dict[int, asyncio.Task[None]] = {}
        self._listings: set[asyncio.Task[None]] = set()
        self._tending: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._has_ended = False
        self._meter = house.metrics.meter()
        self._bad_messages = Allowance(house.limits.bad_messages_per_minute, house.limits.bad_messages_per_minute)
        self._active_at = time.monotonic()

    # --- connections come and go ------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        return self._link is not None

    def open(self, link: Link) -> None:
        """The peer is here for the first time."""
        self._link = link
        self._house.floor.enter(self)
        if self.resume_token:
            self._house.parking.register(self)
        self._set_timer()

    def move(self, link: Link, last_seq: int) -> list[str | bytes] | None:
        """Go on at `link`; the one before, if it is still there, is ended.

        Returns:
            What was sent after message `last_seq`, to be sent again before the outbox goes on; None if
            some of it is no longer kept, and then nothing has changed.
        """
        assert self._replay is not None
        again = self._replay.after(last_seq, asyncio.get_running_loop().time())
        if again is None:
            return None
        before, self._link = self._link, link
        if before is not None:
            before.end(Ending.MOVED)
        self.outbox.pause()
        self._house.parking.take_out(self)
        self.touch()
        self._set_timer()
        return again

    def lose(self, link: Link) -> None:
        """The connection broke: wait for the next, if there may be one."""
        if self._link is not link:
            return
        self._link = None
        self.outbox.pause()
        if self.resume_token and not self.outbox.is_closed and not self._has_ended:
            self._house.parking.park(self)
        else:
            self.end()

    def end(self, farewell: Farewell | None = None) -> None:
        """Leave the floor and give up what is under way; with a `farewell` every turn is told."""
        if self._has_ended:
            return
        self._has_ended = True
        for task in self._listings:
            task.cancel()
        self._house.floor.leave(self)
        self._house.parking.forget(self)
        told = {"code": "shutting_down", "reason": farewell.sentence} if farewell is not None else {}
        self._act(lambda now: self.session.close(now, **told))
        if self._link is None:
            self.outbox.close()
        self._house.floor.advance()

    def _stalled(self) -> None:
        if self._link is not None:
            self._link.end(Ending.STALLED)
        else:  # more than is kept for a peer that is away
            self.end()

    # --- what the floor says ----------------------------------------------------------

    def start(self, turn: int) -> None:
        """Start a turn of the session."""
        self._act(lambda now: self.session.start(turn, now))

    def drain(self, seconds: float, farewell: Farewell) -> None:
        """Tell the peer that the server ends; what runs has so long to finish."""
        if self._link is None:  # it can't come back to a server that takes no connections
            self.end()
            return
        self.resume_token = ""
        self._house.parking.forget(self)
        self._act(lambda now: self.session.drain("shutting_down", farewell.sentence))
        self.outbox.put(GoAway(farewell.sentence, round(seconds * 1000)))

    def shut_down(self, farewell: Farewell) -> None:
        """End with the server: every turn is told."""
        self.farewell = farewell
        if self._link is not None:
            self._link.end(Ending.SHUTDOWN)
        else:
            self.end()

    # --- acting -----------------------------------------------------------------------

    def touch(self) -> None:
        """Something went over the socket, either way."""
        self._active_at = time.monotonic()

    def receive(self, event: PeerEvent) -> None:
        """Do what the session makes of what the peer said, unless a limit speaks against it."""
        if isinstance(event, Unreadable) and self._is_unruly():
            return
        match event:
            case Ask():
                event = self._addressed(event)
            case FrameInput(ask=ask):
                event = replace(event, ask=self._addressed(ask))
        asked = event if isinstance(event, Ask) else event.ask if isinstance(event, FrameInput) else None
        if asked is not None and (refused := self._refusal(asked)) is not None:
            self._act(lambda now: self.session.refuse(event, refused))  # type: ignore[arg-type]
        else:
            self._act(lambda now: self.session.receive(event, now))

    def _is_unruly(self) -> bool:
        """Note a message that makes no sense; one too many from another machine ends the connection."""
        if self._link is None or self._link.is_local or not self._bad_messages.take(time.monotonic()):
            return False
        self._link.end(Ending.UNRULY)
        return True

    def _refusal(self, ask: Ask) -> Refused | None:
        """Why a sound request is not taken now; None: it is."""
        limits, floor = self.limits, self._house.floor
        if self.party is not None and (wait := self._house.rates.take(self.party, time.monotonic())):
            whence = "with your token" if self.party.is_named else "from your address"
            reason = f"More than {limits.requests_per_minute} requests a minute came {whence}."
            return Refused("rate_limited", reason, retryable=True, retry_after_ms=math.ceil(wait * 1000))
        if self._engine.engine_of(ask.model) is None:
            return Refused("model_not_found", self._not_served(ask.model or ""))
        if ask.images and floor.held_bytes + sum(len(each.data) for each in ask.images) > limits.max_held_bytes:
            reason = "The server holds as many pictures as it can. Ask again when some have been looked at."
            return Refused("overloaded", reason, retryable=True, retry_after_ms=1000)
        return None

    def _addressed(self, ask: Ask) -> Ask:
        """The default model's name is as good as none."""
        return replace(ask, model=None) if ask.model == self._engine.model_id else ask

    def _not_served(self, model: str) -> str:
        served = ", ".join(each["id"] for each in self._engine.models())
        return f"This server has no model {model!r}; it has {served}."

    def _act(self, decide: Callable[[float], list[Action]]) -> None:
        """Do what the session decides."""
        with self._guarded():
            for action in decide(time.monotonic()):
                self._perform(action)
            self._house.floor.note_held(self)
            self._set_timer()

    def _perform(self, action: Action) -> None:
        match action:
            case Send(event):
                self._meter.note(event, time.monotonic())
                self.outbox.put(event)
            case Submit():
                self._submit(action)
            case Cancel(turn):
                opening = self._openings.pop(turn, None)
                if opening is not None:
                    opening.cancel()
                self._engine.cancel(turn)
            case ReportStatus(id):
                self.outbox.put(StatusReport(self._house.status.stats(), id, self.session.sampling))
            case TendModels(wish):
                self._tend(wish)

    def _update(self, update: Update, model: str = "") -> None:
        self._log(update)
        self._act(lambda now: self.session.update(update, now, model))
        if isinstance(update, Finished | Failed):
            self._house.floor.advance()

    def _set_timer(self) -> None:
        """Have `_tick` called at the next deadline. A call that comes too early does nothing."""
        deadline = self._deadline if not self._has_ended else None
        if self._timer is not None and (deadline is None or deadline < self._timer_at):
            self._timer.cancel()
            self._timer = None
        if self._timer is None and deadline is not None:
            delay = max(0.0, deadline - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)
            self._timer_at = deadline

    @property
    def _deadline(self) -> float | None:
        """When it is too late: for a turn, or where there is none, for the peer to say something."""
        of_turns = self.session.next_deadline
        if of_turns is None and self._link is not None:
            return self._active_at + self._house.limits.idle_seconds
        return of_turns

    def _tick(self) -> None:
        self._timer = None
        is_late = self._deadline is not None and time.monotonic() >= self._deadline
        if is_late and self.session.next_deadline is None and self._link is not None:
            self._link.end(Ending.IDLE)
            return
        self._act(self.session.tick)
        self._house.floor.advance()

    def _log(self, update: Update) -> None:
        about = {"session": self.name, "turn": update.id}
        match update:
            case Started():
                logger.debug("reply started", extra=about)
            case Finished(reason=reason, usage=usage):
                logger.info("reply finished", extra=about | {"reason": reason, "output_tokens": usage.output_tokens})
            case Failed(code=code):
                logger.info("reply failed", extra=about | {"code": code})

    def fail(self, error: Exception) -> None:
        """A mistake of ours ends this session and its connection, and no other."""
        self.error_id = secrets.token_hex(4)
        # Not the error's text: it may quote what the peer said.
        where = "".join(traceback.format_tb(error.__traceback__))
        logger.error("connection failed (%s): %s\n%s", self.error_id, type(error).__name__, where)
        if self._link is not None:
            self._link.end(Ending.BUG)
        else:
            self.end()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.fail(error)

    # --- models -----------------------------------------------------------------------

    def _tend(self, wish: ModelWish) -> None:
        """List, load or unload models; one loading or unloading at a time."""
        if wish.wish != "list" and self._tending is not None and not self._tending.done():
            busy = "A model is being loaded or unloaded for this connection already."
            self.outbox.put(Problem(message=busy, code="model_busy", turn=TurnLabel(id=wish.id), retryable=True))
            return
        is_allowed = self._house.settings.allow_model_loading or (self._link is not None and self._link.is_local)
        work = tend(self._engine, wish, self.outbox.put, is_allowed=is_allowed)
        task = asyncio.create_task(self._watched(work), name="models")
        self._listings.add(task)
        task.add_done_callback(self._listings.discard)
        if wish.wish != "list":
            self._tending = task

    async def _watched(self, work: Awaitable[None]) -> None:
        with self._guarded():
            await work

    # --- requests ---------------------------------------------------------------------

    def _submit(self, draft: Submit) -> None:
        engine = self._engine.engine_of(draft.model)
        assert engine is not None  # it was looked for when the request came
        asked, most = len(draft.messages[-1].images), engine.max_images
        draft = replace(draft, messages=with_newest_images(draft.messages, most))
        if not any(message.images for message in draft.messages):
            engine.submit(_request(draft), lambda update: self._update(update, engine.model_id))
        elif not engine.sees:
            self._update(Failed(draft.turn, "model_cannot_see", _cannot_see(engine.model_id)))
        elif asked > most:
            self._update(Failed(draft.turn, "too_many_images", f"The model takes at most {most} pictures at once."))
        else:  # the task ends with the turn: by itself, or cancelled by the session's `Cancel`
            self._openings[draft.turn] = asyncio.create_task(self._open_and_submit(draft, engine))

    async def _open_and_submit(self, draft: Submit, engine: Engine) -> None:
        with self._guarded():
            await self._open_then_submit(draft, engine)

    async def _open_then_submit(self, draft: Submit, engine: Engine) -> None:
        began = time.monotonic()
        try:
            opened = await asyncio.get_running_loop().run_in_executor(
                self._house.openers, _open, draft, self._house.pictures
            )
        except InvalidImage as error:
            failed = self.session.pictures_failed(draft.turn, error)
            self._act(lambda _: failed)
            self._house.floor.advance()
            return
        finally:
            self._openings.pop(draft.turn, None)
        if opened.is_unchanged:
            self._act(lambda _: self.session.picture_unchanged(draft.turn))
            self._house.floor.advance()
            return
        self.session.pictures_opened(draft.turn, round((time.monotonic() - began) * 1000, 3), opened.view)
        engine.submit(opened.request, lambda update: self._update(update, engine.model_id))


def _limits_of(party: Party | None, limits: Limits) -> Limits:
    if party is None or party.requests_per_minute is None:
        return limits
    return replace(limits, requests_per_minute=party.requests_per_minute)


def _sampling(house: House) -> Sampling:
    """What a connection starts from; nobody may ask for more rows than there are, and so wait for ever."""
    engine, sampling = house.engine.engine_of(None), house.settings.sampling
    return replace(sampling, rows=min(sampling.rows, engine.rows)) if engine is not None else sampling


def _replay(limits: Limits) -> Replay:
    return Replay(
        max_messages=limits.max_kept_messages, max_bytes=limits.max_kept_bytes, keep_seconds=limits.kept_seconds
    )


def with_newest_images(messages: tuple[DraftMessage, ...], most: int) -> tuple[DraftMessage, ...]:
    """The pictures of the last message, and of the earlier ones only the newest that a model has room for."""
    *past, last = messages
    room = most - len(last.images)
    kept = [last]
    for message in reversed(past):
        if len(message.images) > room:
            room = 0  # nothing older either: a gap would confuse more than an end
            message = replace(message, images=())
        room -= len(message.images)
        kept.append(message)
    return tuple(reversed(kept))


@dataclass(frozen=True, slots=True)
class _Opened:
    """A request with its pictures; of a frame that is to be compared, also how it looks."""

    request: GenerationRequest
    view: View | None = None
    is_unchanged: bool = False


def _open(draft: Submit, pictures: OpenedPictures) -> _Opened:
    """Open the pictures, and compare a frame with the one before. Called in a thread."""
    # No frame comes twice, and thirty a second would leave room for nothing else.
    request = _request(draft, open_images if draft.priority == "frame" else pictures.open)
    if not draft.unchanged_threshold:
        return _Opened(request)
    view, before = view_of(request.messages[-1].images[0]), draft.view_before
    return _Opened(request, view, before is not None and difference(before, view) < draft.unchanged_threshold)


def _request(
    draft: Submit, opened: Callable[[Iterable[EncodedImage]], tuple[Image, ...]] = open_images
) -> GenerationRequest:
    """What the engine is asked, with the pictures `opened`."""
    messages = tuple(
        ChatMessage(message.role, message.text, opened(message.images))  # type: ignore[arg-type]
        for message in draft.messages
    )
    return GenerationRequest(
        id=draft.turn, messages=messages, choice=draft.choice, droppable=draft.droppable, priority=draft.priority
    )


def _cannot_see(model: str) -> str:
    return (
        f"The model {model} reads text only. Start the server with one that sees, such as `--model demo` "
        "or `--model mlx-community/gemma-3-4b-it-4bit`."
    )

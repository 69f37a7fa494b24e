"""One socket's life: read, act, write.

The session decides; what it decides is done here. Reading never waits for the model, writing
is the outbox's, and pictures are opened in threads. Whatever ends a connection, it ends once,
in `_end`, and nothing of it stays behind in the engine.
"""

import asyncio
import enum
import logging
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from starlette.websockets import WebSocket, WebSocketDisconnect

from mlx_websockets.errors import InvalidImage
from mlx_websockets.events import GoAway, Hello, Problem, StatusReport
from mlx_websockets.generation import ChatMessage, Failed, Finished, GenerationRequest, Update
from mlx_websockets.images import open_images
from mlx_websockets.protocols.native import NativeProtocol
from mlx_websockets.protocols.native_schema import FEATURES, SUBPROTOCOL
from mlx_websockets.server.floor import Engine, Floor
from mlx_websockets.server.limits import Limits
from mlx_websockets.server.outbox import Message, Outbox, PeerGone
from mlx_websockets.server.status import Status, own_version
from mlx_websockets.sessions.session import Action, Cancel, DraftMessage, ReportStatus, Send, Session, Submit
from mlx_websockets.settings import MAX_IMAGE_PIXELS, MAX_MESSAGE_BYTES, Settings

logger = logging.getLogger(__name__)

SHUTTING_DOWN = "The server is shutting down. Ask again when it is back."


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What the connections of one server share. `openers` opens pictures, a bounded number at once."""

    settings: Settings
    engine: Engine
    floor: Floor
    status: Status
    openers: Executor
    limits: Limits


class Ending(enum.Enum):
    """What ended a connection."""

    GONE = enum.auto()
    STALLED = enum.auto()
    BUG = enum.auto()
    SHUTDOWN = enum.auto()


class Connection:
    """A peer, its session, and what is under way for it."""

    def __init__(self, socket: WebSocket, house: House) -> None:
        self.name = secrets.token_hex(8)
        self.session = Session(
            house.settings.sampling,
            house.floor.numbers,
            max_waiting=house.limits.max_waiting,
            reply_seconds=house.limits.reply_seconds,
            waiting_seconds=house.limits.waiting_seconds,
            clock_offset=time.time() - time.monotonic(),
        )
        self._socket = socket
        self._house = house
        self._engine = house.engine
        self._speaks_v2 = SUBPROTOCOL in socket.scope.get("subprotocols", [])
        self._protocol = NativeProtocol(2 if self._speaks_v2 else 1)
        self._outbox = Outbox(
            lambda event: self._protocol.render(event, time.time()),
            self._transmit,
            on_stalled=lambda: self._end(Ending.STALLED),
            on_gone=lambda: self._end(Ending.GONE),
            limits=house.limits,
        )
        self._openings: dict[int, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._ending: Ending | None = None
        self._has_ended = asyncio.Event()
        self._tasks: asyncio.TaskGroup
        self._error_id = ""

    # --- its life ---------------------------------------------------------------------

    async def serve(self) -> None:
        """Talk until the peer leaves, the server stops, or something goes wrong."""
        try:
            await self._accept()
        except PeerGone:
            return
        self._house.floor.enter(self)
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                reader = tasks.create_task(self._guard(self._read()))
                writer = tasks.create_task(self._guard(self._outbox.deliver()))
                await self._has_ended.wait()
                await self._take_leave()
                reader.cancel()
                writer.cancel()
        finally:
            self._end(Ending.GONE)

    def start_next(self) -> None:
        """Start the session's next turn; the floor says when."""
        self._act(self.session.start_next)

    def drain(self, seconds: float) -> None:
        """Tell the peer that the server stops; what runs has so long to finish."""
        self._act(lambda now: self.session.drain("shutting_down", SHUTTING_DOWN))
        self._outbox.put(GoAway(SHUTTING_DOWN, round(seconds * 1000)))

    def shut_down(self) -> None:
        """End with the server: every turn is told."""
        self._end(Ending.SHUTDOWN)

    async def _accept(self) -> None:
        await self._on_socket(lambda: self._socket.accept(subprotocol=SUBPROTOCOL if self._speaks_v2 else None))
        if not self._speaks_v2:
            return
        engine, limits = self._engine, self._house.limits
        self._outbox.put(
            Hello(
                server=own_version(),
                session=self.name,
                model={"id": engine.model_id, "vision": engine.sees},
                limits={
                    "max_message_bytes": MAX_MESSAGE_BYTES,
                    "max_queue": limits.max_waiting,
                    "max_output_tokens": self.session.sampling.limit,
                    "max_image_pixels": MAX_IMAGE_PIXELS,
                },
                features=FEATURES,
            )
        )

    def _end(self, ending: Ending) -> None:
        """Leave the floor and give up what is under way. The first reason counts."""
        if self._ending is not None:
            return
        self._ending = ending
        self._has_ended.set()
        self._house.floor.leave(self)
        told = {"code": "shutting_down", "reason": SHUTTING_DOWN} if ending is Ending.SHUTDOWN else {}
        self._act(lambda now: self.session.close(now, **told))
        self._house.floor.advance()

    async def _take_leave(self) -> None:
        limits = self._house.limits
        match self._ending:
            case Ending.BUG:
                message = f"Something is wrong in the server; its log has more under {self._error_id}."
                self._outbox.put(Problem(message=message, code="internal_error", fatal=True))
                await self._close(1011, f"internal error {self._error_id}", limits.close_seconds)
            case Ending.SHUTDOWN:
                await self._close(1001, "The server is shutting down.", limits.shutdown_step_seconds)
            case Ending.STALLED:
                logger.info("peer stalled", extra={"session": self.name})
                self._abort()  # a close would wait for the peer to read
        # Whoever does not answer a close is not waited for.
        asyncio.get_running_loop().call_later(limits.close_seconds, self._abort)

    async def _close(self, code: int, reason: str, flush_seconds: float) -> None:
        if not await self._outbox.flush(flush_seconds):
            self._abort()
            return
        try:
            async with asyncio.timeout(self._house.limits.close_seconds):
                await self._on_socket(lambda: self._socket.close(code, reason))
        except (PeerGone, TimeoutError):
            self._abort()

    # --- reading ----------------------------------------------------------------------

    async def _read(self) -> None:
        while (message := await self._socket.receive())["type"] == "websocket.receive":
            if self._ending is None:
                text = message.get("text")
                self._receive(message["bytes"] if text is None else text)
            await asyncio.sleep(0)  # a flood of messages leaves room for the writer and for other peers
        self._end(Ending.GONE)

    def _receive(self, message: Message) -> None:
        for event in self._protocol.parse(message):
            self._act(partial(self.session.receive, event))
        self._house.floor.advance()

    # --- acting -----------------------------------------------------------------------

    def _act(self, decide: Callable[[float], list[Action]]) -> None:
        """Do what the session decides."""
        with self._guarded():
            for action in decide(time.monotonic()):
                self._perform(action)
            self._set_timer()

    def _perform(self, action: Action) -> None:
        match action:
            case Send(event):
                self._outbox.put(event)
            case Submit():
                self._submit(action)
            case Cancel(turn):
                opening = self._openings.pop(turn, None)
                if opening is not None:
                    opening.cancel()
                self._engine.cancel(turn)
            case ReportStatus(id):
                self._outbox.put(StatusReport(self._house.status.stats(), id, self.session.sampling))

    def _update(self, update: Update) -> None:
        self._act(lambda now: self.session.update(update, now, self._engine.model_id))
        if isinstance(update, Finished | Failed):
            self._house.floor.advance()

    def _set_timer(self) -> None:
        """Have `tick` called at the session's next deadline. A call that comes too early does nothing."""
        deadline = self.session.next_deadline if self._ending is None else None
        if self._timer is not None and (deadline is None or deadline < self._timer_at):
            self._timer.cancel()
            self._timer = None
        if self._timer is None and deadline is not None:
            delay = max(0.0, deadline - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)
            self._timer_at = deadline

    def _tick(self) -> None:
        self._timer = None
        self._act(self.session.tick)
        self._house.floor.advance()

    async def _guard(self, work: Awaitable[None]) -> None:
        with self._guarded():
            await work

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """A mistake of ours ends this connection, and no other."""
        try:
            yield
        except Exception as error:
            self._error_id = secrets.token_hex(4)
            # Not the error's text: it may quote what the peer said.
            where = "".join(traceback.format_tb(error.__traceback__))
            logger.error("connection failed (%s): %s\n%s", self._error_id, type(error).__name__, where)
            self._end(Ending.BUG)

    # --- requests ---------------------------------------------------------------------

    def _submit(self, draft: Submit) -> None:
        asked, most = len(draft.messages[-1].images), self._engine.max_images
        draft = replace(draft, messages=with_newest_images(draft.messages, most))
        if not any(message.images for message in draft.messages):
            self._engine.submit(_request(draft), self._update)
        elif not self._engine.sees:
            self._update(Failed(draft.turn, "model_cannot_see", _cannot_see(self._engine.model_id)))
        elif asked > most:
            self._update(Failed(draft.turn, "too_many_images", f"The model takes at most {most} pictures at once."))
        else:
            self._openings[draft.turn] = self._tasks.create_task(self._guard(self._open_and_submit(draft)))

    async def _open_and_submit(self, draft: Submit) -> None:
        began = time.monotonic()
        try:
            request = await asyncio.get_running_loop().run_in_executor(self._house.openers, _request, draft)
        except InvalidImage as error:
            failed = self.session.pictures_failed(draft.turn, error)
            self._act(lambda _: failed)
            self._house.floor.advance()
            return
        finally:
            self._openings.pop(draft.turn, None)
        self.session.pictures_opened(draft.turn, round((time.monotonic() - began) * 1000, 3))
        self._engine.submit(request, self._update)

    # --- the socket -------------------------------------------------------------------

    async def _transmit(self, message: Message) -> None:
        if isinstance(message, str):
            await self._on_socket(lambda: self._socket.send_text(message))
        else:
            await self._on_socket(lambda: self._socket.send_bytes(message))

    async def _on_socket(self, do: Callable[[], Awaitable[None]]) -> None:
        """Raises `PeerGone` for all the ways in which a server says so."""
        try:
            await do()
        except (WebSocketDisconnect, OSError, RuntimeError):  # the last: its closing has begun already
            raise PeerGone from None

    def _abort(self) -> None:
        """Drop the socket and what waits in it. A server that isn't ours offers no way to do that."""
        abort = self._socket.scope.get("state", {}).get("abort")
        if abort is not None:
            abort()


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


def _request(draft: Submit) -> GenerationRequest:
    """What the engine is asked; opens the pictures."""
    messages = tuple(
        ChatMessage(message.role, message.text, open_images(message.images))  # type: ignore[arg-type]
        for message in draft.messages
    )
    return GenerationRequest(id=draft.turn, messages=messages, choice=draft.choice, droppable=draft.droppable)


def _cannot_see(model: str) -> str:
    return (
        f"The model {model} reads text only. Start the server with one that sees, such as `--model demo` "
        "or `--model mlx-community/gemma-3-4b-it-4bit`."
    )

"""One socket's life: read, hand on, write.

What peers say goes to their desk, what they are told comes from its outbox. Reading never
waits for the model, writing never for reading. Whatever ends a connection, it ends once, in
`end`: a peer that left takes its session along, one whose socket broke may come back for it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from starlette.websockets import WebSocket, WebSocketDisconnect

from mlx_websockets import logs
from mlx_websockets.events import Hello, Problem, Resume, Resumed, ServerEvent, TurnLabel
from mlx_websockets.protocols.native import NativeProtocol
from mlx_websockets.protocols.native_schema import FEATURES, SUBPROTOCOL
from mlx_websockets.server.desk import Desk, Ending, House
from mlx_websockets.server.gate import is_local, party_of
from mlx_websockets.server.limits import told
from mlx_websockets.server.outbox import PeerGone
from mlx_websockets.server.replay import Message
from mlx_websockets.server.status import own_version

logger = logging.getLogger(__name__)

BREAKS = (1006, 1011)
"""What `websocket.disconnect` says if there was no close (see `listener`), or the peer missed our pongs."""


class Connection:
    """A peer's socket, and the desk that it leads to."""

    def __init__(self, socket: WebSocket, house: House) -> None:
        self._socket = socket
        self._house = house
        self.is_local = is_local(socket.scope)
        self._speaks_v2 = SUBPROTOCOL in socket.scope.get("subprotocols", [])
        protocol = NativeProtocol(2 if self._speaks_v2 else 1)
        self._desk = Desk(protocol, house, is_resumable=self._speaks_v2, party=party_of(socket.scope))
        self._ending: Ending | None = None
        self._has_ended = asyncio.Event()
        self._tasks: asyncio.TaskGroup
        self._writer: asyncio.Task[None] | None = None

    # --- its life ---------------------------------------------------------------------

    async def serve(self) -> None:
        """Talk until the peer leaves, the server stops, or something goes wrong."""
        try:
            await self._accept()
        except (PeerGone, TimeoutError):
            self._abort()
            return
        logs.session.set(self._desk.name)
        logger.info("connection opened", extra={"version": 2 if self._speaks_v2 else 1})
        self._desk.open(self)
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                reader = tasks.create_task(self._guard(self._read()))
                self._write()
                await self._has_ended.wait()
                await self._take_leave()
                reader.cancel()
                self._stop_writing()
        finally:
            self.end(Ending.GONE)
            logger.info("connection closed", extra={"ending": self._ending.name.lower() if self._ending else ""})

    def end(self, ending: Ending) -> None:
        """End it; the first reason counts."""
        if self._ending is not None:
            return
        self._ending = ending
        self._has_ended.set()
        match ending:
            case Ending.LOST | Ending.STALLED:
                self._stop_writing()
                self._desk.lose(self)
            case Ending.MOVED:
                self._stop_writing()
            case Ending.SHUTDOWN:
                self._desk.end(self._desk.farewell)
            case Ending.GONE | Ending.IDLE | Ending.UNRULY | Ending.BUG:
                self._desk.end()

    async def _accept(self) -> None:
        await self._on_socket(lambda: self._socket.accept(subprotocol=SUBPROTOCOL if self._speaks_v2 else None))
        engine, limits = self._house.engine, self._house.limits
        hello = Hello(
            server=own_version(),
            session=self._desk.name,
            resume_token=self._desk.resume_token,
            model={"id": engine.model_id, "vision": engine.sees},
            limits=told(
                self._desk.limits,
                max_output_tokens=self._desk.session.sampling.limit,
                context_tokens=self._house.status.context_tokens,
            ),
            features=FEATURES,
        )
        for message in self._rendered(hello):
            async with asyncio.timeout(limits.send_seconds):
                await self._transmit(message)

    async def _take_leave(self) -> None:
        desk, limits = self._desk, self._house.limits
        match self._ending:
            case Ending.BUG:
                message = f"Something is wrong in the server; its log has more under {desk.error_id}."
                desk.outbox.put(Problem(message=message, code="internal_error", fatal=True))
                await self._flush_and_close(1011, f"internal error {desk.error_id}", limits.close_seconds)
            case Ending.SHUTDOWN:
                farewell = desk.farewell
                await self._flush_and_close(farewell.close_code, farewell.close_reason, limits.shutdown_step_seconds)
            case Ending.UNRULY:
                message = "Too many messages of this connection make no sense, so it is closed."
                desk.outbox.put(Problem(message=message, code="too_many_errors", fatal=True))
                await self._flush_and_close(1008, "too many messages that make no sense", limits.close_seconds)
            case Ending.IDLE:
                reason = f"Nothing happened for {limits.idle_seconds:g} seconds."
                await self._flush_and_close(1000, reason, limits.close_seconds)
            case Ending.STALLED:
                logger.info("peer stalled", extra={"session": desk.name})
                self._abort()  # a close would wait for the peer to read
            case Ending.MOVED:
                await self._close(1000, "The session goes on at another connection.")
        # Whoever does not answer a close is not waited for.
        asyncio.get_running_loop().call_later(limits.close_seconds, self._abort)

    async def _flush_and_close(self, code: int, reason: str, flush_seconds: float) -> None:
        if await self._desk.outbox.flush(flush_seconds):
            await self._close(code, reason)
        else:
            self._abort()

    async def _close(self, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(self._house.limits.close_seconds):
                await self._on_socket(lambda: self._socket.close(code, reason))
        except (PeerGone, TimeoutError):
            self._abort()

    async def _guard(self, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as error:
            self._desk.fail(error)

    # --- reading ----------------------------------------------------------------------

    async def _read(self) -> None:
        while (message := await self._socket.receive())["type"] == "websocket.receive":
            if self._ending is None:
                text = message.get("text")
                self._receive(message["bytes"] if text is None else text)
            await asyncio.sleep(0)  # a flood of messages leaves room for the writer and for other peers
        self.end(Ending.LOST if message.get("code") in BREAKS else Ending.GONE)

    def _receive(self, message: Message) -> None:
        self._house.metrics.received(len(message))
        self._desk.touch()
        for event in self._desk.protocol.parse(message):
            if not isinstance(event, Resume):
                self._desk.received += 1
                self._desk.receive(event)
            elif self._speaks_v2 and not self._desk.received:
                self._resume(event)
            else:
                self._desk.receive(event)  # which knows how to refuse it
        self._house.floor.advance()

    def _resume(self, wish: Resume) -> None:
        """Go on with an older session in the place of this connection's own, in which nothing was said yet."""
        older = self._house.parking.find(wish.token)
        again = older.move(self, wish.last_seq) if isinstance(older, Desk) and older is not self._desk else None
        if again is None:
            message = "That session can't be resumed: it is over, or too much was missed. Ask again here."
            self._desk.outbox.put(Problem(message=message, code="resume_failed", turn=TurnLabel(id=wish.id)))
            return
        assert isinstance(older, Desk)
        unused, self._desk = self._desk, older
        logs.session.set(older.name)
        unused.end()
        resumed = Resumed(session=older.name, missed=len(again), received=older.received, id=wish.id)
        self._write([*self._rendered(resumed), *again])

    # --- the socket -------------------------------------------------------------------

    def _write(self, first: list[Message] | None = None) -> None:
        """Send what the desk's outbox has, after `first`, from now on."""
        self._stop_writing()
        self._writer = self._tasks.create_task(self._guard(self._desk.outbox.deliver(self._transmit, first or [])))

    def _stop_writing(self) -> None:
        if self._writer is not None:
            self._writer.cancel()

    def _rendered(self, event: ServerEvent) -> list[Message]:
        return list(self._desk.protocol.render(event, time.time()))

    async def _transmit(self, message: Message) -> None:
        self._house.metrics.sent(len(message))
        self._desk.touch()
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

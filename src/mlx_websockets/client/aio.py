"""The client library for asyncio.

    async with connect("ws://localhost:8765") as mlx:
        async for delta in mlx.ask("Tell me a story."):
            print(delta, end="")

One task reads the socket and one writes it; a `Reply` is where the reader leaves what came.
Every request has an id, so any number of them may be open at once. Knows the wire, no model.
"""

import asyncio
import contextlib
import ipaddress
import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.frames import CloseCode
from websockets.typing import Subprotocol

from mlx_websockets.client.discovery import resolved
from mlx_websockets.client.errors import CannotConnect, ConnectionLost, OutboxFull, ReplyError
from mlx_websockets.client.pictures import Picture, encode_request
from mlx_websockets.client.replies import Candidate, Piece, Reply, Result
from mlx_websockets.client.returning import Journal, waits
from mlx_websockets.client.watching import watch
from mlx_websockets.generation import Priority
from mlx_websockets.protocols import native_schema as wire
from mlx_websockets.protocols.native_schema import DEFAULT_PROMPT, SETTING_NAMES

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 20 * 1024 * 1024
MAX_UNSENT_REQUESTS = 64
MAX_UNSENT = 2 * MAX_UNSENT_REQUESTS
"""Messages that wait to be sent; the second half is for cancels and the like."""

CALL_SECONDS = 10.0
LOAD_SECONDS = 3600.0
"""For a model that is fetched first."""
UNLOAD_SECONDS = 60.0
SEND_SECONDS = 30.0
CLOSE_SECONDS = 2.0
PING_SECONDS = 20.0
RETURN_SECONDS = 600.0
"""A server keeps a session for so long."""


@contextlib.asynccontextmanager
async def connect(
    url: str = "ws://localhost:8765",
    *,
    token: str | None = None,
    ssl: SSLContext | None = None,
    model: str | None = None,
    open_seconds: float = 10.0,
    reconnect: bool = True,
) -> AsyncIterator["Client"]:
    """Open a connection and close it at the end of the block.

    If the network breaks it, another one is opened and the session goes on there: replies lose
    nothing. That is tried for ten minutes, as long as a server keeps a session.

    Args:
        url: where the server is, `ws://` or `wss://`; or `mlx://NAME`, see `discover`.
        token: its token, if it wants one; one in the address (`?token=`) is sent in a header instead.
        ssl: whom to trust at a `wss://` address, if not whom this machine trusts anyway.
        model: which of the server's models is asked, where a request names none; see `Client.models`.
        open_seconds: how long opening may take.
        reconnect: False ends everything with the first socket that breaks.

    Raises:
        CannotConnect: nobody is there, or we were not let in.
    """

    async def reopen() -> ClientConnection:
        return (await _open(url, token, ssl, open_seconds))[0]

    socket, hello = await _open(url, token, ssl, open_seconds)
    client = Client(socket, hello, reopen if reconnect else None, model=model)
    # No TaskGroup: it would wrap what the block raises in an ExceptionGroup.
    running = asyncio.create_task(client.run())
    try:
        yield client
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await client.close()  # again, lest the task was cancelled before it began


class Client:
    """An open connection to a server. Get one from `connect`.

    Attributes:
        hello: how the server introduced itself; None if it speaks only the seed's protocol.
    """

    def __init__(
        self,
        socket: ClientConnection,
        hello: wire.Hello | None,
        reopen: Callable[[], Awaitable[ClientConnection]] | None = None,
        *,
        model: str | None = None,
    ) -> None:
        self.hello = hello
        self._model = model
        self._socket = socket
        self._reopen = reopen
        self._journal: Journal[_Draft] = Journal()
        self._again: deque[_Draft] = deque()  # to be said first, and noted already
        self._draft: _Draft | None = None  # taken from the outbox, and not noted yet
        self._outbox: asyncio.Queue[_Draft] = asyncio.Queue(MAX_UNSENT)
        self._numbers = itertools.count(1)
        self._replies: dict[str, Reply] = {}
        self._calls: dict[str, asyncio.Future[_Answer]] = {}
        self._watchers: dict[str, Callable[[wire.ModelProgress], None]] = {}
        self._farewell = ""
        self._lost: ConnectionLost | None = None

    @property
    def is_over(self) -> bool:
        """The connection has ended for good."""
        return self._lost is not None

    # --- what one can do ----------------------------------------------------------------

    def ask(
        self,
        text: str = DEFAULT_PROMPT,
        *,
        images: Sequence[Picture] = (),
        context: str | None = None,
        model: str | None = None,
        system: str | None = None,
        history: bool = False,
        stop: Sequence[str] = (),
        response_format: dict[str, Any] | None = None,
        priority: Priority | None = None,
        deadline_ms: float | None = None,
        source: str | None = None,
        **settings: Any,
    ) -> Reply:
        """Ask a question, with or without pictures.

            await mlx.ask("What has changed?", images=["before.png", "after.png"], temperature=0).text()

        Args:
            text: the question.
            images: file bytes, paths or PIL images.
            context: goes before the question, into the same turn.
            model: which of the server's models is asked; see `models`.
            system: replaces the model's own system text.
            history: see what was asked with `history` before on this connection, and be kept with it.
            stop: strings that end the reply and are not part of it.
            response_format: a JSON schema; the reply is JSON that meets it, if its `finish_reason` is "stop".
            priority: "background" lets everybody else go first.
            deadline_ms: if it has not begun after so many milliseconds, it fails with the code `expired`.
            source: a name for where the pictures come from.
            settings: for this reply alone, such as `temperature=0` or `max_tokens=50`; see `configure`.

        Raises:
            ConnectionLost: the connection is over already.
            OutboxFull: too many requests wait to be sent.
            TypeError: there is no such setting.
        """
        options = self._options(
            settings, model=model or self._model, system=system, history=history or None, stop=list(stop) or None,
            response_format=response_format, priority=priority, deadline_ms=deadline_ms,
        )  # fmt: skip
        if not images:
            message = wire.TextInput(content=text, context=context, **options)
            return self._request(Reply(options["id"], self.cancel), _text(message))
        prompt = f"{context}\n\n{text}" if context else text
        picture = wire.ImageInput(prompt=prompt, source=source, **options)
        reply = Reply(options["id"], self.cancel, source=source)
        return self._request(reply, lambda: encode_request(picture, list(images)))

    def show(
        self,
        image: Picture,
        source: str = "camera",
        prompt: str = DEFAULT_PROMPT,
        *,
        frame_id: str | int | None = None,
        captured_at: float | None = None,
        is_droppable: bool = True,
        model: str | None = None,
        system: str | None = None,
        history: bool = False,
        stop: Sequence[str] = (),
        response_format: dict[str, Any] | None = None,
        priority: Priority | None = None,
        deadline_ms: float | None = None,
        **settings: Any,
    ) -> Reply:
        """Show one picture of a running stream. Its `Result` may say that it was `dropped`.

            result = await mlx.show(jpeg, source="webcam").result()
            print(result.dropped or result.text)

        Args:
            image: file bytes, a path or a PIL image.
            source: the stream's name; a newer frame of it supersedes one that still waits.
            frame_id: a name for the frame, for the result.
            captured_at: when it was taken, in seconds since 1970.
            is_droppable: False makes it wait its turn instead.

        The rest, and what is raised, is as in `ask`.
        """
        options = self._options(
            settings, model=model or self._model, system=system, history=history or None, stop=list(stop) or None,
            response_format=response_format, priority=priority, deadline_ms=deadline_ms,
        )  # fmt: skip
        frame = wire.VideoFrame(
            prompt=prompt,
            source=source,
            frame_id=frame_id,
            ts=captured_at,
            policy=None if is_droppable else "queue",
            **options,
        )
        reply = Reply(options["id"], self.cancel, source=source, frame_id=frame_id)
        return self._request(reply, lambda: encode_request(frame, [image]))

    def watch(
        self,
        source: str,
        frames: Iterable[Picture] | AsyncIterable[Picture],
        prompt: str = DEFAULT_PROMPT,
        **options: Any,
    ) -> AsyncGenerator[Result, None]:
        """Show a stream of pictures and yield what the model says of those it gets to see.

            async for seen in mlx.watch("webcam", camera(), "Who is there?"):
                print(seen.frame_id, seen.text)

        Frames are numbered from 0 and read as fast as they come. Only the newest is ever sent,
        so what is yielded is about now; the last one is always described. An iterable that is
        not asynchronous is read in a thread. `options` are those of `show`.

        Raises:
            ReplyError: the server refuses for good; what may pass (a restart of the model) is waited out.
            ConnectionLost: the connection is over.
        """

        def show(image: Picture, number: int, captured_at: float) -> Reply:
            return self.show(image, source, prompt, frame_id=number, captured_at=captured_at, **options)

        return watch(frames, show)

    async def configure(self, **settings: Any) -> dict[str, Any]:
        """Change the settings of this connection, from the next request on; returns all of them.

            await mlx.configure(temperature=0.2, max_tokens=300)

        Settings: `temperature`, `top_p`, `top_k`, `max_tokens` (or `max_output_tokens`),
        `max_tokens_image`, `presence_penalty`, `frequency_penalty`, `seed`, `candidate_count`,
        `response_modalities`, `logprobs`, `min_p`, `unchanged_threshold`.

        Raises:
            ReplyError: a value is out of its range; nothing was changed.
            TypeError: there is no such setting.
            TimeoutError: no answer came.
        """
        values = _settings(settings).given
        answer = await self._call(lambda call: wire.Config(id=call, **values))
        assert isinstance(answer, wire.ConfigUpdated)
        return answer.current_config.given

    # --- models -------------------------------------------------------------------------

    async def models(self) -> list[wire.ModelState]:
        """The models that this server has, the default one first. Raises `TimeoutError` if no answer comes."""
        answer = await self._call(lambda call: wire.ListModels(id=call))
        assert isinstance(answer, wire.Models)
        return answer.models

    async def load_model(
        self,
        model: str,
        on_progress: Callable[[wire.ModelProgress], None] | None = None,
        *,
        seconds: float = LOAD_SECONDS,
    ) -> None:
        """Have one of the server's models in memory before somebody asks it something.

            await mlx.load_model("demo", lambda now: print(now.stage, now.done, now.total))

        Args:
            model: its id, as `models` has it.
            on_progress: called as it goes on, with what is being done and how much of it is done.
            seconds: how long that may take.

        Raises:
            ReplyError: there is no such model, it can't be loaded, or not by us.
            TimeoutError: it took longer; the server goes on with it.
        """
        await self._call(lambda call: wire.LoadModel(id=call, model=model), seconds, on_progress)

    async def unload_model(self, model: str, *, seconds: float = UNLOAD_SECONDS) -> None:
        """Take one of the server's models out of memory. Raises as `load_model`; also if a reply runs on it."""
        await self._call(lambda call: wire.UnloadModel(id=call, model=model), seconds)

    # --- the server ---------------------------------------------------------------------

    async def status(self) -> dict[str, Any]:
        """How the server is. Raises `TimeoutError` if no answer comes."""
        answer = await self._call(lambda call: wire.GetStatus(id=call))
        assert isinstance(answer, wire.Status)
        return answer.stats

    async def ping(self) -> float:
        """Seconds to the server and back. Raises `TimeoutError` if no answer comes."""
        begun = time.perf_counter()
        await self._call(lambda call: wire.Ping(id=call))
        return time.perf_counter() - begun

    def cancel(self, id: str | None = None, *, source: str | None = None) -> None:
        """End a reply by its id, or a source's frames, or (neither given) everything of this connection."""
        self._send(wire.Cancel(id=id, source=source))

    # --- requests -----------------------------------------------------------------------

    def _options(self, settings: dict[str, Any], **fields: Any) -> dict[str, Any]:
        return {
            "id": f"q{next(self._numbers)}",
            "config": _settings(settings) if settings else None,
            **fields,
        }

    def _request(self, reply: Reply, message: str | Callable[[], str | bytes]) -> Reply:
        if self._outbox.qsize() >= MAX_UNSENT_REQUESTS:
            raise OutboxFull(f"{MAX_UNSENT_REQUESTS} requests wait to be sent. Await a reply before asking for more.")
        self._put(_Draft(message, reply))
        self._replies[reply.id] = reply
        return reply

    async def _call(
        self,
        message: Callable[[str], msgspec.Struct],
        seconds: float = CALL_SECONDS,
        on_progress: Callable[[wire.ModelProgress], None] | None = None,
    ) -> "_Answer":
        """Send what is answered by one message, and wait for that."""
        id = f"c{next(self._numbers)}"
        future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._calls[id] = future
        if on_progress is not None:
            self._watchers[id] = on_progress
        try:
            self._put(_Draft(_text(message(id)), call=id))
            async with asyncio.timeout(seconds):
                return await future
        finally:
            del self._calls[id]
            self._watchers.pop(id, None)

    def _send(self, message: msgspec.Struct) -> None:
        self._put(_Draft(_text(message)))

    def _put(self, draft: "_Draft") -> None:
        if self._lost is not None:
            raise self._lost
        try:
            self._outbox.put_nowait(draft)
        except asyncio.QueueFull:
            raise OutboxFull(f"{MAX_UNSENT} messages wait to be sent.") from None

    # --- the socket ---------------------------------------------------------------------

    async def run(self) -> None:
        """Read and write until the connection ends for good; then tell everybody who waits. `connect` runs this."""
        try:
            while await self._talk() and self._may_come_back() and await self._come_back():
                pass
        finally:
            await self.close()

    async def _talk(self) -> bool:
        """Read and write until the socket ends; whether that alone was the reason."""
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                if error := task.exception():
                    logger.error("the connection's task failed", exc_info=error)
                    return False
            return True
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Close the socket and tell everybody who waits. The end of `connect`'s block does this."""
        try:
            await self._socket.close()
        finally:
            self._lose()

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in self._socket:
                self._journal.heard += 1
                self._deliver(message)

    async def _write(self) -> None:
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            while self._again:
                await self._transmit(self._again[0], await self._again[0].encoded())
                self._again.popleft()
            while True:
                draft = self._draft = self._draft or await self._outbox.get()
                try:
                    message = await draft.encoded()
                except Exception as error:  # whatever is wrong with a picture: the reply raises it
                    self._draft = None
                    self._fail(draft.reply, error)
                    continue
                self._draft = None
                self._journal.note_said(draft)
                await self._transmit(draft, message)

    async def _transmit(self, draft: "_Draft", message: str | bytes) -> None:
        async with asyncio.timeout(SEND_SECONDS):
            await self._socket.send(message)
        if draft.reply is not None:
            draft.reply.note_sent()

    def _lose(self) -> None:
        if self._lost is None:
            self._lost = ConnectionLost(self._socket.close_code, self._socket.close_reason or self._farewell)
        for reply in list(self._replies.values()):
            self._fail(reply, self._lost)
        for future in self._calls.values():
            if not future.done():
                future.set_exception(self._lost)

    def _fail(self, reply: Reply | None, error: Exception) -> None:
        if reply is not None and self._replies.pop(reply.id, None) is not None:
            reply.fail(error)

    # --- coming back --------------------------------------------------------------------

    def _may_come_back(self) -> bool:
        """The socket broke, rather than having been closed; and the server keeps sessions."""
        closed = self._socket.protocol.close_rcvd
        is_broken = (
            closed is None or closed.code == CloseCode.INTERNAL_ERROR
        )  # so it calls a peer that answered no ping
        return is_broken and self._reopen is not None and self.hello is not None and bool(self.hello.resume_token)

    async def _come_back(self) -> bool:
        """Have the session on another socket; whether that was possible."""
        assert self._reopen is not None
        self._socket.transport.abort()  # a close would end the session, if it still got there
        deadline = asyncio.get_running_loop().time() + RETURN_SECONDS
        for seconds in waits():
            await asyncio.sleep(seconds)
            try:
                if (is_back := await self._resume(await self._reopen())) is not None:
                    return is_back
            except CannotConnect as error:
                if error.status in (401, 403):
                    return False
            if asyncio.get_running_loop().time() > deadline:
                break
        return False

    async def _resume(self, socket: ClientConnection) -> bool | None:
        """Whether the session goes on at `socket`; None: that broke as well."""
        assert self.hello is not None
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await socket.send(_text(wire.Resume(token=self.hello.resume_token, last_seq=self._journal.heard)))
                answer = await self._answer_to_resume(socket)
        except (ConnectionClosed, TimeoutError):
            socket.transport.abort()
            return None
        again = self._journal.unreceived(answer.received) if isinstance(answer, wire.Resumed) else None
        if again is None:
            self._farewell = "the session can't be resumed"
            await socket.close()
            return False
        self._again = deque(again)
        self._socket = socket
        return True

    async def _answer_to_resume(self, socket: ClientConnection) -> wire.Resumed | wire.Error:
        while True:
            answer = _decoder.decode(await socket.recv())
            if isinstance(answer, wire.Resumed | wire.Error):
                return answer

    # --- what the server says -----------------------------------------------------------

    def _deliver(self, raw: str | bytes) -> None:
        try:
            message = _decoder.decode(raw)
        except (msgspec.MsgspecError, UnicodeError):
            logger.debug("message not understood")  # of a newer server, perhaps
            return
        self._journal.note_answer(getattr(message, "id", None))
        match message:
            case wire.Token():
                if reply := self._replies.get(message.id or ""):
                    reply.add(Piece(message.content, message.candidate or 0, tuple(message.logprobs or ())))
            case wire.ResponseComplete() | wire.FrameDropped():
                if reply := self._replies.pop(message.id or "", None):
                    reply.end(_result(message, reply))
            case wire.ModelProgress():
                self._watch(message)
            case wire.Error():
                self._deliver_error(message)
            case wire.GoAway():
                self._farewell = message.reason
            case _:
                self._answer(message)

    def _answer(self, message: wire.ServerMessage) -> None:
        if isinstance(message, _Answer):
            future = self._calls.get(message.id or "")
            if future is not None and not future.done():
                future.set_result(message)

    def _watch(self, progress: wire.ModelProgress) -> None:
        """Tell who asked for the model; what that raises ends the wait, and not the connection."""
        id = progress.id or ""
        if (told := self._watchers.get(id)) is None:
            return
        try:
            told(progress)
        except Exception as error:
            if not self._calls[id].done():
                self._calls[id].set_exception(error)

    def _deliver_error(self, message: wire.Error) -> None:
        error = ReplyError(
            message.code,
            message.error,
            param=message.param,
            retryable=bool(message.retryable),
            retry_after_ms=message.retry_after_ms,
        )
        future = self._calls.get(message.id or "")
        if message.fatal:
            self._farewell = message.error
        if reply := self._replies.get(message.id or ""):
            self._fail(reply, error)
        elif future is not None and not future.done():
            future.set_exception(error)
        elif message.code != "not_active":  # a cancel that came too late is no news
            logger.warning("the server reported an error", extra={"code": message.code})


_Answer = wire.ConfigUpdated | wire.Status | wire.Pong | wire.Models | wire.ModelLoaded | wire.ModelUnloaded
_decoder: msgspec.json.Decoder[wire.ServerMessage] = msgspec.json.Decoder(wire.ServerMessage)


@dataclass(frozen=True, slots=True)
class _Draft:
    """A message in the outbox. One with pictures is encoded when its turn has come, in a thread."""

    message: str | Callable[[], str | bytes]
    reply: Reply | None = None
    call: str | None = None

    @property
    def id(self) -> str | None:
        """What the server's answer to it will carry."""
        return self.reply.id if self.reply is not None else self.call

    async def encoded(self) -> str | bytes:
        return self.message if isinstance(self.message, str) else await asyncio.to_thread(self.message)


def _text(message: msgspec.Struct) -> str:
    return msgspec.json.encode(message).decode()


def _result(message: wire.ResponseComplete | wire.FrameDropped, reply: Reply) -> Result:
    if isinstance(message, wire.FrameDropped):
        return Result(dropped=message.reason, source=reply.source, frame_id=reply.frame_id)
    return Result(
        text=message.full_text,
        finish_reason=message.finish_reason,
        usage=message.usage,
        timings=message.timings,
        seconds=message.inference_time,
        source=reply.source,
        frame_id=reply.frame_id,
        candidates=tuple(
            Candidate(text=each.text, finish_reason=each.finish_reason, logprobs=reply.logprobs(each.index))
            for each in message.candidates or ()
        ),
        logprobs=reply.logprobs(0),
    )


def _settings(settings: dict[str, Any]) -> wire.Settings:
    """Settings by the names of Python.

    Raises:
        TypeError: there is no such setting.
    """
    values = {("max_tokens" if name == "max_output_tokens" else name): value for name, value in settings.items()}
    unknown = values.keys() - SETTING_NAMES.keys()
    if unknown:
        raise TypeError(f"There is no setting {min(unknown)!r}. Settings are {', '.join(SETTING_NAMES)}.")
    return wire.Settings(**values)


# --- opening ----------------------------------------------------------------------------


async def _open(
    url: str, token: str | None, ssl: SSLContext | None, open_seconds: float
) -> tuple[ClientConnection, wire.Hello | None]:
    url, token = _apart(url, token)
    url = await resolved(url, open_seconds)
    options: dict[str, Any] = {"proxy": None} if _is_loopback(url) else {}
    if ssl is not None:
        options["ssl"] = ssl
    if token is not None:
        options["additional_headers"] = {"Authorization": f"Bearer {token}"}
    try:
        socket = await open_socket(
            url,
            subprotocols=[Subprotocol(wire.SUBPROTOCOL)],
            compression=None,  # tokens are small, pictures are compressed already
            max_size=MAX_MESSAGE_BYTES,
            open_timeout=open_seconds,
            ping_interval=PING_SECONDS,
            ping_timeout=PING_SECONDS,
            close_timeout=CLOSE_SECONDS,
            **options,
        )
        return socket, await _hello(socket, open_seconds)
    except InvalidStatus as error:
        status = error.response.status_code
        why = _REFUSALS.get(status, "")
        raise CannotConnect(f"The server at {url} refused the connection (HTTP {status}).{why}", status) from error
    except (OSError, TimeoutError, WebSocketException, msgspec.MsgspecError) as error:
        raise CannotConnect(f"There is no connection to {url}: {error or 'it took too long'}.") from error


_REFUSALS = {
    401: " From another machine it wants its token: connect(..., token=...). There, `mlx token` shows it.",
    429: " Too many wrong tokens came from here: try again in a minute.",
}


def _apart(url: str, token: str | None) -> tuple[str, str | None]:
    """The address without its token, and the token: an address is in error messages."""
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    inside = [value for name, value in query if name == "token"]
    if not inside:
        return url, token
    rest = urlencode([(name, value) for name, value in query if name != "token"])
    return urlunsplit(parts._replace(query=rest)), inside[0] if token is None else token


async def _hello(socket: ClientConnection, seconds: float) -> wire.Hello | None:
    """The greeting, which is the first message of a server that agreed to version 2."""
    if socket.subprotocol != wire.SUBPROTOCOL:
        return None
    try:
        async with asyncio.timeout(seconds):
            return msgspec.json.decode(await socket.recv(), type=wire.Hello)
    except BaseException:
        await socket.close()
        raise


def _is_loopback(url: str) -> bool:
    """A proxy could not reach it."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")

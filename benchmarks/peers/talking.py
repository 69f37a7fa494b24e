"""One client of a target, whatever it speaks. `begin` asks, the reply fills as it comes."""

import asyncio
import base64
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

from websockets.asyncio.client import ClientConnection, connect

from benchmarks.peers.figures import Reply
from benchmarks.peers.questions import Question

REPLY_SECONDS = 180.0
LINE_BYTES = 64 * 1024 * 1024


class Asked:
    """A request under way. `reply` grows; `begun` and `ended` are set when that happens."""

    def __init__(self, give_up: Callable[[], Awaitable[None]]) -> None:
        self.reply = Reply(asked_at=time.monotonic())
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        self._give_up = give_up

    def hear(self, text: str, at: float | None = None) -> None:
        self.reply.times.append(time.monotonic() if at is None else at)
        self.reply.text += text
        self.begun.set()

    def end(self, usage: dict[str, Any] | None = None, error: str = "", at: float | None = None) -> None:
        """`usage` in whoever's words."""
        usage, reply = usage or {}, self.reply
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
        reply.input_tokens = usage.get("input_tokens", usage.get("prompt_tokens", 0)) or 0
        reply.output_tokens = usage.get("output_tokens", usage.get("completion_tokens", 0)) or 0
        reply.cached_tokens = usage.get("cached_tokens", details.get("cached_tokens", 0)) or 0
        reply.ended_at = time.monotonic() if at is None else at
        reply.error = error
        self.begun.set()
        self.ended.set()

    async def first(self, *, may_be_empty: bool = False) -> Reply:
        """Wait for the first piece of text; for the end, where there is none.

        Raises:
            RuntimeError: the target failed.
        """
        async with asyncio.timeout(REPLY_SECONDS):
            await self.begun.wait()
        return self._checked(may_be_empty)

    async def end_of(self, *, may_be_empty: bool = False) -> Reply:
        """Wait for the end. Raises RuntimeError if the target failed, as it has with a reply that may not be empty."""
        async with asyncio.timeout(REPLY_SECONDS):
            await self.ended.wait()
        return self._checked(may_be_empty)

    async def cancel(self) -> None:
        """Give the request up; returns when the target was told, or when it has ended if it says so."""
        await self._give_up()

    def _checked(self, may_be_empty: bool) -> Reply:
        if self.reply.error or not (self.reply.times or may_be_empty):
            raise RuntimeError(self.reply.error or "the reply is empty")
        return self.reply


class Client(Protocol):
    """One connection's worth of talk."""

    async def begin(self, question: Question) -> Asked: ...

    async def close(self) -> None: ...


async def ask(client: Client, question: Question) -> Reply:
    """Ask and wait for the end."""
    return await (await client.begin(question)).end_of()


async def ask_all(clients: list[Client], questions: list[Question]) -> list[Reply]:
    """Each client one question, all at once."""
    asked = [await client.begin(question) for client, question in zip(clients, questions, strict=True)]
    return [await each.end_of() for each in asked]


# --- ours -----------------------------------------------------------------------------


class NativeClient:
    """A WebSocket to our server, in plain JSON."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.others: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._asked: dict[str, Asked] = {}
        self._ids = itertools.count()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, url: str) -> "NativeClient":
        return cls(await connect(url, max_size=None, compression=None, proxy=None, ping_interval=None))

    async def begin(self, question: Question) -> Asked:
        id = str(next(self._ids))
        message: dict[str, Any] = {
            "id": id,
            "config": {"temperature": 0, "maxOutputTokens": question.tokens},
            "history": question.remembers,
        }
        if question.pictures:
            images = [base64.b64encode(picture).decode() for picture in question.pictures]
            message |= {"type": "image_input", "prompt": question.text, "images": images}
        else:
            message |= {"type": "text_input", "content": question.text}
        data = json.dumps(message)
        self._asked[id] = asked = Asked(lambda: self._cancel(id))
        await self.socket.send(data)
        return asked

    async def _cancel(self, id: str) -> None:
        await self.socket.send(json.dumps({"type": "cancel", "id": id}))
        await self._asked[id].ended.wait()

    async def _read(self) -> None:
        try:
            async for data in self.socket:
                self._take(json.loads(data))
        finally:
            for asked in self._asked.values():
                if not asked.ended.is_set():
                    asked.end(error="the connection was closed")

    def _take(self, message: dict[str, Any]) -> None:
        asked = self._asked.get(message.get("id", ""))
        if asked is None:
            self.others.put_nowait(message)
        elif message["type"] == "token":
            asked.hear(message["content"])
        elif message["type"] == "response_complete":
            took_too_long = "the reply took too long" if message["finish_reason"] == "timeout" else ""
            asked.end(message.get("usage"), took_too_long)
        elif message["type"] in ("error", "frame_dropped"):
            asked.end(error=message.get("error") or message["reason"])

    async def close(self) -> None:
        await self.socket.close()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader


# --- OpenAI's HTTP --------------------------------------------------------------------


class OpenAIClient:
    """Chat completions, streamed; a TCP connection for each, which on one machine costs next to nothing."""

    def __init__(self, port: int, model: str) -> None:
        self._port = port
        self._model = model
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self, question: Question) -> Asked:
        body = json.dumps(self._request(question)).encode()
        asked = Asked(lambda: self._cancel(task))
        task = asyncio.create_task(self._stream(body, asked))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.sleep(0)
        return asked

    def _request(self, question: Question) -> dict[str, Any]:
        messages: list[dict[str, Any]] = []
        for before, reply in question.earlier:
            messages += [{"role": "user", "content": before}, {"role": "assistant", "content": reply}]
        messages.append({"role": "user", "content": _content(question)})
        return {
            "model": self._model,
            "messages": messages,
            "max_tokens": question.tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    async def _cancel(self, task: "asyncio.Task[None]") -> None:
        task.cancel()
        await asyncio.wait([task])

    async def _stream(self, body: bytes, asked: Asked) -> None:
        usage: dict[str, Any] = {}
        error = ""
        try:
            async for event in post(self._port, "/v1/chat/completions", body):
                usage = event.get("usage") or usage
                for choice in event.get("choices", ()):
                    if text := choice.get("delta", {}).get("content"):
                        asked.hear(text)
                error = str(event["error"]) if "error" in event else error
        except (OSError, ValueError, EOFError) as problem:
            error = f"{type(problem).__name__}: {problem}"
        finally:
            asked.end(usage, error)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


def _content(question: Question) -> Any:
    if not question.pictures:
        return question.text
    urls = ["data:image/jpeg;base64," + base64.b64encode(picture).decode() for picture in question.pictures]
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [*pictures, {"type": "text", "text": question.text}]


async def post(port: int, path: str, body: bytes) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream, as they come.

    Raises:
        OSError, EOFError: the connection broke.
        ValueError: the server refused.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=LINE_BYTES)
    try:
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        is_chunked = "transfer-encoding: chunked" in answer
        if " 200" not in answer.splitlines()[0]:
            refusal = await reader.read(2000)
            raise ValueError(f"{answer.splitlines()[0]}: {refusal.decode(errors='replace')[:300]}")
        async for line in _lines(reader, is_chunked):
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])
            elif line.startswith(b"data: [DONE]"):
                return
    finally:
        writer.close()


async def _lines(reader: asyncio.StreamReader, is_chunked: bool) -> AsyncIterator[bytes]:
    rest = b""
    while piece := await (_chunk(reader) if is_chunked else reader.read(65536)):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.rstrip(b"\r")


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    size = int((await reader.readline()).split(b";")[0] or b"0", 16)
    piece = await reader.readexactly(size + 2)
    return piece[:-2]


# --- the library itself ---------------------------------------------------------------


class RawProgram:
    """Talks with a running `raw_library`; all of its clients share its two pipes."""

    def __init__(self, to: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
        self._to = to
        self._from = reader
        self._asked: dict[int, Asked] = {}
        self._ids = itertools.count()
        self._task = asyncio.create_task(self._read())

    async def begin(self, question: Question) -> Asked:
        id = next(self._ids)
        self._asked[id] = asked = Asked(lambda: self._cancel(id))
        pictures = [base64.b64encode(picture).decode() for picture in question.pictures]
        await self._tell(id=id, text=question.text, tokens=question.tokens, pictures=pictures, earlier=question.earlier)
        return asked

    async def _cancel(self, id: int) -> None:
        await self._tell(id=id, cancel=True)
        await self._asked[id].ended.wait()

    async def _tell(self, **message: Any) -> None:
        self._to.write(json.dumps(message).encode() + b"\n")
        await self._to.drain()

    async def _read(self) -> None:
        while line := await self._from.readline():
            message = json.loads(line)
            asked = self._asked[message["id"]]
            if "first" in message:
                asked.hear("", message["first"])
            else:
                asked.reply.times[:] = message["times"]
                asked.end(message["usage"], message.get("error", ""), message["ended"])
        for asked in self._asked.values():
            if not asked.ended.is_set():
                asked.end(error="the process ended")

    async def close(self) -> None:
        """Give up what still runs; the program belongs to whoever started it."""
        for id, asked in self._asked.items():
            if not asked.ended.is_set():
                await self._tell(id=id, cancel=True)

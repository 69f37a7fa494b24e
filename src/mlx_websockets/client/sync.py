"""The client library for scripts and notebooks: the same words, without `await`.

    with connect_sync("ws://localhost:8765") as mlx:
        for delta in mlx.ask("Tell me a story."):
            print(delta, end="")

A thread runs the client of `aio`; every call here waits for its counterpart there, so there
is one implementation of the protocol. May be used from several threads.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Iterator, Sequence
from ssl import SSLContext
from types import TracebackType
from typing import Any, TypeVar

from mlx_websockets.client.aio import CLOSE_SECONDS, Client, connect
from mlx_websockets.client.errors import ConnectionLost
from mlx_websockets.client.pictures import Picture
from mlx_websockets.client.replies import Piece, Reply, Result
from mlx_websockets.protocols.native_schema import DEFAULT_PROMPT, Hello, ModelProgress, ModelState

Answer = TypeVar("Answer")


def connect_sync(
    url: str = "ws://localhost:8765",
    *,
    token: str | None = None,
    ssl: SSLContext | None = None,
    model: str | None = None,
    open_seconds: float = 10.0,
    reconnect: bool = True,
) -> "SyncClient":
    """Open a connection; `with` or `close` ends it. See `connect`.

    Raises:
        CannotConnect: nobody is there, or we were not let in.
    """
    return SyncClient(url, token=token, ssl=ssl, model=model, open_seconds=open_seconds, reconnect=reconnect)


class SyncClient:
    """An open connection to a server. Get one from `connect_sync`; the methods are those of `Client`."""

    def __init__(self, url: str, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mlx-websockets client", daemon=True)
        self._thread.start()
        self._connection = contextlib.AsyncExitStack()
        self._is_open = True
        try:
            self._client: Client = self._wait(self._connection.enter_async_context(connect(url, **options)))
        except BaseException:
            self._stop()
            raise

    @property
    def hello(self) -> Hello | None:
        """How the server introduced itself."""
        return self._client.hello

    def ask(self, text: str = DEFAULT_PROMPT, *, images: Sequence[Picture] = (), **options: Any) -> "SyncReply":
        """Ask a question, with or without pictures. Options are those of `Client.ask`."""

        async def ask() -> Reply:
            return self._client.ask(text, images=images, **options)

        return SyncReply(self, self._wait(ask()))

    def show(self, image: Picture, source: str = "camera", prompt: str = DEFAULT_PROMPT, **options: Any) -> "SyncReply":
        """Show one picture of a running stream. Options are those of `Client.show`."""

        async def show() -> Reply:
            return self._client.show(image, source, prompt, **options)

        return SyncReply(self, self._wait(show()))

    def watch(
        self,
        source: str,
        frames: Iterable[Picture] | AsyncIterable[Picture],
        prompt: str = DEFAULT_PROMPT,
        **options: Any,
    ) -> Iterator[Result]:
        """Show a stream of pictures and yield what is said of those that are seen. See `Client.watch`."""
        results = self._client.watch(source, frames, prompt, **options)

        async def next_result() -> Result | None:
            return await anext(results, None)

        try:
            while (result := self._wait(next_result())) is not None:
                yield result
        finally:
            if self._is_open:
                self._wait(results.aclose())

    def configure(self, **settings: Any) -> dict[str, Any]:
        """Change the settings of this connection; returns all of them. See `Client.configure`."""
        return self._wait(self._client.configure(**settings))

    def models(self) -> list[ModelState]:
        """The models that this server has, the default one first."""
        return self._wait(self._client.models())

    def load_model(
        self, model: str, on_progress: Callable[[ModelProgress], None] | None = None, **options: Any
    ) -> None:
        """Have a model in memory. `on_progress` is called in the client's thread. See `Client.load_model`."""
        self._wait(self._client.load_model(model, on_progress, **options))

    def unload_model(self, model: str, **options: Any) -> None:
        """Take a model out of memory. See `Client.unload_model`."""
        self._wait(self._client.unload_model(model, **options))

    def status(self) -> dict[str, Any]:
        """How the server is."""
        return self._wait(self._client.status())

    def ping(self) -> float:
        """Seconds to the server and back."""
        return self._wait(self._client.ping())

    def cancel(self, id: str | None = None, *, source: str | None = None) -> None:
        """End a reply by its id, or a source's frames, or everything of this connection."""

        async def cancel() -> None:
            self._client.cancel(id, source=source)

        self._wait(cancel())

    def close(self) -> None:
        """End the connection. Does nothing the second time."""
        if self._is_open:
            try:
                self._wait(self._connection.aclose())
            finally:
                self._stop()

    def __enter__(self) -> "SyncClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _wait(self, step: Coroutine[Any, Any, Answer]) -> Answer:
        """Run one step of the client and wait for it; the step has its own deadline."""
        if not self._is_open:
            step.close()
            raise ConnectionLost(1000, "it was closed here")
        future = asyncio.run_coroutine_threadsafe(step, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def _stop(self) -> None:
        self._is_open = False
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(2 * CLOSE_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()


class SyncReply:
    """The answer to one request. Iterate it for its deltas, or ask for what it comes to.

    Interrupting the wait (Ctrl-C, or the stop button of a notebook) cancels the reply.
    """

    def __init__(self, client: SyncClient, reply: Reply) -> None:
        self._client = client
        self._reply = reply

    @property
    def id(self) -> str:
        return self._reply.id

    def __iter__(self) -> Iterator[str]:
        while (delta := self._wait(_next_delta(self._reply))) is not None:
            yield delta

    def pieces(self) -> Iterator[Piece]:
        """Everything as it comes: each candidate's text, and how likely its tokens were."""
        while (piece := self._wait(self._reply.next_piece())) is not None:
            yield piece

    def result(self) -> Result:
        """Wait for the end. Raises what `Reply.result` does."""
        return self._wait(self._reply.result())

    def text(self) -> str:
        """The whole text, once it is whole."""
        return self.result().text

    def cancel(self) -> None:
        """Ask the server to end this reply with what it has. Does nothing if it is over."""

        async def cancel() -> None:
            self._reply.cancel()

        self._client._wait(cancel())

    def _wait(self, step: Coroutine[Any, Any, Answer]) -> Answer:
        try:
            return self._client._wait(step)
        except KeyboardInterrupt:
            self.cancel()
            raise


async def _next_delta(reply: Reply) -> str | None:
    return await anext(reply, None)

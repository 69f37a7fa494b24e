"""Messages over one socket: a length (u32, big-endian), then that many bytes of MessagePack.

`BlockingChannel` is the worker's end: it may wait for the server. `AsyncChannel` is the
server's end: it never waits for the worker to read. What the messages mean is not known
here, see `messages.py`.
"""

import asyncio
import selectors
import socket
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from mlx_websockets.engine.messages import FromWorker, ToWorker, decode_from_worker, decode_to_worker, encode
from mlx_websockets.errors import MLXWebSocketsError

MAX_PACKET_BYTES = 128 * 1024 * 1024
MAX_UNSENT_BYTES = 256 * 1024 * 1024
READ_BYTES = 256 * 1024
READS_A_DRAIN = 1024

_LENGTH_BYTES = 4

Message = TypeVar("Message")


class ChannelClosed(MLXWebSocketsError):
    """The other end is gone. Nothing more will come."""

    code = "channel_closed"


class ChannelBroken(ChannelClosed):
    """The other end is there and can't be talked to: it sent no message, or does not read."""

    code = "channel_broken"


class Unsendable(MLXWebSocketsError):
    """A message is over `MAX_PACKET_BYTES`, or its text is no Unicode. It was not sent; the channel goes on."""

    code = "unsendable"


class BlockingChannel:
    """The worker's end.

    One thread receives. Any thread may send: libraries report how far a download is from
    threads of their own.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._sock = sock
        self._inbox = _Inbox(decode_to_worker)
        self._sending = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._selector.register(sock, selectors.EVENT_READ)

    def send(self, message: FromWorker) -> None:
        """Send, waiting for the server where it is slow.

        Raises:
            ChannelClosed: the server is gone.
            Unsendable: nothing was sent.
        """
        packet = _packed(message)
        try:
            with self._sending:
                self._sock.sendall(packet)
        except OSError as error:
            raise ChannelClosed("The server is gone.") from error

    def receive(self, timeout: float | None = None) -> ToWorker | None:
        """The next message, or None if none is whole within `timeout` seconds (None = wait forever).

        Raises:
            ChannelClosed: end of file, and every message before it was received.
            ChannelBroken: what came is no message.
        """
        message = self._inbox.take()
        while message is None:
            if not self._selector.select(timeout):
                return None
            self._read()
            message = self._inbox.take()
        return message

    def received(self) -> list[ToWorker]:
        """The messages that are here by now; waits for nothing.

        Raises:
            ChannelClosed: end of file; what came before it is returned first.
            ChannelBroken: what came is no message.
        """
        messages = self._inbox.take_all()
        for _ in range(READS_A_DRAIN):
            if not self._selector.select(0):
                break
            try:
                self._read()
            except ChannelClosed:
                if not messages:
                    raise
                break
            messages += self._inbox.take_all()
        return messages

    def has_input(self) -> bool:
        """Whether `receive` has something to look at: a message, a part of one, or the end.

        Raises:
            ChannelBroken: what waits is no message.
        """
        return self._inbox.has_whole or bool(self._selector.select(0))

    def close(self) -> None:
        self._selector.close()
        self._sock.close()

    def _read(self) -> None:
        try:
            data = self._sock.recv(READ_BYTES)
        except OSError as error:
            raise ChannelClosed("The server is gone.") from error
        if not data:
            raise ChannelClosed("The server closed the channel.")
        self._inbox.feed(data)


class AsyncChannel:
    """The server's end; made by `AsyncChannel.open`, used on one event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, max_unsent_bytes: int) -> None:
        self._reader = reader
        self._max_unsent_bytes = max_unsent_bytes
        self._transport = writer.transport
        self._writer = writer
        self._inbox = _Inbox(decode_from_worker)
        self._is_overfull = False

    @classmethod
    async def open(cls, sock: socket.socket, max_unsent_bytes: int = MAX_UNSENT_BYTES) -> "AsyncChannel":
        """A channel over `sock`, which it owns from now on."""
        reader, writer = await asyncio.open_connection(sock=sock, limit=READ_BYTES)
        return cls(reader, writer, max_unsent_bytes)

    def send(self, message: ToWorker) -> None:
        """Send without waiting.

        A worker that lets `max_unsent_bytes` pile up breaks the channel; nothing is raised
        then, nor when it was broken before: whoever receives learns of it.

        Raises:
            Unsendable: nothing was sent.
        """
        packet = _packed(message)
        if self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() + len(packet) > self._max_unsent_bytes:
            self._is_overfull = True
            self._transport.abort()
            return
        self._transport.write(packet)

    async def receive(self) -> FromWorker:
        """The next message. Being cancelled loses none.

        Raises:
            ChannelClosed: the worker is gone.
            ChannelBroken: it sent what is no message, or does not read what it is sent.
        """
        while (message := self._inbox.take()) is None:
            try:
                data = await self._reader.read(READ_BYTES)
            except OSError as error:
                raise ChannelClosed("The worker is gone.") from error
            if not data and self._is_overfull:
                raise ChannelBroken("The worker does not read what it is sent.")
            if not data:
                raise ChannelClosed("The worker closed the channel.")
            self._inbox.feed(data)
        return message

    def __aiter__(self) -> "AsyncChannel":
        return self

    async def __anext__(self) -> FromWorker:
        try:
            return await self.receive()
        except ChannelClosed:
            raise StopAsyncIteration from None

    async def close(self) -> None:
        """Close at once, whatever is unsent. May be called again."""
        self._transport.abort()
        try:
            await self._writer.wait_closed()
        except OSError:
            return  # the worker's end was gone first


class _Inbox(Generic[Message]):
    """Bytes as they came, taken out message by message."""

    def __init__(self, decode: Callable[[memoryview], Message]) -> None:
        self._decode = decode
        self._bytes = bytearray()

    def feed(self, data: bytes) -> None:
        self._bytes += data

    @property
    def has_whole(self) -> bool:
        end = self._end_of_packet()
        return end is not None and len(self._bytes) >= end

    def take(self) -> Message | None:
        """The next whole message, or None.

        Raises:
            ChannelBroken: these bytes are no message.
        """
        end = self._end_of_packet()
        if end is None or len(self._bytes) < end:
            return None
        try:
            with memoryview(self._bytes) as everything, everything[_LENGTH_BYTES:end] as packet:
                message = self._decode(packet)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ChannelBroken("The other end sent something that is no message.") from error
        del self._bytes[:end]  # bytearray only moves its start: no copy of what follows
        return message

    def take_all(self) -> list[Message]:
        messages = []
        while (message := self.take()) is not None:
            messages.append(message)
        return messages

    def _end_of_packet(self) -> int | None:
        if len(self._bytes) < _LENGTH_BYTES:
            return None
        length = int.from_bytes(self._bytes[:_LENGTH_BYTES], "big")
        if length > MAX_PACKET_BYTES:
            raise ChannelBroken("The other end announced a packet that is too large.")
        return _LENGTH_BYTES + length


def _packed(message: ToWorker | FromWorker) -> bytes:
    try:
        packet = encode(message)
    except UnicodeEncodeError as error:
        raise Unsendable("Half a surrogate pair is no text.") from error
    if len(packet) > MAX_PACKET_BYTES:
        raise Unsendable(f"A message of {len(packet)} bytes is over the limit of {MAX_PACKET_BYTES}.")
    return len(packet).to_bytes(_LENGTH_BYTES, "big") + packet

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest

from mlx_websockets.engine.channel import (
    MAX_PACKET_BYTES,
    AsyncChannel,
    BlockingChannel,
    ChannelBroken,
    ChannelClosed,
    Unsendable,
)
from mlx_websockets.engine.messages import Cancel, Loading, Stop, Submit, encode
from mlx_websockets.generation import ChatMessage, Choice, GenerationRequest, Image

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def packed(message: Cancel | Loading | Stop) -> bytes:
    packet = encode(message)
    return len(packet).to_bytes(4, "big") + packet


def submit_of(pixels: bytes) -> Submit:
    message = ChatMessage("user", "Look", (Image(1, len(pixels) // 3, pixels),))
    return Submit(GenerationRequest(id=1, messages=(message,), choice=Choice(max_tokens=1)))


# --- the worker's end -------------------------------------------------------------------


def test_the_worker_receives_what_the_server_sent_in_order(pair: Pair) -> None:
    near, far = pair
    channel = BlockingChannel(far)

    near.sendall(packed(Cancel(1)) + packed(Cancel(2)))

    assert [Cancel(1), Cancel(2)] == [channel.receive(5), channel.receive(5)]


def test_the_worker_gives_up_waiting_at_its_deadline(pair: Pair) -> None:
    _, far = pair

    assert BlockingChannel(far).receive(0) is None


def test_half_a_message_is_no_message_until_its_rest_comes(pair: Pair) -> None:
    near, far = pair
    channel = BlockingChannel(far)
    packet = packed(Cancel(1))

    for index in range(len(packet) - 1):
        near.sendall(packet[index : index + 1])
        assert channel.received() == []
    near.sendall(packet[-1:])

    assert [Cancel(1)] == channel.received()


def test_a_drain_takes_everything_that_is_there_and_waits_for_nothing(pair: Pair) -> None:
    near, far = pair
    channel = BlockingChannel(far)
    near.sendall(b"".join(packed(Cancel(index)) for index in range(1000)))

    assert channel.has_input()
    assert [Cancel(index) for index in range(1000)] == channel.received()
    assert not channel.has_input()
    assert channel.received() == []


def test_what_was_sent_before_the_end_is_received_before_the_end(pair: Pair) -> None:
    near, far = pair
    channel = BlockingChannel(far)
    near.sendall(packed(Stop()))
    near.close()

    assert [Stop()] == channel.received()
    assert channel.has_input()
    with pytest.raises(ChannelClosed):
        channel.received()
    with pytest.raises(ChannelClosed):
        channel.receive(5)


def test_sending_to_a_server_that_is_gone_says_so(pair: Pair) -> None:
    near, far = pair
    channel = BlockingChannel(far)
    near.close()

    with pytest.raises(ChannelClosed):
        channel.send(Loading("weights"))


@pytest.mark.parametrize("garbage", [b"\0\0\0\1\xc1", b"\xff\xff\xff\xff", packed(Loading("for the other side"))])
def test_garbage_breaks_the_channel(pair: Pair, garbage: bytes) -> None:
    near, far = pair
    near.sendall(garbage)

    with pytest.raises(ChannelBroken):
        BlockingChannel(far).receive(5)


def test_messages_sent_by_several_threads_do_not_mix() -> None:
    async def story() -> None:
        near, far = socket.socketpair()
        worker, server = BlockingChannel(far), await AsyncChannel.open(near)
        stages = [letter * 300_000 for letter in "abcd"]
        threads = [threading.Thread(target=worker.send, args=(Loading(stage),)) for stage in stages]
        for thread in threads:
            thread.start()

        received = [await server.receive() for _ in stages]

        assert {Loading(stage) for stage in stages} == set(received)
        for thread in threads:
            thread.join(5)
        worker.close()
        await server.close()

    asyncio.run(story())


# --- the server's end -------------------------------------------------------------------


def test_messages_of_every_size_arrive_whole_in_both_directions() -> None:
    async def story() -> None:
        near, far = socket.socketpair()
        worker, server = BlockingChannel(far), await AsyncChannel.open(near)
        sizes = [0, 1, 255, 65_536, 3_000_000]
        for size in sizes:
            server.send(submit_of(bytes(3 * size)))

        submits = [await asyncio.to_thread(worker.receive, 5) for _ in sizes]
        sending = asyncio.create_task(asyncio.to_thread(lambda: [worker.send(Loading("x" * size)) for size in sizes]))
        stages = [await server.receive() for _ in sizes]

        assert [submit_of(bytes(3 * size)) for size in sizes] == submits
        assert [Loading("x" * size) for size in sizes] == stages
        await sending
        worker.close()
        await server.close()

    asyncio.run(story())


def test_the_server_iterates_until_the_worker_closes() -> None:
    async def story() -> None:
        near, far = socket.socketpair()
        worker, server = BlockingChannel(far), await AsyncChannel.open(near)
        worker.send(Loading("one"))
        worker.send(Loading("two"))
        worker.close()

        assert [Loading("one"), Loading("two")] == [message async for message in server]
        await server.close()
        await server.close()

    asyncio.run(story())


def test_a_receive_that_is_cancelled_in_mid_packet_loses_nothing() -> None:
    async def story() -> None:
        near, far = socket.socketpair()
        with far:
            server = await AsyncChannel.open(near)
            packet = packed(Loading("x" * 1000))
            far.sendall(packet[:500])
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await server.receive()
            far.sendall(packet[500:])

            assert Loading("x" * 1000) == await server.receive()
            await server.close()

    asyncio.run(story())


def test_a_worker_that_does_not_read_breaks_the_channel_and_never_blocks_the_server() -> None:
    async def story() -> None:
        near, far = socket.socketpair()
        with far:
            server = await AsyncChannel.open(near, max_unsent_bytes=1_000_000)
            for _ in range(20):
                server.send(submit_of(bytes(300_000)))

            with pytest.raises(ChannelBroken, match="does not read"):
                await server.receive()
            server.send(Stop())
            await server.close()

    asyncio.run(story())


def test_a_worker_that_sends_garbage_breaks_the_channel() -> None:
    async def story() -> None:
        near, far = socket.socketpair()
        with far:
            server = await AsyncChannel.open(near)
            far.sendall(packed(Stop()))  # a word of the server's own

            with pytest.raises(ChannelBroken):
                await server.receive()
            await server.close()

    asyncio.run(story())


def test_a_message_that_can_not_be_sent_leaves_the_channel_as_it_was() -> None:
    async def story() -> None:
        near, far = socket.socketpair()
        worker, server = BlockingChannel(far), await AsyncChannel.open(near)
        half = ChatMessage("user", "\ud800")

        with pytest.raises(Unsendable):
            server.send(submit_of(bytes(MAX_PACKET_BYTES)))
        with pytest.raises(Unsendable):
            server.send(Submit(GenerationRequest(id=1, messages=(half,), choice=Choice(max_tokens=1))))
        server.send(Stop())

        assert Stop() == await asyncio.to_thread(worker.receive, 5)
        worker.close()
        await server.close()

    asyncio.run(story())

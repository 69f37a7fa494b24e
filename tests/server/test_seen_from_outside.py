"""What a server says of itself to whoever watches over it, asked over HTTP while it works."""

import asyncio
import math
import socket
import sys
import time

import pytest
from serving import Running, hear, hear_until, holds, request_at, running, say

from mlx_websockets.cli import top
from mlx_websockets.cli.console import Console
from mlx_websockets.daemon.readings import Address, Reading, quantile, read
from mlx_websockets.errors import NotRunning, UsageError
from mlx_websockets.generation import Delta, Finished, Started, Timings, Usage
from mlx_websockets.server.lag import watch_lag


async def get(server: Running, path: str) -> tuple[str, dict[str, str], str]:
    """Status line, headers and body of an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    async with asyncio.timeout(5):
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    first, *lines = head.split("\r\n")
    return first, dict(line.lower().split(": ", 1) for line in lines), body


async def reading(server: Running) -> Reading:
    return await asyncio.to_thread(read, Address("http", "127.0.0.1", server.port))


async def talk(server: Running) -> None:
    """One reply of three deltas, one dropped frame, one refusal."""
    peer = await server.peer()
    await say(peer, type="text_input", content="private question", id="1")
    request = await request_at(server.engine, 0)
    for update in (Started(request.id), *(Delta(request.id, text) for text in ("private", " reply", "."))):
        server.engine.say(update)
    usage = Usage(input_tokens=11, output_tokens=3)
    server.engine.say(Finished(request.id, "stop", usage, Timings(first_token_ms=120.0)))
    await hear_until(peer, "response_complete")
    await say(peer, type="video_frame", frame="bm9uZQ==", id="2")
    await hear_until(peer, "frame_dropped")
    await say(peer, type="sing")
    assert (await hear(peer))["code"] == "unknown_type"


def test_metrics_count_what_happened_and_hold_no_word_of_it():
    async def story():
        async with running() as server:
            await talk(server)
            first, headers, body = await get(server, "/metrics")

            assert first.endswith("200 OK") and headers["content-type"].startswith("text/plain; version=")
            for line in (
                'mlx_ws_replies_total{reason="stop"} 1.0',
                'mlx_ws_frames_dropped_total{reason="decode_error"} 1.0',
                'mlx_ws_errors_total{code="unknown_type"} 1.0',
                'mlx_ws_used_tokens_total{kind="output"} 3.0',
                "mlx_ws_delta_gap_seconds_count 2.0",
                "mlx_ws_time_to_first_token_seconds_count 1.0",
                "mlx_ws_connections 1.0",
                "mlx_ws_ready 1.0",
                "mlx_ws_requests_running 0.0",
            ):
                assert line in body.splitlines()
            assert "private" not in body

    asyncio.run(story())


def test_metrics_and_status_tell_nothing_to_pages_and_names_of_strangers():
    async def story():
        async with running() as server:
            for path in ("/metrics", "/v1/status"):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(f"GET {path} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n".encode())
                assert (await reader.read()).startswith(b"HTTP/1.1 403")
                writer.close()
            _, _, body = await get(server, "/metrics")

            assert 'mlx_ws_refusals_total{status="403"} 2.0' in body

    asyncio.run(story())


def test_alive_and_ready_are_two_questions():
    async def story():
        async with running() as server:
            well = [(await get(server, path))[0] for path in ("/healthz", "/readyz")]
            server.engine.crash()
            ill, (_, headers, _) = (
                [(await get(server, path))[0] for path in ("/healthz", "/readyz")],
                await get(server, "/readyz"),
            )

            assert [line.split()[1] for line in well + ill] == ["200", "200", "200", "503"]
            assert headers["retry-after"] == "5"
            assert "mlx_ws_ready 0.0" in (await get(server, "/metrics"))[2]

    asyncio.run(story())


def test_a_reading_has_status_and_metrics_together():
    async def story():
        async with running() as server:
            await talk(server)
            await holds(lambda: server.engine.running == [])
            seen = await reading(server)

            assert (seen.model, seen.is_ready, seen.connections, seen.rows, seen.running) == (
                "scripted",
                True,
                1,
                16,
                0,
            )
            assert seen.drops == {"decode_error": 1}
            assert 0.1 <= (quantile(0.5, seen.first_token) or 0) <= 0.2
            assert seen.gaps[math.inf] == 2

    asyncio.run(story())


def test_what_top_prints_once_are_plain_lines_a_program_gets_numbers(capsys):
    async def story() -> Reading:
        async with running() as server:
            await talk(server)
            address = Address("http", "127.0.0.1", server.port)
            await asyncio.to_thread(top.show_once, address, Console(sys.stdout, {}))
            return await reading(server)

    seen = asyncio.run(story())
    printed = capsys.readouterr().out

    assert "Model:            scripted (ready)" in printed
    assert "Frames dropped:   1 decode_error" in printed
    assert "First token:      " in printed and "95 % within" in printed
    assert top.plain(seen)["frames_dropped"] == {"decode_error": 1}
    assert 100 <= top.plain(seen)["ttft_ms"]["p50"] <= 200


def test_waits_are_those_since_the_reading_before_where_there_were_any():
    buckets = {0.1: 10.0, 0.2: 10.0, 0.5: 12.0, math.inf: 12.0}
    before = {0.1: 10.0, 0.2: 10.0, 0.5: 10.0, math.inf: 10.0}

    assert quantile(0.5, buckets) == pytest.approx(0.06)
    assert quantile(0.5, buckets, before) == pytest.approx(0.35)
    assert quantile(0.5, before, before) is None
    assert quantile(0.99, {0.1: 0.0, math.inf: 5.0}) == 0.1
    assert quantile(0.5, {}) is None


def test_where_nobody_or_somebody_else_answers_is_said_in_a_sentence():
    async def story():
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with pytest.raises(NotRunning, match="does not answer"):
            read(Address("http", "127.0.0.1", port))

        async def answer(reader, writer):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            writer.close()

        other = await asyncio.start_server(answer, "127.0.0.1", 0)
        with pytest.raises(NotRunning, match="no server of this version"):
            await asyncio.to_thread(read, Address("http", "127.0.0.1", other.sockets[0].getsockname()[1]))
        other.close()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("ws://gpu.lan", Address("http", "gpu.lan", 8765)),
        ("gpu.lan:9000", Address("http", "gpu.lan", 9000)),
        ("wss://gpu.lan/ws", Address("https", "gpu.lan", 443)),
        ("http://[::1]:80", Address("http", "::1", 80)),
        ("ws://gpu.lan?token=inside", Address("http", "gpu.lan", 8765, "inside")),
    ],
)
def test_an_address_is_read_as_people_write_it(url, address):
    assert Address.of(url) == address
    assert "inside" not in f"{address} {address!r}"


@pytest.mark.parametrize("url", ["ftp://x", "ws://", "ws://x:port", "ws://x:99999"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(UsageError):
        Address.of(url)


def test_a_blocked_loop_is_noticed_as_lag():
    async def story() -> list[float]:
        lags: list[float] = []
        watch = asyncio.create_task(watch_lag(lags.append, look_seconds=0.01))
        await holds(lambda: lags)
        before = len(lags)
        time.sleep(0.1)  # noqa: ASYNC251 - this is the fault
        await holds(lambda: len(lags) > before)
        watch.cancel()
        return lags[before:]

    assert max(asyncio.run(story())) >= 0.05

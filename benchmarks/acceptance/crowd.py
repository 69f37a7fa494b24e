"""2,000 peers that are merely there and 200 that talk; and one of 16 that stops reading.

Promises: an idle connection costs next to nothing, the loop stays prompt, nobody is dropped;
and one stalled reader among 16 costs the others at most 3 % of their tokens a second. The
engine is a scripted one, so that what is measured is the server.

    python -m benchmarks.acceptance.crowd [--quick] [--minutes 20] [crowd] [stalled]
"""

import asyncio
import contextlib
import json
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from benchmarks.acceptance.report import Outcome
from benchmarks.acceptance.serving import end
from benchmarks.acceptance.trials import Trial, conduct

IDLE, TALKING, WORDS, TALK_STEP_MS = 2000, 200, 100, 200.0
PEERS, ROUNDS, ROUND_SECONDS, STALL_STEP_MS, LONG = 16, 6, 7.0, 5.0, 8192
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
KEEPALIVE = 60.0
"""Seconds; the server pings every 20, and a client that answers needs no pings of its own."""


class ScriptedServer:
    """`scripted_server` as a process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        assert process.stdout is not None
        self.port = int(process.stdout.readline())

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def look(self) -> dict[str, Any]:
        """How it is; see `scripted_server`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        seen: dict[str, Any] = json.loads(self.process.stdout.readline())
        return seen


@contextlib.contextmanager
def scripted_server(
    step_ms: float = 5.0, limits: dict[str, Any] | None = None, prefix: tuple[str, ...] = (), **options: Any
) -> Iterator[ScriptedServer]:
    command = [*prefix, sys.executable, "-m", "benchmarks.acceptance.scripted_server", "--step-ms", str(step_ms)]
    command += ["--limits", json.dumps(limits or {})]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options) as process:
        try:
            yield ScriptedServer(process)
        finally:
            end(process)


def raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def join(url: str) -> ClientConnection:
    return await connect(
        url, compression=None, proxy=None, ping_interval=KEEPALIVE, ping_timeout=KEEPALIVE, open_timeout=60
    )


async def crowd_of(url: str, count: int) -> list[ClientConnection]:
    """So many connections, 50 at a time."""
    crowd: list[ClientConnection] = []
    while len(crowd) < count:
        crowd += await asyncio.gather(*(join(url) for _ in range(min(50, count - len(crowd)))))
    return crowd


async def is_there(one: ClientConnection) -> bool:
    """Whether it still gets an answer."""
    try:
        await one.send('{"type": "ping"}')
        async with asyncio.timeout(30):
            return bool(json.loads(await one.recv())["type"] == "pong")
    except Exception:
        return False


async def converse(one: ClientConnection, words: int, gaps: list[float]) -> bool:
    """Whether every word came, in order; `gaps` are the seconds between them."""
    await one.send(json.dumps({"type": "text_input", "content": f"say {words}", "id": "talk"}))
    heard, last = 0, 0.0
    while True:
        message = json.loads(await asyncio.wait_for(one.recv(), 60))
        now = time.monotonic()
        if message["type"] == "token":
            if message["seq"] != heard or not message["content"].startswith(f"{heard} "):
                return False
            if heard:
                gaps.append(now - last)
            heard, last = heard + 1, now
        elif message["type"] in ("response_complete", "error"):
            return message["type"] == "response_complete" and heard == words


async def gather_crowd(server: ScriptedServer, idle: int, talking: int, words: int) -> dict[str, Any]:
    warm = await crowd_of(server.url, 20)
    await asyncio.gather(*(is_there(one) for one in warm))
    await asyncio.gather(*(one.close() for one in warm))
    await asyncio.sleep(1)
    alone = server.look()
    began = time.monotonic()
    there = await crowd_of(server.url, idle)
    joined = time.monotonic() - began
    arriving = server.look()
    await asyncio.sleep(5)
    waiting = server.look()
    talkers = await crowd_of(server.url, talking)
    server.look()
    gaps: list[float] = []
    began = time.monotonic()
    heard_all = await asyncio.gather(*(converse(one, words, gaps) for one in talkers))
    seconds = time.monotonic() - began
    busy = server.look()
    still_there = await asyncio.gather(*(is_there(one) for one in (*there, *talkers)))
    await asyncio.gather(*(one.close() for one in (*there, *talkers)))
    await asyncio.sleep(2)
    after = server.look()
    late = sorted(gap - TALK_STEP_MS / 1000 for gap in gaps)
    return {
        "idle connections": idle,
        "memory of the server before, MB": alone["rss_mb"],
        "memory per idle connection, KB": round((waiting["rss_mb"] - alone["rss_mb"]) * 1000 / idle, 1),
        "connections accepted per second": round(idle / joined),
        "loop lag while they arrive, ms": arriving["lag_ms"],
        "loop lag while they wait, ms": waiting["lag_ms"],
        "connections that talk": talking,
        "words each, and words per second in all": [words, round(talking * words / seconds)],
        "loop lag while they talk, ms": busy["lag_ms"],
        "longest loop lag while they talk, ms": busy["lag_max_ms"],
        "server's share of one core while they talk": round(
            (busy["cpu_seconds"] - waiting["cpu_seconds"]) / seconds, 2
        ),
        "a word's delay at its peer beyond its pace, ms": {
            f"p{part}": round(1000 * late[len(late) * part // 100], 2) for part in (50, 99)
        },
        "talkers that got every word in order": f"{sum(heard_all)} of {talking}",
        "connections that answer at the end": f"{sum(still_there)} of {idle + talking}",
        "memory when all have left, MB": after["rss_mb"],
        "descriptors before and after": [alone["descriptors"], after["descriptors"]],
    }


def run(idle: int = IDLE, talking: int = TALKING, words: int = WORDS) -> Outcome:
    raise_descriptor_limit()
    limits = {"max_connections": idle + talking + 100}
    with scripted_server(TALK_STEP_MS, limits) as server:
        seen = asyncio.run(gather_crowd(server, idle, talking, words))
    kept = (
        seen["talkers that got every word in order"] == f"{talking} of {talking}"
        and seen["connections that answer at the end"] == f"{idle + talking} of {idle + talking}"
        and seen["descriptors before and after"][0] >= seen["descriptors before and after"][1] - 2
    )
    return Outcome(f"{idle:,} idle connections and {talking} talking ones", kept, seen)


# --- one that stops reading -----------------------------------------------------------


async def listen(url: str, until: float, wish: str) -> int:
    """How many tokens came until then."""
    heard = 0
    async with connect(url, compression=None, proxy=None) as one:
        await one.send(json.dumps({"type": "text_input", "content": wish, "id": "x"}))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(until - time.monotonic()):
                while True:
                    heard += json.loads(await one.recv())["type"] == "token"
        one.transport.abort()
    return heard


async def stop_reading(port: int, until: float, wish: str) -> None:
    """Ask, and never read."""
    loop = asyncio.get_running_loop()
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        await loop.sock_connect(deaf, ("127.0.0.1", port))
        await loop.sock_sendall(deaf, HANDSHAKE)
        await loop.sock_recv(deaf, 500)
        question = json.dumps({"type": "text_input", "content": wish, "id": "x"}).encode()
        assert len(question) < 126
        await loop.sock_sendall(deaf, bytes((0x81, 0x80 | len(question))) + bytes(4) + question)
        await asyncio.sleep(max(0.0, until - time.monotonic()))


async def one_round(server: ScriptedServer, is_stalled: bool, peers: int, seconds: float) -> float:
    """Tokens a second of each other peer."""
    until = time.monotonic() + seconds
    long = f"say 100000 {LONG}"
    last = stop_reading(server.port, until, long) if is_stalled else listen(server.url, until, long)
    *heard, _ = await asyncio.gather(*(listen(server.url, until, "say 100000") for _ in range(peers - 1)), last)
    return sum(heard) / len(heard) / seconds


async def compare(server: ScriptedServer, rounds: int, peers: int, seconds: float) -> dict[str, Any]:
    without: list[float] = []
    with_one: list[float] = []
    await one_round(server, False, peers, 1.0)
    for _ in range(rounds):
        without.append(await one_round(server, False, peers, seconds))
        with_one.append(await one_round(server, True, peers, seconds))
    before, after = statistics.median(without), statistics.median(with_one)
    return {
        "rounds of each kind, in turn": rounds,
        "seconds a round": seconds,
        "peers": peers,
        "tokens a second of each other peer, all reading": [round(each, 1) for each in without],
        "the same, one not reading": [round(each, 1) for each in with_one],
        "medians": [round(before, 1), round(after, 1)],
        "difference, %": round(100 * (after - before) / before, 2),
    }


def run_stalled(rounds: int = ROUNDS, peers: int = PEERS, seconds: float = ROUND_SECONDS) -> Outcome:
    with scripted_server(STALL_STEP_MS) as server:
        seen = asyncio.run(compare(server, rounds, peers, seconds))
    return Outcome(
        "one stalled reader among 16: the others' tokens a second stay within 3 %", seen["difference, %"] >= -3, seen
    )


TRIALS = (
    Trial(
        "crowd",
        f"{IDLE:,} idle connections and {TALKING} talking ones",
        lambda is_quick: run(200, 20, 20) if is_quick else run(),
    ),
    Trial(
        "stalled",
        "one stalled reader among 16",
        lambda is_quick: run_stalled(1, seconds=2.0) if is_quick else run_stalled(),
    ),
)


def main() -> int:
    return conduct("crowd", __doc__, TRIALS)[0]


if __name__ == "__main__":
    sys.exit(main())

"""Whatever hypothesis thinks of, sent to a live server: handshakes, frames, messages.

Promises: every handshake gets an answer of HTTP that is no 500, or the connection's end; no
frame is answered with 1011; after any messages the connection still answers; the server logs
nothing, and lives. In between, an innocent connection is served.

    python -m benchmarks.acceptance.fuzz [--quick] [--minutes 20] [handshakes] [frames] [messages]
"""

import contextlib
import json
import socket
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from websockets.sync.client import connect

from benchmarks.acceptance.crowd import HANDSHAKE, ScriptedServer, scripted_server
from benchmarks.acceptance.report import Outcome
from benchmarks.acceptance.trials import Trial, conduct

HANDSHAKES, FRAMES, MESSAGES = 2000, 5000, 5000
FRAMES_EACH, MESSAGES_EACH = 10, 20
QUICK_PART = 0.05
INNOCENT_EVERY = 50
PATIENCE = 20.0

PROPER_STATUSES = frozenset(b"101 200 400 401 403 404 405 414 421 426 429 431 501 503".split())
PROPER_CLOSES = frozenset({1000, 1001, 1002, 1003, 1005, 1007, 1008, 1009})


class Broken(AssertionError):
    """The server did what it must not."""


# --- handshakes -----------------------------------------------------------------------

LINES = (
    b"GET / HTTP/1.1", b"Host: 127.0.0.1", b"Upgrade: websocket", b"Connection: Upgrade",
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", b"Sec-WebSocket-Version: 13",
)  # fmt: skip
OTHER_LINES = (
    b"GET /ws HTTP/1.1", b"GET /%00%ff?a=%zz HTTP/1.1", b"GET http://evil.example/ HTTP/1.1", b"POST / HTTP/1.1",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1", b"GET / HTTP/1.0", b"GET / HTTP/9.9", b"OPTIONS * HTTP/1.1", b"GET",
    b"Host: evil.example", b"Host: [::1", b"Host:", b"Origin: null", b"Origin: http://evil.example", b"Origin: \xff",
    b"Upgrade: h2c", b"Connection: keep-alive, Upgrade", b"Content-Length: 5", b"Content-Length: -1",
    b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"Sec-WebSocket-Key: x", b"Sec-WebSocket-Version: 99",
    b"Sec-WebSocket-Protocol: mlx-websockets.v2.json", b"Sec-WebSocket-Protocol: ,,\x7f", b"Authorization: Bearer \xe9",
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=99", b"Cookie: " + b"c" * 9000,
    b" folded: line", b"no colon", b"X: \x00", b"X-Forwarded-For: 1.2.3.4", b"Sec-WebSocket-Protocol: \xc3\xa9",
)  # fmt: skip


@st.composite
def handshakes(draw: st.DrawFn) -> bytes:
    """A sound handshake with lines dropped, doubled or strange ones put in, and bytes spoiled."""
    lines = list(LINES)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(lines)))
        match draw(st.integers(0, 3)):
            case 0:
                lines.insert(at, draw(st.sampled_from(OTHER_LINES) | st.binary(max_size=60)))
            case 1 if lines and at < len(lines):
                lines[at] = draw(st.sampled_from(OTHER_LINES) | st.binary(max_size=60))
            case 2 if lines and at < len(lines):
                lines.insert(at, lines[at])
            case 3 if lines and at < len(lines):
                del lines[at]
    whole = bytearray(draw(st.sampled_from((b"\r\n", b"\r\n", b"\n"))).join([*lines, b"", b""]))
    for _ in range(draw(st.integers(0, 3))):
        if whole:
            whole[draw(st.integers(0, len(whole) - 1))] = draw(st.integers(0, 255))
    return bytes(whole[: draw(st.integers(0, len(whole)))]) if draw(st.booleans()) else bytes(whole)


def exchange(port: int, *sent: bytes) -> bytes:
    """What a peer gets that sends this and nothing more; it waits for a word between one piece and the next."""
    got = b""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as peer, _until_reset():
        for piece in sent[:-1]:
            peer.sendall(piece)
            got += peer.recv(65536)
        peer.sendall(sent[-1])
        peer.shutdown(socket.SHUT_WR)
        while piece := peer.recv(65536):
            got += piece
    return got


@contextlib.contextmanager
def _until_reset() -> Iterator[None]:
    """The server may end it at any time; it may not keep a peer waiting that has said all."""
    try:
        yield
    except TimeoutError:
        raise Broken("the server neither answered nor closed") from None
    except OSError:
        pass


def check_handshake(port: int, sent: bytes, seen: Counter[str]) -> None:
    got = exchange(port, sent)
    status = got[9:12]
    if got and not (got.startswith(b"HTTP/1.1 ") and status in PROPER_STATUSES):
        raise Broken(f"{sent!r} was answered with {got[:200]!r}")
    seen[status.decode() or "closed"] += 1


# --- frames ---------------------------------------------------------------------------


def frame(payload: bytes, first: int = 0x81, *, masked: bool = True, claimed: int | None = None) -> bytes:
    """A frame as a client sends it, masked with zeros; `claimed` is the length that it tells."""
    length = len(payload) if claimed is None else claimed
    mask = 0x80 if masked else 0
    if length < 126:
        head = bytes((first, mask | length))
    elif length < 65536:
        head = bytes((first, mask | 126)) + struct.pack("!H", length)
    else:
        head = bytes((first, mask | 127)) + struct.pack("!Q", length)
    return head + bytes(4 * masked) + payload


PAYLOADS = st.binary(max_size=140) | st.sampled_from(
    (b'{"type": "ping"}', b'{"type": "text_input", "content": "say 1"}', b"\xff\xfe", b"\x03\xe8", b"\x03\xe8bye",
     b"\x03\xef\xff", b"\x00\x00", b"a" * 5000, b"")
)  # fmt: skip


@st.composite
def one_frame(draw: st.DrawFn) -> bytes:
    sound = st.sampled_from((0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x88, 0x89, 0x8A))
    claims = st.none() | st.none() | st.sampled_from((0, 1, 125, 126, 65536, 2**31, 2**63, 2**64 - 1))
    return frame(
        draw(PAYLOADS),
        draw(sound | sound | st.integers(0, 255)),
        masked=draw(st.integers(0, 9)) > 0,
        claimed=draw(claims),
    )


def check_frames(port: int, frames: list[bytes], seen: Counter[str]) -> None:
    answer = exchange(port, HANDSHAKE, b"".join(frames)).partition(b"\r\n\r\n")[2]
    code = close_code(answer)
    if code is not None and code not in PROPER_CLOSES:
        raise Broken(f"{frames!r} was answered with the close code {code}")
    seen[f"close {code}" if code is not None else "closed without a word"] += 1


def close_code(answer: bytes) -> int | None:
    """Of the last close frame among the server's frames."""
    code = None
    while len(answer) >= 2:
        length, start = answer[1] & 127, 2
        if length >= 126:
            start += 2 if length == 126 else 8
            length = int.from_bytes(answer[2:start], "big")
        payload = answer[start : start + length]
        if answer[0] & 15 == 8:
            code = int.from_bytes(payload[:2], "big") if len(payload) > 1 else 1005
        answer = answer[start + length :]
    return code


# --- messages -------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
SOUND: tuple[dict[str, Any], ...] = (
    {"type": "text_input", "content": "say 2", "id": "q", "config": {"temperature": 0.5}},
    {"type": "image_input", "image": "aGk=", "prompt": "p", "id": "i"},
    {"type": "video_frame", "frame": "aGk=", "frame_id": 1, "ts": 1.5},
    {"type": "screen_frame", "frame": "R0lGODdhAQABAIAAAP///////ywAAAAAAQABAAACAkQBADs="},
    {"type": "config", "temperature": 0.5, "topK": 3, "seed": None},
    {"type": "get_status"},
    {"type": "cancel", "id": "q"},
)


@st.composite
def messages(draw: st.DrawFn) -> str | bytes:
    message: dict[str, Any] = dict(draw(st.sampled_from(SOUND)))
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(sorted(message)) | st.text(max_size=8))
        message[name] = draw(JSON)
    text = json.dumps(message)
    match draw(st.integers(0, 4)):
        case 0:
            return draw(st.binary(max_size=200))
        case 1:
            return text[: draw(st.integers(0, len(text)))]
        case 2:
            return draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=100))
    return text


def check_messages(port: int, sent: list[str | bytes], seen: Counter[str]) -> None:
    """Send them all, then see whether the connection still answers."""
    with connect(f"ws://127.0.0.1:{port}", compression=None, proxy=None, max_queue=None) as peer:
        for each in sent:
            peer.send(each)
        peer.send('{"type": "ping", "t": "the end of it"}')
        while True:
            message = json.loads(peer.recv(PATIENCE))
            if message["type"] == "pong" and message.get("t") == "the end of it":
                return
            if message.get("code") == "internal_error":
                raise Broken(f"{sent!r} was answered with {message!r}")
            seen[message["type"]] += 1


# --- all of it ------------------------------------------------------------------------


def fuzz(server: ScriptedServer, what: "Kind", count: int) -> dict[str, int]:
    """Send so many; tells what came back.

    Raises:
        Broken: the server did what it must not; hypothesis has looked for the smallest such input.
    """
    seen: Counter[str] = Counter()
    tried = 0

    @settings(
        max_examples=-(-count // what.each),
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(what.inputs)
    def send(sent: Any) -> None:
        nonlocal tried
        tried += 1
        what.check(server.port, sent, seen)
        if tried % INNOCENT_EVERY == 0:
            check_messages(server.port, [], Counter())

    send()
    seen["sent"] = tried * what.each
    return dict(sorted(seen.items()))


class Kind:
    """What is sent. `each`: how many in one connection."""

    def __init__(self, inputs: Any, check: Callable[[int, Any, Counter[str]], None], each: int = 1) -> None:
        self.inputs = inputs
        self.check = check
        self.each = each


KINDS: dict[str, tuple[Kind, int]] = {
    "handshakes": (Kind(handshakes(), check_handshake), HANDSHAKES),
    "frames": (
        Kind(st.lists(one_frame(), min_size=FRAMES_EACH, max_size=FRAMES_EACH), check_frames, FRAMES_EACH), FRAMES
    ),
    "messages": (
        Kind(st.lists(messages(), min_size=MESSAGES_EACH, max_size=MESSAGES_EACH), check_messages, MESSAGES_EACH),
        MESSAGES,
    ),
}  # fmt: skip


@contextlib.contextmanager
def watched_server() -> Iterator[tuple[ScriptedServer, Callable[[], str]]]:
    """A server, and a way to read what it has logged."""
    with tempfile.TemporaryFile("w+") as log, scripted_server(1.0, stderr=log) as server:

        def logged() -> str:
            log.seek(0)
            return log.read()

        yield server, logged


def run(name: str, part: float = 1.0) -> Outcome:
    """Fuzz with one of `KINDS`, or with a part of its number."""
    kind, count = KINDS[name]
    count = round(part * count)
    with watched_server() as (server, logged):
        before = server.look()
        try:
            came = fuzz(server, kind, count)
        except Broken as broken:
            return Outcome(f"{count:,} fuzzed {name}", False, {"broken": str(broken)[:500]})
        after = server.look()
        said = logged()
    seen = {
        "what came back": came,
        "lines logged": len(said.splitlines()),
        "memory before and after, MB": [before["rss_mb"], after["rss_mb"]],
        "descriptors before and after": [before["descriptors"], after["descriptors"]],
    }
    return Outcome(f"{came['sent']:,} fuzzed {name}", not said, seen)


def _trial(name: str) -> Trial:
    return Trial(name, f"{KINDS[name][1]:,} fuzzed {name}", lambda is_quick: run(name, QUICK_PART if is_quick else 1.0))


def main() -> int:
    return conduct("fuzz", __doc__, [_trial(name) for name in KINDS])[0]


if __name__ == "__main__":
    sys.exit(main())

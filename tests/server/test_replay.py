"""What was sent of late: whoever says what has arrived is sent exactly the rest, or told that it can't be."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from mlx_websockets.events import Pong, ReplyDelta, TurnLabel
from mlx_websockets.server.limits import Limits
from mlx_websockets.server.outbox import Outbox, PeerGone
from mlx_websockets.server.replay import Replay

messages = st.lists(st.text(alphabet="abc", min_size=1, max_size=8), max_size=40)


def replay(max_messages: int = 100, max_bytes: int = 10_000, keep_seconds: float = 60.0) -> Replay:
    return Replay(max_messages=max_messages, max_bytes=max_bytes, keep_seconds=keep_seconds)


@given(messages, st.data())
def test_what_arrived_and_what_is_sent_again_make_the_whole(said, data):
    kept = replay()
    for message in said:
        kept.note(message, 0.0)
    arrived = data.draw(st.integers(0, len(said)))

    again = kept.after(arrived, 1.0)

    assert said[:arrived] + again == said


@given(messages, st.integers(1, 5), st.integers(1, 30), st.integers(0, 45))
def test_within_its_bounds_it_sends_the_rest_or_nothing_at_all(said, max_messages, max_bytes, arrived):
    kept = replay(max_messages, max_bytes)
    for message in said:
        kept.note(message, 0.0)

    again = kept.after(arrived, 0.0)

    if again is None:
        lost = len(said) - arrived
        assert lost < 0 or lost > max_messages or sum(map(len, said[arrived:])) > max_bytes
    else:
        assert said[arrived:] == again


@given(messages, messages, st.data())
def test_a_second_break_is_no_different_from_the_first(first, second, data):
    kept = replay()
    got: list[str] = []
    for said in (first, second, []):
        for message in said:
            kept.note(message, 0.0)
        again = kept.after(len(got), 0.0)
        got += again[: data.draw(st.integers(0, len(again)))]

    assert got + kept.after(len(got), 0.0) == first + second


def test_what_must_have_arrived_is_let_go_unless_it_was_sent_anew():
    kept = replay(keep_seconds=60.0)
    kept.note("old", 0.0)
    kept.note("anew", 0.0)
    assert kept.after(1, 50.0) == ["anew"]
    kept.note("young", 100.0)

    assert kept.after(0, 100.0) is None
    assert kept.after(1, 100.0) == ["anew", "young"]


class Peer:
    """Takes so many messages and then is gone."""

    def __init__(self, takes: int) -> None:
        self.got: list[str] = []
        self.takes = takes

    async def send(self, message: str | bytes) -> None:
        if len(self.got) >= self.takes:
            raise PeerGone
        self.got.append(str(message))
        await asyncio.sleep(0)


def _shown(event):
    yield event.text if isinstance(event, ReplyDelta) else event.t


steps = st.lists(st.one_of(st.sampled_from("ab"), st.just("!"), st.integers(0, 3)), max_size=30)


@given(steps, st.lists(st.integers(0, 6), max_size=4))
def test_an_outbox_that_changes_sockets_loses_and_doubles_nothing(said, lives):
    """Deltas of two turns, other messages, turns of the loop, and sockets that break after so many messages."""
    turns = {"a": TurnLabel(id="a"), "b": TurnLabel(id="b")}

    async def story() -> tuple[str, str]:
        kept = replay()
        outbox = Outbox(_shown, on_stalled=lambda: None, limits=Limits(), replay=kept)
        got: list[str] = []
        expected = ""
        peers = iter([*(Peer(takes) for takes in lives), Peer(10_000)])
        peer = next(peers)
        writer = asyncio.create_task(outbox.deliver(peer.send))

        async def come_back() -> None:
            nonlocal peer, writer
            await writer
            got.extend(peer.got)
            outbox.pause()
            again = kept.after(len(got), 0.0)
            peer = next(peers)
            writer = asyncio.create_task(outbox.deliver(peer.send, again))

        for number, step in enumerate(said):
            if isinstance(step, int):
                for _ in range(step):
                    await asyncio.sleep(0)
                if writer.done():
                    await come_back()
            else:
                text = f"<{step}{number}>"
                expected += text
                outbox.put(ReplyDelta(turns[step], text, number) if step in turns else Pong(text))
        while not await _is_flushed(outbox, writer):
            await come_back()
        writer.cancel()
        return "".join(got + peer.got), expected

    heard, expected = asyncio.run(story())

    assert sorted(heard.split(">")) == sorted(expected.split(">"))
    for of_turn in "ab!":
        assert _only(heard, of_turn) == _only(expected, of_turn)


async def _is_flushed(outbox: Outbox, writer: "asyncio.Task[None]") -> bool:
    flushed = asyncio.create_task(outbox.flush(5))
    await asyncio.wait({flushed, writer}, return_when=asyncio.FIRST_COMPLETED)
    is_whole = flushed.done() and flushed.result() and not writer.done()
    flushed.cancel()
    return is_whole


def _only(text: str, mark: str) -> list[str]:
    return [piece for piece in text.split(">") if piece.startswith(f"<{mark}")]

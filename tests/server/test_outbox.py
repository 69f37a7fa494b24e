"""What a peer is still owed: order, merging, bounds, and the end of patience."""

import asyncio

import pytest

from mlx_websockets.events import Pong, Problem, ReplyDelta, ReplyFinished, ReplyStarted, TurnLabel
from mlx_websockets.generation import Timings, TokenLogprob, Usage
from mlx_websockets.server.limits import Limits
from mlx_websockets.server.outbox import Outbox, PeerGone


class Wire:
    """A peer that reads while `reads` is set; what it got, and how the outbox judged it."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.verdicts: list[str] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.is_gone = False

    async def send(self, message: str | bytes) -> None:
        await self.reads.wait()
        if self.is_gone:
            raise PeerGone
        self.got.append(str(message))

    def outbox(self, **limits) -> Outbox:
        return Outbox(
            shown,
            on_stalled=lambda: self.verdicts.append("stalled"),
            limits=Limits(**limits),
        )


def shown(event):
    match event:
        case ReplyDelta(turn, text, seq):
            yield f"{turn.id}{seq}:{text}"
        case ReplyStarted(turn):
            yield f"{turn.id} starts"
        case ReplyFinished(turn=turn):
            yield f"{turn.id} ends"
        case Problem(message=message):
            yield message
        case Pong(t):
            yield t


def finished(turn):
    return ReplyFinished(
        turn=turn, text="", reason="stop", usage=Usage(), timings=Timings(), seconds=0, queue_ms=0, image_ms=0
    )


A, B = TurnLabel(id="a"), TurnLabel(id="b")


def told(story):
    """Run a story with a wire; the writer runs beside it."""

    async def act():
        wire = Wire()
        await story(wire)

    asyncio.run(act())


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_healthy_peer_gets_every_delta_by_itself_and_in_order():
    async def story(wire):
        outbox = wire.outbox()
        writer = asyncio.create_task(outbox.deliver(wire.send))

        for event in (ReplyStarted(A, "m", 0), ReplyDelta(A, "x", 0), ReplyDelta(A, "y", 1), finished(A)):
            outbox.put(event)

        assert await outbox.flush(1)
        assert wire.got == ["a starts", "a0:x", "a1:y", "a ends"]
        writer.cancel()

    told(story)


def test_behind_a_slow_peer_deltas_merge_and_their_numbers_have_no_gap():
    async def story(wire):
        outbox = wire.outbox()
        writer = asyncio.create_task(outbox.deliver(wire.send))
        wire.reads.clear()
        outbox.put(ReplyDelta(A, "0", 0))
        await settle()  # the first is on its way now

        for seq in range(1, 5):
            outbox.put(ReplyDelta(A, str(seq), seq))
            outbox.put(ReplyDelta(B, "-", seq - 1))
        wire.reads.set()
        assert await outbox.flush(1)
        outbox.put(ReplyDelta(A, "5", 5))
        outbox.put(finished(A))

        assert await outbox.flush(1)
        assert wire.got == ["a0:0", "a1:1234", "b0:----", "a2:5", "a ends"]
        writer.cancel()

    told(story)


def test_behind_a_slow_peer_each_candidate_merges_with_itself_and_loses_no_logprob():
    async def story(wire):
        got = []
        outbox = Outbox(lambda event: got.append(event) or "-", on_stalled=lambda: None)
        writer = asyncio.create_task(outbox.deliver(wire.send))
        wire.reads.clear()
        outbox.put(ReplyDelta(A, "x", 0, 0))
        await settle()  # the first is on its way now

        for seq in range(1, 7):
            outbox.put(ReplyDelta(A, str(seq), seq, seq % 2, (TokenLogprob(str(seq), -0.5),)))
        wire.reads.set()
        assert await outbox.flush(1)
        outbox.put(ReplyDelta(A, "y", 7, 0))
        assert await outbox.flush(1)

        assert [(each.candidate, each.text, each.seq) for each in got] == [
            (0, "x", 0), (1, "135", 1), (0, "246", 2), (0, "y", 3),
        ]  # fmt: skip
        assert ["".join(token.text for token in each.logprobs) for each in got] == ["", "135", "246", ""]
        writer.cancel()

    told(story)


def test_logprobs_count_for_what_a_peer_may_be_owed():
    async def story(wire):
        outbox = wire.outbox(max_owed_bytes=1000)
        writer = asyncio.create_task(outbox.deliver(wire.send))
        wire.reads.clear()
        outbox.put(Pong("on its way"))
        await settle()

        for seq in range(10):
            outbox.put(ReplyDelta(A, "", seq, None, (TokenLogprob("x", -0.5, (("y", -1.0),) * 2),)))

        assert wire.verdicts == ["stalled"]
        writer.cancel()

    told(story)


def test_many_deltas_at_once_merge_instead_of_stalling_a_peer_that_reads():
    async def story():
        wire = Wire()
        outbox = wire.outbox()
        writer = asyncio.create_task(outbox.deliver(wire.send))
        for seq in range(5000):
            outbox.put(ReplyDelta(A, "x", seq))
        assert await outbox.flush(5)
        writer.cancel()
        return wire

    wire = asyncio.run(story())

    assert wire.verdicts == []
    assert sum(message.count("x") for message in wire.got) == 5000
    assert [int(message.split(":")[0][1:]) for message in wire.got] == list(range(len(wire.got)))


def test_a_stalled_peer_leaves_its_writer_waiting_not_failing():
    async def story():
        wire = Wire()
        wire.reads.clear()
        outbox = wire.outbox(max_owed_messages=3)
        writer = asyncio.create_task(outbox.deliver(wire.send))
        for number in range(5):
            outbox.put(Pong(str(number)))
        wire.reads.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        return wire, writer

    wire, writer = asyncio.run(story())

    assert wire.verdicts == ["stalled"]
    assert writer.cancelled()


def test_no_delta_passes_another_event_of_its_turn():
    async def story(wire):
        outbox = wire.outbox()
        writer = asyncio.create_task(outbox.deliver(wire.send))
        first, second = TurnLabel(), TurnLabel()  # a peer that gives no ids
        wire.reads.clear()
        outbox.put(Pong("…"))
        await settle()

        for event in (
            ReplyDelta(first, "one", 0),
            finished(first),
            ReplyStarted(second, "m", 0),
            ReplyDelta(second, "two", 0),
        ):
            outbox.put(event)
        wire.reads.set()

        assert await outbox.flush(1)
        assert wire.got == ["…", "None0:one", "None ends", "None starts", "None0:two"]
        writer.cancel()

    told(story)


def test_a_problem_that_ends_no_turn_does_not_disturb_the_numbers():
    async def story(wire):
        outbox = wire.outbox()
        writer = asyncio.create_task(outbox.deliver(wire.send))
        wire.reads.clear()
        turn = TurnLabel()
        for seq in range(3):
            outbox.put(ReplyDelta(turn, str(seq), seq))
            await settle()
        outbox.put(Problem(message="what?", code="unknown_type", turn=TurnLabel()))
        wire.reads.set()
        assert await outbox.flush(1)
        outbox.put(ReplyDelta(turn, "3", 3))

        assert await outbox.flush(1)
        assert wire.got == ["None0:0", "None1:12", "what?", "None2:3"]
        writer.cancel()

    told(story)


def test_a_peer_that_takes_too_long_over_one_message_is_stalled():
    async def story(wire):
        outbox = wire.outbox(send_seconds=0.02)
        wire.reads.clear()
        outbox.put(Pong("hello"))

        await asyncio.wait_for(outbox.deliver(wire.send), 5)

        assert wire.verdicts == ["stalled"]
        assert not await outbox.flush(1)

    told(story)


@pytest.mark.parametrize(
    ("limits", "event"),
    [
        ({"max_owed_messages": 5}, Pong("x")),
        ({"max_owed_bytes": 100}, Pong("x" * 30)),
        ({"max_owed_bytes": 100}, "delta"),
    ],
)
def test_a_peer_that_is_owed_too_much_is_stalled_and_holds_no_memory(limits, event):
    async def story(wire):
        outbox = wire.outbox(**limits)
        writer = asyncio.create_task(outbox.deliver(wire.send))
        wire.reads.clear()
        outbox.put(Pong("first"))
        await settle()
        outbox.put(Pong("second"))

        for seq in range(20):
            outbox.put(ReplyDelta(A, "x" * 10, seq) if event == "delta" else event)

        assert wire.verdicts == ["stalled"]
        assert not outbox._entries
        writer.cancel()

    told(story)


def test_one_message_may_be_larger_than_the_bound():
    async def story(wire):
        outbox = wire.outbox(max_owed_bytes=10)
        writer = asyncio.create_task(outbox.deliver(wire.send))

        outbox.put(Pong("x" * 1000))

        assert await outbox.flush(1)
        assert wire.verdicts == []
        writer.cancel()

    told(story)


def test_a_peer_that_is_gone_is_owed_nothing():
    async def story(wire):
        outbox = wire.outbox()
        wire.is_gone = True
        outbox.put(Pong("hello"))

        await asyncio.wait_for(outbox.deliver(wire.send), 5)
        outbox.put(Pong("anybody?"))

        assert outbox.is_closed and (wire.verdicts, wire.got) == ([], [])
        assert not await outbox.flush(1)

    told(story)


def test_flushing_a_slow_peer_ends_in_time():
    async def story(wire):
        outbox = wire.outbox()
        writer = asyncio.create_task(outbox.deliver(wire.send))
        wire.reads.clear()
        outbox.put(Pong("hello"))
        await settle()

        assert not await outbox.flush(0.01)
        writer.cancel()

    told(story)

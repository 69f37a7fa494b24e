"""Whatever peers, engine and clock do, and in whatever order, a session keeps its rules.

Hypothesis plays all three against one session. Beside it runs a model of what is owed: a
`Record` of each request, which changes only by what the session says and does.
"""

import itertools
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mlx_websockets.errors import InvalidImage
from mlx_websockets.events import (
    Ask,
    ConfigUpdated,
    Configure,
    EncodedImage,
    FrameDropped,
    FrameInput,
    Interrupt,
    Problem,
    ReplyDelta,
    ReplyFinished,
    ReplyStarted,
    ServerEvent,
    TurnLabel,
    Unreadable,
)
from mlx_websockets.generation import Delta, Failed, Finished, Started, Update
from mlx_websockets.sampling import Sampling
from mlx_websockets.sessions.session import MAX_ROWS, Action, Cancel, Send, Session, Submit

MAX_WAITING = 10
REPLY_SECONDS = 60.0
WAITING_SECONDS = 100.0
PICTURE = EncodedImage("aGVsbG8=")

ids = st.sampled_from([None, None, "a", "b", "c", "d"])
sources = st.sampled_from(["webcam", "screen", "door"])


@dataclass
class Record:
    """A request as its peer knows it. `name` is its text, and in the label of everything about it."""

    name: str
    ask: Ask
    policy: str = ""  # of a frame
    state: str = "offered"  # then waiting, running, over; or refused
    turn: int = 0
    offered_at: float = 0.0
    submitted_at: float = 0.0
    has_begun: bool = False
    said: list[str] = field(default_factory=list)

    @property
    def lanes(self) -> set[str]:
        named = {
            "anonymous": self.ask.id is None,
            f"source {self.ask.source}": bool(self.policy),
            "conversation": self.ask.history,
        }
        return {lane for lane, is_in_it in named.items() if is_in_it}


class PeerEngineAndClock(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.session = Session(
            Sampling(),
            itertools.count(1),
            max_waiting=MAX_WAITING,
            reply_seconds=REPLY_SECONDS,
            waiting_seconds=WAITING_SECONDS,
        )
        self.now = 0.0
        self.records: dict[str, Record] = {}
        self.engine: dict[int, Record] = {}  # what runs there; it forgets what ends or is cancelled
        self.talk: list[tuple[str, str]] = []  # the conversation as it should be remembered
        self.is_drained = False
        self.names = (f"request {number}" for number in itertools.count())

    # --- the peer -----------------------------------------------------------------------

    @rule(id=ids, history=st.booleans(), sees=st.booleans(), is_sound=st.integers(0, 5))
    def asks(self, id: str | None, history: bool, sees: bool, is_sound: int) -> None:
        images = (PICTURE,) if sees else ()
        name = next(self.names)
        self.offer(Ask(text=name, source=name, id=id, history=history, images=images, changes=changes(is_sound > 0)))

    @rule(count=st.integers(2, 2 * MAX_WAITING))
    def asks_much_at_once(self, count: int) -> None:
        for _ in range(count):
            name = next(self.names)
            self.offer(Ask(text=name, source=name, id=name))

    @rule(source=sources, id=ids, policy=st.sampled_from(["latest", "latest", "queue"]), is_sound=st.integers(0, 5))
    def shows_a_frame(self, source: str, id: str | None, policy: str, is_sound: int) -> None:
        ask = Ask(text=next(self.names), source=source, id=id, images=(PICTURE,), changes=changes(is_sound > 0))
        self.offer(ask, policy)

    def offer(self, ask: Ask, policy: str = "") -> None:
        record = self.records[ask.text] = Record(ask.text, ask, policy, offered_at=self.now)
        ids_before = self.ids_alive()
        event = FrameInput(ask=ask, frame_id=ask.text, policy=policy) if policy else ask  # type: ignore[arg-type]
        actions = self.perform(self.session.receive(event, self.now))
        if ask.id in ids_before:
            assert [problem.code for problem in problems(actions)] == ["duplicate_id"]
            record.state = "refused"
        elif record.state == "offered":
            assert not self.is_drained
            record.state = "waiting"

    @rule(is_sound=st.booleans(), id=ids)
    def configures(self, is_sound: bool, id: str | None) -> None:
        before = self.session.sampling
        event = Configure(changes={"max_tokens": 9, **changes(is_sound)}, names={}, sent={"it": "as sent"}, id=id)

        (action,) = self.perform(self.session.receive(event, self.now))

        assert isinstance(action, Send)
        assert isinstance(action.event, ConfigUpdated if is_sound else Problem)
        assert self.session.sampling == (before.merged_with(event.changes) if is_sound else before)

    @rule(id=ids)
    def says_nonsense(self, id: str | None) -> None:
        assert len(self.perform(self.session.receive(Unreadable(reason="What?", id=id), self.now))) == 1

    @rule(event=st.builds(Interrupt, id=ids) | st.builds(Interrupt, source=sources))
    def cancels(self, event: Interrupt) -> None:
        meant = [
            record
            for record in self.alive()
            if (event.id is None or record.ask.id == event.id)
            and (event.source is None or record.ask.source == event.source)
        ]

        actions = self.perform(self.session.receive(event, self.now))

        assert all(record.state == "over" for record in meant)
        if not meant:
            assert [problem.code for problem in problems(actions)] == ["not_active"]

    # --- the engine ---------------------------------------------------------------------

    @rule(count=st.sampled_from([1, 2, MAX_ROWS]))
    def has_room(self, count: int) -> None:
        for _ in range(count):
            if (turn := self.session.next_turn()) is not None:
                self.perform(self.session.start(turn.number, self.now))

    @precondition(lambda self: self.engine)
    @rule(data=st.data(), what=st.sampled_from(["delta", "delta", "finished", "failed"]))
    def works(self, data: st.DataObject, what: str) -> None:
        turn, record = data.draw(st.sampled_from(sorted(self.engine.items(), key=lambda item: item[0])))
        if what != "failed" and not record.has_begun:
            self.update(Started(turn))
        match what:
            case "delta":
                self.update(Delta(turn, "well "))
            case "finished":
                self.update(Finished(turn, data.draw(st.sampled_from(["stop", "length"]))))
            case "failed":
                self.update(Failed(turn, "engine_restarted", "It died.", True))

    def update(self, update: Update) -> None:
        record = self.engine[update.id]
        if isinstance(update, Finished | Failed):
            del self.engine[update.id]
        actions = self.perform(self.session.update(update, self.now, "a model"))
        assert len(actions) == 1
        assert (record.state == "over") == isinstance(update, Finished | Failed)

    @precondition(lambda self: self.with_closed_pictures())
    @rule(data=st.data())
    def cannot_open_a_picture(self, data: st.DataObject) -> None:
        record = data.draw(st.sampled_from(self.with_closed_pictures()))
        del self.engine[record.turn]
        actions = self.perform(self.session.pictures_failed(record.turn, InvalidImage("Truncated.")))
        assert len(actions) == 1
        assert record.state == "over"

    @rule(data=st.data())
    def says_late_words(self, data: st.DataObject) -> None:
        gone = {record.turn for record in self.records.values() if record.state == "over"} | {0, 10**6}
        turn = data.draw(st.sampled_from(sorted(gone)))
        for late in (Started(turn), Delta(turn, "late"), Finished(turn, "stop"), Failed(turn, "x", "x")):
            assert self.session.update(late, self.now) == []
        assert self.session.pictures_failed(turn, InvalidImage("late")) == []

    # --- the clock ----------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 20.0, 60.0]), is_watched=st.booleans())
    def passes(self, seconds: float, is_watched: bool) -> None:
        self.now += seconds
        if is_watched:
            late = [record for record in self.alive() if self.deadline(record) <= self.now]
            others = len(self.alive()) - len(late)
            self.perform(self.session.tick(self.now))
            assert all(record.state == "over" for record in late)
            assert len(self.alive()) == others

    def deadline(self, record: Record) -> float:
        running = record.state == "running"
        return record.submitted_at + REPLY_SECONDS if running else record.offered_at + WAITING_SECONDS

    @precondition(lambda self: len(self.records) > 25)
    @rule(is_told=st.booleans())
    def closes(self, is_told: bool) -> None:
        alive = self.alive()
        actions = self.session.close(self.now, code="restarting" if is_told else "", reason="Soon back.")
        assert len(problems(actions)) == (len(alive) if is_told else 0)
        if not is_told:  # nobody is there to be told, so the model learns of it here
            for record in alive:
                record.state = "over"
        self.perform(actions)

    @precondition(lambda self: len(self.records) > 25)
    @rule()
    def drains(self) -> None:
        waiting = self.in_state("waiting")
        actions = self.perform(self.session.drain("shutting_down", "Over soon."))
        assert len(actions) == len(waiting)
        assert {record.state for record in waiting} <= {"over"}
        self.is_drained = True

    def teardown(self) -> None:
        self.perform(self.session.close(self.now, code="over", reason="Over."))
        assert {record.state for record in self.records.values()} <= {"over", "refused"}
        assert not self.engine

    # --- what the session does, and may do ----------------------------------------------

    def perform(self, actions: list[Action]) -> list[Action]:
        for action in actions:
            match action:
                case Send(event):
                    self.hear(event)
                case Submit():
                    self.submit(action)
                case Cancel(turn):
                    del self.engine[turn]  # only what runs may be cancelled, and once
        return actions

    def hear(self, event: ServerEvent) -> None:
        match event:
            case ReplyStarted(turn=label):
                record = self.running(label)
                assert not record.has_begun
                record.has_begun = True
            case ReplyDelta(turn=label, text=text, seq=seq):
                record = self.running(label)
                assert record.has_begun
                assert seq == len(record.said)
                record.said.append(text)
            case ReplyFinished(turn=label):
                record = self.end(label)
                assert event.text == "".join(record.said)
                if record.ask.history and event.text:
                    self.talk.append((record.name, event.text))
            case FrameDropped(turn=label, reason=reason):
                self.end(label)
                assert label.is_frame
                assert reason in ("superseded", "processing_queue_full", "decode_error", "expired")
            case Problem(turn=label) if label_name(label) in self.records:
                self.end(label)
            case Problem(turn=label):
                assert label.id is None or label.id not in self.ids_alive()

    def running(self, label: TurnLabel) -> Record:
        record = self.records[label_name(label)]
        assert (record.state, record.ask.id) == ("running", label.id)
        return record

    def end(self, label: TurnLabel) -> Record:
        """Mark a request's one end: of an accepted one its terminal event, of another its refusal."""
        record = self.records[label_name(label)]
        assert record.state in ("offered", "waiting", "running")
        assert record.ask.id == label.id
        assert record.turn not in self.engine, "the engine goes on with a turn that is over"
        record.state = "refused" if record.state == "offered" else "over"
        return record

    def submit(self, action: Submit) -> None:
        record = self.records[action.messages[-1].text]
        assert record.state == "waiting"
        if record.policy == "latest":
            taken = [each.name for each in self.records.values() if each.state != "refused" and each.policy]
            same_source = [name for name in taken if self.records[name].ask.source == record.ask.source]
            assert same_source[-1] == record.name, "a frame was looked at though a newer one was there"
        assert record in self.startable, "it overtook one that came earlier"
        past = self.talk[-32:] if record.ask.history else []
        expected = [text for exchange in past for text in exchange]
        assert [message.text for message in action.messages] == [*expected, record.name]
        assert action.droppable == 2 * len(past)
        record.state, record.turn, record.submitted_at = "running", action.turn, self.now
        self.engine[action.turn] = record

    # --- what is always so --------------------------------------------------------------

    @invariant()
    def the_session_counts_what_we_count(self) -> None:
        waiting, running = self.in_state("waiting"), self.in_state("running")
        assert (self.session.waiting, self.session.running) == (len(waiting), len(running))
        assert len(waiting) <= MAX_WAITING
        assert len(running) <= MAX_ROWS
        assert {record.turn for record in running} == set(self.engine)

    @invariant()
    def no_two_turns_of_a_lane_run(self) -> None:
        lanes = [lane for record in self.in_state("running") for lane in record.lanes]
        assert len(lanes) == len(set(lanes))

    @invariant()
    def one_replaceable_frame_of_a_source_waits(self) -> None:
        waiting = [record.ask.source for record in self.in_state("waiting") if record.policy == "latest"]
        assert len(waiting) == len(set(waiting))

    @invariant()
    def a_turn_that_can_start_may_start(self) -> None:
        assert self.session.wants_to_start == (bool(self.startable) and len(self.engine) < MAX_ROWS)

    @invariant()
    def the_next_deadline_is_the_earliest(self) -> None:
        assert self.session.next_deadline == min(map(self.deadline, self.alive()), default=None)

    @invariant()
    def ids_in_use_are_unique(self) -> None:
        ids = [record.ask.id for record in self.alive() if record.ask.id is not None]
        assert len(ids) == len(set(ids))

    @property
    def busy(self) -> set[str]:
        return {lane for record in self.in_state("running") for lane in record.lanes}

    @property
    def startable(self) -> list[Record]:
        """What waits and has its lanes free. In line, whoever came earlier has a lane earlier."""
        taken, free = set(self.busy), []
        for record in self.in_state("waiting"):
            if (self.busy if record.policy == "latest" else taken).isdisjoint(record.lanes):
                free.append(record)
            if record.policy != "latest":
                taken |= record.lanes
        return free

    def in_state(self, *states: str) -> list[Record]:
        return [record for record in self.records.values() if record.state in states]

    def alive(self) -> list[Record]:
        return self.in_state("waiting", "running")

    def ids_alive(self) -> set[str]:
        return {record.ask.id for record in self.alive() if record.ask.id is not None}

    def with_closed_pictures(self) -> list[Record]:
        return [record for record in self.engine.values() if record.ask.images and not record.has_begun]


def changes(is_sound: bool) -> dict[str, Any]:
    return {"temperature": 1} if is_sound else {"temperature": -1}


def problems(actions: list[Action]) -> list[Problem]:
    return [action.event for action in actions if isinstance(action, Send) and isinstance(action.event, Problem)]


def label_name(label: TurnLabel) -> str:
    """A frame is known by its `frame_id`, a question by its `source`."""
    return str(label.frame_id if label.is_frame else label.source)


PeerEngineAndClock.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestInterleavings = PeerEngineAndClock.TestCase

"""What a session promises its peer, one promise a test."""

import itertools
from dataclasses import replace

import pytest

from mlx_websockets.errors import InvalidImage
from mlx_websockets.events import (
    Ask,
    Candidate,
    ConfigUpdated,
    Configure,
    EncodedImage,
    FrameDropped,
    FrameInput,
    Interrupt,
    Ping,
    Pong,
    Problem,
    ReplyDelta,
    ReplyFinished,
    ReplyStarted,
    ServerEvent,
    StatusRequest,
    TurnLabel,
    Unreadable,
)
from mlx_websockets.generation import Delta, Failed, Finished, FinishReason, Started, Timings, TokenLogprob, Usage
from mlx_websockets.likeness import SIDE, View
from mlx_websockets.sampling import Sampling
from mlx_websockets.sessions.frames import MAX_SOURCES_SEEN
from mlx_websockets.sessions.session import (
    MAX_ROWS,
    Action,
    Cancel,
    DraftMessage,
    ReportStatus,
    Send,
    Session,
    Submit,
)

PICTURE = EncodedImage("aGVsbG8=")


def new_session(**options: float) -> Session:
    return Session(Sampling(), itertools.count(1), **options)  # type: ignore[arg-type]


def question(text: str = "Why?", **fields: object) -> Ask:
    return Ask(text=text, **fields)  # type: ignore[arg-type]


def picture(**fields: object) -> Ask:
    return question("What is it?", images=(PICTURE,), **fields)


def frame(source: str = "webcam", *, id: str | None = None, history: bool = False, **fields: object) -> FrameInput:
    ask = Ask(text="What now?", images=(PICTURE,), source=source, id=id, history=history)
    return FrameInput(ask=ask, **fields)  # type: ignore[arg-type]


def told(actions: list[Action]) -> list[ServerEvent]:
    return [action.event for action in actions if isinstance(action, Send)]


def only_event(actions: list[Action]) -> ServerEvent:
    (action,) = actions
    assert isinstance(action, Send)
    return action.event


def started(session: Session, now: float = 0.0) -> Submit:
    """The submission of the turn that the session starts next."""
    turn = session.next_turn()
    assert turn is not None
    (action,) = session.start(turn.number, now)
    assert isinstance(action, Submit)
    return action


def labels_in_order(session: Session) -> list[TurnLabel]:
    """Run everything that waits, one turn after the other; whose turn it was each time."""
    labels = []
    while session.wants_to_start:
        turn = started(session).turn
        (ended,) = told(session.update(Finished(turn, "stop"), 0.0))
        assert isinstance(ended, ReplyFinished)
        labels.append(ended.turn)
    return labels


def say(session: Session, turn: int, *texts: str, now: float = 0.0) -> None:
    session.update(Started(turn), now)
    for text in texts:
        session.update(Delta(turn, text), now)


# --- a turn's life --------------------------------------------------------------------


def test_a_question_waits_until_it_is_started_and_then_goes_to_the_engine() -> None:
    session = new_session()

    assert session.receive(question("Why?", context="A sky."), 0.0) == []
    assert (session.waiting, session.running) == (1, 0)
    submit = started(session)

    assert (DraftMessage(role="user", text="A sky.\n\nWhy?"),) == submit.messages
    assert (session.waiting, session.running) == (0, 1)


def test_a_reply_is_told_from_start_to_end_with_its_label_and_gapless_numbers() -> None:
    session = new_session()
    session.receive(picture(id="a", source="album"), 0.0)
    turn = started(session).turn

    actions = [
        *session.update(Started(turn), 0.0, "a-model"),
        *session.update(Delta(turn, "A "), 0.0),
        *session.update(Delta(turn, "cat"), 0.0),
        *session.update(Finished(turn, "stop"), 0.0),
    ]

    label = TurnLabel(id="a", input_type="image", source="album")
    start, first, second, end = told(actions)
    assert ReplyStarted(label, "a-model", 0.0) == start
    assert [ReplyDelta(label, "A ", 0), ReplyDelta(label, "cat", 1)] == [first, second]
    assert isinstance(end, ReplyFinished)
    assert (label, "A cat", "stop") == (end.turn, end.text, end.reason)


def test_a_finished_reply_says_what_it_cost() -> None:
    session = new_session()
    session.receive(picture(), 10.0)
    turn = started(session, 10.5).turn
    session.pictures_opened(turn, 12.5)
    session.update(Started(turn), 10.75)
    usage, timings = Usage(input_tokens=7, output_tokens=2), Timings(prefill_ms=3.0)

    end = only_event(session.update(Finished(turn, "length", usage, timings), 12.0))

    assert isinstance(end, ReplyFinished)
    assert (usage, timings) == (end.usage, end.timings)
    assert (end.seconds, end.queue_ms, end.image_ms, end.frame_age_ms) == (1.25, 500.0, 12.5, None)


def test_the_wait_counts_until_the_engine_had_room_so_that_opening_pictures_is_not_counted_twice() -> None:
    session = new_session()
    session.receive(picture(), 1.0)
    turn = started(session, 3.0).turn

    start = only_event(session.update(Started(turn), 9.0, "a-model"))

    assert ReplyStarted(TurnLabel(input_type="image"), "a-model", 2000.0) == start


def test_late_words_of_a_closed_turn_reach_nobody() -> None:
    session = new_session()
    session.receive(question(), 0.0)
    turn = started(session).turn
    session.update(Finished(turn, "stop"), 0.0)

    for late in (Started(turn), Delta(turn, "more"), Finished(turn, "stop"), Failed(turn, "x", "x"), Delta(99, "who")):
        assert session.update(late, 0.0) == []
    session.pictures_opened(turn, 1.0)
    assert session.pictures_failed(turn, InvalidImage("late")) == []


def test_a_failure_ends_its_turn_alone_and_says_whether_to_ask_again() -> None:
    session = new_session()
    for id in ("a", "b"):
        session.receive(question(id=id), 0.0)
    first, second = started(session).turn, started(session).turn

    problem = only_event(session.update(Failed(first, "engine_restarted", "It died.", True), 0.0))

    assert Problem(message="It died.", code="engine_restarted", turn=TurnLabel(id="a"), retryable=True) == problem
    assert told(session.update(Delta(second, "well"), 0.0))


def test_nothing_starts_where_nothing_waits() -> None:
    session = new_session()

    assert not session.wants_to_start
    assert session.next_turn() is None


def test_status_and_ping_are_answered_at_once() -> None:
    session = new_session()

    assert [ReportStatus("s")] == session.receive(StatusRequest("s"), 0.0)
    assert [Send(Pong(5, "p"))] == session.receive(Ping(5, "p"), 0.0)


# --- lanes ----------------------------------------------------------------------------


def test_questions_without_ids_run_one_at_a_time_in_order() -> None:
    session = new_session()
    for source in ("first", "second", "third"):
        session.receive(question(source=source), 0.0)

    first = started(session).turn
    assert not session.wants_to_start
    session.update(Finished(first, "stop"), 0.0)

    assert [label.source for label in labels_in_order(session)] == ["second", "third"]


def test_questions_with_ids_run_side_by_side() -> None:
    session = new_session()
    for id in ("a", "b", "c"):
        session.receive(question(id=id), 0.0)

    assert len({started(session).turn for _ in range(3)}) == 3


def test_a_question_with_an_id_overtakes_one_without_that_must_wait() -> None:
    session = new_session()
    session.receive(question(), 0.0)
    started(session)
    session.receive(question("waits"), 0.0)
    session.receive(question("overtakes", id="a"), 0.0)

    assert started(session).messages[-1].text == "overtakes"
    assert not session.wants_to_start


def test_no_more_turns_of_a_session_run_at_once_than_its_share() -> None:
    session = new_session(max_waiting=100)
    for number in range(MAX_ROWS + 1):
        session.receive(question(id=str(number)), 0.0)

    for _ in range(MAX_ROWS):
        started(session)

    assert not session.wants_to_start
    assert session.next_turn() is None
    assert (session.waiting, session.running) == (1, MAX_ROWS)


@pytest.mark.parametrize("ids", [("a", "b"), (None, "b"), ("a", None)])
def test_a_source_is_looked_at_once_at_a_time_with_ids_or_without(ids: tuple[str | None, str | None]) -> None:
    session = new_session()
    session.receive(frame(id=ids[0]), 0.0)
    running = started(session).turn
    session.receive(frame(id=ids[1]), 0.0)

    assert not session.wants_to_start
    session.update(Finished(running, "stop"), 0.0)
    assert session.wants_to_start


def test_two_sources_with_ids_are_looked_at_side_by_side() -> None:
    session = new_session()
    session.receive(frame("webcam", id="a"), 0.0)
    session.receive(frame("screen", id="b"), 0.0)

    started(session)
    started(session)

    assert session.running == 2


# --- frames ---------------------------------------------------------------------------


def test_a_newer_frame_supersedes_the_one_that_waits_but_not_the_one_that_runs() -> None:
    session = new_session()
    session.receive(frame(frame_id=1), 0.0)
    running = started(session).turn
    session.receive(frame(frame_id=2), 0.0)

    dropped = only_event(session.receive(frame(frame_id=3), 0.0))

    assert (
        FrameDropped(TurnLabel(input_type="image", source="webcam", frame_id=2, is_frame=True), "superseded") == dropped
    )
    session.update(Finished(running, "stop"), 0.0)
    assert [label.frame_id for label in labels_in_order(session)] == [3]


def test_a_frame_does_not_supersede_that_of_another_source() -> None:
    session = new_session()

    assert session.receive(frame("webcam"), 0.0) == []
    assert session.receive(frame("screen"), 0.0) == []
    assert session.waiting == 2


def test_frames_that_queue_are_all_looked_at_in_order() -> None:
    session = new_session()
    for number in (1, 2, 3):
        assert session.receive(frame(frame_id=number, policy="queue"), 0.0) == []

    assert [label.frame_id for label in labels_in_order(session)] == [1, 2, 3]


def test_a_queued_frame_supersedes_an_older_one_that_may_be_but_is_never_superseded_itself() -> None:
    session = new_session()
    session.receive(frame(frame_id="may be", policy="latest"), 0.0)

    dropped = only_event(session.receive(frame(frame_id="queued", policy="queue"), 0.0))
    assert session.receive(frame(frame_id="newest", policy="latest"), 0.0) == []

    assert isinstance(dropped, FrameDropped)
    assert dropped.turn.frame_id == "may be"
    assert [label.frame_id for label in labels_in_order(session)] == ["queued", "newest"]


def test_a_source_keeps_its_place_in_line_when_its_frame_is_superseded() -> None:
    session = new_session()
    for source in ("webcam", "screen", "webcam"):
        session.receive(frame(source), 0.0)

    assert [label.source for label in labels_in_order(session)] == ["webcam", "screen"]


def test_a_question_goes_before_the_frames_that_came_earlier() -> None:
    session = new_session()
    session.receive(frame(), 0.0)
    session.receive(question(source="me"), 0.0)

    assert [label.source for label in labels_in_order(session)] == ["me", "webcam"]


def test_a_frame_that_cannot_be_opened_is_dropped() -> None:
    session = new_session()
    session.receive(frame(id="f", frame_id=7), 0.0)
    turn = started(session).turn

    dropped = only_event(session.pictures_failed(turn, InvalidImage("Truncated.", "$.frame")))

    label = TurnLabel(id="f", input_type="image", source="webcam", frame_id=7, is_frame=True)
    assert FrameDropped(label, "decode_error") == dropped
    assert session.running == 0


def test_a_question_whose_picture_cannot_be_opened_is_told_which_field_it_was() -> None:
    session = new_session()
    session.receive(picture(id="p"), 0.0)
    turn = started(session).turn

    problem = only_event(session.pictures_failed(turn, InvalidImage("Truncated.", "$.images[1]")))

    label = TurnLabel(id="p", input_type="image")
    assert Problem(message="Truncated.", code="invalid_image", turn=label, path="$.images[1]") == problem


@pytest.mark.parametrize(
    ("ts", "age_ms"),
    [
        (None, 3000.0),  # not said: since it arrived
        (1009.0, 4000.0),
        (1010.5, 3000.0),  # from the future
        (1.0, 3000.0),  # older than any network is slow
        (float("nan"), 3000.0),
        (float("inf"), 3000.0),
    ],
)
def test_a_frames_age_is_from_its_capture_where_that_makes_sense_else_from_its_arrival(
    ts: float | None, age_ms: float
) -> None:
    session = new_session(clock_offset=1000.0)
    session.receive(frame(captured_at=ts), 10.0)
    turn = started(session, 11.0).turn

    end = only_event(session.update(Finished(turn, "stop"), 13.0))

    assert isinstance(end, ReplyFinished)
    assert age_ms == end.frame_age_ms


# --- room -----------------------------------------------------------------------------


def test_past_ten_waiting_inputs_a_question_is_refused_and_a_frame_dropped() -> None:
    session = new_session()
    session.receive(question(), 0.0)
    started(session)  # a running one takes no place
    for _ in range(10):
        assert session.receive(question(), 0.0) == []

    refused = only_event(session.receive(question(id="late"), 0.0))
    dropped = [only_event(session.receive(frame(policy=policy), 0.0)) for policy in ("latest", "queue")]

    assert isinstance(refused, Problem)
    assert ("queue_full", TurnLabel(id="late"), True) == (refused.code, refused.turn, refused.retryable)
    label = TurnLabel(input_type="image", source="webcam", is_frame=True)
    assert [FrameDropped(label, "processing_queue_full")] * 2 == dropped
    assert session.waiting == 10


@pytest.mark.parametrize("policy", ["latest", "queue"])
def test_a_frame_needs_no_place_when_it_supersedes_one_that_has_a_place(policy: str) -> None:
    session = new_session()
    session.receive(frame(frame_id=1), 0.0)
    for _ in range(9):
        session.receive(question(), 0.0)

    dropped = only_event(session.receive(frame(frame_id=2, policy=policy), 0.0))

    assert isinstance(dropped, FrameDropped)
    assert (dropped.turn.frame_id, dropped.reason) == (1, "superseded")
    assert session.waiting == 10


# --- ids ------------------------------------------------------------------------------


def test_an_id_in_use_is_refused_without_naming_the_turn_that_has_it() -> None:
    session = new_session()
    session.receive(question(id="a"), 0.0)
    started(session)

    problems = [only_event(session.receive(again, 0.0)) for again in (question(id="a"), frame(id="a"))]

    for problem in problems:
        assert isinstance(problem, Problem)
        assert ("duplicate_id", TurnLabel(), "$.id") == (problem.code, problem.turn, problem.path)
    assert (session.waiting, session.running) == (0, 1)


def test_an_id_is_free_again_when_its_turn_has_ended() -> None:
    session = new_session()
    session.receive(question(id="a"), 0.0)
    session.update(Finished(started(session).turn, "stop"), 0.0)

    assert session.receive(question(id="a"), 0.0) == []


@pytest.mark.parametrize(
    "event",
    [
        Unreadable(reason="No.", id="a"),
        Configure(changes={"top_k": -1}, names={}, sent={"topK": -1}, id="a"),
    ],
)
def test_a_problem_beside_a_turn_never_carries_its_id(event: Unreadable | Configure) -> None:
    session = new_session()

    before = only_event(session.receive(event, 0.0))
    session.receive(question(id="a"), 0.0)
    during = only_event(session.receive(event, 0.0))

    assert isinstance(before, Problem)
    assert isinstance(during, Problem)
    assert (TurnLabel(id="a"), TurnLabel()) == (before.turn, during.turn)


def test_an_unreadable_message_is_explained_and_nothing_is_begun() -> None:
    session = new_session()

    problem = only_event(session.receive(Unreadable(reason="No.", code="bad", path="$.x", id="u"), 0.0))

    assert Problem(message="No.", code="bad", path="$.x", turn=TurnLabel(id="u")) == problem
    assert session.waiting == 0


# --- settings -------------------------------------------------------------------------


def test_new_settings_hold_from_the_next_request_on() -> None:
    session = new_session()
    session.receive(question(), 0.0)

    updated = only_event(
        session.receive(
            Configure(changes={"max_tokens": 7}, names={"max_tokens": "maxOutputTokens"}, sent={"maxOutputTokens": 7}),
            0.0,
        )
    )
    session.receive(question(), 0.0)

    assert ConfigUpdated({"maxOutputTokens": 7}, session.sampling) == updated
    before = started(session)
    session.update(Finished(before.turn, "stop"), 0.0)
    assert (before.choice.max_tokens, started(session).choice.max_tokens) == (200, 7)


def test_a_refused_change_names_the_field_as_the_peer_calls_it_and_changes_nothing() -> None:
    session = new_session()
    changes = {"temperature": 1.5, "top_k": -1}

    problem = only_event(session.receive(Configure(changes=changes, names={"top_k": "topK"}, sent={}, id="c"), 0.0))

    assert isinstance(problem, Problem)
    assert ("invalid_config", "$.topK", TurnLabel(id="c")) == (problem.code, problem.path, problem.turn)
    assert "`topK`" in problem.message
    assert Sampling() == session.sampling


def test_settings_of_one_request_are_its_own() -> None:
    session = new_session()
    session.receive(question(id="own", changes={"temperature": 0, "seed": 5}, stop=("END",)), 0.0)
    session.receive(question(id="usual"), 0.0)

    own, usual = started(session).choice, started(session).choice

    assert (own.temperature, own.seed, own.stop) == (0.0, 5, ("END",))
    assert (usual.temperature, usual.seed, usual.stop) == (0.7, None, ())


@pytest.mark.parametrize("make", [question, frame])
def test_a_bad_setting_of_one_request_refuses_it_and_names_where_it_stands(make: object) -> None:
    session = new_session()
    bad = question(id="a", source="webcam", images=(PICTURE,), changes={"top_p": 2}, names={"top_p": "topP"})
    event = bad if make is question else FrameInput(ask=bad)

    problem = only_event(session.receive(event, 0.0))

    assert isinstance(problem, Problem)
    assert (problem.code, problem.path, problem.turn.id) == ("invalid_config", "$.config.topP", "a")
    assert session.waiting == 0


def test_pictures_get_the_length_of_pictures() -> None:
    session = new_session()
    session.receive(question(id="text"), 0.0)
    session.receive(picture(id="picture"), 0.0)
    session.receive(frame(id="frame"), 0.0)

    assert [started(session).choice.max_tokens for _ in range(3)] == [200, 100, 100]


# --- cancel ---------------------------------------------------------------------------


def test_a_cancelled_turn_ends_with_what_was_said_and_ignores_late_words() -> None:
    session = new_session()
    session.receive(question(id="a"), 0.0)
    turn = started(session).turn
    say(session, turn, "Once")

    cancel, send = session.receive(Interrupt(id="a"), 0.0)

    assert Cancel(turn) == cancel
    (end,) = told([send])
    assert isinstance(end, ReplyFinished)
    assert (end.text, end.reason) == ("Once", "cancelled")
    assert session.update(Delta(turn, " upon a time"), 0.0) == []


def test_a_waiting_turn_that_is_cancelled_never_reaches_the_engine() -> None:
    session = new_session()
    session.receive(question(id="a"), 0.0)

    end = only_event(session.receive(Interrupt(id="a"), 2.0))

    assert isinstance(end, ReplyFinished)
    assert (end.text, end.reason, end.seconds, end.queue_ms) == ("", "cancelled", 0.0, 2000.0)
    assert not session.wants_to_start


def test_a_turn_whose_pictures_are_being_opened_can_be_cancelled() -> None:
    session = new_session()
    session.receive(picture(id="a"), 0.0)
    turn = started(session).turn

    actions = session.receive(Interrupt(id="a"), 0.0)

    assert Cancel(turn) == actions[0]
    assert len(told(actions)) == 1
    assert session.pictures_failed(turn, InvalidImage("too late to matter")) == []


def test_a_source_is_cancelled_whether_it_runs_waits_or_queues_and_others_go_on() -> None:
    session = new_session()
    session.receive(frame("webcam", id="runs"), 0.0)
    turn = started(session).turn
    session.receive(frame("webcam", id="queues", policy="queue"), 0.0)
    session.receive(frame("webcam", id="waits"), 0.0)
    session.receive(frame("screen", id="other"), 0.0)

    actions = session.receive(Interrupt(source="webcam"), 0.0)

    assert [Cancel(turn)] == [action for action in actions if isinstance(action, Cancel)]
    assert [event.turn.id for event in told(actions) if isinstance(event, ReplyFinished)] == ["runs", "queues", "waits"]
    assert [label.id for label in labels_in_order(session)] == ["other"]


def test_without_id_or_source_everything_is_cancelled() -> None:
    session = new_session()
    session.receive(question(), 0.0)
    turn = started(session).turn
    for event in (question(), question(id="a"), frame()):
        session.receive(event, 0.0)

    actions = session.receive(Interrupt(), 0.0)

    assert Cancel(turn) == actions[0]
    assert len(told(actions)) == 4
    assert (session.waiting, session.running) == (0, 0)


@pytest.mark.parametrize("nothing", [Interrupt(), Interrupt(id="a"), Interrupt(source="webcam")])
def test_to_cancel_nothing_is_a_problem_that_ends_nothing(nothing: Interrupt) -> None:
    session = new_session()

    problem = only_event(session.receive(nothing, 0.0))

    assert isinstance(problem, Problem)
    assert ("not_active", nothing.id) == (problem.code, problem.turn.id)


def test_a_cancelled_turn_makes_way_for_the_next_of_its_lane() -> None:
    session = new_session()
    session.receive(question(source="first"), 0.0)
    started(session)
    session.receive(question(source="second"), 0.0)

    session.receive(Interrupt(source="first"), 0.0)

    assert session.wants_to_start


# --- time -----------------------------------------------------------------------------


def test_a_reply_that_takes_too_long_ends_with_what_it_has() -> None:
    session = new_session(reply_seconds=60.0)
    session.receive(question(), 0.0)
    turn = started(session, 5.0).turn
    say(session, turn, "Well", now=6.0)

    assert session.next_deadline == 65.0
    assert session.tick(64.9) == []
    cancel, send = session.tick(65.0)

    assert Cancel(turn) == cancel
    (end,) = told([send])
    assert isinstance(end, ReplyFinished)
    assert (end.text, end.reason) == ("Well", "timeout")
    assert (session.next_deadline, session.tick(1000.0)) == (None, [])


def test_what_waits_too_long_is_told_so() -> None:
    session = new_session(waiting_seconds=300.0)
    session.receive(question(id="a"), 0.0)
    session.receive(frame(id="f"), 1.0)
    session.receive(question(id="b"), 2.0)

    problem, dropped = told(session.tick(301.5))

    assert isinstance(problem, Problem)
    assert (problem.turn.id, problem.code, problem.retryable) == ("a", "waited_too_long", True)
    assert isinstance(dropped, FrameDropped)
    assert (dropped.turn.id, dropped.reason) == ("f", "expired")
    assert (session.waiting, session.next_deadline) == (1, 302.0)


def test_the_next_deadline_is_the_earliest_of_what_runs_and_what_waits() -> None:
    session = new_session(reply_seconds=60.0, waiting_seconds=300.0)
    for id in ("a", "b", "c"):
        session.receive(question(id=id), 0.0)
    assert session.next_deadline == 300.0

    first = started(session, 1.0).turn
    started(session, 2.0)
    assert session.next_deadline == 61.0

    session.update(Finished(first, "stop"), 3.0)
    assert session.next_deadline == 62.0


# --- the end --------------------------------------------------------------------------


def test_closing_with_a_reason_tells_every_turn_of_it_and_frees_the_engine() -> None:
    session = new_session()
    for event in (question(id="runs"), question(id="waits"), frame(id="frame")):
        session.receive(event, 0.0)
    turn = started(session).turn

    actions = session.close(0.0, code="shutting_down", reason="The server stops.")

    assert [Cancel(turn)] == [action for action in actions if isinstance(action, Cancel)]
    problems = [event for event in told(actions) if isinstance(event, Problem)]
    assert [problem.turn.id for problem in problems] == ["runs", "waits", "frame"]
    assert {("shutting_down", "The server stops.", True)} == {
        (problem.code, problem.message, problem.retryable) for problem in problems
    }
    assert (session.waiting, session.running, session.wants_to_start, session.next_deadline) == (0, 0, False, None)


def test_closing_for_a_peer_that_is_gone_only_frees_the_engine() -> None:
    session = new_session()
    session.receive(question(), 0.0)
    turn = started(session).turn
    session.receive(question(), 0.0)

    assert [Cancel(turn)] == session.close(0.0)
    assert session.close(0.0) == []


# --- history --------------------------------------------------------------------------


def heard(session: Session, text: str, reply: str, **fields: object) -> Submit:
    """Ask `text` in the conversation and let the model reply."""
    session.receive(question(text, history=True, **fields), 0.0)
    submit = started(session)
    say(session, submit.turn, reply)
    session.update(Finished(submit.turn, "stop"), 0.0)
    return submit


def test_a_conversation_is_remembered_and_what_may_be_left_out_is_counted() -> None:
    session = new_session()
    heard(session, "I am Ada.", "Hello Ada.", context="Names")
    submit = heard(session, "Who am I?", "Ada.", system="Be brief.")

    assert [(message.role, message.text) for message in submit.messages] == [
        ("system", "Be brief."),
        ("user", "Names\n\nI am Ada."),
        ("assistant", "Hello Ada."),
        ("user", "Who am I?"),
    ]
    assert submit.droppable == 2


def test_a_question_outside_the_conversation_neither_sees_it_nor_is_kept() -> None:
    session = new_session()
    heard(session, "I am Ada.", "Hello Ada.")
    session.receive(question("Who am I?"), 0.0)
    outside = started(session)
    say(session, outside.turn, "No idea.")
    session.update(Finished(outside.turn, "stop"), 0.0)

    inside = heard(session, "And now?", "Ada.")

    assert (len(outside.messages), outside.droppable) == (1, 0)
    assert [message.text for message in inside.messages] == ["I am Ada.", "Hello Ada.", "And now?"]


def test_turns_of_a_conversation_wait_for_each_other_whatever_their_ids() -> None:
    session = new_session()
    session.receive(question("I am Ada.", id="a", history=True), 0.0)
    session.receive(question("Who am I?", id="b", history=True), 0.0)
    session.receive(question("Aside", id="c"), 0.0)

    first = started(session)
    assert started(session).messages[-1].text == "Aside"
    assert not session.wants_to_start
    say(session, first.turn, "Hello Ada.")
    session.update(Finished(first.turn, "stop"), 0.0)

    assert len(started(session).messages) == 3


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_a_reply_cut_short_is_remembered_as_far_as_it_was_said(how: str) -> None:
    session = new_session()
    session.receive(question("Tell me a story", history=True), 0.0)
    turn = started(session).turn
    say(session, turn, "Once upon")
    session.receive(Interrupt(), 0.0) if how == "cancel" else session.tick(60.0)

    submit = heard(session, "Go on", "a time")

    assert [message.text for message in submit.messages] == ["Tell me a story", "Once upon", "Go on"]


def test_what_failed_or_was_never_said_is_not_remembered() -> None:
    session = new_session()
    session.receive(question("fails", history=True), 0.0)
    turn = started(session).turn
    say(session, turn, "Half a")
    session.update(Failed(turn, "x", "x"), 0.0)
    session.receive(question("silent", history=True), 0.0)
    session.update(Finished(started(session).turn, "stop"), 0.0)
    session.receive(question("cancelled while waiting", history=True), 0.0)
    session.receive(Interrupt(), 0.0)

    assert len(heard(session, "Anything?", "No.").messages) == 1


def test_remembered_pictures_leave_room_for_the_new_ones() -> None:
    session = new_session()
    heard(session, "Six", "I see.", images=(PICTURE,) * 6)

    with_room = heard(session, "Two more", "I see.", images=(PICTURE,) * 2)
    without_room = heard(session, "Seven more", "I see.", images=(PICTURE,) * 7)

    assert [len(message.images) for message in with_room.messages] == [6, 0, 2]
    assert [len(message.images) for message in without_room.messages] == [0, 0, 0, 0, 7]


# --- several candidates, and how likely each token was --------------------------------------------------------


def several(count: int, **fields: object) -> Ask:
    return question(changes={"candidate_count": count}, **fields)


def test_every_candidate_is_told_apart_and_one_event_ends_them_all() -> None:
    session = new_session()
    session.receive(several(2, id="a"), 0.0)
    submit = started(session)
    turn = submit.turn

    said = told(session.update(Delta(turn, "Tom", candidate=1), 0.0) + session.update(Delta(turn, "Tiger"), 0.0))
    ended = only_event(session.update(Finished(turn, "stop", candidate_reasons=("stop", "length")), 0.0))

    assert submit.choice.candidates == 2
    assert [(each.candidate, each.text, each.seq) for each in said] == [(1, "Tom", 0), (0, "Tiger", 1)]  # type: ignore[union-attr]
    assert isinstance(ended, ReplyFinished)
    assert (ended.text, ended.reason) == ("Tiger", "stop")
    assert ended.candidates == (Candidate("Tiger", "stop"), Candidate("Tom", "length"))


def test_a_single_candidate_is_not_spoken_of() -> None:
    session = new_session()
    session.receive(question(id="a"), 0.0)
    turn = started(session).turn

    (delta,) = told(session.update(Delta(turn, "Why not?"), 0.0))
    ended = only_event(session.update(Finished(turn, "stop"), 0.0))

    assert isinstance(delta, ReplyDelta) and isinstance(ended, ReplyFinished)
    assert (delta.candidate, ended.candidates) == (None, ())


def test_a_cancelled_request_ends_every_candidate_with_what_it_has() -> None:
    session = new_session()
    session.receive(several(3, id="a"), 0.0)
    turn = started(session).turn
    session.update(Delta(turn, "Tom", candidate=2), 0.0)

    _, ended = session.receive(Interrupt(id="a"), 0.0)

    assert isinstance(ended, Send) and isinstance(ended.event, ReplyFinished)
    nothing = Candidate("", "cancelled")
    assert ended.event.candidates == (nothing, nothing, Candidate("Tom", "cancelled"))


def test_a_conversation_remembers_the_first_candidate() -> None:
    session = new_session()
    session.receive(several(2, id="a", history=True), 0.0)
    turn = started(session).turn
    session.update(Delta(turn, "Tom", candidate=1), 0.0)
    session.update(Delta(turn, "Tiger"), 0.0)
    session.update(Finished(turn, "stop", candidate_reasons=("stop", "stop")), 0.0)

    session.receive(question(history=True), 0.0)

    assert [message.text for message in started(session).messages] == ["Why?", "Tiger", "Why?"]


def test_each_candidate_takes_a_row_of_what_a_session_may_have() -> None:
    session = new_session()
    session.receive(several(8, id="a"), 0.0)
    session.receive(several(8, id="b"), 0.0)
    session.receive(question(id="c"), 0.0)

    started(session), started(session)

    assert (session.rows, session.rows_on(None), session.rows_on("other")) == (MAX_ROWS, MAX_ROWS, 0)
    assert not session.wants_to_start


def test_more_candidates_than_the_engine_has_rows_are_refused_with_the_range() -> None:
    session = Session(Sampling(rows=4), itertools.count(1))

    problem = only_event(session.receive(several(5, id="a"), 0.0))

    assert isinstance(problem, Problem)
    assert problem.message == "`candidate_count` must be a whole number between 1 and 4, got 5"
    assert (problem.code, problem.path) == ("invalid_config", "$.config.candidate_count")


def test_the_least_likely_tokens_to_keep_are_the_engine_s_to_know() -> None:
    session = Session(Sampling(min_p=0.1), itertools.count(1))
    session.receive(question(id="a"), 0.0)
    session.receive(question(id="b", changes={"min_p": 0.5}), 0.0)

    usual, own = started(session), started(session)

    assert (usual.choice.min_p, own.choice.min_p) == (0.1, 0.5)


def test_a_token_without_text_is_told_for_its_logprob_and_adds_nothing_to_the_reply() -> None:
    session = new_session()
    session.receive(question(id="a", changes={"logprobs": 1}), 0.0)
    submit = started(session)
    token = TokenLogprob("é", -0.5, (("é", -0.5),))

    (first,) = told(session.update(Delta(submit.turn, "", logprobs=(token,)), 0.0))
    (second,) = told(session.update(Delta(submit.turn, "é", logprobs=(token,)), 0.0))
    ended = only_event(session.update(Finished(submit.turn, "stop"), 0.0))

    assert submit.choice.logprobs == 1
    assert first == ReplyDelta(TurnLabel(id="a"), "", 0, None, (token,))
    assert second == ReplyDelta(TurnLabel(id="a"), "é", 1, None, (token,))
    assert isinstance(ended, ReplyFinished) and ended.text == "é"


def test_an_overloaded_model_says_when_to_ask_again_and_drops_a_frame() -> None:
    session = new_session()
    session.receive(question(id="a"), 0.0)
    session.receive(frame(id="f"), 0.0)
    overloaded = [Failed(started(session).turn, "overloaded", "No memory.", True, 2500) for _ in range(2)]

    problem, dropped = (only_event(session.update(each, 0.0)) for each in overloaded)

    assert isinstance(problem, Problem)
    assert (problem.code, problem.retryable, problem.retry_after_ms) == ("overloaded", True, 2500)
    assert isinstance(dropped, FrameDropped) and dropped.reason == "overloaded"


# --- frames that look like the one before ----------------------------------------------------------------------


def view(shade: int) -> View:
    return View((8, 8), bytes([shade]) * (SIDE * SIDE * 3))


def watchful(**fields: object) -> FrameInput:
    """A frame of a stream of which only changes are to be described."""
    ask = Ask(
        text="What now?", images=(PICTURE,), changes={"unchanged_threshold": 0.1}, **{"source": "webcam"} | fields
    )  # type: ignore[arg-type]
    return FrameInput(ask=ask)


def described(session: Session, shade: int, reason: FinishReason = "stop", **fields: object) -> View | None:
    """Show a frame that looks like this and have it described; what it was to be compared with."""
    session.receive(watchful(**fields), 0.0)
    submit = started(session)
    session.pictures_opened(submit.turn, 1.0, view(shade))
    session.update(Finished(submit.turn, reason), 0.0)
    return submit.view_before


def test_a_frame_is_compared_with_the_last_one_of_its_source_that_was_described() -> None:
    session = new_session()

    assert described(session, 1) is None
    assert described(session, 2) == view(1)
    assert described(session, 3, source="door") is None
    assert described(session, 4) == view(2)


def test_a_frame_that_looks_the_same_is_dropped_and_is_not_what_the_next_is_compared_with() -> None:
    session = new_session()
    described(session, 1)
    session.receive(watchful(id="f"), 0.0)
    turn = started(session).turn

    dropped = only_event(session.picture_unchanged(turn))

    assert isinstance(dropped, FrameDropped)
    assert (dropped.turn.id, dropped.reason, session.running) == ("f", "unchanged", 0)
    assert described(session, 3) == view(1)


def test_a_frame_whose_reply_was_cancelled_or_failed_was_not_described() -> None:
    session = new_session()
    session.receive(watchful(id="f"), 0.0)
    submit = started(session)
    session.pictures_opened(submit.turn, 1.0, view(1))
    session.receive(Interrupt(id="f"), 0.0)
    assert described(session, 2) is None

    session.receive(watchful(id="g"), 0.0)
    submit = started(session)
    session.pictures_opened(submit.turn, 1.0, view(3))
    session.update(Failed(submit.turn, "engine_restarted", "It died."), 0.0)

    assert described(session, 4) == view(2)


def test_another_question_about_the_same_picture_is_asked() -> None:
    session = new_session()
    described(session, 1)

    session.receive(FrameInput(ask=replace(watchful().ask, text="Who is there?")), 0.0)

    assert started(session).view_before is None


def test_without_a_threshold_frames_are_not_compared() -> None:
    session = new_session()
    described(session, 1)
    session.receive(frame(), 0.0)

    submit = started(session)

    assert (submit.unchanged_threshold, submit.view_before) == (0.0, None)


def test_the_views_of_many_sources_make_way_for_each_other() -> None:
    session = new_session()
    for number in range(MAX_SOURCES_SEEN + 1):
        described(session, number, source=str(number))

    assert described(session, 0, source="0") is None
    assert described(session, 0, source="2") == view(2)


# --- who steps back, and until when ----------------------------------------------------------------------------


def test_a_request_may_step_back_and_no_further_to_the_front() -> None:
    session = new_session()
    session.receive(question(id="a", priority="background"), 0.0)
    session.receive(FrameInput(ask=replace(frame(id="b").ask, priority="interactive")), 0.0)
    session.receive(question(id="c"), 0.0)

    assert [started(session).priority for _ in range(3)] == ["interactive", "frame", "background"]


def test_requests_without_an_id_are_answered_in_their_order_whatever_they_step_back_to() -> None:
    session = new_session()
    session.receive(question("first", priority="background"), 0.0)
    session.receive(question("second"), 0.0)

    assert started(session).messages[-1].text == "first"


def test_a_conversation_goes_on_in_its_order_though_a_later_question_has_its_other_lanes_free() -> None:
    session = new_session()
    session.receive(question("running", id="a", history=True), 0.0)
    started(session)
    session.receive(question("blocked", history=True), 0.0)
    session.receive(question("after it"), 0.0)

    assert session.next_turn() is None


def test_frames_of_a_session_start_in_the_order_in_which_their_sources_came() -> None:
    session = new_session()
    session.receive(frame("slot"), 0.0)
    session.receive(frame("queued", policy="queue"), 1.0)
    session.receive(frame("slot"), 2.0)

    assert [label.source for label in labels_in_order(session)] == ["slot", "queued"]


def test_a_question_that_has_not_begun_by_its_deadline_ends_with_a_code_of_its_own() -> None:
    session = new_session()
    session.receive(question(id="a", start_seconds=2.5), 10.0)

    assert (session.next_deadline, session.tick(12.4)) == (12.5, [])
    problem = only_event(session.tick(12.5))

    assert isinstance(problem, Problem)
    assert (problem.code, problem.turn.id, problem.retryable, session.waiting) == ("expired", "a", True, 0)


def test_a_request_in_the_engine_that_has_not_begun_by_its_deadline_is_taken_back() -> None:
    session = new_session()
    session.receive(question(id="a", start_seconds=2.5), 10.0)
    turn = started(session, 11.0).turn

    cancel, told_of_it = session.tick(12.5)

    assert cancel == Cancel(turn)
    assert isinstance(told_of_it, Send) and isinstance(told_of_it.event, Problem)
    assert (told_of_it.event.code, session.running) == ("expired", 0)


def test_a_reply_that_has_begun_has_no_deadline_but_the_servers() -> None:
    session = new_session()
    session.receive(question(id="a", start_seconds=2.5), 10.0)
    turn = started(session, 11.0).turn
    session.update(Started(turn), 12.0)

    assert (session.tick(13.0), session.next_deadline) == ([], 71.0)


def test_a_frame_that_has_not_begun_by_its_deadline_is_dropped() -> None:
    session = new_session()
    session.receive(FrameInput(ask=replace(frame(id="f").ask, start_seconds=0.1)), 0.0)

    dropped = only_event(session.tick(0.1))

    assert isinstance(dropped, FrameDropped) and dropped.reason == "expired"

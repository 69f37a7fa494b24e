"""Sessions take turns, and never more run than the engine has rows."""

import itertools

from mlx_websockets.events import Ask
from mlx_websockets.generation import Finished
from mlx_websockets.sampling import Sampling
from mlx_websockets.sessions.registry import SessionRegistry
from mlx_websockets.sessions.session import Session, Submit


def a_registry(**questions: int) -> tuple[SessionRegistry, dict[str, Session]]:
    """A registry of sessions that each have so many questions (with ids) waiting."""
    registry, numbers = SessionRegistry(), itertools.count(1)
    sessions = {name: Session(Sampling(), numbers) for name in questions}
    for name, session in sessions.items():
        registry.add(name, session)
        for number in range(questions[name]):
            session.receive(Ask(text="Why?", id=str(number)), 0.0)
    return registry, sessions


def start_all(registry: SessionRegistry, sessions: dict[str, Session], rows: int) -> list[str]:
    order = []
    while (name := registry.next_to_start(rows)) is not None:
        sessions[name].start_next(0.0)
        order.append(name)
    return order


def test_sessions_take_turns_so_that_many_questions_do_not_hold_up_one() -> None:
    registry, sessions = a_registry(many=4, one=1, two=2)

    assert start_all(registry, sessions, rows=16) == ["many", "one", "two", "many", "two", "many", "many"]


def test_who_was_served_last_is_served_last_next_time() -> None:
    registry, sessions = a_registry(first=2, second=2)

    assert start_all(registry, sessions, rows=1) == ["first"]
    sessions["first"].update(Finished(1, "stop"), 0.0)

    assert start_all(registry, sessions, rows=1) == ["second"]


def test_no_more_turns_run_than_there_are_rows() -> None:
    registry, sessions = a_registry(first=5, second=5)

    start_all(registry, sessions, rows=3)

    assert (registry.running, registry.waiting) == (3, 7)
    assert registry.next_to_start(rows=3) is None


def test_a_session_that_can_start_nothing_does_not_hold_up_the_others() -> None:
    registry, sessions = a_registry(idle=0, busy=0, ready=1)
    for _ in range(2):
        sessions["busy"].receive(Ask(text="one at a time"), 0.0)
    sessions["busy"].start_next(0.0)

    assert start_all(registry, sessions, rows=16) == ["ready"]


def test_a_session_that_left_is_asked_no_more() -> None:
    registry, sessions = a_registry(stays=1, leaves=1)

    registry.remove("leaves")

    assert len(registry) == 1
    assert start_all(registry, sessions, rows=16) == ["stays"]


def test_an_empty_registry_starts_nobody() -> None:
    assert SessionRegistry().next_to_start(rows=16) is None


def test_turn_numbers_are_shared_so_that_the_engine_can_tell_all_turns_apart() -> None:
    _, sessions = a_registry(first=3, second=3)

    submits = [action for session in sessions.values() for _ in range(3) for action in session.start_next(0.0)]

    assert len({submit.turn for submit in submits if isinstance(submit, Submit)}) == 6

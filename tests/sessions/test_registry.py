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


def a_house(
    questions: dict[str, tuple[str, int]], weights: dict[str, int]
) -> tuple[SessionRegistry, dict[str, Session]]:
    """Sessions by name, each of a party and with so many questions."""
    registry, numbers = SessionRegistry(), itertools.count(1)
    sessions = {name: Session(Sampling(), numbers) for name in questions}
    for name, (party, count) in questions.items():
        registry.add(name, sessions[name], party, weights.get(party, 1))
        for number in range(count):
            sessions[name].receive(Ask(text="Why?", id=str(number)), 0.0)
    return registry, sessions


def test_ten_connections_of_one_party_get_no_more_than_one_of_another() -> None:
    crowd = {f"c{number}": ("crowd", 1) for number in range(4)}
    registry, sessions = a_house(crowd | {"single": ("alone", 4)}, {})

    order = start_all(registry, sessions, rows=16)

    assert order == ["c0", "single", "c1", "single", "c2", "single", "c3", "single"]


def test_a_party_of_weight_3_starts_three_in_a_row() -> None:
    registry, sessions = a_house({"here": ("local", 7), "there": ("guest", 3)}, {"local": 3})

    order = start_all(registry, sessions, rows=16)

    assert order == ["here"] * 3 + ["there"] + ["here"] * 3 + ["there", "here", "there"]


def test_weight_that_is_not_used_is_not_saved_up() -> None:
    registry, sessions = a_house({"here": ("local", 1), "there": ("guest", 2)}, {"local": 3})

    start_all(registry, sessions, rows=2)
    for number in range(4):
        sessions["here"].receive(Ask(text="Why?", id=f"later {number}"), 0.0)

    assert start_all(registry, sessions, rows=16) == ["here", "here", "here", "there", "here"]


def test_a_party_is_forgotten_with_its_last_session() -> None:
    registry, sessions = a_house({"a": ("party", 1), "b": ("party", 1), "c": ("other", 1)}, {})

    registry.remove("a")
    registry.remove("b")

    assert start_all(registry, sessions, rows=16) == ["c"]

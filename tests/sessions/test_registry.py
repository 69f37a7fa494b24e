"""Sessions take turns, and never more run than the engine has rows."""

import itertools

from mlx_websockets.events import Ask, EncodedImage, FrameInput
from mlx_websockets.generation import Finished, Priority
from mlx_websockets.sampling import Sampling
from mlx_websockets.sessions.precedence import PATIENCE
from mlx_websockets.sessions.registry import SessionRegistry
from mlx_websockets.sessions.session import Session


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
    while (start := registry.next_to_start(rows)) is not None:
        sessions[start.name].start(start.turn, 0.0)
        order.append(start.name)
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
    start_all(registry, sessions, rows=1)

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

    turns = [turn.number for session in sessions.values() for turn in session.in_line]

    assert len(set(turns)) == 6


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


# --- classes ----------------------------------------------------------------------------


class House:
    """Sessions that start one after the other, each turn over at once unless it is kept running."""

    def __init__(self, *names: str, rows: int = 16) -> None:
        self.registry, numbers = SessionRegistry(), itertools.count(1)
        self.sessions = {name: Session(Sampling(), numbers, max_waiting=100) for name in names}
        self.rows = rows
        self.log: list[str] = []
        for name in names:
            self.registry.add(name, self.sessions[name])
        self._ids = itertools.count()

    def ask(self, name: str, word: str = "asks", priority: Priority = "interactive", candidates: int = 1) -> None:
        ask = Ask(text=word, id=str(next(self._ids)), priority=priority, changes={"candidate_count": candidates})
        self.sessions[name].receive(ask, 0.0)

    def show(self, name: str, source: str = "eye") -> None:
        ask = Ask(text="shows", id=str(next(self._ids)), images=(EncodedImage(""),), source=source)
        self.sessions[name].receive(FrameInput(ask=ask), 0.0)

    def start(self) -> int | None:
        """Start what is next; its turn."""
        start = self.registry.next_to_start(self.rows, self.has_room)
        if start is None:
            return None
        (submit,) = self.sessions[start.name].start(start.turn, 0.0)
        self.log.append(f"{start.name} {submit.messages[-1].text}")  # type: ignore[union-attr]
        return start.turn

    def has_room(self, model: str | None, rows: int) -> bool:
        return self.registry.rows_on(model) + rows <= self.rows

    def end(self, turn: int | None) -> None:
        for session in self.sessions.values():
            session.update(Finished(turn or 0, "stop"), 0.0)

    def run(self, count: int = 100) -> list[str]:
        """Let so many turns start and end; who they were."""
        for _ in range(count):
            if (turn := self.start()) is None:
                break
            self.end(turn)
        return self.log


def test_questions_go_before_frames_and_frames_before_work_that_nobody_watches() -> None:
    house = House("a", "b")
    house.ask("a", "sorts", "background")
    house.show("a")
    house.ask("b")

    assert house.run() == ["b asks", "a shows", "a sorts"]


def test_questions_of_others_do_not_starve_a_frame() -> None:
    house = House("eye", "a", "b")
    house.show("eye")
    for _ in range(5):
        house.ask("a"), house.ask("b")

    assert house.run().index("eye shows") == PATIENCE["frame"]


def test_work_that_nobody_watches_is_not_starved_by_questions_and_frames() -> None:
    house = House("a", "b")
    house.ask("a", "sorts", "background")
    for _ in range(40):
        house.ask("b")
        house.show("b")
        house.run(1)

    assert house.log.index("a sorts") == PATIENCE["background"]


def test_a_class_that_is_overdue_goes_first_once() -> None:
    house = House("a", "eye")
    house.show("eye", "left"), house.show("eye", "right")
    for _ in range(10):
        house.ask("a")

    house.run()

    assert [each for each, said in enumerate(house.log) if said == "eye shows"] == [4, 9]


def test_a_class_is_passed_over_only_while_it_waits_and_could_start() -> None:
    house = House("a", "eye")
    house.show("eye")
    looking = house.start()
    house.show("eye")  # of the same source: it could not start now
    for _ in range(6):
        house.ask("a")
    house.run(PATIENCE["frame"])
    house.end(looking)

    house.run(1)

    assert house.log[-1] == "a asks"


def test_sessions_take_turns_within_each_class() -> None:
    house = House("a", "b")
    for name in ("a", "a", "b"):
        house.ask(name, "sorts", "background")
        house.ask(name)

    assert house.run() == ["a asks", "b asks", "a asks", "a sorts", "b sorts", "a sorts"]


# --- turns of several rows --------------------------------------------------------------


def test_a_turn_of_several_rows_is_not_overtaken_while_it_waits_for_them() -> None:
    house = House("many", "wide", rows=4)
    for _ in range(4):
        house.ask("many")
    running = [house.start() for _ in range(4)]
    house.ask("wide", "asks thrice", candidates=3)
    house.ask("many"), house.ask("many")

    for turn in running[:2]:
        house.end(turn)
        assert house.start() is None, "somebody took a row that was kept"
    house.end(running[2])
    house.start()

    assert house.log[4:] == ["wide asks thrice"]
    assert house.registry.rows == 4


def test_rows_of_another_model_are_not_kept() -> None:
    house = House("a", "b", rows=2)
    house.ask("a")
    house.start()
    house.ask("a", "asks twice", candidates=2)
    house.sessions["b"].receive(Ask(text="asks elsewhere", id="x", model="other"), 0.0)
    house.rows = 3  # of both models together; each has 2
    two_each = lambda model, rows: house.registry.rows_on(model) + rows <= 2  # noqa: E731

    start = house.registry.next_to_start(house.rows, two_each)

    assert start is not None and start.name == "b"


def test_a_wide_turn_of_a_later_class_keeps_no_row_from_a_question() -> None:
    house = House("a", "b", rows=2)
    house.ask("a")
    house.start()
    house.ask("b", "sorts twice", "background", candidates=2)
    house.ask("a")

    house.start()

    assert house.log == ["a asks", "a asks"]

"""Who starts next: round robin, within the rows, and only while the engine is ready."""

import pytest

from mlx_websockets.events import Ask
from mlx_websockets.generation import Finished
from mlx_websockets.sampling import Sampling
from mlx_websockets.server.farewell import Farewell
from mlx_websockets.server.floor import Floor
from mlx_websockets.server.parties import Party
from mlx_websockets.sessions.session import Session
from mlx_websockets.testing import ScriptedEngine


class Guest:
    """Notes what it was told to start."""

    def __init__(self, name: str, floor: Floor, log: list[str], weight: int = 1) -> None:
        self.name = name
        self.session = Session(Sampling(), floor.numbers)
        self.party = Party(name, weight)
        self.floor = floor
        self.log = log
        self.answers_at_once = False
        self.is_connected = True
        floor.enter(self)

    def ask(self, *texts: str) -> None:
        for text in texts:
            self.session.receive(Ask(text=text, id=text), 0.0)

    def start(self, turn: int) -> None:
        for submit in self.session.start(turn, 0.0):
            self.log.append(f"{self.name}: {submit.messages[-1].text}")
            if self.answers_at_once:
                self.session.update(Finished(submit.turn, "stop"), 0.0)
                self.floor.advance()

    def drain(self, seconds: float, farewell: Farewell) -> None: ...

    def shut_down(self, farewell: Farewell) -> None: ...


@pytest.fixture
def engine():
    engine = ScriptedEngine()
    engine.rows = 2
    return engine


def test_guests_take_turns(engine):
    floor, log = Floor(engine), []
    engine.rows = 3
    busy, modest = Guest("busy", floor, log), Guest("modest", floor, log)
    busy.ask("1", "2", "3")
    modest.ask("only")

    floor.advance()

    assert log == ["busy: 1", "modest: only", "busy: 2"]
    assert (floor.running, floor.waiting, floor.connections) == (3, 1, 2)


def test_a_party_of_weight_three_starts_three_for_each_one_of_another(engine):
    floor, log = Floor(engine), []
    engine.rows = 8
    heavy, light = Guest("heavy", floor, log, weight=3), Guest("light", floor, log)
    heavy.ask("1", "2", "3", "4", "5", "6")
    light.ask("1", "2", "3", "4", "5", "6")

    floor.advance()

    assert [line.split(":")[0] for line in log] == [*["heavy"] * 3, "light"] * 2


def test_a_free_row_goes_to_the_next(engine):
    floor, log = Floor(engine), []
    guest = Guest("g", floor, log)
    guest.ask("1", "2", "3")
    floor.advance()

    guest.session.update(Finished(1, "stop"), 0.0)
    floor.advance()

    assert log == ["g: 1", "g: 2", "g: 3"]


def test_replies_that_come_at_once_do_not_nest(engine):
    floor, log = Floor(engine), []
    guest = Guest("g", floor, log)
    guest.answers_at_once = True
    guest.ask(*map(str, range(10)))

    floor.advance()

    assert log == [f"g: {n}" for n in range(10)]


def test_nothing_starts_while_the_engine_is_away_and_all_does_when_it_is_back(engine):
    floor, log = Floor(engine), []
    guest = Guest("g", floor, log)
    engine.crash()
    guest.ask("1")

    floor.advance()
    assert log == []
    engine.recover()

    assert log == ["g: 1"]


def test_who_has_left_is_not_called(engine):
    floor, log = Floor(engine), []
    guest = Guest("g", floor, log)
    guest.ask("1")

    floor.leave(guest)
    floor.leave(guest)
    floor.advance()

    assert (log, floor.connections) == ([], 0)


def test_numbers_are_never_given_twice(engine):
    floor = Floor(engine)

    assert [next(floor.numbers) for _ in range(3)] == [1, 2, 3]


def test_several_candidates_wait_until_a_row_is_free_for_each(engine):
    floor, log = Floor(engine), []
    guest = Guest("g", floor, log)
    guest.ask("1")
    guest.session.receive(Ask(text="2", id="2", changes={"candidate_count": 2}), 0.0)
    floor.advance()
    assert log == ["g: 1"]

    guest.session.update(Finished(1, "stop"), 0.0)
    floor.advance()

    assert log == ["g: 1", "g: 2"]
    assert (floor.running, floor.rows) == (1, 2)

"""A session that takes nothing new: what waits is told, what runs goes on."""

import itertools

from mlx_websockets.events import Ask, EncodedImage, FrameInput, Problem, ReplyFinished
from mlx_websockets.generation import Finished
from mlx_websockets.sampling import Sampling
from mlx_websockets.sessions.session import Send, Session


def problems(actions):
    return [(each.event.turn.id, each.event.code, each.event.retryable) for each in actions if is_problem(each)]


def is_problem(action):
    return isinstance(action, Send) and isinstance(action.event, Problem)


def test_draining_tells_what_waits_refuses_what_comes_and_lets_finish_what_runs():
    session = Session(Sampling(), itertools.count(1))
    frame = FrameInput(ask=Ask(text="?", images=(EncodedImage(b""),), id="frame", source="webcam"))
    session.receive(Ask(text="a", id="running"), 0.0)
    session.start(1, 0.0)
    session.receive(Ask(text="b", id="waiting"), 0.0)
    session.receive(frame, 0.0)

    told = session.drain("shutting_down", "The server stops.")

    assert problems(told) == [("waiting", "shutting_down", True), ("frame", "shutting_down", True)]
    assert not session.wants_to_start
    assert problems(session.receive(Ask(text="c", id="late"), 1.0)) == [("late", "shutting_down", True)]
    assert problems(session.receive(frame, 1.0)) == [("frame", "shutting_down", True)]
    [finished] = session.update(Finished(1, "stop"), 2.0)
    assert isinstance(finished, Send) and isinstance(finished.event, ReplyFinished)

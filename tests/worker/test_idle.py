"""What the worker does when nobody asks anything: the real loop, a real model, no clock."""

from pathlib import Path

import pytest

from mlx_websockets import heap
from mlx_websockets.engine.messages import FromWorker, ModelSpec, Stop, Submit, ToWorker
from mlx_websockets.engine.worker.startup import prepare
from mlx_websockets.generation import ChatMessage, Choice, GenerationRequest


class Day:
    """What comes in, one thing after the other; None: a second in which nothing does."""

    def __init__(self, *happens: ToWorker | None) -> None:
        self._happens = list(happens)

    def send(self, message: FromWorker) -> None:
        pass

    def receive(self, timeout: float) -> ToWorker | None:
        return self._happens.pop(0)

    def received(self) -> list[ToWorker]:
        return []


def asked(number: int) -> Submit:
    request = GenerationRequest(id=number, messages=(ChatMessage("user", "Well?"),), choice=Choice(max_tokens=2))
    return Submit(request)


def test_a_rest_gives_memory_back_once(tiny_gemma3: Path, monkeypatch: pytest.MonkeyPatch):
    given_back: list[None] = []
    monkeypatch.setattr(heap, "give_back", lambda: given_back.append(None))

    prepare(Day(None, None, asked(1), asked(2), None, None, None, Stop()), ModelSpec(model=str(tiny_gemma3))).run()

    assert len(given_back) == 2  # after the start, and after the two requests

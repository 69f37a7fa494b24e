from dataclasses import dataclass

from mlx_websockets.engine.worker.scheduler import PATIENCE, Waiting, first_in_line
from mlx_websockets.generation import ChatMessage, Choice, GenerationRequest, Priority


def request(id: int, priority: Priority = "interactive", candidates: int = 1) -> GenerationRequest:
    choice = Choice(max_tokens=1, candidates=candidates)
    return GenerationRequest(id=id, messages=(ChatMessage("user", "?"),), choice=choice, priority=priority)


def test_requests_begin_in_the_order_of_arrival():
    waiting = Waiting()
    waiting.add(request(1), 0.0)
    waiting.add(request(2), 0.5)

    assert waiting.next(free_rows=1) == (request(1), 0.0)
    assert waiting.next(free_rows=1) == (request(2), 0.5)
    assert waiting.next(free_rows=1) is None


def test_what_somebody_waits_for_begins_before_frames_and_these_before_what_nobody_watches():
    waiting = Waiting()
    for id, priority in enumerate(("background", "frame", "interactive", "frame")):
        waiting.add(request(id, priority), 0.0)  # type: ignore[arg-type]

    begun = [waiting.next(free_rows=1) for _ in range(4)]

    assert [each[0].id for each in begun if each is not None] == [2, 1, 3, 0]


def test_a_request_for_several_rows_waits_for_them_and_is_not_overtaken():
    waiting = Waiting()
    waiting.add(request(1, candidates=4), 0.0)
    waiting.add(request(2), 0.0)

    assert waiting.next(free_rows=3) is None
    assert waiting.next(free_rows=4) == (request(1, candidates=4), 0.0)


def test_a_waiting_request_can_be_given_up_once():
    waiting = Waiting()
    waiting.add(request(1), 0.0)
    waiting.add(request(2), 0.0)

    assert waiting.remove(1)
    assert not waiting.remove(1)
    assert len(waiting) == 1
    assert waiting.next(free_rows=1) == (request(2), 0.0)


@dataclass(eq=False)
class Prompt:
    remaining: int
    priority: Priority = "interactive"
    passed_over: int = 0


def remaining(prompt: Prompt) -> int:
    return prompt.remaining


def test_the_prompt_that_is_soonest_done_goes_first():
    long, short = Prompt(2000), Prompt(20)

    assert first_in_line([long, short], remaining) is short


def test_a_long_question_goes_before_a_short_frame():
    question, frame = Prompt(2000), Prompt(20, "frame")

    assert first_in_line([frame, question], remaining) is question


def test_nobody_is_passed_over_for_ever():
    long = Prompt(2000, "background")

    chosen = [first_in_line([long, Prompt(20)], remaining) is long for _ in range(PATIENCE + 1)]

    assert chosen == [False] * PATIENCE + [True]
    assert long.passed_over == 0

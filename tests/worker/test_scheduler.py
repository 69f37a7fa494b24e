from dataclasses import dataclass

from mlx_websockets.engine.worker.scheduler import (
    PATIENCE,
    Arrival,
    Waiting,
    first_in_line,
    in_one_pass,
    prompts_go_first,
)
from mlx_websockets.generation import ChatMessage, Choice, GenerationRequest, Priority


def request(id: int, priority: Priority = "interactive", candidates: int = 1) -> GenerationRequest:
    choice = Choice(max_tokens=1, candidates=candidates)
    return GenerationRequest(id=id, messages=(ChatMessage("user", "?"),), choice=choice, priority=priority)


def test_requests_begin_in_the_order_of_arrival():
    waiting = Waiting()
    waiting.add(request(1), 0.0)
    waiting.add(request(2), 0.5)

    assert waiting.next(free_rows=1) == Arrival(request(1), 0.0)
    assert waiting.next(free_rows=1) == Arrival(request(2), 0.5)
    assert waiting.next(free_rows=1) is None


def test_what_somebody_waits_for_begins_before_frames_and_these_before_what_nobody_watches():
    waiting = Waiting()
    for id, priority in enumerate(("background", "frame", "interactive", "frame")):
        waiting.add(request(id, priority), 0.0)  # type: ignore[arg-type]

    begun = [waiting.next(free_rows=1) for _ in range(4)]

    assert [each.request.id for each in begun if each is not None] == [2, 1, 3, 0]


def test_a_request_for_several_rows_waits_for_them_and_is_not_overtaken():
    waiting = Waiting()
    waiting.add(request(1, candidates=4), 0.0)
    waiting.add(request(2), 0.0)

    assert waiting.next(free_rows=3) is None
    assert waiting.next(free_rows=4) == Arrival(request(1, candidates=4), 0.0)


def test_a_waiting_request_can_be_given_up_once():
    waiting = Waiting()
    waiting.add(request(1), 0.0)
    waiting.add(request(2), 0.0)

    assert waiting.remove(1)
    assert not waiting.remove(1)
    assert len(waiting) == 1
    assert waiting.next(free_rows=1) == Arrival(request(2), 0.0)


def test_what_is_put_back_is_next_unless_something_more_urgent_comes():
    waiting = Waiting()
    for id in (1, 2):
        waiting.add(request(id, "frame"), 0.0)
    taken = waiting.next(free_rows=1)
    assert taken is not None
    waiting.put_back(taken)
    waiting.add(request(3), 0.5)

    begun = [waiting.next(free_rows=1) for _ in range(3)]

    assert [each.request.id for each in begun if each is not None] == [3, 1, 2]


@dataclass(eq=False)
class Prompt:
    remaining: int
    priority: Priority = "interactive"
    passed_over: int = 0


def test_the_prompt_that_is_soonest_done_goes_first():
    long, short = Prompt(2000), Prompt(20)

    assert first_in_line([long, short]) is short


def test_a_long_question_goes_before_a_short_frame():
    question, frame = Prompt(2000), Prompt(20, "frame")

    assert first_in_line([frame, question]) is question


def test_nobody_is_passed_over_for_ever():
    long = Prompt(2000, "background")

    chosen = [first_in_line([long, Prompt(20)]) is long for _ in range(PATIENCE + 1)]

    assert chosen == [False] * PATIENCE + [True]
    assert long.passed_over == 0


def lengths(first: int, *others: int, running: int = 0) -> list[int]:
    """Of the prompts that are computed together, where pieces have 128 tokens."""
    together = in_one_pass(Prompt(first), [Prompt(other) for other in others], piece=128, running=running)
    return [prompt.remaining for prompt in together]


def test_prompts_of_about_one_length_are_computed_together():
    assert lengths(40, 42, 41, 44, 43) == [40, 41, 42, 43, 44]


def test_a_prompt_that_would_lengthen_many_others_much_is_left_for_the_next_pass():
    assert lengths(20, 21, 22, 23, 60) == [20, 21, 22, 23]
    assert lengths(20, 45) == [20, 45]


def test_a_pass_has_a_bound():
    assert lengths(60, *[60] * 20) == [60] * 8


def test_a_pass_that_many_replies_wait_for_is_no_larger_than_a_piece():
    assert lengths(40, 40, 40, 40, 40, running=8) == [40, 40, 40]
    assert lengths(40, 40, 40, 40, 40, running=5) == [40] * 5
    assert lengths(128, running=8) == [128]


def test_replies_wait_for_prompts_only_where_these_are_more_and_as_urgent():
    assert prompts_go_first(["interactive"] * 2, ["interactive"])
    assert not prompts_go_first(["interactive"], ["interactive"])
    assert not prompts_go_first(["background"] * 9, ["interactive"])
    assert not prompts_go_first(["background"] * 9, ["background", "frame"])
    assert prompts_go_first(["background"] * 9, ["background"])

from mlx_websockets.engine.worker.scheduler import Scheduler
from mlx_websockets.generation import ChatMessage, Choice, GenerationRequest


def request(id: int) -> GenerationRequest:
    return GenerationRequest(id=id, messages=(ChatMessage("user", "?"),), choice=Choice(max_tokens=1))


def test_requests_begin_in_the_order_of_arrival():
    scheduler: Scheduler[str] = Scheduler()
    scheduler.add(request(1), 0.0)
    scheduler.add(request(2), 0.5)

    assert scheduler.next() == (request(1), 0.0)
    assert scheduler.next() == (request(2), 0.5)
    assert scheduler.next() is None


def test_a_waiting_request_can_be_given_up():
    scheduler: Scheduler[str] = Scheduler()
    scheduler.add(request(1), 0.0)
    scheduler.add(request(2), 0.0)

    assert scheduler.end(1) is None
    assert scheduler.waiting == 1
    assert scheduler.next() == (request(2), 0.0)


def test_ending_a_running_request_names_its_row_once():
    scheduler: Scheduler[str] = Scheduler()
    scheduler.begin(request(1), row=7, running="a sequence")

    assert scheduler.at(7) == "a sequence"
    assert scheduler.end(1) == 7
    assert scheduler.end(1) is None
    assert scheduler.at(7) is None


def test_all_that_runs_can_be_ended_at_once():
    scheduler: Scheduler[str] = Scheduler()
    scheduler.begin(request(1), row=7, running="a")
    scheduler.begin(request(2), row=9, running="b")

    assert scheduler.end_all() == [1, 2]
    assert scheduler.running == 0

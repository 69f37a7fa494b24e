import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlx_websockets.engine.messages import (
    Cancel,
    FromWorker,
    Heartbeat,
    Loading,
    Memory,
    ModelInfo,
    ModelSpec,
    Ready,
    Submit,
)
from mlx_websockets.engine.supervisor import Deadlines, Patience, RestartPace, State, Supervisor
from mlx_websockets.errors import ModelNotFound, OutOfMemory, StartError
from mlx_websockets.generation import ChatMessage, Choice, GenerationRequest

PROGRAM = str(Path(__file__).with_name("scripted_worker.py"))
DEADLINE_SECONDS = 30.0
SPEC = ModelSpec(model="scripted")


class Watched:
    """A supervisor of a scripted worker, and everything it told."""

    def __init__(self, *manner: str, command: tuple[str, ...] = (), **deadlines: Any) -> None:
        self.messages: list[FromWorker] = []
        self.states: list[State] = []
        quick: dict[str, Any] = {"stop_step": 1.0, "first_delay": 0.01, "longest_delay": 0.05, "look": 0.05}
        self.supervisor = Supervisor(
            SPEC,
            on_message=self.messages.append,
            on_state=self.states.append,
            command=command or (sys.executable, PROGRAM, *manner),
            deadlines=Deadlines(**(quick | deadlines)),
        )

    def wish(self, text: str) -> None:
        choice = Choice(max_tokens=8)
        request = GenerationRequest(id=1, messages=(ChatMessage("user", text),), choice=choice)
        self.supervisor.send(Submit(request))

    async def until_ready_again(self) -> None:
        await until(lambda: self.supervisor.restarts > 0 and self.supervisor.state == "ready")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


def run_with_nothing_left_over(story: Coroutine[Any, Any, None]) -> None:
    """Run `story`; no process and no file descriptor may be left of it."""

    async def whole() -> None:
        await asyncio.create_subprocess_exec("true")  # what asyncio itself opens for children stays
        ours = psutil.Process()
        before = ours.num_fds()
        await asyncio.wait_for(story, 2 * DEADLINE_SECONDS)

        await until(lambda: not ours.children() and ours.num_fds() <= before)

    asyncio.run(whole())


# --- loading ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind"),
    [("model_not_found", ModelNotFound), ("out_of_memory", OutOfMemory), ("of_a_later_time", StartError)],
)
def test_a_failure_to_load_keeps_its_kind_its_reason_and_its_hint(code: str, kind: type[StartError]) -> None:
    async def story() -> None:
        with pytest.raises(StartError) as caught:
            await Watched("fails", code).supervisor.start()

        assert (kind, "No such model.", "Try another.") == (type(caught.value), caught.value.reason, caught.value.hint)

    run_with_nothing_left_over(story())


def test_a_worker_that_dies_while_loading_is_quoted() -> None:
    async def story() -> None:
        with pytest.raises(StartError) as caught:
            await Watched("exits").supervisor.start()

        assert "ended with exit status 3" in caught.value.reason
        assert "\n  loading as well as I can\n  something terrible happened" in caught.value.reason

    run_with_nothing_left_over(story())


def test_a_worker_that_is_killed_while_loading_is_a_start_error_that_names_the_signal() -> None:
    async def story() -> None:
        with pytest.raises(StartError, match="was killed by SIGKILL") as caught:
            await Watched("is-killed").supervisor.start()

        assert "memory" in caught.value.hint

    run_with_nothing_left_over(story())


def test_a_worker_that_says_nothing_while_loading_is_given_up() -> None:
    async def story() -> None:
        with pytest.raises(StartError, match=r"said nothing for .* while loading"):
            await Watched("is-silent", loading_silence=0.5).supervisor.start()

    run_with_nothing_left_over(story())


def test_a_program_that_is_not_there_is_a_start_error() -> None:
    async def story() -> None:
        with pytest.raises(StartError, match="can't be started"):
            await Watched(command=("/no/such/program",)).supervisor.start()

    run_with_nothing_left_over(story())


@pytest.mark.parametrize("manner", ["is-silent", "ready"])
def test_giving_up_while_loading_leaves_nothing_behind(manner: str) -> None:
    async def story() -> None:
        watched = Watched(manner)
        starting = asyncio.create_task(watched.supervisor.start())
        await until(lambda: watched.supervisor.pid is not None)

        starting.cancel()

        with pytest.raises(asyncio.CancelledError):
            await starting
        assert watched.supervisor.state == "stopped"

    run_with_nothing_left_over(story())


def test_being_stopped_while_loading_ends_the_start() -> None:
    async def story() -> None:
        watched = Watched("is-silent")
        starting = asyncio.create_task(watched.supervisor.start())
        await until(lambda: len(watched.messages) > 0)

        await watched.supervisor.stop()

        with pytest.raises(StartError, match="stopped while"):
            await starting

    run_with_nothing_left_over(story())


# --- losing a worker --------------------------------------------------------------------


def test_a_worker_that_is_lost_is_replaced_until_it_is_stopped() -> None:
    async def story() -> None:
        watched = Watched("ready")
        await watched.supervisor.start()
        first = watched.supervisor.pid

        watched.wish("abort")
        await watched.until_ready_again()
        assert first != watched.supervisor.pid
        await watched.supervisor.stop()

        assert watched.states == ["ready", "restarting", "ready", "stopped"]
        assert watched.supervisor.pid is None

    run_with_nothing_left_over(story())


def test_a_worker_that_is_suspended_is_killed_and_replaced() -> None:
    async def story() -> None:
        watched = Watched("ready", idle_silence=1.0, silence=3600.0)
        await watched.supervisor.start()
        first = watched.supervisor.pid
        assert first is not None

        os.kill(first, signal.SIGSTOP)
        await watched.until_ready_again()

        assert not psutil.pid_exists(first)
        await watched.supervisor.stop()

    run_with_nothing_left_over(story())


@pytest.mark.parametrize(
    ("wish", "deadlines"),
    [("hang", {"idle_silence": 1.0, "silence": 3600.0}), ("spin", {"idle_silence": 3600.0, "silence": 1.0})],
)
def test_a_worker_that_hangs_is_replaced_whether_or_not_it_burns_cpu(wish: str, deadlines: dict[str, float]) -> None:
    async def story() -> None:
        watched = Watched("ready", **deadlines)
        await watched.supervisor.start()

        watched.wish(wish)
        await watched.until_ready_again()

        await watched.supervisor.stop()

    run_with_nothing_left_over(story())


def test_when_no_worker_becomes_ready_it_shows_and_ends_when_one_does(tmp_path: Path) -> None:
    async def story() -> None:
        marker = tmp_path / "lived once"
        watched = Watched("once", str(marker), hopeless_deaths=3)
        await watched.supervisor.start()

        watched.wish("kill")
        await until(lambda: watched.supervisor.state == "failed")
        marker.unlink()
        await until(lambda: watched.supervisor.state == "ready")

        assert watched.states == ["ready", "restarting", "failed", "ready"]
        await watched.supervisor.stop()

    run_with_nothing_left_over(story())


def test_it_can_be_stopped_while_it_waits_to_restart() -> None:
    async def story() -> None:
        watched = Watched("ready", first_delay=3600.0, longest_delay=3600.0)
        await watched.supervisor.start()
        watched.wish("kill")
        await until(lambda: watched.supervisor.restarts == 1)

        watched.supervisor.send(Cancel(1))
        await watched.supervisor.stop()
        await watched.supervisor.stop()

        assert watched.states == ["ready", "restarting", "stopped"]

    run_with_nothing_left_over(story())


# --- leaving ----------------------------------------------------------------------------


def test_a_worker_that_is_asked_to_stop_leaves_by_itself() -> None:
    async def story() -> None:
        watched = Watched("ready", stop_step=DEADLINE_SECONDS)
        await watched.supervisor.start()

        await watched.supervisor.stop()

    run_with_nothing_left_over(story())


@pytest.mark.parametrize(("manner", "wish"), [("stubborn", ""), ("ready", "hang"), ("ready", "spin")])
def test_a_worker_that_does_not_stop_is_made_to(manner: str, wish: str) -> None:
    async def story() -> None:
        watched = Watched(manner, stop_step=0.1)
        await watched.supervisor.start()
        said = len(watched.messages)
        if wish:
            watched.wish(wish)
            await until(lambda: len(watched.messages) > said)

        await watched.supervisor.stop()

    run_with_nothing_left_over(story())


PARENT = """
import asyncio, sys
from mlx_websockets.engine.messages import ModelSpec
from mlx_websockets.engine.supervisor import Supervisor

async def main():
    supervisor = Supervisor(
        ModelSpec(model="scripted"), on_message=lambda m: None, on_state=lambda s: None, command=sys.argv[1:]
    )
    await supervisor.start()
    print(supervisor.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_when_the_server_is_killed_its_worker_leaves() -> None:
    arguments = [sys.executable, "-c", PARENT, sys.executable, PROGRAM, "ready"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert is_running(worker)

        parent.kill()

    asyncio.run(until(lambda: not is_running(worker)))


# --- how long to wait -------------------------------------------------------------------


def test_the_delay_doubles_up_to_its_limit_and_starts_over_after_a_steady_time() -> None:
    pace = RestartPace(Deadlines(hopeless_deaths=100))

    delays = []
    for now in range(10):
        pace.ready(now)
        delays.append(pace.died(now))
    pace.ready(100)

    assert [round(delay, 9) for delay in delays] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
    assert pace.died(159.9) == 30.0
    pace.ready(200)
    assert pace.died(260) == 0.2


def test_a_worker_that_has_worked_is_replaced_at_once_however_often_it_dies() -> None:
    pace = RestartPace(Deadlines())

    delays = []
    for now in range(10):
        pace.ready(now)
        pace.worked()
        delays.append(pace.died(now))

    assert delays == [0.2] * 10


def test_five_deaths_in_a_row_are_hopeless_and_a_ready_is_hope() -> None:
    pace = RestartPace(Deadlines())

    for now in range(4):
        pace.died(now)
    assert not pace.is_hopeless

    assert pace.died(4) == 30.0
    assert pace.is_hopeless
    pace.ready(5)
    assert not pace.is_hopeless


def test_deaths_far_apart_are_not_hopeless() -> None:
    pace = RestartPace(Deadlines())

    for index in range(20):
        pace.died(151 * index)

    assert not pace.is_hopeless


READY = Ready(
    ModelInfo(id="m", sees=False, max_images=0, context_tokens=1, backend="cpu", weights_bytes=0, versions={}), Memory()
)
BEAT = Heartbeat(running=0, waiting=0, memory=Memory(), tokens=0)


def looks_until_worn_out(patience: Patience) -> int:
    return next(look for look in range(1, 10_000) if patience.worn_out())


def test_a_silent_worker_that_does_nothing_is_hanging_after_fifteen_looks() -> None:
    patience = Patience(Deadlines(), lambda: 7.0)
    patience.heard(READY)

    assert looks_until_worn_out(patience) == 15


def test_a_silent_worker_that_is_busy_is_given_two_minutes() -> None:
    cpu_seconds = iter(range(10_000))
    patience = Patience(Deadlines(), lambda: next(cpu_seconds))
    patience.heard(READY)

    assert looks_until_worn_out(patience) == 120


def test_a_worker_that_stops_working_in_its_silence_is_hanging_fifteen_looks_later() -> None:
    cpu_seconds = iter([*range(50), *[50] * 10_000])
    patience = Patience(Deadlines(), lambda: next(cpu_seconds))
    patience.heard(READY)

    assert looks_until_worn_out(patience) == 51 + 15


def test_any_message_restores_patience() -> None:
    patience = Patience(Deadlines(), lambda: 7.0)
    patience.heard(READY)

    for _ in range(14):
        assert not patience.worn_out()
    patience.heard(BEAT)

    assert looks_until_worn_out(patience) == 15


def test_a_loading_worker_is_given_ten_minutes_between_messages() -> None:
    patience = Patience(Deadlines(), lambda: 7.0)
    patience.heard(Loading("weights"))

    assert looks_until_worn_out(patience) == 600

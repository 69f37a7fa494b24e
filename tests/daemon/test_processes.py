"""Real processes: a stand-in for the server, and bystanders that must come to no harm."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from mlx_websockets.daemon.process import SAME_START_SECONDS, Launch, end, process_of
from mlx_websockets.daemon.records import Record, Records, new_id, start_time
from mlx_websockets.daemon.vitals import vitals_of
from mlx_websockets.errors import ModelNotFound, StartError

STAND_IN = [sys.executable, str(Path(__file__).with_name("stand_in.py"))]
PATIENCE_SECONDS = 20.0


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "state")


@pytest.fixture
def launch(records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Launch]]:
    started: list[Launch] = []

    def start(*flags: str, how: str = "ready") -> Launch:
        monkeypatch.setenv("STAND_IN", how)
        started.append(Launch(records, flags or ["--port=0"], folder=tmp_path, command=STAND_IN))
        return started[-1]

    yield start
    for each in started:
        each._process.kill()
        each._process.wait()


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is none of ours, though its command line says `mlx_websockets`."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "mlx_websockets", "serve"])
    yield process
    process.kill()
    process.wait()


def silent(line: str) -> None:
    pass


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def record_of(process: "subprocess.Popen[bytes]", **changes: object) -> Record:
    plain = {
        "id": new_id(), "pid": process.pid, "process_start": start_time(process.pid), "model": "demo",
        "host": "localhost", "port": 8765, "started_at": time.time(), **changes,
    }  # fmt: skip
    return msgspec.convert(plain, Record)


# --- starting -------------------------------------------------------------------------


def test_a_start_ends_when_the_server_is_ready_and_tells_what_it_logged(launch, records):
    lines: list[str] = []

    record = launch().wait(lines.append)

    assert [record] == records.found()
    assert (record.state, record.is_background) == ("ready", True)
    assert lines == ["→ Loading"]
    assert record.url == f"ws://localhost:{record.port}"


def test_a_server_has_a_session_of_its_own_and_nothing_of_the_terminals(launch):
    record = launch().wait(silent)

    assert os.getsid(record.pid) == record.pid != os.getsid(0)
    streams = {os.readlink(f"/proc/{record.pid}/fd/{number}") for number in (1, 2)} if sys.platform == "linux" else None
    assert streams in (None, {record.log})


def test_two_started_at_once_on_one_port_get_two_ports_ten_times_over(launch, records):
    for _ in range(10):
        pair = [launch("--auto-port") for _ in range(2)]
        ports = {each.wait(silent).port for each in pair}

        assert len(ports) == 2
        end(records, records.found())


def test_a_server_that_fails_is_told_with_its_reason_its_status_and_its_last_lines(launch, records):
    with pytest.raises(ModelNotFound, match="There is no such model") as failure:
        launch(how="fail").wait(silent)

    assert failure.value.exit_code == 5
    assert failure.value.hint.startswith("Try another one.\n")
    assert "→ Loading" in failure.value.hint
    assert records.found() == []


def test_a_server_that_dies_without_a_word_is_told_with_its_last_lines(launch, records):
    with pytest.raises(StartError, match="was killed by SIGKILL before it was ready") as failure:
        launch(how="crash").wait(silent)

    assert failure.value.exit_code == 1
    assert "Segmentation fault, as it were" in failure.value.hint
    assert records.found() == []


def test_a_start_in_a_folder_that_is_gone_says_so(records, tmp_path):
    with pytest.raises(StartError, match="can't be started"):
        Launch(records, [], folder=tmp_path / "gone", command=STAND_IN)


def test_a_zombie_is_not_running(launch, records):
    one = launch()
    record = one.wait(silent)

    os.kill(record.pid, signal.SIGKILL)
    until(lambda: psutil.Process(record.pid).status() == psutil.STATUS_ZOMBIE)  # until we wait for it

    assert records.found() == []
    assert start_time(record.pid) is None
    assert process_of(records, record) is None


# --- ending ---------------------------------------------------------------------------


def test_a_server_that_is_asked_to_leave_leaves(launch, records):
    record = launch().wait(silent)

    killed = end(records, [record])

    assert killed == []
    assert records.found() == []


def test_a_server_that_does_not_leave_is_killed_and_its_children_with_it(launch, records):
    lines: list[str] = []
    record = launch(how="stubborn").wait(lines.append)
    child = next(int(line.split()[1]) for line in lines if line.startswith("child "))
    told: list[float] = []

    killed = end(records, [record], polite_seconds=1.3, on_wait=told.append)

    assert [record] == killed
    assert [int(seconds) for seconds in told] == [1]
    until(lambda: start_time(child) is None)
    assert records.found() == []


def test_a_loading_server_can_be_ended_too(launch, records):
    one = launch(how="loading")
    until(lambda: records.find(one.id))

    assert end(records, records.found()) == []
    with pytest.raises(StartError, match="was killed by SIGTERM before it was ready"):
        one.wait(silent)


def test_a_process_that_got_the_pid_of_a_server_is_not_signalled(records, bystander):
    reused = record_of(bystander, process_start=start_time(bystander.pid) - 2 * SAME_START_SECONDS)

    with records.hold(reused), pytest.raises(StartError, match="not a process of this machine"):
        end(records, [reused])

    assert bystander.poll() is None


def test_a_process_is_not_signalled_for_a_record_that_nobody_holds(records, bystander):
    record = record_of(bystander)

    assert end(records, [record]) == []
    assert bystander.poll() is None


# --- vitals ---------------------------------------------------------------------------


def test_a_server_that_does_not_answer_is_shown_without_what_it_would_have_said(launch, records):
    record = launch().wait(silent)

    (vitals,) = vitals_of(records, [record])

    assert vitals.memory_bytes > 1_000_000
    assert (vitals.connections, vitals.tokens_per_second, vitals.model_memory) == (None, None, None)


def test_another_program_that_answers_on_the_port_is_not_believed(records, bystander):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        record = record_of(bystander, state="ready", port=listening.getsockname()[1])
        with records.hold(record):
            answer = b'HTTP/1.0 200 OK\r\n\r\n{"pid": 1, "queue": {"connections": 7}}'
            script = "import socket,sys,os; s=socket.socket(fileno=int(sys.argv[1])); c,_=s.accept(); c.recv(9999)"
            code = f"{script}; c.sendall({answer!r}); c.close()"
            with subprocess.Popen(
                [sys.executable, "-c", code, str(listening.fileno())], pass_fds=[listening.fileno()]
            ) as other:
                (vitals,) = vitals_of(records, [record])
                other.kill()

    assert vitals.connections is None

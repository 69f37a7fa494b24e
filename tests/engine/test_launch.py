import asyncio
import os
import sys
from pathlib import Path

import psutil
import pytest

from mlx_websockets.engine.blas import Blas
from mlx_websockets.engine.launch import KEPT_LINES, MAX_LINE_BYTES, WORKER_COMMAND, WorkerProcess

DEADLINE_SECONDS = 30.0


async def lines_of(*command: str, blas: Blas | None = None) -> list[str]:
    """What `command` printed, once it has ended by itself."""
    worker = await WorkerProcess.start(command, blas)
    async with asyncio.timeout(DEADLINE_SECONDS):
        async for _ in worker.channel:
            pass
    await worker.end(DEADLINE_SECONDS)
    return worker.last_lines


def printed_by(program: str, blas: Blas | None = None) -> list[str]:
    return asyncio.run(lines_of(sys.executable, "-c", program, blas=blas))


def is_gone(pid: int) -> bool:
    """Whether the process is gone, or is dead and its new parent has not looked yet."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not is_gone(pid):
            await asyncio.sleep(0.005)


# --- the process ------------------------------------------------------------------------


def test_what_a_worker_prints_is_kept_line_by_line_from_both_streams() -> None:
    program = "import sys; print('one'); print('two', file=sys.stderr); sys.stdout.write('10%\\r20%\\r\\nlast')"

    assert printed_by(program) == ["one", "two", "10%", "20%", "last"]


def test_only_the_last_lines_are_kept_and_a_long_one_is_cut() -> None:
    assert printed_by("for number in range(1000): print(number)") == [str(n) for n in range(1000 - KEPT_LINES, 1000)]
    assert max(len(line) for line in printed_by("print('x' * 1_000_000)")) <= MAX_LINE_BYTES


def test_bytes_that_are_no_text_are_kept_as_well_as_possible() -> None:
    assert printed_by("import sys; sys.stdout.buffer.write(b'\\xff ok')") == ["\ufffd ok"]


def test_a_worker_hears_no_ctrl_c_and_shares_the_cores_with_the_server_as_one_session() -> None:
    program = "import os; print(os.getpgid(0) == os.getpid(), os.getsid(0))"

    assert printed_by(program) == [f"True {os.getsid(0)}"]


def test_a_worker_has_its_socket_and_nothing_else() -> None:
    program = (
        "import os, sys; there = [fd for fd in range(256) if os.path.exists(f'/dev/fd/{fd}')];"
        "print(there == [0, 1, 2, int(sys.argv[-1])])"
    )

    with open(__file__):
        assert printed_by(program) == ["True"]


def test_a_worker_is_told_how_to_behave_by_its_environment() -> None:
    program = (
        "import os; print(os.environ['TOKENIZERS_PARALLELISM'], os.environ['PYTHONUNBUFFERED'], 'PATH' in os.environ)"
    )

    assert printed_by(program) == ["false 1 True"]


def test_a_module_in_the_current_folder_is_not_taken_for_one_of_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "decoy.py").write_text("print('fooled')")
    monkeypatch.chdir(tmp_path)
    python, *options, _ = WORKER_COMMAND

    lines = asyncio.run(lines_of(python, *options, "decoy"))

    assert "No module named decoy" in lines[-1]


def test_what_a_worker_has_started_goes_with_it() -> None:
    program = "import subprocess; print(subprocess.Popen(['sleep', '1000']).pid)"

    child = int(printed_by(program)[0])

    asyncio.run(until_gone(child))


@pytest.mark.parametrize(
    ("program", "ending"),
    [
        ("raise SystemExit(3)", "ended with exit status 3"),
        ("import os; os.abort()", "was killed by SIGABRT"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL"),
    ],
)
def test_how_a_worker_ended_can_be_said(program: str, ending: str) -> None:
    async def story() -> None:
        worker = await WorkerProcess.start((sys.executable, "-c", program))
        await worker.end(DEADLINE_SECONDS)

        assert worker.ending == ending

    asyncio.run(story())

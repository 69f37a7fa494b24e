"""What breaks around the server, broken on purpose: the worker, its memory, the disk, the clock, the port, the model.

Promise: each reply that was running ends with one error that says whether to ask again, no
socket is lost, the next question is answered; and what can't start says why and exits with a
status of its own. Everything with a real server and a tiny Gemma 3.
"""

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.acceptance.report import Outcome, write_report
from benchmarks.acceptance.serving import Peer, Server, peer, serve

DEATHS, HANGS, STARTS, PARENTS, CUTS, QUESTIONS = 10, 2, 10, 3, 10, 20
LONG = {"type": "text_input", "content": "Go on.", "config": {"maxOutputTokens": 512, "temperature": 1.5}}
SHORT = {"type": "text_input", "content": "Hello", "config": {"maxOutputTokens": 4}}
FAKETIME = "/usr/lib/*/faketime/libfaketimeMT.so.1"


@contextlib.contextmanager
def tiny_model() -> Iterator[Path]:
    from tests.tiny_models.tiny_gemma3 import write_tiny_gemma3

    with tempfile.TemporaryDirectory() as folder:
        write_tiny_gemma3(Path(folder))
        yield Path(folder)


# --- the worker -----------------------------------------------------------------------


def starve(worker: psutil.Process) -> None:
    """No byte more than it has."""
    worker.rlimit(resource.RLIMIT_AS, (worker.memory_info().vms, resource.RLIM_INFINITY))


FATES: dict[str, tuple[Callable[[psutil.Process], None], int]] = {
    "killed (SIGKILL)": (lambda worker: worker.send_signal(signal.SIGKILL), DEATHS),
    "aborts (SIGABRT, as Metal does when memory runs out)": (lambda worker: worker.send_signal(signal.SIGABRT), DEATHS),
    "crashes (SIGSEGV)": (lambda worker: worker.send_signal(signal.SIGSEGV), DEATHS),
    "hangs (SIGSTOP)": (lambda worker: worker.suspend(), HANGS),
}


async def begun(talk: Peer, id: str) -> None:
    """A long reply that has said something."""
    reply = await talk.begin(id=id, **LONG)
    while not reply.tokens:
        await asyncio.sleep(0.002)


async def break_worker(server: Server, fate: Callable[[psutil.Process], None], rounds: int) -> dict[str, Any]:
    told = answered = 0
    noticed: list[float] = []
    async with peer(server.url) as talk, peer(server.url) as other:
        for number in range(rounds):
            await begun(talk, f"cut-{number}")
            worker = server.worker
            assert worker is not None
            fate(worker)
            since = time.monotonic()
            end = (await talk.end_of(f"cut-{number}")).end
            noticed.append(time.monotonic() - since)
            told += end["type"] == "error" and end["code"] == "engine_restarted" and end["retryable"]
            for each in (talk, other):
                after = await each.ask(id=f"after-{number}", **SHORT)
                answered += after.end["type"] == "response_complete"
        lost = sum(each.socket.state.name != "OPEN" for each in (talk, other))
        endings = [
            sum(message["type"] in ("error", "response_complete") for message in reply.messages)
            for reply in talk._replies.values()
        ]
    return {
        "times": rounds,
        "running replies told to ask again": told,
        "requests with one ending": f"{endings.count(1)} of {len(endings)}",
        "following questions answered": f"{answered} of {2 * rounds}",
        "noticed after, s, at most": round(max(noticed), 3),
        "sockets lost": lost,
    }


def worker_breaks(model: Path) -> list[Outcome]:
    outcomes = []
    for name, (fate, rounds) in FATES.items():
        with serve(model) as server:
            seen = asyncio.run(break_worker(server, fate, rounds))
        kept = (
            seen["running replies told to ask again"] == rounds
            and seen["following questions answered"] == f"{2 * rounds} of {2 * rounds}"
            and not seen["sockets lost"]
        )
        outcomes.append(Outcome(f"The worker {name}", kept, seen))
    return outcomes


async def starve_worker(server: Server, rounds: int) -> dict[str, Any]:
    """Every question has an ending, whatever it is; and once there is memory again, an answer."""
    endings = answered = 0
    kinds: set[str] = set()
    async with peer(server.url) as talk:
        for number in range(rounds):
            await talk.ask(id=f"warm-{number}", **SHORT)
            worker = server.worker
            assert worker is not None
            starve(worker)
            question = {**LONG, "content": "word " * 1500}
            end = (await talk.ask(id=f"starved-{number}", **question)).end
            kinds.add(end["type"] if end["type"] != "error" else f"error {end['code']}")
            endings += 1
            with contextlib.suppress(psutil.Error):
                worker.rlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            after = await talk.ask(id=f"after-{number}", **SHORT)
            answered += after.end["type"] == "response_complete"
        lost = talk.socket.state.name != "OPEN"
    return {
        "times": rounds,
        "requests with an ending": f"{endings} of {rounds}",
        "how they ended": sorted(kinds),
        "following questions answered": f"{answered} of {rounds}",
        "sockets lost": int(lost),
    }


def memory_runs_out(model: Path) -> Outcome:
    with serve(model) as server:
        seen = asyncio.run(starve_worker(server, DEATHS))
    kept = seen["following questions answered"] == f"{DEATHS} of {DEATHS}" and not seen["sockets lost"]
    return Outcome("The worker gets no more memory (RLIMIT_AS)", kept, seen)


# --- the machine ----------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def command(model: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "mlx_websockets", "serve", "--model", str(model), "--host", "localhost", *flags]


async def ask_questions(url: str, count: int) -> int:
    async with peer(url) as talk:
        return sum(
            [(await talk.ask(id=f"{n}", **SHORT)).end["type"] == "response_complete" for n in range(count)]
        )  # fmt: skip


def becomes_ready(port: int, process: "subprocess.Popen[bytes]") -> bool:
    while process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1):
            return True
        time.sleep(0.1)
    return False


def disk_is_full(model: Path) -> Outcome:
    """Everything that it prints and logs, at its chattiest, goes to a device that is full."""
    port = free_port()
    with (
        open("/dev/full", "w") as full,
        subprocess.Popen(command(model, "--port", str(port), "--debug"), stdout=full, stderr=full) as process,
    ):
        is_ready = becomes_ready(port, process)
        answered = asyncio.run(ask_questions(f"ws://127.0.0.1:{port}", QUESTIONS)) if is_ready else 0
        process.terminate()
        status = process.wait(timeout=30)
    seen = {"it started": is_ready, "questions answered": f"{answered} of {QUESTIONS}", "exit status": status}
    return Outcome("The disk under the log is full (/dev/full)", answered == QUESTIONS, seen)


def port_is_taken(model: Path) -> Outcome:
    statuses, seconds = [], []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for _ in range(STARTS):
            began = time.monotonic()
            flags = ("--port", str(taken.getsockname()[1]))
            statuses.append(subprocess.run(command(model, *flags), capture_output=True, check=False).returncode)
            seconds.append(time.monotonic() - began)
    seen = {"starts": STARTS, "exit statuses": sorted(set(statuses)), "s, at most": round(max(seconds), 2)}
    return Outcome("The port is taken", set(statuses) == {4}, seen)


def model_is_half_there(model: Path) -> Outcome:
    statuses, sentences = [], 0
    with tempfile.TemporaryDirectory() as folder:
        broken = Path(folder) / "broken"
        for number in range(CUTS):
            shutil.rmtree(broken, ignore_errors=True)
            shutil.copytree(model, broken)
            [weights] = broken.glob("*.safetensors")
            os.truncate(weights, weights.stat().st_size * number // CUTS)
            done = subprocess.run(command(broken, "--port", "0"), capture_output=True, text=True, check=False)
            statuses.append(done.returncode)
            sentences += weights.name in done.stderr and "Traceback" not in done.stderr
    seen = {"cuts": CUTS, "exit statuses": sorted(set(statuses)), "named the file": f"{sentences} of {CUTS}"}
    return Outcome("Half a model", set(statuses) == {8} and sentences == CUTS, seen)


def clock_moves(model: Path) -> Outcome:
    """An hour forward and two back while replies run; the monotonic clock stays, as it does on a real machine."""
    libraries = list(Path("/").glob(FAKETIME[1:]))
    if not libraries:
        return Outcome("The clock is moved", True, {"not tried": "libfaketime (Debian's faketime) is not installed"})
    with tempfile.TemporaryDirectory() as folder:
        clock = Path(folder) / "clock"
        clock.write_text("+0")
        faked = {
            "LD_PRELOAD": str(libraries[0]),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        with serve(model, env=faked) as server:
            seen = asyncio.run(move_clock(server, clock))
    kept = seen["replies complete"] == seen["jumps"] and seen["whole hours seen"] == [1, -1]
    return Outcome("The clock is moved (libfaketime)", kept, seen)


async def move_clock(server: Server, clock: Path) -> dict[str, Any]:
    complete, hours = 0, []
    async with peer(server.url) as talk:
        for number, offset in enumerate(("+1h", "-1h")):
            await begun(talk, f"{number}")
            clock.write_text(offset)  # noqa: ASYNC240
            reply = await talk.end_of(f"{number}")
            complete += reply.end["type"] == "response_complete" and reply.text == reply.end["full_text"]
            hours.append(round((reply.end["timestamp"] - time.time()) / 3600))
    return {"jumps": 2, "replies complete": complete, "whole hours seen": hours}


def parent_dies(model: Path) -> Outcome:
    seconds, free = [], 0
    for _ in range(PARENTS):
        with serve(model) as server:
            worker = server.worker
            assert worker is not None
            server.process.kill()
            began = time.monotonic()
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.wait(30)
            seconds.append(time.monotonic() - began)
            with socket.create_server(("127.0.0.1", int(server.url.rpartition(":")[2]))):
                free += 1
    seen = {"times": PARENTS, "the worker was gone after, s, at most": round(max(seconds), 2), "ports free": free}
    return Outcome("The server is killed (SIGKILL)", max(seconds) < 5 and free == PARENTS, seen)


MACHINE = (memory_runs_out, disk_is_full, port_is_taken, model_is_half_there, clock_moves, parent_dies)


def main() -> int:
    outcomes: list[Outcome] = []
    with tiny_model() as model:
        outcomes += worker_breaks(model)
        for each in MACHINE:
            outcomes.append(each(model))
    for outcome in outcomes:
        outcome.show()
    write_report("faults", "python -m benchmarks.acceptance.faults", outcomes)
    return 0 if all(outcome.kept for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())

"""What breaks around the server, broken on purpose: the worker, its memory, the disk, the clock, the port, the model.

Promise: each reply that was running ends with one error that says whether to ask again, no
socket is lost, the next question is answered; and what can't start says why and exits with a
status of its own. Everything with a real server and a tiny Gemma 3.

    python -m benchmarks.acceptance.faults [--quick] [--minutes 20] [NAME ...]

A whole run also writes the table of docs/explanation/faults.md.
"""

import asyncio
import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks.acceptance import cuts
from benchmarks.acceptance.report import Outcome
from benchmarks.acceptance.serving import Peer, Server, peer, serve
from benchmarks.acceptance.trials import Trial, conduct

DEATHS, HANGS, STARTS, PARENTS, CUTS, QUESTIONS = 10, 2, 10, 3, 10, 20
JUMPS = (("+1h", 1), ("-1h", -1))
# The likeliest tokens never say that the reply ends: it runs for sure when something happens to it.
LONG = {"type": "text_input", "content": "Go on.", "config": {"maxOutputTokens": 512, "temperature": 0}}
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


Fate = Callable[[psutil.Process], None]


def kill(worker: psutil.Process) -> None:
    worker.send_signal(signal.SIGKILL)


def abort(worker: psutil.Process) -> None:
    worker.send_signal(signal.SIGABRT)


def crash(worker: psutil.Process) -> None:
    worker.send_signal(signal.SIGSEGV)


def hang(worker: psutil.Process) -> None:
    worker.suspend()


async def begun(talk: Peer, id: str) -> None:
    """A long reply that has said something."""
    reply = await talk.begin(id=id, **LONG)
    while not reply.tokens:
        await asyncio.sleep(0.002)


async def break_worker(server: Server, fate: Fate, rounds: int) -> dict[str, Any]:
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


def worker_breaks(fate: Fate, promise: str, rounds: int) -> Outcome:
    with tiny_model() as model, serve(model) as server:
        seen = asyncio.run(break_worker(server, fate, rounds))
    kept = (
        seen["running replies told to ask again"] == rounds
        and seen["following questions answered"] == f"{2 * rounds} of {2 * rounds}"
        and not seen["sockets lost"]
    )
    return Outcome(promise, kept, seen, times(rounds), lost_with_a_worker(seen))


def lost_with_a_worker(seen: dict[str, Any]) -> str:
    replies = "the rest of the replies that ran; each was told"
    return f"{seen['sockets lost']} sockets, and {replies}" if seen["sockets lost"] else replies


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


def memory_runs_out(promise: str, rounds: int) -> Outcome:
    with tiny_model() as model, serve(model) as server:
        seen = asyncio.run(starve_worker(server, rounds))
    kept = seen["following questions answered"] == f"{rounds} of {rounds}" and not seen["sockets lost"]
    return Outcome(promise, kept, seen, times(rounds), lost_with_a_worker(seen))


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


def disk_is_full(promise: str, questions: int) -> Outcome:
    """Everything that it prints and logs, at its chattiest, goes to a device that is full."""
    port = free_port()
    with (
        tiny_model() as model,
        open("/dev/full", "w") as full,
        subprocess.Popen(command(model, "--port", str(port), "--debug"), stdout=full, stderr=full) as process,
    ):
        is_ready = becomes_ready(port, process)
        answered = asyncio.run(ask_questions(f"ws://127.0.0.1:{port}", questions)) if is_ready else 0
        process.terminate()
        status = process.wait(timeout=30)
    seen = {"it started": is_ready, "questions answered": f"{answered} of {questions}", "exit status": status}
    return Outcome(promise, answered == questions, seen, f"{questions} questions", "what it would have printed")


def port_is_taken(promise: str, starts: int) -> Outcome:
    statuses, seconds = [], []
    with tiny_model() as model, socket.create_server(("127.0.0.1", 0)) as taken:
        for _ in range(starts):
            began = time.monotonic()
            flags = ("--port", str(taken.getsockname()[1]))
            statuses.append(subprocess.run(command(model, *flags), capture_output=True, check=False).returncode)
            seconds.append(time.monotonic() - began)
    seen = {"starts": starts, "exit statuses": sorted(set(statuses)), "s, at most": round(max(seconds), 2)}
    return Outcome(promise, set(statuses) == {4}, seen, f"{starts} starts")


def model_is_half_there(promise: str, cuts: int) -> Outcome:
    statuses, sentences = [], 0
    with tiny_model() as model, tempfile.TemporaryDirectory() as folder:
        broken = Path(folder) / "broken"
        for number in range(cuts):
            shutil.rmtree(broken, ignore_errors=True)
            shutil.copytree(model, broken)
            [weights] = broken.glob("*.safetensors")
            os.truncate(weights, weights.stat().st_size * number // cuts)
            done = subprocess.run(command(broken, "--port", "0"), capture_output=True, text=True, check=False)
            statuses.append(done.returncode)
            sentences += weights.name in done.stderr and "Traceback" not in done.stderr
    seen = {"cuts": cuts, "exit statuses": sorted(set(statuses)), "named the file": f"{sentences} of {cuts}"}
    return Outcome(promise, set(statuses) == {8} and sentences == cuts, seen, f"{cuts} starts")


def clock_moves(promise: str, jumps: int) -> Outcome:
    """An hour forward and two back while replies run; the monotonic clock stays, as it does on a real machine."""
    libraries = list(Path("/").glob(FAKETIME[1:]))
    if not libraries:
        return Outcome(promise, True, {"not tried": "libfaketime (Debian's faketime) is not installed"})
    with tiny_model() as model, tempfile.TemporaryDirectory() as folder:
        clock = Path(folder) / "clock"
        clock.write_text("+0")
        faked = {
            "LD_PRELOAD": str(libraries[0]),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        with serve(model, env=faked) as server:
            seen = asyncio.run(move_clock(server, clock, JUMPS[:jumps]))
    kept = seen["replies complete"] == jumps and seen["whole hours seen"] == [hours for _, hours in JUMPS[:jumps]]
    return Outcome(promise, kept, seen, times(jumps))


async def move_clock(server: Server, clock: Path, jumps: Sequence[tuple[str, int]]) -> dict[str, Any]:
    complete, hours = 0, []
    async with peer(server.url) as talk:
        for number, (offset, _) in enumerate(jumps):
            await begun(talk, f"{number}")
            clock.write_text(offset)  # noqa: ASYNC240
            reply = await talk.end_of(f"{number}")
            complete += reply.end["type"] == "response_complete" and reply.text == reply.end["full_text"]
            hours.append(round((reply.end["timestamp"] - time.time()) / 3600))
    return {"jumps": len(jumps), "replies complete": complete, "whole hours seen": hours}


def parent_dies(promise: str, rounds: int) -> Outcome:
    seconds, free = [], 0
    for _ in range(rounds):
        with tiny_model() as model, serve(model) as server:
            worker = server.worker
            assert worker is not None
            server.process.kill()
            began = time.monotonic()
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.wait(30)
            seconds.append(time.monotonic() - began)
            with socket.create_server(("127.0.0.1", int(server.url.rpartition(":")[2]))):
                free += 1
    seen = {"times": rounds, "the worker was gone after, s, at most": round(max(seconds), 2), "ports free": free}
    return Outcome(promise, max(seconds) < 5 and free == rounds, seen, times(rounds))


def socket_is_cut(promise: str, rounds: int) -> Outcome:
    outcome = cuts.run(rounds)
    return Outcome(promise, outcome.kept, outcome.seen, outcome.times, outcome.lost)


# --- all of them ----------------------------------------------------------------------

Try = Callable[[str, int], Outcome]

AGAIN = "one `engine_restarted`, retryable; no socket; the next questions are answered"
FAULTS: dict[str, tuple[str, str, Try, int, int]] = {
    "killed": ("The worker killed in mid-reply (SIGKILL)", AGAIN, partial(worker_breaks, kill), DEATHS, 1),
    "aborted": ("The worker aborts, as Metal does without memory", AGAIN, partial(worker_breaks, abort), DEATHS, 1),
    "crashed": ("The worker crashes (SIGSEGV)", AGAIN, partial(worker_breaks, crash), DEATHS, 1),
    "hung": (
        "The worker stands still (SIGSTOP)",
        "the same, once it has said and done nothing for 15 seconds",
        partial(worker_breaks, hang),
        HANGS,
        1,
    ),
    "starved": (
        "The worker gets no more memory (RLIMIT_AS)",
        "every question has an ending; the next is answered",
        memory_runs_out,
        DEATHS,
        1,
    ),
    "cut": (
        "The socket cut at random bytes of replies, and resumed",
        "every reply is whole, each token comes once",
        socket_is_cut,
        cuts.CUTS,
        cuts.QUICK_CUTS,
    ),
    "clock": ("The clock moved an hour forward, two back", "only timestamps show it", clock_moves, 2, 1),
    "server": ("The server killed (SIGKILL)", "its worker leaves by itself, the port is free", parent_dies, PARENTS, 1),
    "port": ("The port taken", "exit status 4, before the model is touched", port_is_taken, STARTS, 1),
    "model": ("A model cut off", "exit status 8, and a sentence that names the file", model_is_half_there, CUTS, 1),
    "disk": ("The disk under its output full from the start", "it serves", disk_is_full, QUESTIONS, 2),
}
"""By name: what is done, what is to come of it, how, how often, and how often for a quick look."""

PAGE = Path(__file__).parents[2] / "docs/explanation/faults.md"
PART = re.compile(r"(<!-- faults: written by .*? -->\n).*?(<!-- end of faults -->)", re.DOTALL)


def times(rounds: int) -> str:
    return {1: "once", 2: "twice"}.get(rounds, f"{rounds} times")


def write_table(outcomes: list[Outcome]) -> None:
    """Put what came out into the page for people."""
    rows = ["| What was done | How often | What is to come of it | It did | What was lost |", "|---|---|---|---|---|"]
    for outcome, (_, wanted, *_) in zip(outcomes, FAULTS.values(), strict=True):
        did = {"Kept": "yes", "Broken": "**no**", "Not tried": "not tried"}[outcome.word]
        lost = outcome.lost or ("nothing" if outcome.word == "Kept" else "")
        rows.append(f"| {outcome.promise} | {outcome.times} | {wanted} | {did} | {lost} |")
    table = "\n".join(rows) + "\n"
    PAGE.write_text(PART.sub(lambda part: part[1] + table + part[2], PAGE.read_text("utf-8")), "utf-8")


def _trial(name: str) -> Trial:
    promise, _, attempt, often, seldom = FAULTS[name]
    return Trial(name, promise, lambda is_quick: attempt(promise, seldom if is_quick else often))


def main() -> int:
    status, outcomes = conduct("faults", __doc__, [_trial(name) for name in FAULTS])
    if outcomes:
        write_table(outcomes)
    return status


if __name__ == "__main__":
    sys.exit(main())

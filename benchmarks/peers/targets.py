"""What is measured, and how it is started: ours, the peers, and the library alone."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from platformdirs import user_cache_path

from benchmarks.acceptance.serving import serve
from benchmarks.peers.talking import LINE_BYTES, Client, NativeClient, OpenAIClient, RawProgram
from mlx_websockets.engine.blas import find_blas

START_SECONDS = 300.0
LOOK_SECONDS = 1.0
ROWS = 32
OURS, RAW, RAW_ALONE = "mlx-websockets", "mlx-vlm BatchGenerator", "mlx-vlm stream_generate"
LIMITS = (RAW, RAW_ALONE)
"""No servers: the library in a process of its own."""


@dataclass(frozen=True, slots=True)
class Target:
    """Attributes:
    name: as the tables have it.
    package: whose version is told.
    python: the interpreter of its environment.
    command: its arguments; `{model}`, `{port}` and `{bin}` are filled in.
    sees: it takes pictures.
    batches: it computes several replies together.
    """

    name: str
    package: str
    python: Path = Path(sys.executable)
    command: tuple[str, ...] = ()
    sees: bool = True
    batches: bool = True


def _peer(name: str) -> Path:
    return user_cache_path("mlx-websockets") / "peers" / name / "venv" / "bin" / "python"


TARGETS = {
    each.name: each
    for each in (
        Target(OURS, "mlx-websockets"),
        Target(
            "mlx_lm.server",
            "mlx-lm",
            command=("-m", "mlx_lm", "server", "--model", "{model}", "--port", "{port}"),
            sees=False,
        ),
        Target(
            "mlx_vlm.server",
            "mlx-vlm",
            command=("-m", "mlx_vlm.server", "--model", "{model}", "--host", "127.0.0.1", "--port", "{port}"),
        ),
        Target(
            "vllm-mlx",
            "vllm-mlx",
            _peer("vllm-mlx"),
            ("{bin}/vllm-mlx", "serve", "{model}", "--host", "127.0.0.1", "--port", "{port}", "--continuous-batching"),
        ),
        Target(
            "rapid-mlx",
            "rapid-mlx",
            _peer("rapid-mlx"),
            ("{bin}/rapid-mlx", "serve", "{model}", "--host", "127.0.0.1", "--port", "{port}"),
        ),
        Target(RAW, "mlx-vlm", command=("batch",)),
        Target(RAW_ALONE, "mlx-vlm", command=("alone",), batches=False),
    )
}


@dataclass
class Running:
    """A target that is up.

    Attributes:
        pid: of the process whose tree is all of it.
        open: makes a client.
        front: pids that hold the sockets but not the model, where these are apart.
        metrics: address of its Prometheus page, if it has one that we read.
        opened: clients that `clients` made since the last `hang_up`.
    """

    target: Target
    pid: int
    open: Callable[[], Awaitable[Client]]
    front: tuple[int, ...] = ()
    metrics: str = ""
    memory: "MemoryWatch" = field(init=False)
    opened: list[Client] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.memory = MemoryWatch(self.pid)

    async def clients(self, count: int) -> list[Client]:
        """So many new ones; whoever asks for them closes them."""
        made = [await self.open() for _ in range(count)]
        self.opened += made
        return made

    async def hang_up(self) -> None:
        """Close all clients: a measure that failed must leave nothing running for the next one."""
        for client in self.opened:
            await client.close()
        self.opened.clear()


def processes(pid: int) -> list[psutil.Process]:
    """The process and what it has started."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def cpu_seconds(pids: Iterator[psutil.Process] | list[psutil.Process]) -> float:
    """User and system time of all of them so far."""
    total = 0.0
    for process in pids:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def resident_bytes(pid: int) -> int:
    total = 0
    for process in processes(pid):
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


class MemoryWatch:
    """Looks at the memory of a process tree once a second, on a thread of its own."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self.peak_bytes = max(self.peak_bytes, resident_bytes(self._pid))

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


# --- starting -------------------------------------------------------------------------


class Unavailable(RuntimeError):
    """The target can't be measured here; says why."""


@contextlib.asynccontextmanager
async def started(target: Target, folder: Path, blas: str | None) -> AsyncIterator[Running]:
    """The target with the model in `folder`, until the block ends.

    Args:
        blas: the library that is preloaded; None preloads nothing.

    Raises:
        Unavailable: it is not installed, or does not start.
    """
    if not target.python.exists():
        raise Unavailable("not installed: see benchmarks/peers/install.sh")
    if target.name == OURS:
        start = _started_ours(folder, blas)
    elif target.name in LIMITS:
        start = _started_raw(target, folder, blas)
    else:
        start = _started_peer(target, folder, blas)
    async with start as running:
        try:
            yield running
        finally:
            running.memory.stop()


@contextlib.asynccontextmanager
async def _started_ours(folder: Path, blas: str | None) -> AsyncIterator[Running]:
    flags = ("--rows", str(ROWS), "--max-tokens", "4096")
    with serve(folder, *flags, env={"MLX_WS_BLAS": blas} if blas else None) as server:
        yield Running(
            TARGETS[OURS],
            server.process.pid,
            open=lambda: NativeClient.open(server.url),
            front=(server.process.pid,),
            metrics=server.url.replace("ws://", "http://") + "/metrics",
        )


@contextlib.asynccontextmanager
async def _started_raw(target: Target, folder: Path, blas: str | None) -> AsyncIterator[Running]:
    program = Path(__file__).with_name("raw_library.py")
    process = await asyncio.create_subprocess_exec(
        str(target.python),
        str(program),
        str(folder),
        *target.command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=LINE_BYTES,
        env=_environment(blas),
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        if not json.loads(await process.stdout.readline() or "{}").get("ready"):
            raise Unavailable("the library did not load the model")
        program_client = RawProgram(process.stdin, process.stdout)

        async def open_client() -> Client:
            return program_client

        yield Running(target, process.pid, open_client)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def _started_peer(target: Target, folder: Path, blas: str | None) -> AsyncIterator[Running]:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    arguments = [part.format(model=folder, port=port, bin=target.python.parent) for part in target.command]
    with tempfile.TemporaryFile() as log:
        process = _popen([str(target.python), *arguments], log.fileno(), blas)
        try:
            await _until_up(process, port, log.fileno())

            async def open_client() -> Client:
                return OpenAIClient(port, str(folder))

            yield Running(target, process.pid, open_client)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _popen(command: list[str], log: int, blas: str | None) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command,
        stdout=log,
        stderr=log,
        stdin=subprocess.DEVNULL,
        env=_environment(blas),
        start_new_session=True,
    )


async def _until_up(process: "subprocess.Popen[bytes]", port: int, log: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Unavailable(f"ended at its start: {_last_words(log)}")
        with contextlib.suppress(OSError):
            await asyncio.to_thread(_look_at, port)
            return
        await asyncio.sleep(0.3)
    raise Unavailable(f"not up within {START_SECONDS:.0f} s: {_last_words(log)}")


def _look_at(port: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=30):
        pass


def _last_words(log: int) -> str:
    size = os.fstat(log).st_size
    lines = os.pread(log, 4000, max(0, size - 4000)).decode(errors="replace").strip().splitlines()
    return " / ".join(lines[-3:])[-500:]


def _environment(blas: str | None) -> dict[str, str]:
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    return environment | ({"LD_PRELOAD": blas} if blas else {})


def common_blas() -> str | None:
    """What is preloaded for everybody; None where MLX needs none."""
    blas = find_blas()
    return blas.path if blas else None


def version_of(target: Target) -> str:
    """As its own environment says."""
    program = f"import importlib.metadata as m; print(m.version({target.package!r}), m.version('mlx'))"
    done = subprocess.run([str(target.python), "-c", program], capture_output=True, text=True, check=False)
    own, _, mlx = done.stdout.strip().partition(" ")
    return f"{own} (mlx {mlx})" if own else "not installed"

"""`mlx doctor`: is everything here that a server needs, and what to do about what isn't.

Each check is a function that returns one `Check` and raises nothing; none of them changes
anything. MLX is tried in a process of its own, since its import can end one.
"""

import asyncio
import datetime
import http.client
import os
import platform
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mlx_websockets.cli.console import Console, print_json, size
from mlx_websockets.cli.flags import AsJson
from mlx_websockets.errors import StartError
from mlx_websockets.settings import DEFAULT_MODEL, DEFAULT_PORT, Settings

if TYPE_CHECKING:
    from mlx_websockets.engine.client import Engine
    from mlx_websockets.generation import Update

OLDEST_PYTHON = (3, 11)
OLDEST_MACOS = 14
LITTLE_DISK_BYTES = 5_000_000_000
HUB_SECONDS = 3.0
ANSWER_SECONDS = 120.0

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, how it is, and what to do next if that is not well."""

    name: str
    state: State
    text: str
    hint: str = ""


def doctor(
    model: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Also load this model, and ask it something.")
    ] = None,
    port: Annotated[int, typer.Option(metavar="INT", help="The port to try.")] = DEFAULT_PORT,
    as_json: AsJson = False,
) -> int:
    """Print every check as it is made; the exit status is 1 if one has failed."""
    return 0 if report(model, port, as_json=as_json) else StartError.exit_code


def report(model: str | None, port: int, *, as_json: bool) -> bool:
    """Print every check as it is made; whether none has failed."""
    console = Console(sys.stderr if as_json else sys.stdout)
    made = []
    for check in checks(model, port):
        made.append(check)
        if not as_json:
            _show(console, check)
    if as_json:
        print_json([asdict(each) for each in made])
    is_well = not any(each.state == "fail" for each in made)
    if is_well and model is None and not as_json:
        console.text(f"To try a model as well: mlx doctor --model {DEFAULT_MODEL}")
    return is_well


def checks(model: str | None, port: int) -> Iterator[Check]:
    """Every check, made when it is taken."""
    made: list[Callable[[], Check | None]] = [
        check_python,
        check_platform,
        check_macos,
        check_backend,
        check_blas,
        check_disk,
        check_token,
        check_hub,
        check_certificate,
        lambda: check_port(port),
    ]
    if model is not None:
        made.append(lambda: check_model(model))
    for make in made:
        if (check := make()) is not None:
            yield check


def _show(console: Console, check: Check) -> None:
    show = {"ok": console.success, "warn": console.warning, "fail": console.failure}[check.state]
    show(f"{check.name}: {check.text}")
    if check.hint:
        console.text(f"  {check.hint}")


# --- the machine ----------------------------------------------------------------------


def check_python() -> Check:
    text = f"{platform.python_version()}, {sys.executable}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Check("Python", "fail", text, "mlx-websockets needs Python 3.11 or newer.")
    return Check("Python", "ok", text)


def check_platform() -> Check:
    text = f"{platform.system()} on {platform.machine()}"
    if sys.platform == "darwin" and platform.machine() != "arm64":
        return Check("Platform", "fail", text, "MLX needs Apple silicon, and a Python that is not run by Rosetta.")
    if sys.platform not in ("darwin", "linux"):
        return Check("Platform", "fail", text, "mlx-websockets runs on macOS and on Linux.")
    return Check("Platform", "ok", text)


def check_macos() -> Check | None:
    """None where there is no macOS."""
    if sys.platform != "darwin":
        return None
    version = platform.mac_ver()[0]
    if int(version.partition(".")[0] or 0) < OLDEST_MACOS:
        return Check("macOS", "fail", version, f"MLX needs macOS {OLDEST_MACOS} or newer.")
    return Check("macOS", "ok", version)


def check_backend() -> Check:
    from mlx_websockets.engine.probe import find_backend

    try:
        found = find_backend()
    except StartError as error:
        return Check("MLX", "fail", error.reason, error.hint)
    versions = ", ".join(f"{name} {found.versions[name]}" for name in ("mlx", "mlx-vlm") if name in found.versions)
    text = f"computes on {found.name}; {size(found.memory_bytes)} of memory for models ({versions})"
    if found.name == "cpu":
        hint = "A GPU is much faster: on Linux with an NVIDIA card, pip install 'mlx-websockets[cuda13]'."
        return Check("MLX", "warn" if sys.platform == "darwin" else "ok", text, hint)
    return Check("MLX", "ok", text)


def check_blas() -> Check | None:
    """None where MLX needs none from outside."""
    from mlx_websockets.engine.blas import find_blas, mlx_runs_on_cpu

    if sys.platform != "linux" or not mlx_runs_on_cpu():
        return None
    try:
        blas = find_blas()
    except StartError as error:
        return Check("BLAS", "fail", error.reason, error.hint)
    if blas is None:
        hint = "On Debian or Ubuntu: apt install libopenblas0-pthread"
        return Check("BLAS", "warn", "only MLX's own, which is slow on a CPU", hint)
    return Check("BLAS", "ok", f"{blas.name}, {blas.path}")


def check_disk() -> Check:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free_bytes = shutil.disk_usage(existing).free
    text = f"{size(free_bytes)} free where models are kept ({cache})"
    if not os.access(existing, os.W_OK):
        return Check("Disk", "fail", f"{existing} can't be written.", "Set HF_HOME to a folder of yours.")
    if free_bytes < LITTLE_DISK_BYTES:
        hint = "`mlx list` says what models take, `mlx rm` removes one; HF_HOME names another disk."
        return Check("Disk", "warn", text, hint)
    return Check("Disk", "ok", text)


# --- the hub --------------------------------------------------------------------------


def check_token() -> Check:
    """Whether there is a token; what it is stays unsaid."""
    from huggingface_hub import get_token

    if get_token():
        return Check("Hub token", "ok", "there is one")
    return Check("Hub token", "ok", "there is none; only gated and private models need one (hf auth login)")


def check_hub() -> Check:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return Check("Hub", "warn", "HF_HUB_OFFLINE is set", "Only models that are here already can be served.")
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=HUB_SECONDS).close()  # noqa: S310 - the user's own setting
    except urllib.error.HTTPError:
        pass  # a refusal is an answer
    except (OSError, http.client.HTTPException, ValueError) as error:
        text = f"{constants.ENDPOINT} can't be reached ({error})"
        return Check("Hub", "warn", text, "Models that are here already work, and so does --model demo if it is built.")
    return Check("Hub", "ok", f"{constants.ENDPOINT} answers")


# --- a server -------------------------------------------------------------------------


def check_certificate() -> Check:
    """The one of `--tls auto`, if there is one; none is made here."""
    from mlx_websockets.daemon.certificate import kept_certificate
    from mlx_websockets.daemon.secret import keys_folder

    try:
        found = kept_certificate(keys_folder())
    except (OSError, StartError) as error:
        return Check("Certificate", "warn", f"it can't be read: {error}", "mlx cert --new")
    if found is None:
        return Check("Certificate", "ok", "there is none; `mlx serve --tls auto` makes one")
    text = f"{found.path}, until {found.expires:%Y-%m-%d}"
    if found.expires <= datetime.datetime.now(datetime.UTC):
        return Check("Certificate", "warn", f"{text}: it has expired", "mlx cert --new")
    return Check("Certificate", "ok", text)


def check_port(port: int) -> Check:
    from mlx_websockets.daemon.records import Records
    from mlx_websockets.server.binding import bind

    for record in Records.of_this_user().found():
        if record.port == port and record.state != "failed":
            return Check("Port", "ok", f"{port} is taken by our own server {record.id}, which serves {record.model}")
    try:
        for each in bind(Settings(port=port)):
            each.close()
    except StartError as error:
        return Check("Port", "warn", error.reason, error.hint)
    return Check("Port", "ok", f"{port} is free")


def check_model(model: str) -> Check:
    """Load it as a server would, and have it answer."""
    try:
        return asyncio.run(_try_model(model))
    except StartError as error:
        return Check("Model", "fail", error.reason, error.hint)


async def _try_model(model: str) -> Check:
    from mlx_websockets.engine.client import Engine
    from mlx_websockets.engine.messages import ModelSpec

    engine = Engine(ModelSpec(model=model, rows=1))
    try:
        await engine.start()
        async with asyncio.timeout(ANSWER_SECONDS):
            return await _ask(engine, model)
    except TimeoutError:
        return Check("Model", "fail", f"{model} did not answer within {ANSWER_SECONDS:.0f} s", "Try a smaller model.")
    finally:
        await engine.stop()


async def _ask(engine: "Engine", model: str) -> Check:
    from mlx_websockets.generation import ChatMessage, Choice, Delta, Failed, Finished, GenerationRequest

    ended: asyncio.Future[Finished | Failed] = asyncio.get_running_loop().create_future()
    said: list[str] = []

    def hear(update: "Update") -> None:
        match update:
            case Delta(text=text):
                said.append(text)
            case Finished() | Failed():
                ended.set_result(update)

    choice = Choice(max_tokens=24)
    engine.submit(GenerationRequest(id=1, messages=(ChatMessage("user", "Say hello."),), choice=choice), hear)
    update = await ended
    if isinstance(update, Failed):
        return Check("Model", "fail", f"{model} could not answer: {update.message}", "Try another: --model demo")
    takes = "text and pictures" if engine.sees else "text"
    speed = update.timings.tokens_per_second
    text = f"{model} takes {takes}, and answered {update.usage.output_tokens} tokens ({speed:.1f} a second)"
    return Check("Model", "ok" if said else "warn", text, "" if said else "It said nothing at all.")

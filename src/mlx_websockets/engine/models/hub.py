"""Models from the Hugging Face hub, into its own cache.

A model that is in the cache and whole is not looked up again: starting needs no network.
Nothing here knows what is inside the files.
"""

import io
import re
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mlx_websockets.engine.messages import Loading
from mlx_websockets.engine.models.checkpoints import check_folder
from mlx_websockets.errors import ModelBroken, ModelNotFound, StartError

_NAME = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?"
MODEL_ID = re.compile(rf"(?!.*(?:--|\.\.))(?:{_NAME}/)?{_NAME}", re.ASCII)
MAX_ID_LENGTH = 96

WANTED = ["*.json", "*.jsonl", "*.safetensors", "*.model", "*.tiktoken", "*.txt", "*.jinja", "*.spm"]
CODE = ["*.py"]
UNWANTED = ["original/*", "*consolidated.safetensors", "onnx/*", "openvino/*"]

REPORT_SECONDS = 0.25
HEADROOM_BYTES = 100 * 1024 * 1024

Result = TypeVar("Result")


def is_model_id(name: str) -> bool:
    """Whether `name` has the form of a model id on the hub: `name` or `owner/name`."""
    return MODEL_ID.fullmatch(name) is not None and len(name) <= MAX_ID_LENGTH and not name.endswith(".git")


def fetch(
    model_id: str, report: Callable[[Loading], None], *, trust_remote_code: bool = False, needs_tokenizer: bool = True
) -> Path:
    """The folder of a model in the hub's cache, downloaded if it is not there whole.

    Args:
        needs_tokenizer: it is not whole without one.

    Raises:
        ModelNotFound: there is no such model, it may not be read, or the hub can't be reached.
        StartError: there is no room for it.
    """
    patterns = WANTED + CODE if trust_remote_code else WANTED
    cached = _cached(model_id, patterns, needs_tokenizer)
    return cached or _download(model_id, patterns, report)


def _cached(model_id: str, patterns: list[str], needs_tokenizer: bool = True) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(model_id, allow_patterns=patterns, ignore_patterns=UNWANTED, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    try:
        # Is it whole? What it may do is asked later.
        check_folder(Path(folder), trust_remote_code=True, needs_tokenizer=needs_tokenizer)
    except ModelBroken:
        return None
    return Path(folder)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a download takes: bytes of all files, of those that are missing here, and of the weights."""

    total_bytes: int
    missing_bytes: int
    weights_bytes: int


def plan(model_id: str, *, trust_remote_code: bool = False) -> Plan:
    """Ask the hub what fetching a model would take.

    Raises:
        ModelNotFound: there is no such model, it may not be read, or the hub can't be reached.
        StartError: there is no room for it.
    """
    try:
        return _plan(model_id, WANTED + CODE if trust_remote_code else WANTED)
    except StartError:
        raise
    except Exception as error:
        raise _explained(model_id, error) from error


def is_cached(model_id: str, *, trust_remote_code: bool = False) -> bool:
    """Whether a model is in the hub's cache, whole. Asks nobody."""
    return _cached(model_id, WANTED + CODE if trust_remote_code else WANTED) is not None


def _plan(model_id: str, patterns: list[str]) -> Plan:
    from huggingface_hub import constants, snapshot_download

    files = snapshot_download(model_id, allow_patterns=patterns, ignore_patterns=UNWANTED, dry_run=True)
    found = Plan(
        total_bytes=sum(file.file_size or 0 for file in files),
        missing_bytes=sum(file.file_size or 0 for file in files if file.will_download),
        weights_bytes=sum(file.file_size or 0 for file in files if file.filename.endswith(".safetensors")),
    )
    _require_room(Path(constants.HF_HUB_CACHE), found.missing_bytes, model_id)
    return found


def _download(model_id: str, patterns: list[str], report: Callable[[Loading], None]) -> Path:
    from huggingface_hub import snapshot_download

    stage = f"Downloading {model_id}"
    report(Loading(f"Looking for {model_id} on Hugging Face"))
    try:
        total = _plan(model_id, patterns).missing_bytes
        bar_class, done = _silent_bars()
        folder = _while_reporting(
            lambda: snapshot_download(
                model_id, allow_patterns=patterns, ignore_patterns=UNWANTED, tqdm_class=bar_class
            ),
            lambda: report(Loading(stage, done=min(done(), total), total=total, unit="bytes")),
        )
    except StartError:
        raise
    except Exception as error:
        raise _explained(model_id, error) from error
    return Path(folder)


def _while_reporting(work: Callable[[], Result], report: Callable[[], None]) -> Result:
    """Do `work` in a thread of its own, so that `report` is always called on this one."""
    outcome: Future[Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    # A daemon: if reporting fails, the server is gone, and the process must be able to end.
    threading.Thread(target=run, name="download", daemon=True).start()
    while not wait([outcome], timeout=REPORT_SECONDS).done:
        report()
    report()
    return outcome.result()


def _silent_bars() -> tuple[type, Callable[[], int]]:
    """A progress bar class that shows nothing, and a way to ask how many bytes its bars have counted."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    bars: list[Any] = []

    class SilentBar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "file": io.StringIO(), "disable": False})
            if kwargs.get("unit") == "B":
                bars.append(self)

        def display(self, *args: Any, **kwargs: Any) -> bool:
            return True

    return SilentBar, lambda: int(max((bar.n for bar in bars), default=0))


def _require_room(cache: Path, needed_bytes: int, model_id: str) -> None:
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free_bytes = shutil.disk_usage(existing).free
    if needed_bytes + HEADROOM_BYTES > free_bytes:
        raise StartError(
            f"{model_id} needs {needed_bytes / 1e9:.1f} GB of disk, and {cache} has {free_bytes / 1e9:.1f} GB left.",
            "Free some space, choose a smaller model, or set HF_HOME to a folder on another disk.",
        )


def _explained(model_id: str, error: Exception) -> StartError:
    """What went wrong, for a person; the hub's library has a class or a status for most things."""
    from huggingface_hub import errors

    if isinstance(error, errors.DryRunError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return ModelNotFound(
            f"{model_id} is gated: its authors want you to accept their terms first.",
            f"Do so at https://huggingface.co/{model_id}, then run `hf auth login`.",
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403):
        return ModelNotFound(
            f"There is no model {model_id} on Hugging Face, or it is not for everybody to see.",
            "Check the name; for a private model run `hf auth login` first.",
        )
    if isinstance(error, OSError) and error.errno is not None and not hasattr(error, "response"):
        return StartError(f"{model_id} can't be stored: {error.strerror}.", "Check the disk, or set HF_HOME.")
    why = "HF_HUB_OFFLINE is set" if isinstance(error, errors.OfflineModeIsEnabled) else _first_line(error)
    return ModelNotFound(
        f"{model_id} is not on this machine, and Hugging Face can't be reached ({why}).",
        "Check the network and HF_HUB_OFFLINE; `--model demo` needs no hub.",
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]

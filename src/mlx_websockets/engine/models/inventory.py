"""Which models are on this machine: in the hub's cache, and in our own.

Only those that could be served are listed; what is asked of them is what their files say of
themselves, never their weights.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlx_websockets.engine.models.cache import cache_folder
from mlx_websockets.engine.models.checkpoints import Checkpoint, check_folder
from mlx_websockets.errors import ModelBroken, ModelNotFound, StartError

IMAGE_KEYS = ("vision_config", "image_token_id", "image_token_index", "img_context_token_id")
"""A config that has one of these is of a model that sees."""

DEMO = "demo"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A model that can be served without a network.

    Attributes:
        id: what to give `--model`.
        folder: where its files are.
        size_bytes: what removing it frees.
        weights_bytes: of the weights alone, as they are stored.
        sees: it takes pictures, as far as its config says.
        last_used: when a file of it was last read (or written, where reading leaves no trace),
            in seconds since 1970.
        origin: "hub" if it was downloaded, "built" if it was made here.
    """

    id: str
    folder: Path
    size_bytes: int
    weights_bytes: int
    sees: bool
    last_used: float
    origin: Literal["hub", "built"]


def stored_models() -> list[StoredModel]:
    """Those of both caches, by id."""
    return sorted([*_downloaded(), *_built()], key=lambda each: each.id.lower())


def stored_weights_bytes(model: str) -> int:
    """Of the weights of what `--model` names, as they are stored here; 0 if they are not."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        checkpoint = _checkpoint(folder)
        return checkpoint.weights_bytes if checkpoint is not None else 0
    return next((each.weights_bytes for each in stored_models() if each.id == model), 0)


def remove(model_id: str) -> int:
    """Remove a model, also one that is not whole; returns how many bytes that frees.

    Raises:
        ModelNotFound: it is in neither cache.
        StartError: its files can't be removed.
    """
    try:
        if (freed := _remove_download(model_id)) is not None:
            return freed
        for stored in _built():
            if stored.id == model_id:
                shutil.rmtree(stored.folder)
                return stored.size_bytes
    except OSError as error:
        raise StartError(f"{model_id} can't be removed: {error.strerror or error}.", "Check permissions.") from error
    raise ModelNotFound(f"{model_id} is not on this machine.", "`mlx list` says which models are.")


# --- the hub's cache ------------------------------------------------------------------


def _downloaded() -> Iterator[StoredModel]:
    for repository in _repositories():
        for revision in sorted(repository.revisions, key=_preference):
            checkpoint = _checkpoint(Path(revision.snapshot_path))
            if checkpoint is not None:
                used = max(repository.last_accessed, repository.last_modified)
                yield _stored(repository.repo_id, checkpoint, repository.size_on_disk, used, "hub")
                break


def _repositories() -> list[Any]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        return [each for each in scan_cache_dir().repos if each.repo_type == "model"]
    except (CacheNotFound, OSError):
        return []


def _preference(revision: Any) -> tuple[bool, float]:
    """The revision that the hub's library would take comes first, then the newest."""
    return "main" not in revision.refs, -revision.last_modified


def _remove_download(model_id: str) -> int | None:
    from huggingface_hub import scan_cache_dir

    found = next((each for each in _repositories() if each.repo_id == model_id), None)
    if found is None:
        return None
    hashes = [revision.commit_hash for revision in found.revisions]
    if hashes:
        scan_cache_dir().delete_revisions(*hashes).execute()
    shutil.rmtree(found.repo_path, ignore_errors=True)  # halves of files belong to no revision
    return int(found.size_on_disk)


# --- our own --------------------------------------------------------------------------


def _built() -> Iterator[StoredModel]:
    folders = [each for each in cache_folder().glob("*") if each.is_dir() and not each.name.startswith(".")]
    folders.sort(key=lambda each: each.stat().st_mtime, reverse=True)
    newest_demo = next((each for each in folders if each.name.startswith(f"{DEMO}-")), None)
    for folder in folders:
        checkpoint = _checkpoint(folder)
        if checkpoint is not None:
            id = DEMO if folder == newest_demo else str(folder)
            files = [file.stat() for file in folder.rglob("*") if file.is_file()]
            used = max(max(file.st_atime, file.st_mtime) for file in files)
            yield _stored(id, checkpoint, sum(file.st_size for file in files), used, "built")


# --- both -----------------------------------------------------------------------------


def _checkpoint(folder: Path) -> Checkpoint | None:
    """What could be served from there; None if nothing could."""
    try:
        return check_folder(folder, trust_remote_code=True)  # only looked at; what it may do is asked later
    except ModelBroken:
        return None


def _stored(
    id: str, checkpoint: Checkpoint, size_bytes: int, last_used: float, origin: Literal["hub", "built"]
) -> StoredModel:
    return StoredModel(
        id=id,
        folder=checkpoint.folder,
        size_bytes=size_bytes,
        weights_bytes=checkpoint.weights_bytes,
        sees=any(checkpoint.config.get(key) is not None for key in IMAGE_KEYS),
        last_used=last_used,
        origin=origin,
    )

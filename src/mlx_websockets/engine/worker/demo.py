"""The demo model: small, made on the spot, needs no account and no hub.

Its words are SmolLM2-135M's, from the package index; its eyes (14 MB) come with this
package. Both are joined into an ordinary model folder, once, in the user's cache.
docs/explanation/demo-model.md says what it can and can't do.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mlx_websockets.engine.messages import Loading
from mlx_websockets.engine.models.cache import cache_folder
from mlx_websockets.engine.models.checkpoints import check_folder
from mlx_websockets.engine.worker import smollm2
from mlx_websockets.engine.worker.smollm2 import SmolLM2, get_smollm2
from mlx_websockets.errors import ModelBroken, StartError

RECIPE, TEXT_RECIPE = "2", "1"
"""Raise one when the same parts would make another folder."""

VISION_PART = "demo-vision.npz"
POSITIONS = "vision_model.embeddings.position_embedding.weight"
TEMPLATE = "demo-chat-template.jinja"

LOCK_SECONDS = 3600
LOCK_POLL_SECONDS = 0.5

IMAGE_SIDE = 144
PATCH_SIDE = 12
SHUFFLE = 2
GRID = IMAGE_SIDE // PATCH_SIDE
IMAGE_TOKENS = (GRID // SHUFFLE) ** 2
PLACES = 16
"""Rows and columns of the table in which the library looks up where a patch is. It compares fractions: of twelve
patches in a table of twelve the sixth is taken for the fifth, because 5/12 is rounded. In one of sixteen all are told
apart."""
IMAGE_TOKEN_ID = 4
MAX_IMAGES = 3
"""So many pictures in one question is what it was trained with."""

RENAMED_TOKENS = {
    "<reponame>": "<image>",
    "<jupyter_start>": "<fake_token_around_image>",
    "<empty_output>": "<global-img>",
    "<jupyter_text>": "<end_of_utterance>",
}
"""SmolLM2's tokens for source code give their places to those that stand for pictures."""

CONFIG: dict[str, Any] = {
    "model_type": "idefics3",
    "architectures": ["Idefics3ForConditionalGeneration"],
    "image_token_id": IMAGE_TOKEN_ID,
    "max_images": MAX_IMAGES,
    "scale_factor": SHUFFLE,
    "vocab_size": smollm2.CONFIG["vocab_size"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "text_config": smollm2.CONFIG,
    "vision_config": {
        "model_type": "idefics3_vision",
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "image_size": PLACES * PATCH_SIDE,
        "patch_size": PATCH_SIDE,
        "num_channels": 3,
        "layer_norm_eps": 1e-6,
    },
}

PROCESSOR_CONFIG = {"processor_class": "Idefics3Processor", "image_seq_len": IMAGE_TOKENS}

PREPROCESSOR_CONFIG = {
    "image_processor_type": "Idefics3ImageProcessor",
    "processor_class": "Idefics3Processor",
    "do_convert_rgb": True,
    "do_resize": False,
    "do_image_splitting": False,  # so that any picture is squashed into one square
    "size": {"longest_edge": IMAGE_SIDE},
    "max_image_size": {"longest_edge": IMAGE_SIDE},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_pad": True,
}


def demo_model(report: Callable[[Loading], None]) -> Path:
    """The folder of the demo model, built on first use (93 MB to download, 680 MB on disk).

    Raises:
        ModelNotFound: a part of it can't be downloaded.
        StartError: the cache can't be written, or another process is building for too long.
    """
    return _built_once(f"demo-{RECIPE}-{_assets_key()}", _write_demo, report)


def smollm2_text_model(report: Callable[[Loading], None]) -> Path:
    """The folder of plain SmolLM2, text only, built on first use.

    Raises:
        ModelNotFound: it can't be downloaded.
        StartError: the cache can't be written, or another process is building for too long.
    """
    return _built_once(f"smollm2-{TEXT_RECIPE}", _write_text_model, report)


Write = Callable[[SmolLM2, Path], None]


def _built_once(name: str, write: Write, report: Callable[[Loading], None]) -> Path:
    folder = cache_folder() / name
    if _is_whole(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder, report):
            if not _is_whole(folder):
                _build(folder, write, report)
    except OSError as error:
        raise StartError(
            f"The model can't be stored in {folder.parent}: {error.strerror or error}.",
            "It needs 1 GB of disk; MLX_WS_CACHE names another folder.",
        ) from error
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        check_folder(folder)
    except ModelBroken:
        return False
    return True


@contextmanager
def _lock(folder: Path, report: Callable[[Loading], None]) -> Iterator[None]:
    """Hold the right to build `folder`; while another process has it, say so and wait."""
    lock = FileLock(folder.with_name(folder.name + ".lock"))
    for _ in range(int(LOCK_SECONDS / LOCK_POLL_SECONDS)):
        try:
            lock.acquire(timeout=LOCK_POLL_SECONDS)
        except Timeout:
            report(Loading("Waiting for another process that builds the same model"))
            continue
        try:
            yield
        finally:
            lock.release()
        return
    raise StartError(f"Another process has been building {folder} for too long.", "End it, and try again.")


def _build(folder: Path, write: Write, report: Callable[[Loading], None]) -> None:
    """Put the folder together next to its place, and move it there when it is whole."""
    prefix = f".{folder.name}-"
    for left_over in folder.parent.glob(f"{prefix}*"):  # of a process that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as temporary:
        workshop, finished = Path(temporary) / "workshop", Path(temporary) / "finished"
        workshop.mkdir()
        finished.mkdir()
        write(get_smollm2(workshop, report), finished)
        shutil.rmtree(folder, ignore_errors=True)  # one that was there but not whole
        finished.rename(folder)


def _write_text_model(words: SmolLM2, folder: Path) -> None:
    _write_json(folder / "config.json", smollm2.CONFIG)
    _write_json(folder / "tokenizer.json", words.tokenizer)
    _write_json(folder / "tokenizer_config.json", smollm2.TOKENIZER_CONFIG)
    (folder / "chat_template.jinja").write_text(words.chat_template, "utf-8")
    _write_weights(folder, words.weights)


def _write_demo(words: SmolLM2, folder: Path) -> None:
    _write_json(folder / "config.json", CONFIG)
    _write_json(folder / "processor_config.json", PROCESSOR_CONFIG)
    _write_json(folder / "preprocessor_config.json", PREPROCESSOR_CONFIG)
    _write_json(folder / "tokenizer.json", _with_picture_tokens(words.tokenizer))
    _write_json(folder / "tokenizer_config.json", smollm2.TOKENIZER_CONFIG)
    (folder / "chat_template.jinja").write_bytes(_asset(TEMPLATE))
    _write_weights(folder, _joined(words.weights) | _vision_weights())


def _joined(words: dict[str, Any]) -> dict[str, Any]:
    weights = {f"language_model.{name.removeprefix('model.')}": array for name, array in words.items()}
    # mlx-vlm's idefics3 has no tied head: the embeddings are written twice.
    weights["language_model.lm_head.weight"] = weights["language_model.embed_tokens.weight"]
    return weights


def _vision_weights() -> dict[str, Any]:
    import mlx.core as mx

    with as_file(files(__package__) / "assets" / VISION_PART) as path:
        halves: Any = mx.load(str(path))
        weights = {name: array.astype(mx.float32) for name, array in halves.items()}
    places = [row * PLACES // GRID * PLACES + column * PLACES // GRID for row in range(GRID) for column in range(GRID)]
    table = mx.zeros((PLACES * PLACES, weights[POSITIONS].shape[1]))
    table[mx.array(places)] = weights[POSITIONS]
    return weights | {POSITIONS: table}


def _with_picture_tokens(tokenizer: dict[str, Any]) -> dict[str, Any]:
    vocabulary = tokenizer["model"]["vocab"]
    added = [each | {"content": _renamed(each["content"])} for each in tokenizer["added_tokens"]]
    model = tokenizer["model"] | {"vocab": {_renamed(token): number for token, number in vocabulary.items()}}
    return tokenizer | {"added_tokens": added, "model": model}


def _renamed(token: str) -> str:
    return RENAMED_TOKENS.get(token, token)


def _write_weights(folder: Path, weights: dict[str, Any]) -> None:
    import mlx.core as mx

    try:
        mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    except RuntimeError as error:
        raise OSError(f"writing the weights failed ({error})") from error


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), "utf-8")


def _asset(name: str) -> bytes:
    return (files(__package__) / "assets" / name).read_bytes()


@cache
def _assets_key() -> str:
    digest = hashlib.sha256(_asset(VISION_PART) + _asset(TEMPLATE))
    return digest.hexdigest()[:12]

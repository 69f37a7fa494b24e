"""Is a folder a model that can be opened, and opened safely?

Asked before any library sees the folder: libraries load half a model without a word,
crash on a file that was cut off, and run code that a config names. Nothing here imports
them, and nothing here reads the weights, only what the files say about themselves.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_websockets.errors import ModelBroken

MAX_HEADER_BYTES = 100 * 1024 * 1024
"""The format's own limit on the header of a safetensors file."""

INDEX_FILE = "model.safetensors.index.json"

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "*.tiktoken",
    "*.spm",
)

OTHER_WEIGHTS = (".bin", ".gguf", ".npz", ".pt", ".pth", ".h5", ".ckpt", ".onnx")

BYTES_OF_DTYPE = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}

SHARD_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d+)-of-(?P<count>\d+)\.safetensors")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder that passed.

    Attributes:
        folder: where it is.
        config: its config.json.
        weight_files: the safetensors files that make up the model.
        weights_bytes: their size together.
        has_code: it brings Python code of its own, which nobody has run.
    """

    folder: Path
    config: dict[str, Any]
    weight_files: tuple[Path, ...]
    weights_bytes: int
    has_code: bool


def check_folder(folder: Path, *, trust_remote_code: bool = False, needs_tokenizer: bool = True) -> Checkpoint:
    """Look over a model's folder without opening its weights.

    Raises:
        ModelBroken: it is incomplete, damaged, or names code to run and `trust_remote_code` is False.
    """
    try:
        return _look_over(folder, trust_remote_code, needs_tokenizer)
    except OSError as error:
        raise ModelBroken(f"{error.filename} can't be read: {error.strerror}.", "Check its permissions.") from error


def _look_over(folder: Path, trust_remote_code: bool, needs_tokenizer: bool) -> Checkpoint:
    config = read_json_object(folder / "config.json", missing=f"{folder} is not a model's folder: no config.json.")
    if not trust_remote_code:
        _refuse_named_code(folder, config)
    if not isinstance(config.get("model_type"), str):
        raise ModelBroken(f"{folder / 'config.json'} does not say what kind of model this is (model_type).")
    weight_files = _find_weights(folder)
    weights_bytes = sum(check_safetensors(file) for file in weight_files)
    if needs_tokenizer and not any(next(folder.glob(pattern), None) for pattern in TOKENIZER_FILES):
        raise ModelBroken(
            f"{folder} has no tokenizer: {TOKENIZER_FILES[0]} is missing.", "Copy or download the model's folder again."
        )
    return Checkpoint(folder, config, weight_files, weights_bytes, has_code=_brings_code(folder, config))


def check_adapter(path: Path) -> None:
    """Look over LoRA weights: a folder, or the safetensors file in it.

    Raises:
        ModelBroken: they are not there, or damaged; the sentence says what is missing.
    """
    hint = "Give the folder that the training wrote, with adapters.safetensors and adapter_config.json."
    folder = path if path.is_dir() else path.parent
    names = [path] if not path.is_dir() else [path / "adapters.safetensors", path / "weights.safetensors"]
    weights = next((each for each in names if each.is_file()), None)
    if weights is None or weights.suffix != ".safetensors":
        raise ModelBroken(f"{path} holds no adapter: no adapters.safetensors.", hint)
    read_json_object(folder / "adapter_config.json", missing=f"{folder} holds no adapter: no adapter_config.json.")
    check_safetensors(weights)


def read_json_object(path: Path, *, missing: str = "") -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelBroken: there is none; the sentence names the file, or is `missing` where there is no file.
    """
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelBroken(missing or f"{path} is missing.") from error
    except (ValueError, RecursionError) as error:
        raise ModelBroken(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ModelBroken(f"{path} must hold a JSON object, not a {type(value).__name__}.")
    return value


def check_safetensors(path: Path) -> int:
    """The size of a safetensors file in bytes, if its header and its length agree.

    Raises:
        ModelBroken: they don't; the sentence names the file and what is missing.
    """
    actual_bytes = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if actual_bytes < 8:
            raise _cut_off(path, 8 - actual_bytes)
        if header_bytes > MAX_HEADER_BYTES:
            raise _damaged(path, "its header can't be that long")
        if actual_bytes < 8 + header_bytes:
            raise _cut_off(path, 8 + header_bytes - actual_bytes)
        header = file.read(header_bytes)
    missing_bytes = 8 + header_bytes + _data_bytes(path, header) - actual_bytes
    if missing_bytes > 0:
        raise _cut_off(path, missing_bytes)
    if missing_bytes < 0:
        raise _damaged(path, f"it has {-missing_bytes:,} bytes too many")
    return actual_bytes


def _data_bytes(path: Path, header: bytes) -> int:
    """How long the tensors of a header are together; they must follow each other without a gap."""
    try:
        tensors = json.loads(header)
        spans = sorted(_span(tensor) for name, tensor in tensors.items() if name != "__metadata__")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(path, "its header makes no sense") from error
    end = 0
    for begin, next_end in spans:
        if begin != end:
            raise _damaged(path, "its tensors overlap or leave gaps")
        end = next_end
    return end


def _span(tensor: dict[str, Any]) -> tuple[int, int]:
    begin, end = tensor["data_offsets"]
    if not (isinstance(begin, int) and isinstance(end, int) and 0 <= begin <= end):
        raise ValueError("offsets")
    size = BYTES_OF_DTYPE.get(tensor["dtype"])
    if size is not None and math.prod(tensor["shape"]) * size != end - begin:
        raise ValueError("shape")
    return begin, end


def _find_weights(folder: Path) -> tuple[Path, ...]:
    """The files a loader would take, all of them present."""
    present = sorted(folder.glob("*.safetensors"))
    listed = _listed_in_index(folder)
    if listed and any(file in listed for file in present):
        _require_all(listed)
        return tuple(sorted(listed))
    # An index of which nothing is there is left over from the files this model was made of.
    present = [file for file in present if not file.name.endswith("consolidated.safetensors")]
    if not present:
        raise _no_weights(folder)
    _require_all(_shards_of(present))
    return tuple(present)


def _listed_in_index(folder: Path) -> set[Path]:
    path = folder / INDEX_FILE
    if not path.exists():
        return set()
    names = read_json_object(path).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ModelBroken(f"{path} does not list the model's files (weight_map).")
    listed = set(names.values())
    if any(Path(name).name != name for name in listed):
        raise ModelBroken(f"{path} names files outside of the model's folder.")
    return {folder / name for name in listed}


def _shards_of(files: Iterable[Path]) -> set[Path]:
    """Every file of the numbered families that `files` belong to."""
    shards = set()
    for file in files:
        if match := SHARD_NAME.fullmatch(file.name):
            stem, number, count = match["stem"], match["number"], match["count"]
            if int(count) > 10_000:
                raise _damaged(file, "no model has that many files")
            shards |= {
                file.with_name(f"{stem}-{each:0{len(number)}}-of-{count}.safetensors")
                for each in range(1, int(count) + 1)
            }
    return shards


def _require_all(files: set[Path]) -> None:
    missing = sorted(file.name for file in files if not file.is_file())
    if missing:
        raise ModelBroken(
            f"{len(missing)} of the model's {len(files)} files are missing: {missing[0]}"
            + (" and others." if len(missing) > 1 else "."),
            "Copy or download the model's folder again.",
        )


def _no_weights(folder: Path) -> ModelBroken:
    if any(folder.glob("*.incomplete")) or any(folder.glob(".cache/huggingface/download/*.incomplete")):
        return ModelBroken(f"The download of {folder} was not finished.", "Download the model again.")
    others = sorted(file.name for file in folder.iterdir() if file.suffix in OTHER_WEIGHTS)
    if others:
        return ModelBroken(
            f"{folder} has its weights as {others[0]}; only safetensors files are opened.",
            "Convert it with `python -m mlx_vlm.convert`, or choose a model of mlx-community.",
        )
    return ModelBroken(f"{folder} has no weights: no *.safetensors file.", "Copy or download the model's folder again.")


def _refuse_named_code(folder: Path, config: dict[str, Any]) -> None:
    if config.get("model_file"):
        raise ModelBroken(
            f"{folder / 'config.json'} names Python code to run (model_file), and that is not allowed by default.",
            "Use --trust-remote-code if you know the model's authors and have read that code.",
        )


def _brings_code(folder: Path, config: dict[str, Any]) -> bool:
    return "auto_map" in config or any(folder.glob("*.py"))


def _cut_off(path: Path, missing_bytes: int) -> ModelBroken:
    return ModelBroken(
        f"{path} is cut off: {missing_bytes:,} bytes are missing.", "Delete it, then copy or download it again."
    )


def _damaged(path: Path, why: str) -> ModelBroken:
    return ModelBroken(f"{path} is damaged: {why}.", "Delete it, then copy or download it again.")

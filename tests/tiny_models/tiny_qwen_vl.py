"""Qwen 2 VL and Qwen 3 VL with random weights, made in memory: the parts around pictures, without a processor.

They place pictures of any size, each with as many places as it needs; Qwen 3 VL tells its later
layers of them too.
"""

from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map
from mlx_vlm.models import qwen2_vl, qwen3_vl

START, PLACE, VIDEO, END = 7, 5, 6, 8
WIDTH, PATCH, MERGED = 32, 4, 2

TEXT: dict[str, Any] = {
    "num_hidden_layers": 1,
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-6,
    "vocab_size": 64,
}
VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": WIDTH,
    "num_heads": 2,
    "patch_size": PATCH,
    "spatial_merge_size": MERGED,
    "temporal_patch_size": 2,
}
TOKENS = {"image_token_id": PLACE, "video_token_id": VIDEO, "vision_start_token_id": START}
SECTIONS = [4, 2, 2]


def tiny_qwen2_vl() -> Any:
    text = qwen2_vl.TextConfig("qwen2_vl", **TEXT, rope_scaling={"type": "mrope", "mrope_section": SECTIONS})
    vision = qwen2_vl.VisionConfig(**VISION, embed_dim=WIDTH)
    return _random(qwen2_vl.Model(qwen2_vl.ModelConfig(text, vision, "qwen2_vl", **TOKENS)))


def tiny_qwen3_vl() -> Any:
    text = qwen3_vl.TextConfig(
        "qwen3_vl_text",
        **TEXT,
        head_dim=16,
        rope_theta=1e4,
        max_position_embeddings=512,
        rope_scaling={"type": "default", "mrope_section": SECTIONS},
    )
    vision = qwen3_vl.VisionConfig(
        **VISION,
        intermediate_size=64,
        out_hidden_size=WIDTH,
        num_position_embeddings=64,
        deepstack_visual_indexes=[0, 1],
    )
    return _random(qwen3_vl.Model(qwen3_vl.ModelConfig(text, vision, "qwen3_vl", **TOKENS)))


def prompt_of(*pictures: tuple[int, int, int]) -> tuple[list[int], dict[str, Any]]:
    """Ids and inputs of a prompt with these pictures: (seed, rows of patches, columns of patches)."""
    tokens = [1, 2]
    for _, rows, columns in pictures:
        tokens += [START, *[PLACE] * (rows * columns // MERGED**2), END]
    pixels = mx.concatenate([_patches(*picture) for picture in pictures])
    grids = mx.array([[1, rows, columns] for _, rows, columns in pictures])
    return [*tokens, 9, 10], {"pixel_values": pixels, "image_grid_thw": grids}


def _patches(seed: int, rows: int, columns: int) -> mx.array:
    made = np.random.default_rng(seed).normal(size=(rows * columns, 3 * 2 * PATCH**2))
    return mx.array(made.astype(np.float32))


def _random(model: Any) -> Any:
    mx.random.seed(3)
    model.update(tree_map(lambda each: 0.1 * mx.random.normal(each.shape), model.parameters()))
    mx.eval(model.parameters())
    return model

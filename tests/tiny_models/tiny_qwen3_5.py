"""A Qwen 3.5 with random weights, and heads that draft for it: layers of both of its kinds, pictures included."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_vlm.models.qwen3_5 import Model, ModelConfig, TextConfig, VisionConfig
from mlx_vlm.speculative.drafters.qwen3_5_mtp import Model as Head
from mlx_vlm.speculative.drafters.qwen3_5_mtp import ModelConfig as HeadConfig

START, PLACE, VIDEO = 6, 8, 3
"""Tokens around and in place of pictures, as the tiny Gemma's tokenizer numbers them."""

MARKS = {
    "<start_of_image>": "<|vision_start|>",
    "<image_soft_token>": "<|image_pad|>",
    "<end_of_image>": "<|vision_end|>",
}
WIDTH = 64
SPREAD = 0.25
"""Weights so large that what is said depends strongly on all that was said before."""

TEXT: dict[str, Any] = {
    "model_type": "qwen3_5",
    "hidden_size": WIDTH,
    "intermediate_size": 128,
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "rms_norm_eps": 1e-6,
    "vocab_size": 600,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "rope_parameters": {
        "type": "default",
        "mrope_section": [2, 1, 1],
        "rope_theta": 10000,
        "partial_rotary_factor": 0.25,
    },
}
VISION: dict[str, Any] = {
    "model_type": "qwen3_5",
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 64,
    "out_hidden_size": WIDTH,
    "num_heads": 2,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "num_position_embeddings": 16,
    "in_channels": 3,
}
PREPROCESSOR = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2, "min_pixels": 64, "max_pixels": 4096}
TOKENS = {"image_token_id": PLACE, "video_token_id": VIDEO, "vision_start_token_id": START}
LEAVES_A_LAYER = ("o_proj.weight", "out_proj.weight", "down_proj.weight")


def tiny_qwen3_5(*, is_predictable: bool = False) -> Any:
    """The model. A predictable one says next what depends on the last token alone."""
    text = TextConfig.from_dict(TEXT)
    config = ModelConfig(text_config=text, vision_config=VisionConfig.from_dict(VISION), model_type="qwen3_5", **TOKENS)
    return _random(Model(config), 3, is_silent=is_predictable)


def tiny_head(*, knows: bool = False, width: int = WIDTH) -> Any:
    """A head of the kind `mtp`; one that knows says of the predictable model what that will say."""
    text = {**TEXT, "hidden_size": width, "mtp_num_hidden_layers": 1}
    head = _random(Head(HeadConfig.from_dict({"text_config": text})), 4, is_silent=knows)
    if knows:
        head.fc.weight = mx.concatenate([mx.eye(width), mx.zeros((width, width))], axis=1)
    return head


def write_head(folder: Path, *, width: int = WIDTH) -> None:
    """Write a head as a checkpoint into `folder`, which exists."""
    config = {"model_type": "qwen3_5_mtp", "text_config": {**TEXT, "hidden_size": width, "mtp_num_hidden_layers": 1}}
    _write(folder, config, tiny_head(width=width))


def write_tiny_qwen3_5(folder: Path, tiny_gemma3: Path) -> None:
    """Write the model's checkpoint into `folder`, which exists. Its tokenizer is the tiny Gemma's."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_text(_marked((tiny_gemma3 / name).read_text("utf-8")), "utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR), "utf-8")
    config = {"model_type": "qwen3_5", "text_config": TEXT, "vision_config": VISION, "eos_token_id": 1, **TOKENS}
    _write(folder, config, tiny_qwen3_5())


def _marked(text: str) -> str:
    text = text.replace("'<start_of_image>'", f"'{''.join(MARKS.values())}'")  # in the template it stands for all three
    for theirs, ours in MARKS.items():
        text = text.replace(theirs, ours)
    return text


def _write(folder: Path, config: dict[str, Any], model: Any) -> None:
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})


def _random(model: Any, seed: int, *, is_silent: bool) -> Any:
    mx.random.seed(seed)

    def weight(path: str, old: mx.array) -> mx.array:
        if old.ndim == 1:
            return mx.ones(old.shape) if "norm" in path else old
        if is_silent and path.endswith(LEAVES_A_LAYER):
            return mx.zeros(old.shape)
        return SPREAD * mx.random.normal(old.shape)

    model.update(tree_map_with_path(weight, model.parameters()))
    mx.eval(model.parameters())
    return model

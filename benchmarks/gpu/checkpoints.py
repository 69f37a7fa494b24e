"""Model folders with the shapes of known models and random weights.

Speed does not depend on the values of weights: every product has the same sizes, whatever is
in it. What these models say means nothing. The tokenizer is a small one, filled up with made-up
tokens, so that whatever number comes out is a token.
"""

import json
from pathlib import Path
from typing import Any

from tests.tiny_models import tiny_gemma3 as tiny

from benchmarks.peers.models import endless_copy

GEMMA3_4B, SMOLLM2_135M = "Gemma 3 4B shapes, 4 bits", "SmolLM2-135M shapes, bfloat16"
GROUP_SIZE, BITS = 64, 4
END_TOKEN = "<unk>"

GEMMA3_4B_CONFIG: dict[str, Any] = {
    "model_type": "gemma3",
    "architectures": ["Gemma3ForConditionalGeneration"],
    "vocab_size": 262208,
    "hidden_size": 2560,
    "mm_tokens_per_image": 256,
    "image_token_index": tiny.ID["<image_soft_token>"],
    "boi_token_index": tiny.ID["<start_of_image>"],
    "eoi_token_index": tiny.ID["<end_of_image>"],
    "pad_token_id": tiny.ID["<pad>"],
    "eos_token_id": [tiny.ID["<eos>"]],
    "text_config": {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "sliding_window": 1024,
        "sliding_window_pattern": 6,
        "max_position_embeddings": 131072,
        "vocab_size": 262208,
        "mm_tokens_per_image": 256,
    },
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": 896,
    },
}

SMOLLM2_135M_CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-5,
    "vocab_size": 49152,
    "rope_theta": 100000.0,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "bos_token_id": tiny.ID["<bos>"],
    "eos_token_id": tiny.ID["<eos>"],
}


def write_checkpoint(name: str, root: Path) -> Path:
    """Write the model `name`, one of the two above, below `root`; returns its folder."""
    folder = root / "as-written" / name.split()[0].lower()
    folder.mkdir(parents=True, exist_ok=True)
    is_gemma = name == GEMMA3_4B
    config = GEMMA3_4B_CONFIG if is_gemma else SMOLLM2_135M_CONFIG
    write_tokenizer(folder, config["vocab_size"])
    if is_gemma:
        write_processor(folder)
        config = write_gemma3(folder, config)
    else:
        write_llama(folder, config)
    write_json(folder / "config.json", config)
    return endless_copy(folder, root / folder.name, END_TOKEN)


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    """The tiny model's tokenizer, with tokens that no text contains up to so many."""
    file = folder / "tokenizer.json"
    tiny._trained_tokenizer().save(str(file))
    tokenizer = json.loads(file.read_text("utf-8"))
    known = tokenizer["model"]["vocab"]
    known |= {f"t{number}": number for number in range(len(known), vocabulary)}
    write_json(file, tokenizer)
    write_json(folder / "tokenizer_config.json", tiny.TOKENIZER_CONFIG)
    (folder / "chat_template.jinja").write_text(tiny.CHAT_TEMPLATE, "utf-8")


def write_processor(folder: Path) -> None:
    """Gemma 3's own, for pictures of 896 x 896 that become 256 tokens."""
    size = {"size": {"height": 896, "width": 896}, "image_seq_length": 256}
    write_json(folder / "preprocessor_config.json", tiny.PREPROCESSOR_CONFIG | size)
    write_json(folder / "processor_config.json", tiny.PROCESSOR_CONFIG | {"image_seq_length": 256})


def write_gemma3(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Write the weights; returns the config that says how they are quantised."""
    import mlx.nn as nn
    from mlx_vlm.models import gemma3
    from mlx_vlm.utils import update_module_configs

    model_config = update_module_configs(gemma3.ModelConfig.from_dict(config), gemma3, config, ["text", "vision"])
    model = gemma3.Model(model_config)
    randomize(model)
    nn.quantize(model, GROUP_SIZE, BITS, class_predicate=_is_quantized)
    save(model, folder)
    return config | {"quantization": {"group_size": GROUP_SIZE, "bits": BITS}}


def _is_quantized(path: str, module: Any) -> bool:
    return hasattr(module, "to_quantized") and path.startswith("language_model")


def write_llama(folder: Path, config: dict[str, Any]) -> None:
    from mlx_vlm.utils import get_model_and_args

    module, _ = get_model_and_args(config)
    model = module.Model(module.ModelConfig.from_dict(config))
    randomize(model)
    save(model, folder)


def randomize(model: Any) -> None:
    """Small random numbers in bfloat16 for all weights."""
    import mlx.core as mx
    from mlx.utils import tree_map

    model.update(tree_map(lambda array: (mx.random.normal(array.shape) * 0.02).astype(mx.bfloat16), model.parameters()))
    mx.eval(model.parameters())


def save(model: Any, folder: Path) -> None:
    import mlx.core as mx
    from mlx.utils import tree_flatten

    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value), "utf-8")

"""A Gemma 3 that fits in a megabyte: the real architecture and processor, random weights.

It has nothing to say, but says it fast, the same on every run, and differently for
different pictures: enough to test everything around a model.
"""

import json
from pathlib import Path
from typing import Any

SPECIAL_TOKENS = (
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of_image>",
    "<end_of_image>",
    "<image_soft_token>",
)
ID = {token: number for number, token in enumerate(SPECIAL_TOKENS)}

VOCABULARY = 600
IMAGE_TOKENS = 4
IMAGE_SIDE = 56
SPREAD = 0.1

STIR = 8.0
"""Weight of what a layer adds to what it was given; with less, one token repeats for ever."""

NEVER_SAID = [ID[token] for token in SPECIAL_TOKENS if token not in ("<eos>", "<end_of_turn>")]

TEXT = """
A camera sends pictures faster than a model can describe them. Thirty frames a second come in, and one
sentence a second goes out, so something has to give. The newest picture of each source is kept, and an older
one makes way for it without a fuss. Whoever watches is told which picture a sentence is about. When somebody
asks a question, the question waits for its turn like everybody else's, and when they change their mind, the
answer stops in the middle of a word. What was said until then stays said.

The model lives in a house of its own. It can fall over, run out of memory or be taken away by the system, and
the people at the door notice nothing but a short delay. Someone picks it up again, dusts it off, and tells
those whose answers were lost that theirs were lost. Then the next question is read, token by token, as if
nothing had happened. A token is a small number. Many small numbers make a word, many words make a sentence,
and a good sentence says what happened, why, and what to do next.

There is a red circle on a white table. There is a blue square to the left of it. Is there a green triangle?
No, there is no green triangle in this picture. How many shapes do you see? I see two shapes, a circle and a
square. What time is it? I can't know what time it is, because I only look when I am shown something. Tell me
a story, then. Once upon a time there was a window, and behind the window there was a street, and along the
street came 1, 2, 3, 4, 5 dogs and 67 cats, and none of the 890 birds cared about any of them.
"""

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' }}
{%- if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{{ '<start_of_image>' if part['type'] == 'image' else part['text'] }}
{%- endfor -%}
{%- endif -%}
{{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<start_of_turn>model\\n' }}
{%- endif -%}
"""

TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "extra_special_tokens": {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    },
    "model_max_length": 8192,
}

PREPROCESSOR_CONFIG = {
    "image_processor_type": "Gemma3ImageProcessor",
    "do_resize": True,
    "size": {"height": IMAGE_SIDE, "width": IMAGE_SIDE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "image_seq_length": IMAGE_TOKENS,
}

PROCESSOR_CONFIG = {"processor_class": "Gemma3Processor", "image_seq_length": IMAGE_TOKENS}


def write_tiny_gemma3(folder: Path, *, head_width: int = 16) -> None:
    """Write the checkpoint into `folder`, which exists."""
    tokenizer = _trained_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = _config(tokenizer.get_vocab_size(), head_width)
    _write_json(folder / "config.json", config)
    _write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)
    _write_json(folder / "preprocessor_config.json", PREPROCESSOR_CONFIG)
    _write_json(folder / "processor_config.json", PROCESSOR_CONFIG)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, "utf-8")
    _write_random_weights(folder / "model.safetensors", config)


def _trained_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def _config(vocabulary: int, head_width: int) -> dict[str, Any]:
    return {
        "model_type": "gemma3",
        "architectures": ["Gemma3ForConditionalGeneration"],
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "mm_tokens_per_image": IMAGE_TOKENS,
        "image_token_index": ID["<image_soft_token>"],
        "boi_token_index": ID["<start_of_image>"],
        "eoi_token_index": ID["<end_of_image>"],
        "pad_token_id": ID["<pad>"],
        "eos_token_id": [ID["<eos>"], ID["<end_of_turn>"]],
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": head_width,
            "query_pre_attn_scalar": head_width,
            "sliding_window": 64,
            "sliding_window_pattern": 2,
            "max_position_embeddings": 8192,
            "vocab_size": vocabulary,
            "mm_tokens_per_image": IMAGE_TOKENS,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 14,
            "image_size": IMAGE_SIDE,
        },
    }


def _write_random_weights(path: Path, config: dict[str, Any]) -> None:
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_vlm.models import gemma3
    from mlx_vlm.utils import update_module_configs

    model_config = update_module_configs(gemma3.ModelConfig.from_dict(config), gemma3, config, ["text", "vision"])
    shapes = {name: array.shape for name, array in tree_flatten(gemma3.Model(model_config).parameters())}
    keys = mx.random.split(mx.random.key(0), len(shapes))
    weights = {
        name: mx.random.normal(shape, key=key) * SPREAD
        for (name, shape), key in zip(sorted(shapes.items()), keys, strict=True)
    }
    for name in weights:
        if name.endswith(("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")):
            weights[name] += STIR
    weights["language_model.lm_head.weight"][mx.array(NEVER_SAID)] = 0.0
    mx.save_safetensors(str(path), weights, metadata={"format": "mlx"})


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1), "utf-8")

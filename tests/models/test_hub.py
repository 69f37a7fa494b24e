"""Models come from a hub: here one that speaks its protocol from this machine, and has its moods."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from local_hub import Hub

from mlx_websockets.engine.models.hub import is_model_id


def fetch(hub: Hub, home: Path, model: str = "me/tiny", *, trust: bool = False, **environment: str) -> list[str]:
    """Fetch in a fresh interpreter (the hub's library reads its environment once); the lines it said."""
    program = f"""
from pathlib import Path
from mlx_websockets.engine.models.hub import fetch
from mlx_websockets.errors import StartError
def report(loading):
    print("report", loading.unit, loading.done, loading.total)
try:
    folder = fetch({model!r}, report, trust_remote_code={trust})
    print("files", *sorted(path.name for path in folder.iterdir()))
except StartError as error:
    print(error.code, "|", error.reason, "|", error.hint)
"""
    settings = {"HF_HOME": str(home), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": ""}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | settings | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_model_is_fetched_without_its_code_and_its_pickles(hub: Hub, tmp_path: Path):
    said = fetch(hub, tmp_path / "home")

    names = said[-1].split()
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= set(names)
    assert not {"evil.py", "pytorch_model.bin"} & set(names)


def test_code_is_fetched_only_if_it_is_trusted(hub: Hub, tmp_path: Path):
    assert "evil.py" in fetch(hub, tmp_path / "home", trust=True)[-1].split()


def test_the_last_report_counts_every_byte(hub: Hub, tmp_path: Path):
    said = fetch(hub, tmp_path / "home")

    unwanted = ("evil.py", "pytorch_model.bin")
    size = sum(file.stat().st_size for file in hub.folder.iterdir() if file.name not in unwanted)
    assert said[-2] == f"report bytes {size} {size}"


def test_a_model_that_was_fetched_is_not_asked_for_again(hub: Hub, tmp_path: Path):
    fetch(hub, tmp_path / "home")
    hub.asked.clear()

    said = fetch(hub, tmp_path / "home")

    assert said[-1].startswith("files")
    assert hub.asked == []


def test_a_model_that_was_fetched_needs_no_network(hub: Hub, tmp_path: Path):
    fetch(hub, tmp_path / "home")

    assert fetch(hub, tmp_path / "home", HF_HUB_OFFLINE="1")[-1].startswith("files")


def test_what_is_missing_in_the_cache_is_fetched(hub: Hub, tmp_path: Path):
    fetch(hub, tmp_path / "home")
    weights = next((tmp_path / "home").rglob("snapshots/*/model.safetensors"))
    weights.resolve().unlink()
    weights.unlink()

    assert "model.safetensors" in fetch(hub, tmp_path / "home")[-1].split()


@pytest.mark.parametrize(
    ("mood", "reason", "hint"),
    [
        ((401, "GatedRepo"), "is gated", "hf auth login"),
        ((403, "GatedRepo"), "is gated", "hf auth login"),
        ((401, ""), "There is no model me/tiny on Hugging Face", "hf auth login"),
        ((403, ""), "There is no model me/tiny on Hugging Face", "hf auth login"),
        ((404, "RepoNotFound"), "There is no model me/tiny on Hugging Face", "Check the name"),
        ((503, ""), "can't be reached", "--model demo"),
    ],
)
def test_a_hub_that_refuses_is_quoted_in_a_sentence(
    hub: Hub, tmp_path: Path, mood: tuple[int, str], reason: str, hint: str
):
    hub.mood = mood

    code, said, next_step = fetch(hub, tmp_path / "home")[-1].split(" | ")

    assert code == "model_not_found"
    assert reason in said
    assert hint in next_step


def test_without_a_network_the_demo_is_suggested(hub: Hub, tmp_path: Path):
    said = fetch(hub, tmp_path / "home", HF_ENDPOINT="http://127.0.0.1:9")[-1]

    assert said.startswith("model_not_found")
    assert "can't be reached" in said
    assert "--model demo" in said


def test_offline_mode_is_named_as_the_reason(hub: Hub, tmp_path: Path):
    said = fetch(hub, tmp_path / "home", HF_HUB_OFFLINE="1")[-1]

    assert "HF_HUB_OFFLINE is set" in said
    assert hub.asked == []


def test_a_model_larger_than_the_disk_is_refused_before_it_is_fetched(hub: Hub, tmp_path: Path):
    hub.claimed_bytes = 10**15

    said = fetch(hub, tmp_path / "home")[-1]

    assert said.startswith("start_failed")
    assert "000.0 GB of disk" in said
    assert "HF_HOME" in said


def test_a_cache_that_can_not_be_written_is_a_sentence(hub: Hub, tmp_path: Path):
    (tmp_path / "home").write_text("in the way")

    said = fetch(hub, tmp_path / "home")[-1]

    assert "can't be stored" in said
    assert "HF_HOME" in said


@pytest.mark.parametrize(
    "name", ["gpt2", "mlx-community/gemma-3-4b-it-4bit", "a/b", "Qwen/Qwen2.5-3B-Instruct", "x_/y"]
)
def test_ids_of_the_hub_are_recognized(name: str):
    assert is_model_id(name)


@pytest.mark.parametrize(
    "name", ["", "/", "a/", "/a", "a/b/c", "../a", "a/..", "a--b", "a b", "a\n", "-a/b", "a/b-", "é/b"]
)
def test_other_names_are_not(name: str):
    assert not is_model_id(name)

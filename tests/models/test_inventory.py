"""What `mlx list`, `mlx pull`, `mlx rm` and `mlx doctor` know, each in a process with caches of its own."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from local_hub import Hub


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def mlx(home: Path, hub: Hub | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = {
        "HF_HOME": str(home / "hf"),
        "HF_ENDPOINT": hub.url if hub is not None else "http://127.0.0.1:9",
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": "",
        "MLX_WS_CACHE": str(home / "cache"),
        "XDG_STATE_HOME": str(home / "state"),
    }
    return subprocess.run(
        [sys.executable, "-m", "mlx_websockets", *arguments],
        env=os.environ | settings,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def listed(home: Path) -> list[dict[str, object]]:
    told = mlx(home, None, "list", "--json")
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- pull, list, rm -------------------------------------------------------------------


def test_a_program_is_told_in_json_and_a_person_beside_it(hub: Hub, home: Path):
    pulled, again = (mlx(home, hub, "pull", "me/tiny", "--json") for _ in range(2))
    [model] = listed(home)
    removed = mlx(home, None, "rm", "me/tiny", "--yes", "--json")

    assert json.loads(pulled.stdout) == {"model": "me/tiny", "was_here": False}
    assert json.loads(again.stdout) == {"model": "me/tiny", "was_here": True}
    assert json.loads(removed.stdout) == {"model": "me/tiny", "freed_bytes": model["size_bytes"]}
    assert "me/tiny is" in pulled.stderr


def test_a_pulled_model_is_listed_and_a_removed_one_is_not(hub: Hub, home: Path):
    pulled = mlx(home, hub, "pull", "me/tiny")
    [model] = listed(home)
    removed = mlx(home, None, "rm", "me/tiny", "--yes")

    assert pulled.returncode == 0, pulled.stderr
    assert "mlx serve --model me/tiny" in pulled.stdout
    assert (model["id"], model["vision"], model["origin"]) == ("me/tiny", True, "hub")
    assert 500_000 < model["weights_bytes"] < model["size_bytes"] < 2_000_000
    assert removed.returncode == 0, removed.stderr
    assert listed(home) == []
    assert not (home / "hf/hub/models--me--tiny").exists()


def test_what_a_pull_takes_is_said_before_it_begins(hub: Hub, home: Path):
    told = mlx(home, hub, "pull", "me/tiny").stdout.splitlines()

    assert told[0].startswith("→ me/tiny is ")
    assert any("Downloading me/tiny" in line for line in told[1:])


def test_a_pull_goes_on_with_what_is_missing(hub: Hub, home: Path):
    mlx(home, hub, "pull", "me/tiny")
    for link in (home / "hf/hub").rglob("snapshots/*/model.safetensors"):
        link.resolve().unlink()
        link.unlink()
    hub.asked.clear()

    told = mlx(home, hub, "pull", "me/tiny")

    assert "of it is here already" in told.stdout
    assert told.returncode == 0
    assert any("model.safetensors" in path for path in hub.asked)
    assert len(listed(home)) == 1


def test_a_model_that_is_here_is_not_asked_for(hub: Hub, home: Path):
    mlx(home, hub, "pull", "me/tiny")

    assert "was here already" in mlx(home, None, "pull", "me/tiny").stdout


def test_a_model_too_large_for_the_disk_is_refused_before_it_is_fetched(hub: Hub, home: Path):
    hub.claimed_bytes = 10**15

    told = mlx(home, hub, "pull", "me/tiny")

    assert told.returncode != 0
    assert "of disk" in told.stderr
    assert not list((home / "hf").rglob("*.safetensors"))


def test_a_model_that_fits_on_disk_but_not_in_memory_is_fetched_only_by_force(hub: Hub, home: Path):
    hub.claimed_weights_bytes = psutil.virtual_memory().total + 10**12
    if shutil.disk_usage(home.parent).free < hub.claimed_weights_bytes + 10**9:
        hub.claimed_weights_bytes = psutil.virtual_memory().total
    if shutil.disk_usage(home.parent).free < hub.claimed_weights_bytes + 10**9:
        pytest.skip("this machine has more memory than free disk")

    told = mlx(home, hub, "pull", "me/tiny")

    assert told.returncode == 7, told.stdout + told.stderr
    assert "--force" in told.stderr


def test_what_is_not_there_is_said_with_its_exit_status(hub: Hub, home: Path):
    assert mlx(home, hub, "pull", "me/other").returncode == 5
    assert mlx(home, None, "rm", "me/other", "--yes").returncode == 5
    assert mlx(home, None, "pull", "../etc").returncode == 2


def test_nothing_is_removed_without_a_yes(hub: Hub, home: Path):
    mlx(home, hub, "pull", "me/tiny")

    told = mlx(home, None, "rm", "me/tiny")

    assert told.returncode == 2
    assert "--yes" in told.stderr
    assert len(listed(home)) == 1


def test_models_that_were_built_here_are_listed_and_removed_too(tiny_gemma3: Path, home: Path):
    shutil.copytree(tiny_gemma3, home / "cache/models/demo-1-abc")

    [model] = listed(home)
    removed = mlx(home, None, "rm", "demo", "--yes")

    assert (model["id"], model["origin"]) == ("demo", "built")
    assert removed.returncode == 0
    assert listed(home) == []


def test_half_a_model_is_not_listed_but_can_be_removed(hub: Hub, home: Path):
    mlx(home, hub, "pull", "me/tiny")
    for link in (home / "hf/hub").rglob("snapshots/*/model.safetensors"):
        link.unlink()

    assert listed(home) == []
    assert mlx(home, None, "rm", "me/tiny", "--yes").returncode == 0
    assert not (home / "hf/hub/models--me--tiny").exists()


# --- doctor ---------------------------------------------------------------------------


def test_the_doctor_looks_at_everything_and_says_what_to_do(hub: Hub, home: Path):
    told = mlx(home, hub, "doctor", "--json", "--port", str(free_port()))
    found = {check["name"]: check for check in json.loads(told.stdout)}

    assert told.returncode == 0, told.stdout
    assert {"Python", "Platform", "MLX", "Disk", "Hub token", "Hub", "Certificate", "Port"} <= found.keys()
    assert {check["state"] for check in found.values()} <= {"ok", "warn"}
    assert found["Hub"]["text"].endswith("answers")
    assert found["Port"]["text"].endswith("is free")
    assert all(check["hint"] for check in found.values() if check["state"] != "ok")


def test_the_doctor_names_an_unreachable_hub_and_a_taken_port(home: Path):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = mlx(home, None, "doctor", "--json", "--port", str(port))
    found = {check["name"]: check for check in json.loads(told.stdout)}

    assert found["Hub"]["state"] == "warn"
    assert found["Port"]["state"] == "warn"
    assert f"process {os.getpid()}" in found["Port"]["text"]


def test_the_doctor_has_a_model_answer(tiny_gemma3: Path, home: Path):
    told = mlx(home, None, "doctor", "--model", str(tiny_gemma3))

    assert told.returncode == 0, told.stdout
    assert "takes text and pictures, and answered" in told.stdout


def test_a_model_that_can_t_be_loaded_fails_the_check(home: Path, tmp_path: Path):
    told = mlx(home, None, "doctor", "--model", str(tmp_path))

    assert told.returncode == 1
    assert "✗ Model: " in told.stdout

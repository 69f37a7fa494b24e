"""Exit statuses of the real `mlx serve` that no other story has: 6, without MLX, and 7, without room."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def serve(model: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mlx_websockets", "serve", "--model", str(model), "--port", "0", "--host", "localhost"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    "core", [None, "raise ImportError('libmlx.so: no such file')"], ids=["no mlx", "mlx without a backend"]
)
def test_without_mlx_the_status_is_6_and_what_to_install_is_said(tiny_gemma3, tmp_path, core):
    (tmp_path / "mlx").mkdir()
    (tmp_path / "mlx" / "__init__.py").write_text("")  # an empty package, found before the real one
    if core is not None:
        (tmp_path / "mlx" / "core.py").write_text(core)

    told = serve(tiny_gemma3, PYTHONPATH=str(tmp_path))

    assert told.returncode == 6
    assert told.stderr.startswith("✗ MLX is not installed, or has no backend for this machine.\n")
    assert "pip install" in told.stderr.partition("→ ")[2]
    assert "Traceback" not in told.stderr


def test_with_a_model_larger_than_memory_the_status_is_7_and_both_sizes_are_said(tiny_gemma3, tmp_path):
    model = tmp_path / "large"
    shutil.copytree(tiny_gemma3, model)
    header = json.dumps({"a": {"dtype": "U8", "shape": [2**40], "data_offsets": [0, 2**40]}}).encode()
    with (model / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2**40)  # a hole: takes no room on disk

    told = serve(model)

    assert told.returncode == 7
    assert "needs 1099.5 GB for its weights" in told.stderr
    assert "\n→ " in told.stderr
    assert "Traceback" not in told.stderr

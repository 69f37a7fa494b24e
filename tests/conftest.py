"""Real models to test with, small ones. Each is built once and kept in the user's cache directory."""

import atexit
import ctypes
import hashlib
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock

from mlx_websockets.engine.blas import find_blas
from mlx_websockets.engine.models.cache import cache_folder
from mlx_websockets.engine.worker import demo
from tiny_models import tiny_gemma3 as tiny_gemma3_source

# Servers that tests start are on no record of the user's, and are stopped by none of their commands.
os.environ["MLX_WS_STATE"] = tempfile.mkdtemp(prefix="mlx-ws-test-")
atexit.register(shutil.rmtree, os.environ["MLX_WS_STATE"], ignore_errors=True)

# Each server and worker is a Python of its own; where no bytecode may be kept, each compiles MLX's libraries anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# What tests compute in this process they compute with the BLAS that a worker is given: mlx's own, which is found where
# no other was loaded before, is many times slower.
if (blas := find_blas()) and blas.name != "preloaded":
    ctypes.CDLL(blas.path, ctypes.RTLD_GLOBAL)

# A shell's background job ignores Ctrl-C, one under `nohup` SIGHUP, and hands that down. Servers that tests start
# must heed both.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The model of `--model demo`: sees, answers sensibly about simple drawings (680 MB)."""
    return demo.demo_model(lambda _: None)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct: text only, answers sensibly (540 MB)."""
    return demo.smollm2_text_model(lambda _: None)


@pytest.fixture(scope="session")
def tiny_gemma3() -> Path:
    """The default model's architecture with random weights: sees, talks nonsense, fast (0.8 MB)."""
    recipe = hashlib.sha256(Path(tiny_gemma3_source.__file__).read_bytes()).hexdigest()[:12]
    folder = cache_folder() / f"tiny-gemma3-{recipe}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
                finished = Path(temporary) / "finished"
                finished.mkdir()
                tiny_gemma3_source.write_tiny_gemma3(finished)
                finished.rename(folder)
    return folder

"""Which matrix library computes on a Linux CPU.

The mlx wheel brings the reference one there: twice as slow for one row, thirty times for
sixteen. Any other that has the same names can be preloaded into the worker, and then MLX
computes with it. `find_blas` looks for one; docs/decisions/blas.md tells what was tried.
"""

import ctypes.util
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlx_websockets.errors import UsageError

SPIN_VARIABLE, SPIN_CYCLES = "OPENBLAS_THREAD_TIMEOUT", "20"
"""For how long, as a power of 2 in cycles, OpenBLAS's threads keep a core busy after a product: past the next product
of the same pass (0.4 ms), not the 20 ms that it does by itself, in which neither pictures nor the event loop get on."""

PROBE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Blas:
    """A library to preload. `name` says where it is from; `path` is for LD_PRELOAD."""

    name: str
    path: str

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """What to add to the environment of a process that shall compute with it."""
        before = inherited.get("LD_PRELOAD", "")
        preloaded = self.path if before in ("", self.path) else f"{self.path}:{before}"
        return {"LD_PRELOAD": preloaded, SPIN_VARIABLE: inherited.get(SPIN_VARIABLE, SPIN_CYCLES)}


def find_blas(environment: Mapping[str, str] = os.environ) -> Blas | None:
    """The best BLAS to preload; None where mlx needs none, or none is here.

    Blocks for a fraction of a second: call it in a thread. `MLX_WS_BLAS` (a path, or
    `none`) decides alone.

    Raises:
        UsageError: `MLX_WS_BLAS` names something that can't be preloaded.
    """
    if sys.platform != "linux" or not mlx_runs_on_cpu():
        return None
    wanted = environment.get("MLX_WS_BLAS", "")
    if wanted.lower() == "none":
        return None
    if wanted:
        return _wanted(wanted, environment)
    if _has_gemm(environment):
        return Blas("preloaded", environment["LD_PRELOAD"])
    return next((blas for blas in _candidates() if _has_gemm({**environment, "LD_PRELOAD": blas.path})), None)


def mlx_runs_on_cpu() -> bool:
    """Whether the installed mlx has no GPU to compute on."""
    return _is_installed("mlx-cpu") and not (_is_installed("mlx-cuda-12") or _is_installed("mlx-cuda-13"))


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _wanted(path: str, environment: Mapping[str, str]) -> Blas:
    if not _has_gemm({**environment, "LD_PRELOAD": path}):
        raise UsageError(
            f"MLX_WS_BLAS is {path}, which can't be loaded or has no cblas_sgemm.",
            "Give it the path of an OpenBLAS library, or unset it.",
        )
    return Blas("MLX_WS_BLAS", path)


def _has_gemm(environment: Mapping[str, str]) -> bool:
    """Whether a process with this LD_PRELOAD finds cblas_sgemm in it."""
    if not environment.get("LD_PRELOAD"):
        return False
    program = "import ctypes; ctypes.CDLL(None).cblas_sgemm"
    try:
        probe = subprocess.run(  # noqa: S603 - our own interpreter and program
            [sys.executable, "-I", "-S", "-c", program],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return probe.returncode == 0


# --- where one may be -------------------------------------------------------------------


def _candidates() -> Iterator[Blas]:
    """Best first; threaded builds before the plain name, which may be a serial one."""
    folders = ("/usr/lib/*/openblas-pthread", "/usr/lib/*/openblas-openmp", "/usr/lib64", "/usr/lib/*", "/usr/lib")
    for pattern in (f"{folder}/{name}.so.0" for folder in folders for name in ("libopenblasp", "libopenblas")):
        yield from (Blas("OpenBLAS of the system", str(path)) for path in sorted(Path("/").glob(pattern[1:])))
    for path in sorted(Path(sys.prefix, "lib").glob("libopenblas.so.0")):
        yield Blas("OpenBLAS of the environment", str(path))
    if soname := ctypes.util.find_library("openblas"):
        yield Blas("OpenBLAS of the system", soname)
    yield from (Blas("OpenBLAS of opencv", str(path)) for path in _of_opencv())


def _of_opencv() -> list[Path]:
    found = importlib.util.find_spec("cv2")  # finds the folder without importing it
    if found is None or found.origin is None:
        return []
    return sorted(Path(found.origin).parent.parent.glob("opencv_*.libs/libopenblas*.so*"))

"""The matrix library that a worker computes with on a CPU."""

import os

import pytest
from tests.engine.test_launch import printed_by

from mlx_websockets.engine.blas import SPIN_CYCLES, SPIN_VARIABLE, Blas, find_blas
from mlx_websockets.errors import UsageError

CLEAN = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "MLX_WS_BLAS")}
BLAS = find_blas(CLEAN)
needs_blas = pytest.mark.skipif(BLAS is None, reason="mlx does not run on the CPU here, or there is no better BLAS")


@needs_blas
def test_a_worker_finds_the_gemm_of_the_blas_that_was_found() -> None:
    assert BLAS is not None
    program = (
        "import ctypes, os; ctypes.CDLL(None).cblas_sgemm; maps = open('/proc/self/maps').read();"
        "print(os.path.realpath(os.environ['LD_PRELOAD']) in maps)"
    )

    assert printed_by(program, BLAS) == ["True"]


@needs_blas
def test_a_preloaded_blas_is_left_alone() -> None:
    assert BLAS is not None

    found = find_blas({"LD_PRELOAD": BLAS.path})

    assert found == Blas("preloaded", BLAS.path)
    assert printed_by("import os; print(os.environ['LD_PRELOAD'])", found) == [BLAS.path]


@needs_blas
def test_a_blas_that_is_asked_for_is_taken_or_refused_by_name() -> None:
    assert BLAS is not None

    assert find_blas({"MLX_WS_BLAS": BLAS.path}) == Blas("MLX_WS_BLAS", BLAS.path)
    assert find_blas({"MLX_WS_BLAS": "none"}) is None
    with pytest.raises(UsageError, match="MLX_WS_BLAS is /no/such/library"):
        find_blas({"MLX_WS_BLAS": "/no/such/library.so", "LD_PRELOAD": BLAS.path})


@needs_blas
def test_the_threads_of_a_blas_do_not_spin_for_longer_than_a_pass_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    program = f"import os; print(os.environ.get('{SPIN_VARIABLE}'))"
    monkeypatch.delenv(SPIN_VARIABLE, raising=False)
    assert BLAS is not None
    assert (printed_by(program, BLAS), printed_by(program)) == ([SPIN_CYCLES], ["None"])

    monkeypatch.setenv(SPIN_VARIABLE, "7")
    assert printed_by(program, BLAS) == ["7"]


@needs_blas
def test_other_preloaded_libraries_stay_preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert BLAS is not None
    monkeypatch.setenv("LD_PRELOAD", "libm.so.6")

    assert find_blas() == BLAS
    assert printed_by("import os; print(os.environ['LD_PRELOAD'])", BLAS) == [f"{BLAS.path}:libm.so.6"]

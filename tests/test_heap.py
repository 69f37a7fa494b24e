import ctypes
import platform

import psutil
import pytest

from mlx_websockets import heap

PIECES, PIECE_BYTES = 40_000, 2048


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries give back by themselves")
def test_pages_that_nothing_is_in_go_back_to_the_system():
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    pieces = [libc.malloc(ctypes.c_size_t(PIECE_BYTES)) for _ in range(PIECES)]
    for piece in pieces:
        ctypes.memset(piece, 1, PIECE_BYTES)
    for piece in pieces[:-1]:  # the last one stays above them, so the heap can't become shorter
        libc.free(ctypes.c_void_p(piece))
    before = psutil.Process().memory_info().rss

    heap.give_back()

    assert before - psutil.Process().memory_info().rss > PIECES * PIECE_BYTES * 0.8
    libc.free(ctypes.c_void_p(pieces[-1]))

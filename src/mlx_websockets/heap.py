"""The C library's heap, where pictures, Python's larger objects and, on a CPU, arrays are made."""

import ctypes

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""glibc has it; macOS and musl have not."""


def give_back() -> None:
    """Let the system have the pages that nothing is in any more.

    glibc keeps them for itself, more of them or fewer as the last pieces happened to lie: of a process that does the
    same day after day it could not be told whether it grows. This looks through all of the heap and takes milliseconds.
    """
    if _trim is not None:
        _trim(0)

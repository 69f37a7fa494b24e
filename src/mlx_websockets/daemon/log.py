"""The log of a server that has no terminal: written in turns of a bounded number of files.

The server writes it itself, so it can begin a new file when one is full, and so a full disk
costs lines of the log and never the server. Nothing here knows what the lines say.
"""

import contextlib
import io
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from mlx_websockets.daemon.records import make_private, open_private

LOG_VARIABLE = "MLX_WS_LOG"
MAX_LOG_BYTES = 10_000_000
MAX_LOG_FILES = 5
TAIL_BYTES = 1024 * 1024
"""No more than this is read of one file to show its last lines."""


class RotatingLog(io.TextIOBase):
    """A text stream into `path`; what came before is in `path.1`, before that in `path.2`, and so on.

    Attributes:
        lost: how many writes the disk did not take since the last one it took.
    """

    encoding = "utf-8"

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = MAX_LOG_BYTES,
        max_files: int = MAX_LOG_FILES,
        copies: tuple[int, ...] = (),
    ) -> None:
        """Open it; what it holds already stays.

        Args:
            path: the newest file.
            max_bytes: of one file.
            max_files: in all.
            copies: numbers of descriptors that are to lead into the newest file too.

        Raises:
            OSError: it is a link, or can't be written.
        """
        self.lost = 0
        self._path = path
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._copies = copies
        self._lock = threading.RLock()  # libraries log from threads of theirs
        self._descriptor = -1
        self._open()

    def write(self, text: str) -> int:
        """Never raises for the disk's sake."""
        with self._lock:
            try:
                self._write(text.encode(errors="replace"))
                self.lost = 0
            except OSError:
                self.lost += 1
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        with self._lock:
            if not self.closed:
                os.close(self._descriptor)
            super().close()

    def _write(self, data: bytes) -> None:
        if self.lost:
            data = f"! {self.lost} writes to this log were lost: the disk did not take them.\n".encode() + data
        if self._size and self._size + len(data) > self._max_bytes:
            self._rotate()
        while data:
            written = os.write(self._descriptor, data)
            self._size += written
            data = data[written:]

    def _rotate(self) -> None:
        oldest = self._max_files - 1
        for age in range(oldest, 0, -1) if self._path.exists() else ():  # it does not after a rotation cut short
            with contextlib.suppress(FileNotFoundError):
                _aged(self._path, age - 1).replace(_aged(self._path, age))
        self._open()

    def _open(self) -> None:
        descriptor = open_private(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for copy in self._copies:
            os.dup2(descriptor, copy)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size


@contextlib.contextmanager
def own_output(environment: Mapping[str, str] = os.environ) -> Iterator[Path | None]:
    """Have all that this process prints go to the log that its starter named; None: it named none.

    Raises:
        OSError: the log can't be written.
    """
    name = environment.get(LOG_VARIABLE)
    if not name:
        yield None
        return
    path = Path(name)
    make_private(path.parent)
    log = RotatingLog(path, copies=(1, 2))  # a crash of the interpreter, and C code, write there
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        yield path


# --- reading --------------------------------------------------------------------------


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log, oldest first, also those of the file before the newest."""
    lines: list[str] = []
    for age in range(MAX_LOG_FILES):
        if len(lines) >= count:
            break
        lines = _tail(_aged(path, age)) + lines
    return lines[len(lines) - count :] if count < len(lines) else lines


class Follower:
    """Reads what is added to a log, from its beginning or its end, across its rotations."""

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._begun = b""
        self._reopen()
        if from_end and self._file is not None:
            self._file.seek(0, os.SEEK_END)

    def new_lines(self) -> list[str]:
        """Whole lines that came since the last call."""
        data = self._begun + self._rest()
        while self._reopen():
            data += self._rest()
        *lines, self._begun = data.split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _rest(self) -> bytes:
        return b"" if self._file is None else self._file.read()

    def _reopen(self) -> bool:
        """Whether there is another file at the path than the one that was open."""
        try:
            if self._file is not None and os.path.samestat(self._path.stat(), os.fstat(self._file.fileno())):
                return False
            file = os.fdopen(open_private(self._path, os.O_RDONLY), "rb")
        except OSError:
            return False
        self.close()
        self._file = file
        return True


def _tail(path: Path) -> list[str]:
    try:
        with open(open_private(path, os.O_RDONLY), "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def _aged(path: Path, age: int) -> Path:
    return path.with_name(f"{path.name}.{age}") if age else path

"""One file for each running server, kept by the server itself: who it is, where it listens, how it is.

A record is true for as long as its writer holds a lock on it, and the system lets go of that
lock however the writer ends. So a record is never believed because of what it says, only
because of its lock; what has no lock is swept away by whoever sees it.

A change never edits the file: it is written to a new one, locked, and renamed over the old.
A reader sees the one or the other, and both are locked. Nothing here sends signals.
"""

import contextlib
import fcntl
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import psutil

from mlx_websockets.errors import StartError

STATE_VARIABLE = "MLX_WS_STATE"
MAX_RECORD_BYTES = 1024 * 1024
FAILURE_KEPT_SECONDS = 3600.0
"""A record of a start that failed stays this long, for who did not wait for it."""
UNFINISHED_KEPT_SECONDS = 60.0
LOG_KEPT_SECONDS = 7 * 24 * 3600.0

_ID = re.compile(r"[0-9a-f]{12}", re.ASCII)
_OUR_NAME = re.compile(r"[0-9a-f]{12}\.(json|new|sock|log(\.[0-9]+)?)", re.ASCII)
_TRIES = 20


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What one server says of itself.

    Attributes:
        id: its own, made anew for every start.
        process_start: what `start_time` says of `pid`; a later process with the same pid has another.
        port: the one it listens on; while it is loading, the one it was asked for.
        tls_port: the one for encrypted connections, if it takes any.
        is_background: it has no terminal but a log of its own, at `log`.
        started_at: seconds since the epoch.
        reason, hint, exit_code: why it failed, if it did.
        arguments: the flags of `mlx serve` that start another one like it; never a secret.
        folder: what relative paths among them are relative to.
        drain_seconds: how long its replies may go on when it stops.
    """

    id: str
    pid: int
    process_start: float
    model: str
    host: str
    port: int
    tls_port: int | None = None
    url: str = ""
    is_background: bool = False
    started_at: float
    log: str | None = None
    state: Literal["loading", "ready", "failed"] = "loading"
    reason: str = ""
    hint: str = ""
    exit_code: int = 0
    version: str = ""
    arguments: list[str] = []
    folder: str = ""
    drain_seconds: float = 2.0


def new_id() -> str:
    return secrets.token_hex(6)


def start_time(pid: int) -> float | None:
    """When a process started, in seconds since some moment that stays the same until the next boot.

    None: there is none, or only its remains, waiting to be reaped.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        created: float = process.create_time()
    except psutil.Error:
        return None
    # Linux counts from boot, psutil adds the boot's date, and setting the clock moves that date.
    return created - float(psutil.boot_time()) if sys.platform == "linux" else created


class Records:
    """The records of one user, in `servers/` of a folder that is theirs alone; their logs are in `logs/`."""

    def __init__(self, folder: Path) -> None:
        self.servers = folder / "servers"
        self.logs = folder / "logs"

    @classmethod
    def of_this_user(cls, environment: Mapping[str, str] = os.environ) -> "Records":
        if folder := environment.get(STATE_VARIABLE):
            return cls(Path(folder).absolute())
        import platformdirs

        return cls(platformdirs.user_state_path("mlx-websockets"))

    # --- for the server itself ------------------------------------------------------------

    @contextlib.contextmanager
    def hold(self, record: Record) -> Iterator["ServerRecord"]:
        """Be on record meanwhile. Of a background server that fails, the failure stays on record.

        Raises:
            StartError: the folder is not ours alone, or can't be written to.
        """
        held = self._first(record)
        try:
            yield held
        except StartError as error:
            held.fail(error.reason, error.hint, error.exit_code)
            raise
        except Exception as error:
            held.fail(f"This is a bug in mlx-websockets: {type(error).__name__}: {error}", "", StartError.exit_code)
            raise
        finally:
            held.let_go()

    def _first(self, record: Record) -> "ServerRecord":
        try:
            make_private(self.servers)
            if os.path.lexists(self.path_of(record.id)):
                raise FileExistsError(f"{self.path_of(record.id)} exists already")
            return ServerRecord(self.path_of(record.id), record)
        except OSError as error:
            raise StartError(
                f"The server's record can't be written: {error}.", f"Set {STATE_VARIABLE} to a folder of yours."
            ) from None

    # --- for everybody else ---------------------------------------------------------------

    def path_of(self, id: str) -> Path:
        if not _ID.fullmatch(id):
            raise ValueError(f"{id!r} is no id of a server")
        return self.servers / f"{id}.json"

    def door_of(self, id: str) -> Path:
        """Where the server with this id hands over its sockets."""
        return self.path_of(id).with_suffix(".sock")

    def log_of(self, id: str) -> Path:
        return self.logs / self.path_of(id).with_suffix(".log").name

    def found(self) -> list[Record]:
        """Every server that runs, and the starts that failed of late; oldest first. Sweeps stale records away."""
        sightings = (self._sighting(path) for path in self._record_paths())
        records = [record for record in sightings if record is not None]
        return sorted(records, key=lambda record: (record.started_at, record.id))

    def find(self, id: str) -> Record | None:
        return self._sighting(self.path_of(id))

    def is_held(self, id: str) -> bool:
        """Whether the server with this id lives."""
        with _opened(self.path_of(id)) as descriptor:
            return descriptor is not None and not _is_free(descriptor)

    def forget(self, id: str) -> bool:
        """Remove the record of a server that does not live; whether there was one."""
        path = self.path_of(id)
        with _opened(path) as descriptor:
            return descriptor is not None and _removed_if_free(path, descriptor)

    def newest_log(self, beginning: str = "") -> Path | None:
        """The log that was written to last, of those whose server's id begins so."""
        logs = [path for path in _entries(self.logs) if path.suffix == ".log" and path.name.startswith(beginning)]
        return min(logs, key=lambda path: _age(path, time.time()), default=None)

    def clean(self, *, everything: bool = False, now: float | None = None) -> list[Path]:
        """Remove what belongs to no living server, and return what was removed.

        That is stale records, files left unfinished, and logs older than a week; with `everything`
        all logs, failures and links too. What a living server has is never touched.
        """
        now = time.time() if now is None else now
        before = set(self._record_paths())
        self.found()
        removed = [path for path in before if not os.path.lexists(path)]
        removed += [path for path in _entries(self.servers) if self._swept(path, everything, now)]
        living = {path.stem for path in self._record_paths() if self.is_held(path.stem)}
        logs = [path for path in _entries(self.logs) if path.name.partition(".")[0] not in living]
        removed += [path for path in logs if (everything or _age(path, now) > LOG_KEPT_SECONDS) and _removed(path)]
        return sorted(removed)

    def _swept(self, path: Path, everything: bool, now: float) -> bool:
        """Whether this was a leftover, and is gone."""
        if path.suffix == ".sock":
            return not self.is_held(path.stem) and _removed(path)
        is_unfinished = path.suffix == ".new"
        if not (_age(path, now) > UNFINISHED_KEPT_SECONDS if is_unfinished else everything):
            return False
        with _opened(path) as descriptor:
            if descriptor is None:
                return everything and _removed(path)
            return _removed_if_free(path, descriptor)

    def _record_paths(self) -> list[Path]:
        return [path for path in _entries(self.servers) if path.suffix == ".json"]

    def _sighting(self, path: Path) -> Record | None:
        """The record there, if its server lives or failed of late."""
        for _ in range(_TRIES):
            with _opened(path) as descriptor:
                if descriptor is None:
                    return None
                record = _read(descriptor)
                if not _is_free(descriptor):
                    return record
                if not _is_at(path, descriptor):
                    continue  # its server renamed another over it meanwhile
                if record is not None and _failed_of_late(record, descriptor):
                    return record
                _removed(path)
                return None
        return None


class ServerRecord:
    """The record of this very process, while it runs."""

    def __init__(self, path: Path, record: Record) -> None:
        self.record = record
        self._path = path
        self._descriptor = _put(path, record)

    def update(self, **changes: Any) -> None:
        """Change some fields of `Record`.

        Raises:
            OSError: the disk is full, say; what stood there before still stands, and is still held.
        """
        record = msgspec.structs.replace(self.record, **changes)
        descriptor = _put(self._path, record)
        os.close(self._descriptor)
        self.record, self._descriptor = record, descriptor

    def fail(self, reason: str, hint: str, exit_code: int) -> None:
        """Say why it ends. Only for who is not there to read the terminal."""
        if self.record.is_background:
            with contextlib.suppress(OSError):
                self.update(state="failed", reason=reason, hint=hint, exit_code=exit_code)

    def let_go(self) -> None:
        """Remove it, unless it says how the server failed."""
        if self.record.state != "failed":
            _removed(self._path)
        os.close(self._descriptor)


# --- files ----------------------------------------------------------------------------


def make_private(folder: Path) -> None:
    """Make a folder that nobody else may look into.

    Raises:
        OSError: it can't be made, is a link, or belongs to somebody else.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise PermissionError(f"{folder} is not a folder but a link or a file")
    if status.st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    if stat.S_IMODE(status.st_mode) != 0o700:
        folder.chmod(0o700)


def open_private(path: Path, flags: int) -> int:
    """Open a file of ours, never through a link; a new one is for us alone. Returns its descriptor."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)


def _put(path: Path, record: Record) -> int:
    """Write a record, lock it, and only then give it its name. Returns the descriptor that has the lock."""
    unfinished = path.with_suffix(".new")
    descriptor = open_private(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(msgspec.json.encode(record))
        unfinished.rename(path)
    except BaseException:
        os.close(descriptor)
        _removed(unfinished)
        raise
    return descriptor


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    """A descriptor of a file that is ours and nobody else's; None if it is not, or is no file."""
    try:
        descriptor = open_private(path, os.O_RDONLY)
    except OSError:
        yield None
        return
    try:
        status = os.fstat(descriptor)
        is_ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
        yield descriptor if is_ours else None
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> Record | None:
    """None: no record, perhaps one of another version."""
    try:
        return msgspec.json.decode(os.read(descriptor, MAX_RECORD_BYTES), type=Record)
    except (OSError, msgspec.DecodeError):
        return None


def _is_free(descriptor: int) -> bool:
    """Whether no server holds this file. Takes a shared lock, so that two who look don't see each other."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except OSError:
        return False


def _removed_if_free(path: Path, descriptor: int) -> bool:
    # A server holds what stands at its path at any time: free, and still there, means it is gone.
    return _is_free(descriptor) and _is_at(path, descriptor) and _removed(path)


def _removed(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True


def _failed_of_late(record: Record, descriptor: int) -> bool:
    return record.state == "failed" and time.time() - os.fstat(descriptor).st_mtime < FAILURE_KEPT_SECONDS


def _entries(folder: Path) -> list[Path]:
    """What we have put there; the folder may have been somebody's before."""
    try:
        return sorted(path for path in folder.iterdir() if _OUR_NAME.fullmatch(path.name))
    except OSError:
        return []


def _age(path: Path, now: float) -> float:
    try:
        return now - path.lstat().st_mtime
    except OSError:
        return 0.0

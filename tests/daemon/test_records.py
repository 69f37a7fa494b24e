import fcntl
import os
import resource
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from mlx_websockets.daemon.records import (
    FAILURE_KEPT_SECONDS,
    LOG_KEPT_SECONDS,
    UNFINISHED_KEPT_SECONDS,
    Record,
    Records,
    new_id,
    start_time,
)
from mlx_websockets.errors import ModelNotFound, StartError


def record(**fields: object) -> Record:
    plain = {
        "id": new_id(), "pid": os.getpid(), "process_start": start_time(os.getpid()), "model": "demo",
        "host": "localhost", "port": 8765, "started_at": time.time(), **fields,
    }  # fmt: skip
    return msgspec.convert(plain, Record)


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "state")


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def left_behind(records: Records, **fields: object) -> Record:
    """The record of a server that was killed."""
    gone = record(**fields)
    with records.hold(gone):
        content = records.path_of(gone.id).read_bytes()
    records.path_of(gone.id).write_bytes(content)
    records.path_of(gone.id).chmod(0o600)
    return gone


# --- being on record ------------------------------------------------------------------


def test_a_server_is_on_record_as_long_as_it_runs(records):
    mine = record()

    with records.hold(mine):
        during = records.found()
    after = records.found()

    assert ([mine], []) == (during, after)
    assert list(records.servers.iterdir()) == []


def test_a_change_is_seen_and_the_lock_moves_along(records):
    mine = record(port=0)

    with records.hold(mine) as held:
        held.update(state="ready", port=4321)

        assert (records.find(mine.id).state, records.find(mine.id).port) == ("ready", 4321)
        assert records.is_held(mine.id)
        assert not records.forget(mine.id)


def test_whoever_looks_while_a_record_changes_sees_the_one_or_the_other(records):
    mine, ended, seen = record(), threading.Event(), []

    def look() -> None:
        while not ended.is_set():
            seen.append(records.find(mine.id))

    with records.hold(mine) as held:
        looker = threading.Thread(target=look)
        looker.start()
        for port in range(1, 300):
            held.update(port=port)
        ended.set()
        looker.join()

        assert seen
        assert None not in seen
        assert records.find(mine.id).port == 299


def test_the_folder_and_the_file_are_for_their_owner_alone(records):
    before = os.umask(0)
    try:
        with records.hold(record()) as held:
            file = records.path_of(held.record.id)

            assert stat.S_IMODE(records.servers.stat().st_mode) == 0o700
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_a_full_disk_leaves_the_old_record_and_its_lock(records):
    with records.hold(record()) as held:
        with full_disk(), pytest.raises(OSError, match="too large"):
            held.update(port=1)

        assert [held.record] == records.found()
        assert held.record.port == 8765
        assert [records.path_of(held.record.id)] == list(records.servers.iterdir())


def test_a_background_server_that_fails_leaves_its_reason_for_an_hour(records):
    mine = record(is_background=True)

    with pytest.raises(ModelNotFound), records.hold(mine):
        raise ModelNotFound("No such model.", "Try demo.")

    (failed,) = records.found()
    assert (
        failed.state, failed.reason, failed.hint, failed.exit_code,
    ) == ("failed", "No such model.", "Try demo.", 5)  # fmt: skip
    long_ago = time.time() - FAILURE_KEPT_SECONDS - 1
    os.utime(records.path_of(mine.id), (long_ago, long_ago))
    assert records.found() == []


def test_a_server_in_a_terminal_leaves_nothing_however_it_ends(records):
    with pytest.raises(ModelNotFound), records.hold(record()):
        raise ModelNotFound("No such model.")

    assert list(records.servers.iterdir()) == []


# --- what is not believed -------------------------------------------------------------


def test_a_record_that_nobody_holds_is_swept_away_by_whoever_sees_it(records):
    gone = left_behind(records)

    assert records.found() == []
    assert not records.path_of(gone.id).exists()


def test_two_who_look_at_once_do_not_take_each_other_for_the_server(records):
    gone = left_behind(records)

    with records.path_of(gone.id).open() as another:
        fcntl.flock(another, fcntl.LOCK_SH)

        assert records.found() == []


def test_a_link_is_neither_followed_nor_are_its_contents_touched(records, tmp_path):
    elsewhere = Records(tmp_path / "elsewhere")
    with elsewhere.hold(record()) as held:
        target = elsewhere.path_of(held.record.id)
        records.servers.mkdir(parents=True)
        records.path_of(held.record.id).symlink_to(target)

        assert records.found() == []
        assert not records.is_held(held.record.id)
        assert [records.path_of(held.record.id)] == records.clean(everything=True)
        assert [held.record] == elsewhere.found()


def test_a_server_does_not_write_through_a_link_in_place_of_the_folder(records, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "theirs").mkdir()
    records.servers.symlink_to(tmp_path / "theirs")

    with pytest.raises(StartError, match="record can't be written"), records.hold(record()):
        pass

    assert list((tmp_path / "theirs").iterdir()) == []


def test_a_server_does_not_take_the_name_of_another(records):
    with records.hold(record()) as held:
        with pytest.raises(StartError, match="exists already"), records.hold(record(id=held.record.id)):
            pass

        assert records.is_held(held.record.id)


def test_a_record_that_others_may_write_is_not_read(records):
    with records.hold(record()) as held:
        records.path_of(held.record.id).chmod(0o666)

        assert records.found() == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"id": 5}', b"\xff" * 100])
def test_what_is_no_record_is_swept_away_when_nobody_holds_it(records, content):
    gone = left_behind(records)
    records.path_of(gone.id).write_bytes(content)

    assert records.found() == []
    assert not records.path_of(gone.id).exists()


@pytest.mark.parametrize("id", ["", "../../etc/passwd", "0123456789ab.json", "0123456789AB", "a" * 100])
def test_an_id_is_never_a_path(records, id):
    with pytest.raises(ValueError, match="no id"):
        records.path_of(id)


# --- cleaning up ----------------------------------------------------------------------


def log(records: Records, id: str, age_seconds: float = 0.0, suffix: str = "") -> Path:
    records.logs.mkdir(parents=True, exist_ok=True)
    path = Path(f"{records.log_of(id)}{suffix}")
    path.write_text("hello\n")
    os.utime(path, (time.time() - age_seconds,) * 2)
    return path


def test_cleaning_up_removes_stale_records_and_old_logs_and_says_which(records):
    gone = left_behind(records)
    old = log(records, gone.id, LOG_KEPT_SECONDS + 60)
    new = log(records, new_id())

    removed = records.clean()

    assert sorted([records.path_of(gone.id), old]) == removed
    assert new.exists()


@pytest.mark.parametrize("everything", [False, True])
def test_cleaning_up_never_touches_what_a_running_server_has(records, everything):
    with records.hold(record()) as held:
        mine = [log(records, held.record.id, 10 * LOG_KEPT_SECONDS, suffix) for suffix in ("", ".1")]

        removed = records.clean(everything=everything)

        assert removed == []
        assert all(path.exists() for path in mine)
        assert records.is_held(held.record.id)


def test_cleaning_up_takes_half_written_files_once_nobody_can_be_writing_them(records):
    gone = left_behind(records)
    half = records.path_of(gone.id).rename(records.path_of(gone.id).with_suffix(".new"))

    assert records.clean() == []
    os.utime(half, (time.time() - 2 * UNFINISHED_KEPT_SECONDS,) * 2)
    assert records.clean() == [half]


def test_cleaning_up_everything_takes_failures_and_new_logs_too(records):
    failed = left_behind(records, is_background=True, state="failed")
    new = log(records, failed.id)

    assert records.clean() == []
    assert sorted([records.path_of(failed.id), new]) == records.clean(everything=True)


def test_files_that_are_not_ours_stay(records):
    records.servers.mkdir(parents=True)
    theirs = [records.servers / "notes.txt", records.servers / "package.json", records.logs / "system.log"]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("theirs")
        os.utime(path, (0, 0))

    assert records.clean(everything=True) == []
    assert all(path.exists() for path in theirs)


def test_the_environment_says_where(tmp_path):
    assert tmp_path / "servers" == Records.of_this_user({"MLX_WS_STATE": str(tmp_path)}).servers
    assert Records.of_this_user({}).servers.parent.name == "mlx-websockets"

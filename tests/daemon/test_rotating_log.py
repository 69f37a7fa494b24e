import os
import resource
from pathlib import Path

import pytest

from mlx_websockets.daemon.log import Follower, RotatingLog, last_lines, own_output


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server.log"


def test_a_log_is_kept_in_a_bounded_number_of_bounded_files(path):
    log = RotatingLog(path, max_bytes=100, max_files=3)

    for number in range(1000):
        log.write(f"line {number}\n")
    log.close()

    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == ["server.log", "server.log.1", "server.log.2"]
    assert all(file.stat().st_size <= 100 for file in files)
    assert last_lines(path, 1) == ["line 999"]


def test_no_line_is_lost_or_cut_where_a_new_file_begins(path):
    log = RotatingLog(path, max_bytes=100, max_files=5)

    for number in range(30):
        log.write(f"line {number}\n")
    log.close()

    assert [f"line {number}" for number in range(30)] == last_lines(path, 1000)
    assert last_lines(path, 2) == ["line 28", "line 29"]
    assert last_lines(path, 0) == []


def test_what_a_crashing_interpreter_prints_goes_to_the_newest_file(path):
    copy = os.open(os.devnull, os.O_WRONLY)
    log = RotatingLog(path, max_bytes=20, copies=(copy,))

    log.write("x" * 19 + "\n")
    log.write("newest\n")
    os.write(copy, b"Fatal error\n")
    log.close()
    os.close(copy)

    assert path.read_text() == "newest\nFatal error\n"


def test_a_full_disk_costs_lines_and_the_log_says_how_many(path):
    log = RotatingLog(path)
    log.write("before\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, hard))
    try:
        for _ in range(3):
            log.write("lost\n")
        lost = log.lost
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    log.write("after\n")
    log.close()

    assert lost == 3
    assert path.read_text() == "before\n! 3 writes to this log were lost: the disk did not take them.\nafter\n"


def test_a_log_that_can_not_begin_a_new_file_drops_lines_and_keeps_what_it_has(path):
    log = RotatingLog(path, max_bytes=20, max_files=2)
    log.write("x" * 19 + "\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # no file can be opened
    try:
        for _ in range(3):
            log.write("lost\n")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    log.write("after\n")
    log.close()

    assert Path(f"{path}.1").read_text() == "x" * 19 + "\n"
    assert path.read_text().endswith("3 writes to this log were lost: the disk did not take them.\nafter\n")


def test_a_log_is_not_written_through_a_link(path, tmp_path):
    path.symlink_to(tmp_path / "theirs")

    with pytest.raises(OSError, match="symbolic links"):
        RotatingLog(path)

    assert not (tmp_path / "theirs").exists()


def test_without_a_log_to_write_the_output_stays_where_it_is():
    with own_output({}) as log:
        assert log is None


def test_a_follower_gets_whole_lines_across_rotations(path):
    log = RotatingLog(path, max_bytes=40, max_files=2)
    follower = Follower(path)

    log.write("one\ntw")
    first = follower.new_lines()
    log.write("o\nthr€e")
    second = follower.new_lines()
    log.write("\n" + "x" * 30 + "\n")
    log.write("five\n")
    third = follower.new_lines()
    follower.close()
    log.close()

    assert (first, second, third) == (["one"], ["two"], ["thr€e", "x" * 30, "five"])


def test_a_follower_waits_for_a_log_that_is_not_there_yet(path):
    follower = Follower(path)
    before = follower.new_lines()
    path.write_text("here\n")

    assert (before, follower.new_lines()) == ([], ["here"])
    follower.close()


def test_a_follower_from_the_end_leaves_out_what_was_there(path):
    path.write_text("old\n")
    follower = Follower(path, from_end=True)
    with path.open("a") as log:
        log.write("new\n")

    assert follower.new_lines() == ["new"]
    follower.close()

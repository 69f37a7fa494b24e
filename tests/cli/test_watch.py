"""`mlx watch`: what it shows to a real server, and what it prints of the answers."""

import asyncio
import io
import itertools
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import numpy
import pytest
from asking import PATIENCE, mlx
from tests.client.answering import answering_elsewhere

from mlx_websockets.cli.console import Console
from mlx_websockets.cli.moving import SCENE_SECONDS, Shot, drawn, film, latest, scene
from mlx_websockets.cli.watch import View
from mlx_websockets.client import Result
from mlx_websockets.errors import StartError
from mlx_websockets.generation import Delta, Finished, GenerationRequest, Started, Update, Usage
from mlx_websockets.protocols.native_schema import Timings

cv2 = pytest.importorskip("cv2")


def color(request: GenerationRequest) -> list[Update]:
    """Says the color of the picture's middle."""
    image = request.messages[-1].images[0]
    pixels = numpy.frombuffer(image.pixels, numpy.uint8).reshape(image.height, image.width, 3)
    red, _, blue = (int(each) for each in pixels[image.height // 2, image.width // 2])
    said = "red" if red > blue + 50 else "blue" if blue > red + 50 else "neither"
    return [Started(request.id), Delta(request.id, said), Finished(request.id, "stop", Usage(output_tokens=1))]


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three seconds, ten pictures each: two of red, one of blue."""
    path = str(tmp_path_factory.mktemp("video") / "film.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for number in range(30):
        picture = numpy.zeros((48, 64, 3), numpy.uint8)
        picture[:] = (0, 0, 255) if number < 20 else (255, 0, 0)
        writer.write(picture)
    writer.release()
    return path


# --- the command ----------------------------------------------------------------------


def test_a_video_is_described_a_line_for_each_picture_with_time_source_and_age(video):
    with answering_elsewhere(color) as url:
        told = mlx("watch", "--file", video, "--every", "0.5", "--url", url)

    assert (told.returncode, told.stderr) == (0, "")
    lines = [re.split(r"  +", line) for line in told.stdout.splitlines()]
    assert [line[0] for line in lines] == ["00:00.0", "00:00.5", "00:01.0", "00:01.5", "00:02.0", "00:02.5"]
    assert {line[1] for line in lines} == {"file"}
    assert all(line[2].endswith(" s") for line in lines)
    assert [line[3] for line in lines] == ["red"] * 4 + ["blue"] * 2


def test_only_changes_are_told_if_that_is_what_is_wanted(video):
    described: list[int] = []

    def counted(request: GenerationRequest) -> list[Update]:
        described.append(request.id)
        return color(request)

    with answering_elsewhere(counted) as url:
        told = mlx("watch", "--file", video, "--every", "0.5", "--only-changes", "--json", "--url", url)

    lines = [json.loads(line) for line in told.stdout.splitlines()]
    assert [(line["position"], line["text"]) for line in lines] == [(0.0, "red"), (2.0, "blue")]
    assert all(line["source"] == "file" and line["age"] >= 0 and line["usage"] for line in lines)
    assert len(described) == 2


def test_drawn_scenes_are_described_until_it_is_enough():
    with answering_elsewhere() as url:
        told = mlx("watch", "--demo", "--every", "0.05", "--prompt", "And now?", "--count", "3", "--url", url)

    assert told.returncode == 0
    assert [line.split("  ")[-1] for line in told.stdout.splitlines()] == ["And now?"] * 3


def test_how_a_description_is_made_can_be_said():
    def temperature(request: GenerationRequest) -> list[Update]:
        return [Started(request.id), Delta(request.id, f"{request.choice.temperature}"), Finished(request.id, "stop")]

    with answering_elsewhere(temperature) as url:
        told = mlx("watch", "--demo", "--count", "1", "--temperature", "0.5", "--url", url)

    assert told.stdout.endswith("  0.5\n")


def test_a_stream_is_shown_to_the_model_that_is_named():
    with answering_elsewhere() as url:
        flags = ["--demo", "--every", "0.05", "--count", "1", "--url", url]
        chosen, refused = mlx("watch", *flags, "--model", "scripted"), mlx("watch", *flags, "--model", "another")

    assert (chosen.returncode, len(chosen.stdout.splitlines())) == (0, 1)
    assert (refused.returncode, refused.stdout) == (5, "")
    assert "it has scripted." in refused.stderr


def test_an_interrupt_ends_it_quietly():
    with answering_elsewhere() as url:
        command = [sys.executable, "-m", "mlx_websockets", "watch", "--demo", "--every", "600", "--url", url]
        watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert watching.stdout is not None
        assert watching.stdout.readline()
        watching.send_signal(signal.SIGINT)

        assert watching.communicate(timeout=PATIENCE) == ("", "")
        assert watching.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said", "status"),
    [
        ((), "this says nothing", 2),
        (("--demo", "--screen"), "this says --demo and --screen", 2),
        (("--demo", "--every", "0"), "--every is between", 2),
        (("--file", __file__), "can't be opened as a video", 2),
        (("--camera", "99"), "Camera 99 can't be opened", 2),
    ],
)
def test_what_can_not_be_watched_is_told_in_a_sentence(arguments, said, status):
    with answering_elsewhere() as url:
        told = mlx("watch", *arguments, "--url", url)

    assert (status, "") == (told.returncode, told.stdout)
    assert said in told.stderr
    assert "→" in told.stderr
    assert "bug" not in told.stderr


def test_a_screen_that_is_not_there_is_told_in_a_sentence():
    with answering_elsewhere() as url:
        told = mlx("watch", "--screen", "--count", "1", "--url", url, DISPLAY=":99", WAYLAND_DISPLAY="", PATH="")

    if sys.platform == "linux":
        assert told.returncode == 1
        assert "The screen can't be seen" in told.stderr


# --- on a terminal --------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_line_below_says_how_it_goes_and_is_gone_at_the_end():
    terminal = Terminal()
    shot = Shot(scene(0.0), time.time())
    timings = Timings(queue_ms=0, image_ms=0, vision_ms=0, prefill_ms=0, ttft_ms=120.4, tokens_per_second=8.25)

    with View(Console(terminal, {}), "demo", only_changes=False, as_json=False) as view:
        view.note_taken()
        view.note_taken()
        view.add(shot, Result(text="A red circle.", timings=timings))

    assert "2 pictures, 0 described" in terminal.getvalue()
    assert "2 pictures, 1 described; first token 120 ms, 8.2 tokens/s" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")


# --- the pictures ---------------------------------------------------------------------


async def first(count: int, shots: AsyncIterator[Shot]) -> list[Shot]:
    found: list[Shot] = []
    async with aclosing(shots) as each:  # type: ignore[type-var]
        async for shot in each:
            found.append(shot)
            if len(found) == count:
                break
    return found


class FakeCapture:
    """A camera that shows darker and darker pictures, and how often it was asked."""

    def __init__(self, pictures: int) -> None:
        self.grabbed = 0
        self.retrieved = 0
        self._pictures = pictures

    def grab(self) -> bool:
        self.grabbed += 1
        return self.grabbed <= self._pictures

    def retrieve(self) -> tuple[bool, numpy.ndarray]:
        self.retrieved += 1
        return True, numpy.full((1200, 1600, 3), (0, 0, 200), numpy.uint8)


def test_a_cameras_old_pictures_are_not_kept_for_later():
    capture = FakeCapture(200)

    [shot] = asyncio.run(first(2, latest(capture, every=600)))  # the film ends before the second is due

    assert (capture.grabbed, capture.retrieved) == (201, 1)
    assert shot.image.size == (1024, 768)
    assert shot.image.getpixel((0, 0)) == (200, 0, 0)


def test_drawn_scenes_move_and_change():
    moments = [scene(seconds) for seconds in (0.0, 1.0, *(number * SCENE_SECONDS for number in range(1, 9)))]

    assert all(a.tobytes() != b.tobytes() for a, b in itertools.pairwise(moments))
    assert [shot.image.size for shot in asyncio.run(first(2, drawn(0.01)))] == [(320, 320)] * 2


def test_without_opencv_a_sentence_says_what_to_install(tmp_path: Path):
    (tmp_path / "cv2.py").write_text("raise ImportError('no such library')")

    with answering_elsewhere() as url:
        told = mlx("watch", "--camera", "0", "--url", url, PYTHONPATH=str(tmp_path))

    assert told.returncode == 1
    assert "pip install opencv-python" in told.stderr


def test_what_is_no_video_is_refused():
    with pytest.raises(StartError, match="can't be opened as a video"):
        asyncio.run(first(1, film(__file__, 1.0)))

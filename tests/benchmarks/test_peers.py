"""The arithmetic of the benchmark, what it sends, and one real run on the tiny model."""

import asyncio
import io
import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from benchmarks.peers import figures
from benchmarks.peers.bars import BARS, Bar, behind
from benchmarks.peers.figures import Reply
from benchmarks.peers.measures.frames import ages_at_first_token
from benchmarks.peers.measures.lag import lag_buckets
from benchmarks.peers.measures.speed import crowd
from benchmarks.peers.measures.speed import name as speed_name
from benchmarks.peers.models import SMOLLM2, endless_copy
from benchmarks.peers.plot import line_plot
from benchmarks.peers.questions import Question, Questions, still_scene
from benchmarks.peers.soak import outcome
from benchmarks.peers.talking import OpenAIClient, ask
from benchmarks.peers.targets import OURS, RAW, TARGETS, Running, common_blas, started
from PIL import Image

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def reply(asked_at: float, times: list[float], **usage: int) -> Reply:
    return Reply(asked_at=asked_at, times=times, ended_at=times[-1], **usage)


# --- arithmetic -----------------------------------------------------------------------


def test_tokens_a_second_are_those_of_all_clients_from_the_first_question_to_the_last_word():
    replies = [reply(0.0, [1.0, 2.0], output_tokens=10), reply(1.0, [2.0, 5.0], output_tokens=20)]

    seen = figures.speed(replies)

    assert seen["tokens/s"] == 30 / 5
    assert seen["first token p50, ms"] == 1000
    assert seen["gap p99, ms"] == 3000


def test_a_disturbance_is_the_gap_while_a_newcomer_waits_over_the_gap_before():
    running = reply(0.0, [1.0, 1.1, 1.2, 1.3, 2.3, 2.4, 9.0])
    newcomer = reply(1.35, [2.35])

    seen = figures.disturbance([running], [newcomer])

    assert seen["normal gap p50, ms"] == pytest.approx(100)
    assert seen["longest gap meanwhile, ms"] == pytest.approx(1000)
    assert seen["gap p99 meanwhile / normal gap"] == pytest.approx(10)


def test_a_reply_that_ended_too_soon_shows_no_disturbance():
    with pytest.raises(ValueError, match="had ended"):
        figures.disturbance([reply(0.0, [1.0, 1.1])], [reply(5.0, [6.0])])


def test_medians_are_taken_over_rounds_and_by_target():
    records = [
        {"measure": "m", "model": "x", "target": target, "figures": {"n": value}}
        for target, values in {"a": (1, 9, 2), "b": (5,)}.items()
        for value in values
    ]

    assert figures.medians(records) == {("m", "x", "a"): {"n": 2}, ("m", "x", "b"): {"n": 5}}


def test_a_quantile_of_a_histogram_lies_inside_its_bucket():
    buckets = {0.01: 90.0, 0.02: 100.0, math.inf: 100.0}

    assert figures.histogram_quantile(0.95, buckets) == pytest.approx(0.015)
    assert math.isnan(figures.histogram_quantile(0.5, dict.fromkeys(buckets, 0.0)))


def test_growth_is_counted_after_what_settles():
    readings = [
        {"requests": 50.0 * number, "active, MB": 100.0 + number, "kept, MB": float(number), "resident, MB": 200.0}
        for number in range(1, 61)
    ]

    grown = outcome(readings)

    assert grown["active memory, growth"] > 0.4
    assert grown["resident, growth"] == 0


def test_a_frames_age_ends_with_its_first_token_alone():
    messages = [(1.0, {"type": "response_start", "id": "f"}), (2.0, {"type": "token", "id": "f"})]
    messages.append((3.0, {"type": "token", "id": "f"}))

    assert ages_at_first_token({"f": 0.5, "never described": 0.6}, messages) == [1.5]


def test_the_loops_lag_is_read_from_a_prometheus_page():
    page = 'mlx_ws_loop_lag_seconds_bucket{le="0.001"} 5.0\nmlx_ws_loop_lag_seconds_bucket{le="+Inf"} 6.0\nother 1\n'

    assert lag_buckets(page) == {0.001: 5.0, math.inf: 6.0}


# --- bars -----------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "verdict"), [(0.96, "fails"), (0.97, "holds"), (math.nan, "not measured")])
def test_a_bar_holds_when_its_bound_is_reached(value: float, verdict: str):
    assert Bar("x", 0.97, True, lambda _: value).verdict({}) == verdict


def test_the_first_bar_compares_with_the_faster_of_the_librarys_two_ways():
    medians = {
        (speed_name(1), SMOLLM2, target): {"tokens/s": value}
        for target, value in ((OURS, 9.0), (RAW, 8.0), ("mlx-vlm stream_generate", 10.0))
    }

    assert BARS[0].value(medians) == 0.9


def test_losses_are_told_by_name():
    medians = {
        ("m", "x", OURS): {"tokens/s": 5.0, "gap p50, ms": 3.0},
        ("m", "x", "other"): {"tokens/s": 6.0, "gap p50, ms": 4.0},
        ("m", "x", RAW): {"tokens/s": 9.0},
    }

    assert behind(medians) == ["m (x), tokens/s: other 6, ours 5"]


def test_a_plot_is_an_svg_with_a_line_for_each_target():
    drawn = ET.fromstring(line_plot("T <1>", (1, 4), {"a": [1.0, 2.0], "b": [math.nan, 3.0]}))

    assert len(drawn.findall("{*}polyline")) == 2


# --- what is asked --------------------------------------------------------------------


def test_questions_with_one_salt_are_the_same_and_none_comes_twice(tiny_gemma3: Path):
    one, other = Questions("salt", tiny_gemma3), Questions("salt", tiny_gemma3)

    asked = one.several(20, 8)

    assert asked == other.several(20, 8)
    assert len({each.text for each in asked}) == 20


def test_a_still_scene_differs_in_every_frame_but_hardly(tiny_gemma3: Path):
    frames = list(still_scene(Questions("salt", tiny_gemma3), 3))

    assert len(set(frames)) == 3
    assert {Image.open(io.BytesIO(frame)).size for frame in frames} == {(640, 480)}


def test_an_endless_copy_ends_with_a_token_of_ours_and_shares_the_weights(tiny_gemma3: Path, tmp_path: Path):
    copy = endless_copy(tiny_gemma3, tmp_path / "copy", "<unk>")

    assert json.loads((copy / "config.json").read_text())["eos_token_id"] == [3]
    assert (copy / "model.safetensors").read_bytes() == (tiny_gemma3 / "model.safetensors").read_bytes()


def answered(*chunks: bytes) -> Reply:
    """What a client makes of an HTTP server that answers so."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n")
        await writer.drain()
        writer.close()

    async def story() -> Reply:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            return await ask(OpenAIClient(server.sockets[0].getsockname()[1], "m"), Question("Hello", 4))

    return asyncio.run(story())


def test_events_are_read_wherever_the_chunks_end():
    heard = answered(
        b'data: {"choices": [{"delta": {"content": "a',
        b' b"}}]}\n\ndata: {"choices": [{"delta": {"content": "c"}}]}\n\n',
        b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2, '
        b'"prompt_tokens_details": {"cached_tokens": 3}}}\n\ndata: [DONE]\n\n',
    )

    assert (heard.text, len(heard.times)) == ("a bc", 2)
    assert (heard.input_tokens, heard.output_tokens, heard.cached_tokens) == (7, 2, 3)


def test_a_server_that_fails_midway_is_not_taken_for_a_fast_one():
    with pytest.raises(RuntimeError, match="out of luck"):
        answered(b'data: {"error": "out of luck"}\n\n')


# --- a real run -----------------------------------------------------------------------


def on(target: str, folder: Path, do: Callable[[Running], Awaitable[figures.Figures]]) -> figures.Figures:
    async def story() -> figures.Figures:
        async with started(TARGETS[target], folder, common_blas()) as running:
            return await do(running)

    return asyncio.run(story())


def test_ours_and_the_library_read_and_say_equally_many_tokens(tiny_gemma3: Path, tmp_path: Path):
    folder = endless_copy(tiny_gemma3, tmp_path / "copy", "<unk>")

    ours, raw = (
        on(target, folder, lambda running: crowd(running, Questions("salt", folder), 3, 8, pictures=1))
        for target in (OURS, RAW)
    )

    assert ours["output tokens"] == raw["output tokens"] == 8
    assert ours["input tokens"] == raw["input tokens"] > 0

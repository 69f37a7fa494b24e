"""What is counted, and that two servers' numbers never mix."""

import re

import pytest

from mlx_websockets.events import FrameDropped, Problem, ReplyDelta, ReplyFinished, ReplyStarted, TurnLabel
from mlx_websockets.generation import Timings, Usage
from mlx_websockets.metrics import Levels, Metrics

QUIET = Levels(is_ready=True, connections=2, running=1, rows=16, rows_in_use=1, waiting=3, held_bytes=77)


def numbers(metrics: Metrics) -> dict[str, float]:
    """Every sample by its name with labels."""
    lines = metrics.exposition().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def finished(turn: TurnLabel, **changes: object) -> ReplyFinished:
    values = {
        "turn": turn,
        "text": "private words",
        "reason": "stop",
        "usage": Usage(input_tokens=30, image_tokens=20, cached_tokens=5, output_tokens=7),
        "timings": Timings(first_token_ms=40.0),
        "seconds": 1.0,
        "queue_ms": 100.0,
        "image_ms": 60.0,
    }
    return ReplyFinished(**(values | changes))  # type: ignore[arg-type]


def test_what_is_so_now_is_read_when_somebody_asks() -> None:
    now = [QUIET]
    metrics = Metrics(lambda: now[0])
    before = numbers(metrics)

    now[0] = Levels(
        is_ready=False, connections=9, running=0, rows=16, rows_in_use=0, waiting=0, held_bytes=0, tokens=12,
        tokens_per_second=3.5, restarts=1, worker_memory={"active": 5, "cached": 6, "resident": 7},
    )  # fmt: skip
    after = numbers(metrics)

    assert (before["mlx_ws_ready"], before["mlx_ws_connections"], before["mlx_ws_requests_waiting"]) == (1, 2, 3)
    assert (before["mlx_ws_requests_running"], before["mlx_ws_rows"], before["mlx_ws_held_bytes"]) == (1, 16, 77)
    assert (after["mlx_ws_ready"], after["mlx_ws_connections"], after["mlx_ws_worker_restarts_total"]) == (0, 9, 1)
    assert (after["mlx_ws_generated_tokens_total"], after["mlx_ws_tokens_per_second"]) == (12, 3.5)
    assert after['mlx_ws_worker_memory_bytes{kind="resident"}'] == 7


def test_a_reply_is_counted_with_its_tokens_its_wait_and_its_first_token() -> None:
    metrics = Metrics(lambda: QUIET)

    metrics.meter().note(finished(TurnLabel(), frame_age_ms=900.0), 0.0)

    seen = numbers(metrics)
    assert seen['mlx_ws_replies_total{reason="stop"}'] == 1
    assert seen['mlx_ws_used_tokens_total{kind="output"}'] == 7
    assert seen['mlx_ws_used_tokens_total{kind="image"}'] == 20
    assert seen["mlx_ws_queue_wait_seconds_sum"] == pytest.approx(0.1)
    assert seen["mlx_ws_time_to_first_token_seconds_sum"] == pytest.approx(0.2)
    assert seen["mlx_ws_frame_age_seconds_sum"] == pytest.approx(0.9)


def test_gaps_are_measured_within_a_reply_and_not_across_two() -> None:
    metrics = Metrics(lambda: QUIET)
    meter, one, two = metrics.meter(), TurnLabel(id="1"), TurnLabel(id="2")

    meter.note(ReplyStarted(one, "m", 0.0), 0.0)
    meter.note(ReplyDelta(one, "a", 0), 1.0)
    meter.note(ReplyDelta(two, "x", 0), 5.0)
    meter.note(ReplyDelta(one, "b", 1), 1.5)
    meter.note(finished(one), 2.0)
    meter.note(ReplyDelta(one, "c", 0), 100.0)  # another turn that has the same label

    seen = numbers(metrics)
    assert (seen["mlx_ws_delta_gap_seconds_count"], seen["mlx_ws_delta_gap_seconds_sum"]) == (1, 0.5)


def test_drops_and_errors_are_counted_by_reason() -> None:
    metrics = Metrics(lambda: QUIET)
    meter = metrics.meter()

    meter.note(FrameDropped(TurnLabel(), "superseded"), 0.0)
    meter.note(Problem(message="private", code="queue_full"), 0.0)
    metrics.refused(503)
    metrics.received(10)
    metrics.sent(20)
    metrics.lagged(0.003)

    seen = numbers(metrics)
    assert seen['mlx_ws_frames_dropped_total{reason="superseded"}'] == 1
    assert seen['mlx_ws_errors_total{code="queue_full"}'] == 1
    assert seen['mlx_ws_refusals_total{status="503"}'] == 1
    assert (seen['mlx_ws_bytes_total{direction="in"}'], seen['mlx_ws_bytes_total{direction="out"}']) == (10, 20)
    assert seen["mlx_ws_loop_lag_seconds_count"] == 1


def test_nothing_that_anybody_wrote_is_in_the_text() -> None:
    metrics = Metrics(lambda: QUIET)

    metrics.meter().note(finished(TurnLabel(id="private", source="private", frame_id="private")), 0.0)

    assert "private" not in metrics.exposition().decode()


def test_two_servers_have_numbers_of_their_own() -> None:
    one, other = Metrics(lambda: QUIET), Metrics(lambda: QUIET)

    one.received(5)

    assert numbers(other)['mlx_ws_bytes_total{direction="in"}'] == 0


def test_every_metric_says_what_it_is() -> None:
    text = Metrics(lambda: QUIET).exposition().decode()

    named = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    assert named == set(re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE))
    assert all(name.startswith("mlx_ws_") for name in named)

"""`mlx bench` as a program of its own, measuring a real server."""

import json

import pytest
from asking import mlx
from tests.client.answering import answering_elsewhere

from mlx_websockets.cli.bench import Figures, Sample, quantile
from mlx_websockets.generation import Failed, GenerationRequest, Update


def test_one_alone_and_all_together_are_measured():
    with answering_elsewhere() as url:
        told = mlx("bench", "--clients", "4", "--prompt", "one two three", "--json", "--url", url)

    measured = json.loads(told.stdout)
    assert (measured["alone"]["clients"], measured["alone"]["output_tokens"]) == (1, 9)
    assert (measured["together"]["clients"], measured["together"]["output_tokens"]) == (4, 36)
    for figures in (measured["alone"], measured["together"]):
        assert figures["tokens_per_second"] > 0
        assert 0 < figures["ttft_ms"]["p50"] <= figures["ttft_ms"]["p95"]
        assert 0 <= figures["gap_ms"]["p50"] <= figures["gap_ms"]["p99"]


def test_a_person_reads_the_same_in_two_blocks(tiny_gemma3):
    from benchmarks.acceptance.serving import serve

    with serve(tiny_gemma3) as server:
        told = mlx("bench", "--clients", "2", "--tokens", "8", "--images", "1", "--url", server.url)

    assert (told.returncode, told.stderr) == (0, "")
    assert "✓ One alone" in told.stdout
    assert "✓ 2 together" in told.stdout
    assert told.stdout.count("Tokens/s:") == 2


def test_a_server_that_fails_is_told_in_a_sentence():
    def failing(request: GenerationRequest) -> list[Update]:
        return [Failed(request.id, "engine_error", "The model stumbled.")]

    with answering_elsewhere(failing) as url:
        told = mlx("bench", "--clients", "2", "--url", url)

    assert told.returncode == 1
    assert "✗ The model stumbled." in told.stderr


def test_no_server_and_no_sense_have_their_statuses():
    assert mlx("bench", "--url", "ws://localhost:9").returncode == 3
    assert mlx("bench", "--clients", "0").returncode == 2


@pytest.mark.parametrize(("part", "value"), [(0.5, 2.0), (0.95, 4.0), (0.0, 1.0), (1.0, 4.0)])
def test_a_quantile_is_one_of_the_values(part, value):
    assert quantile(part, [3.0, 1.0, 4.0, 2.0]) == value


def test_of_nothing_there_is_no_quantile():
    assert quantile(0.5, []) is None


def test_tokens_a_second_are_those_of_all_peers():
    sample = Sample(tokens=10, first_after=0.1, gaps=(0.2, 0.3))

    figures = Figures(2, 4.0, (sample, sample))

    assert figures.tokens_per_second == 5.0
    assert figures.gaps == [0.2, 0.3, 0.2, 0.3]

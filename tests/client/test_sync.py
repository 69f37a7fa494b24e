"""The client for scripts and notebooks, talking to a real server in another thread."""

import threading

import pytest
from answering import answering_elsewhere

from mlx_websockets.client import CannotConnect, ConnectionLost, ReplyError, connect_sync
from mlx_websockets.testing import SMALL_GIF


def test_deltas_are_read_in_a_loop() -> None:
    with answering_elsewhere() as url, connect_sync(url) as mlx:
        reply = mlx.ask("one two three")

        deltas = list(reply)

        assert "".join(deltas) == "one two three"
        assert reply.result().finish_reason == "stop"


def test_every_candidates_pieces_are_read_in_a_loop() -> None:
    with answering_elsewhere() as url, connect_sync(url) as mlx:
        pieces = mlx.ask("one two", candidate_count=2, logprobs=0).pieces()

        said = [(piece.candidate, piece.text, piece.logprobs[0].logprob) for piece in pieces]

        assert said == [(0, "one", -0.5), (1, "one", -0.5), (0, " two", -0.5), (1, " two", -0.5)]


def test_pictures_and_frames_and_settings() -> None:
    with answering_elsewhere() as url, connect_sync(url) as mlx:
        assert mlx.ask("What is it?", images=[SMALL_GIF]).text() == "What is it?"
        assert mlx.show(SMALL_GIF, "webcam", "And now?").text() == "And now?"
        assert mlx.configure(top_k=3)["top_k"] == 3
        assert mlx.status()["model"]["loaded"]
        assert mlx.ping() > 0
        assert mlx.hello is not None


def test_watching_ends_with_the_last_frame() -> None:
    with answering_elsewhere() as url, connect_sync(url) as mlx:
        results = list(mlx.watch("screen", [SMALL_GIF] * 3, "What is it?"))

        assert results[-1].frame_id == 2


def test_watching_can_be_left_early() -> None:
    with answering_elsewhere() as url, connect_sync(url) as mlx:
        for seen in mlx.watch("screen", [SMALL_GIF] * 50):
            assert seen.text
            break

        assert mlx.ask("Hi").text() == "Hi"


def test_a_reply_can_be_cancelled() -> None:
    with answering_elsewhere(lambda _: []) as url, connect_sync(url) as mlx:
        reply = mlx.ask("Tell me a story.")

        reply.cancel()

        assert reply.result().finish_reason == "cancelled"


def test_a_refusal_raises() -> None:
    with answering_elsewhere() as url, connect_sync(url) as mlx:
        with pytest.raises(ReplyError):
            list(mlx.ask("Hi", temperature=3))
        with pytest.raises(TypeError):
            mlx.ask("Hi", temprature=3)


def test_a_closed_client_says_so_and_leaves_no_thread() -> None:
    before = threading.active_count()
    with answering_elsewhere() as url:
        mlx = connect_sync(url)
        mlx.close()
        mlx.close()

        with pytest.raises(ConnectionLost):
            mlx.ask("Hi")
    assert threading.active_count() == before


def test_nobody_there_raises_and_leaves_no_thread() -> None:
    before = threading.active_count()

    with pytest.raises(CannotConnect):
        connect_sync("ws://127.0.0.1:9")

    assert threading.active_count() == before

"""The whole server, as people run it: `mlx serve` with real models, real sockets, real files.

The long versions of some of these stories are in `benchmarks/acceptance`.
"""

import asyncio
import base64
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from benchmarks.acceptance import frames, kills, malformed, neighbours, pictures, streaming
from benchmarks.acceptance.serving import Peer, Server, drawn, peer, serve
from websockets.asyncio.client import connect

GREEDY = {"temperature": 0}


@pytest.fixture(scope="module")
def demo_server(demo_model: Path) -> Iterator[Server]:
    """The server of `make demo`: it sees and answers sensibly."""
    with serve("demo") as server:
        yield server


@pytest.fixture(scope="module")
def gemma_server(tiny_gemma3: Path) -> Iterator[Server]:
    """The default model's architecture, tiny: it sees and talks nonsense, fast."""
    with serve(tiny_gemma3) as server:
        yield server


# --- what it says ---------------------------------------------------------------------


def test_a_question_is_answered_in_the_seed_s_own_messages(demo_server: Server):
    async def story() -> None:
        async with peer(demo_server.url) as talk:
            await talk.socket.send(json.dumps({"type": "config", "temperature": 0}))
            reply = await talk.ask(type="text_input", content="What is the capital of France?")
            [updated] = talk.strays[:1] or reply.messages[:1]

        messages = [each for each in reply.messages if each["type"] != "config_updated"]
        assert updated["type"] == "config_updated"
        assert [set(each) for each in messages[:2]] == [
            {"type", "timestamp", "input_type"},
            {"type", "content", "timestamp"},
        ]
        assert {each["type"] for each in messages[1:-1]} == {"token"}
        assert set(messages[-1]) == {"type", "full_text", "timestamp", "input_type", "inference_time"}
        assert reply.text == messages[-1]["full_text"] == "The capital of France is Paris."

    asyncio.run(story())


def test_a_reply_streams_as_it_is_made(demo_server: Server):
    seen = asyncio.run(streaming.stream(demo_server))

    assert seen["token messages"] >= 50
    assert seen["tokens joined are full_text"]


@pytest.mark.parametrize(
    ("type", "format", "form"),
    [
        ("image_input", "PNG", "base64"),
        ("image_input", "JPEG", "data URL"),
        ("image_input", "WEBP", "binary"),
        ("video_frame", "JPEG", "binary"),
        ("screen_frame", "PNG", "data URL"),
    ],
)
@pytest.mark.parametrize(("color", "shape"), pictures.SHAPES)
def test_the_answer_names_what_the_picture_shows(
    demo_server: Server, type: str, format: str, form: str, color: str, shape: str
):
    async def story() -> str:
        async with peer(demo_server.url) as talk:
            return (await pictures.show(talk, type, format, form, drawn(shape, color, format=format), "p")).text

    text = asyncio.run(story())

    assert color in text
    assert shape in text


def test_the_conversation_is_remembered_where_a_request_asks_for_it(demo_server: Server):
    async def story() -> tuple[str, str]:
        async with peer(demo_server.url) as talk:
            picture = base64.b64encode(drawn("square", "blue")).decode()
            await talk.ask(
                type="image_input", id="1", image=picture, prompt="What do you see?", history=True, config=GREEDY
            )
            question = "What color is the square?"
            remembered = await talk.ask(type="text_input", id="2", content=question, history=True, config=GREEDY)
            forgotten = await talk.ask(type="text_input", id="3", content=question, config={"maxOutputTokens": 1})
            return remembered.text, forgotten.end["usage"]["image_tokens"]

    remembered, image_tokens = asyncio.run(story())

    assert "blue" in remembered
    assert image_tokens == 0


def test_stop_strings_usage_and_timings_are_told(demo_server: Server):
    async def story() -> Peer:
        async with peer(demo_server.url) as talk:
            await talk.ask(
                type="text_input", id="s", content="What is the capital of France?", stop=[" Paris"], config=GREEDY
            )
            await talk.ask(
                type="text_input", id="l", content="Tell me a story.", config={**GREEDY, "maxOutputTokens": 5}
            )
            return talk

    talk = asyncio.run(story())

    stopped, cut = (talk._replies[id].end for id in ("s", "l"))
    assert stopped["full_text"] == "The capital of France is"
    assert stopped["finish_reason"] == "stop"
    assert (cut["finish_reason"], cut["usage"]["output_tokens"]) == ("length", 5)
    assert cut["usage"]["input_tokens"] > 5
    assert cut["timings"]["ttft_ms"] > 0


def test_a_text_only_model_says_which_models_see(smollm2: Path):
    async def story(server: Server) -> tuple[dict[str, object], str]:
        async with peer(server.url) as talk:
            picture = base64.b64encode(drawn("circle", "red")).decode()
            refused = await talk.ask(type="image_input", id="p", image=picture)
            answered = await talk.ask(
                type="text_input", id="t", content="What is the capital of France?", config=GREEDY
            )
            return refused.end, answered.text

    with serve(smollm2) as server:
        refused, text = asyncio.run(story(server))

    assert refused["code"] == "model_cannot_see"
    assert "--model demo" in str(refused["error"])
    assert text == "The capital of France is Paris."


# --- many at once ---------------------------------------------------------------------


def test_requests_at_once_get_what_each_gets_alone(gemma_server: Server):
    seen = asyncio.run(neighbours.compare(gemma_server))

    assert seen["replies equal to the ones alone"] == seen["requests"]


def test_each_frame_of_two_streams_has_one_outcome_and_the_newest_is_described(demo_server: Server):
    seen = asyncio.run(frames.stream(demo_server, seconds=4.0))

    assert seen["frames with exactly one outcome"] == seen["frames sent"] == 240
    assert seen["analysed although a newer one waited"] == 0
    assert seen["analysed rightly"] == seen["analysed"] > 0


def test_nonsense_from_one_peer_costs_another_nothing(gemma_server: Server):
    seen = asyncio.run(malformed.send_nonsense(gemma_server, 1500))

    answered, asked = seen["innocent questions answered"].split(" of ")
    assert seen["the socket stayed open"]
    assert seen["the server lives"]
    assert answered == asked


# --- when things go wrong -------------------------------------------------------------


def test_a_killed_worker_costs_its_replies_an_error_and_nobody_a_socket(demo_server: Server):
    seen = asyncio.run(kills.kill_over_and_over(demo_server, rounds=3))

    assert seen["replies that ended with engine_restarted, retryable"] == 3
    assert seen["following questions answered"] == 3
    assert seen["sockets still open"] == "2 of 2"


def test_a_peer_that_leaves_takes_its_requests_along(gemma_server: Server):
    async def story() -> int:
        endless = {"type": "text_input", "content": "go on", "config": {"maxOutputTokens": 512}}
        async with peer(gemma_server.url) as leaver:
            for number in range(8):
                await leaver.begin(id=f"{number}", **endless)
        async with peer(gemma_server.url) as stayer:
            while (status := (await _status(stayer)))["queue"]["running"]:
                await asyncio.sleep(0.02)
            return int(status["queue"]["waiting"])

    assert asyncio.run(asyncio.wait_for(story(), 20)) == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_every_reply_closes_every_socket_and_leaves_nothing_behind(
    tiny_gemma3: Path, how: signal.Signals
):
    async def story(server: Server) -> tuple[list[str], int]:
        async with connect(server.url, proxy=None) as socket:
            for number in range(12):
                ask = {"type": "text_input", "id": f"{number}", "content": "go on", "config": {"maxOutputTokens": 512}}
                await socket.send(json.dumps(ask))
            await socket.recv()
            server.process.send_signal(how)
            ended = [
                message["id"]
                for message in [json.loads(data) async for data in socket]
                if message["type"] in frames.TERMINAL
            ]
            return ended, socket.close_code or 0

    with serve(tiny_gemma3) as server:
        worker = server.worker
        assert worker is not None
        ended, close_code = asyncio.run(story(server))
        status = server.process.wait(timeout=15)

    assert sorted(ended, key=int) == [str(number) for number in range(12)]
    assert close_code == 1001
    assert status == 0
    assert not psutil.pid_exists(worker.pid)


# --- flags ----------------------------------------------------------------------------


def _say(url: str, count: int = 3, **config: object) -> list[str]:
    async def story() -> list[str]:
        async with peer(url) as talk:
            asked = [
                await talk.ask(
                    type="text_input",
                    id=f"{number}",
                    content="Say something.",
                    config={"maxOutputTokens": 16, **config},
                )
                for number in range(count)
            ]
            return [reply.text for reply in asked]

    return asyncio.run(story())


async def _status(talk: Peer) -> dict[str, dict[str, object]]:
    await talk.socket.send('{"type": "get_status"}')
    while True:
        for message in list(talk.strays):
            talk.strays.remove(message)
            if message["type"] == "status":
                stats: dict[str, dict[str, object]] = message["stats"]
                return stats
        await asyncio.sleep(0.01)


def test_a_seeded_run_repeats_and_an_unseeded_one_does_not(tiny_gemma3: Path):
    said: list[list[str]] = []
    for flags in (("--seed", "7"), ("--seed", "7"), ("--seed", "8"), ()):
        with serve(tiny_gemma3, "--temperature", "1.5", *flags) as server:
            said.append(_say(server.url))

    assert said[0] == said[1]
    assert said[0] != said[2]
    assert said[3] not in said[:3]
    assert len(set(said[0])) == len(set(said[3])) == 3


def test_the_flags_of_generation_are_in_force(tiny_gemma3: Path, tmp_path: Path):
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}{{ m['content'] }}!{% endfor %}")
    flags = ("--temperature", "0", "--max-tokens", "6", "--chat-template", str(template))

    async def story(url: str) -> tuple[dict[str, object], dict[str, object]]:
        async with peer(url) as talk:
            reply = await talk.ask(type="text_input", id="1", content="Say something.")
            await talk.socket.send('{"type": "config", "maxOutputTokens": 7}')
            while not talk.strays:
                await asyncio.sleep(0.01)
            return reply.end, talk.strays[0]

    with serve(tiny_gemma3, *flags) as server:
        end, refused = asyncio.run(story(server.url))
        greedy = _say(server.url, 2)

    assert end["usage"]["output_tokens"] <= 6  # type: ignore[index]
    assert end["usage"]["input_tokens"] < 12  # type: ignore[index] - no turn markers: the template given is the one used
    assert greedy[0] == greedy[1]
    assert (refused["code"], refused.get("param", "")) == ("invalid_config", "")


def test_the_start_tells_the_model_the_memory_and_every_address(gemma_server: Server):
    text = "\n".join(gemma_server.lines)

    assert "tiny-gemma3" in text
    assert "Memory" in text
    assert gemma_server.url in text
    assert "Ctrl+C" in text


def test_a_model_that_is_not_there_is_one_sentence_and_its_own_exit_code(tmp_path: Path):
    command = [sys.executable, "-m", "mlx_websockets", "serve", "--port", "0", "--model", str(tmp_path / "nothing")]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert done.returncode == 5
    assert "nothing" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr

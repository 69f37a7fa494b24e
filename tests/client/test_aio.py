"""The asyncio client, talking to a real server with a scripted engine."""

import asyncio
import base64
import contextlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from answering import PATIENCE, Engine, answering, parrot
from PIL import Image
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_sockets

from mlx_websockets.client import CannotConnect, Client, ConnectionLost, OutboxFull, ReplyError, UnknownPicture, connect
from mlx_websockets.generation import Failed, GenerationRequest, Update
from mlx_websockets.server.run import Stop
from mlx_websockets.testing import SMALL_GIF

Story = Callable[[Client, Engine], Awaitable[None]]


def play(story: Story, script: Callable[[GenerationRequest], list[Update]] | None = None) -> None:
    """Connect a client to a server and let them talk."""

    async def tell() -> None:
        engine = Engine(script)
        async with asyncio.timeout(PATIENCE), answering(engine) as url, connect(url) as mlx:
            await story(mlx, engine)

    asyncio.run(tell())


# --- asking -----------------------------------------------------------------------------


def test_deltas_arrive_while_the_reply_is_made() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        reply = mlx.ask("Tell me a story.")
        request = await engine.request(0)

        engine.start_saying(request, "Once")
        first = await anext(reply)
        engine.say_more(request, " upon")
        second = await anext(reply)
        engine.finish(request)

        assert (first, second) == ("Once", " upon")
        assert [delta async for delta in reply] == []
        assert await reply.text() == "Once upon"

    play(story)


def test_a_result_has_all_that_is_known() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        result = await mlx.ask("one two").result()

        assert (result.text, result.finish_reason, result.dropped) == ("one two", "stop", None)
        assert result.usage is not None
        assert (result.usage.input_tokens, result.usage.output_tokens) == (7, 2)
        assert result.timings is not None
        assert result.timings.queue_ms >= 0

    play(story, parrot)


def test_several_candidates_are_told_apart() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        reply = mlx.ask("one two", candidate_count=2)

        pieces = [(piece.candidate, piece.text) async for piece in reply.pieces()]
        result = await reply.result()

        assert pieces == [(0, "one"), (1, "one"), (0, " two"), (1, " two")]
        assert [(each.text, each.finish_reason) for each in result.candidates] == [("one two", "stop")] * 2
        assert (result.text, result.finish_reason) == ("one two", "stop")

    play(story, parrot)


def test_of_several_candidates_the_first_is_iterated() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        assert [delta async for delta in mlx.ask("one two", candidate_count=3)] == ["one", " two"]

    play(story, parrot)


def test_a_slow_reader_gets_all_text_and_all_logprobs_of_each_candidate() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        words = " ".join(map(str, range(1000)))
        reply = mlx.ask(words, candidate_count=2, logprobs=0)
        await reply.result()

        pieces = [piece async for piece in reply.pieces()]

        for candidate in (0, 1):
            its = [piece for piece in pieces if piece.candidate == candidate]
            assert "".join(piece.text for piece in its) == words
            assert "".join(token.token for piece in its for token in piece.logprobs) == words
        assert len(pieces) < 1000

    play(story, parrot)


def test_a_result_says_how_likely_its_tokens_were() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        sure = await mlx.ask("one two", logprobs=1).result()
        silent = await mlx.ask("one two").result()

        assert [(each.token, each.logprob) for each in sure.logprobs] == [("one", -0.5), (" two", -0.5)]
        assert [[likely.token for likely in each.top] for each in sure.logprobs] == [["one"], [" two"]]
        assert silent.logprobs == ()

    play(story, parrot)


def test_a_result_says_how_much_of_the_prompt_was_known_before() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        usage = (await mlx.ask("one two").result()).usage

        assert usage is not None
        assert (usage.input_tokens, usage.cached_tokens) == (7, 3)

    play(story, parrot)


def test_a_request_may_step_back_and_the_engine_knows() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        mlx.ask("Sort my notes.", priority="background", deadline_ms=60_000)
        mlx.show(SMALL_GIF)

        assert [(await engine.request(number)).priority for number in range(2)] == ["background", "frame"]

    play(story)


def test_a_request_that_can_not_begin_in_time_fails_with_a_code_of_its_own() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        engine.rows = 1
        mlx.ask("Hi")
        await engine.request(0)

        late, dropped = mlx.ask("Ho", deadline_ms=1), mlx.show(SMALL_GIF, deadline_ms=1)

        with pytest.raises(ReplyError) as refusal:
            await late.result()
        assert (refusal.value.code, refusal.value.retryable) == ("expired", True)
        assert (await dropped.result()).dropped == "expired"
        assert len(engine.requests) == 1

    play(story)


def test_an_overloaded_server_says_when_to_ask_again() -> None:
    def refuse(request: GenerationRequest) -> list[Update]:
        return [Failed(request.id, "overloaded", "There is no memory left.", retryable=True, retry_after_ms=1500)]

    async def story(mlx: Client, engine: Engine) -> None:
        with pytest.raises(ReplyError, match="no memory") as refusal:
            await mlx.ask("Hi").text()

        assert (refusal.value.code, refusal.value.retryable) == ("overloaded", True)
        assert refusal.value.retry_after_ms == 1500

    play(story, refuse)


def test_everything_about_a_question_reaches_the_engine() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        mlx.ask("Hi", context="We met.", system="Be brief.", stop=["."], temperature=0, max_output_tokens=9, seed=4)

        request = await engine.request(0)

        assert [(message.role, message.text) for message in request.messages] == [
            ("system", "Be brief."),
            ("user", "We met.\n\nHi"),
        ]
        choice = request.choice
        assert (choice.temperature, choice.max_tokens, choice.seed, choice.stop) == (0.0, 9, 4, (".",))

    play(story)


def test_a_schema_reaches_the_engine_with_questions_and_with_frames() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        schema = {"type": "object", "properties": {"b": {}, "a": {}}}
        mlx.ask("Hi", response_format=schema)
        mlx.ask("Hi", images=[small_png()], response_format={"type": "json_schema", "schema": schema})
        mlx.show(small_png(), response_format={"type": "json_object"})

        asked = [await engine.request(number) for number in range(3)]

        whole = '{"type":"object","properties":{"b":{},"a":{}}}'
        schemas = [request.choice.json_schema for request in asked]
        assert schemas[0] == whole
        assert sorted(schemas[1:]) == [whole, '{"type":"object"}']  # in the order in which their pictures were open

    play(story)


def test_replies_with_history_are_remembered() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        await mlx.ask("one", history=True).text()
        await mlx.ask("two", history=True).text()
        await mlx.ask("three").text()

        counts = [len(request.messages) for request in engine.requests.values()]

        assert counts == [1, 3, 1]

    play(story, parrot)


def test_questions_run_side_by_side() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        first, second = mlx.ask("first"), mlx.ask("second")
        requests = [await engine.request(0), await engine.request(1)]

        engine.start_saying(requests[1], "two")
        engine.finish(requests[1])
        engine.start_saying(requests[0], "one")
        engine.finish(requests[0])

        assert (await second.text(), await first.text()) == ("two", "one")

    play(story)


def test_a_cancelled_reply_ends_with_what_it_has() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        reply = mlx.ask("Tell me a story.")
        engine.start_saying(await engine.request(0), "Once")
        assert await anext(reply) == "Once"

        reply.cancel()
        result = await reply.result()
        reply.cancel()  # again, which is no news

        assert (result.text, result.finish_reason) == ("Once", "cancelled")
        assert await mlx.ping() < PATIENCE

    play(story)


def test_everything_can_be_cancelled_at_once() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        replies = [mlx.ask("one"), mlx.ask("two")]
        await engine.request(1)

        mlx.cancel()
        results = [await reply.result() for reply in replies]

        assert [result.finish_reason for result in results] == ["cancelled", "cancelled"]

    play(story)


def test_deltas_that_nobody_takes_are_merged_and_none_is_lost() -> None:
    words = " ".join(str(number) for number in range(400))

    async def story(mlx: Client, engine: Engine) -> None:
        reply = mlx.ask(words)
        await reply.result()

        deltas = [delta async for delta in reply]

        assert "".join(deltas) == words
        assert len(deltas) <= 256

    play(story, parrot)


# --- what goes wrong --------------------------------------------------------------------


def test_a_refused_question_raises_what_the_server_said() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        with pytest.raises(ReplyError, match="temperature") as refused:
            await mlx.ask("Hi", temperature=3).text()

        assert (refused.value.code, refused.value.param) == ("invalid_config", "$.config.temperature")
        assert not refused.value.retryable
        assert await mlx.ask("Hi").text() == "Hi"

    play(story, parrot)


def test_a_failure_comes_after_the_deltas_that_came_before_it() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        reply = mlx.ask("Hi")
        request = await engine.request(0)
        engine.start_saying(request, "Well")
        engine.say(Failed(request.id, "engine_restarted", "It died.", retryable=True))

        assert await anext(reply) == "Well"
        with pytest.raises(ReplyError) as failed:
            await anext(reply)

        assert (failed.value.code, failed.value.retryable) == ("engine_restarted", True)

    play(story)


def test_a_setting_that_does_not_exist_is_refused_at_once() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        with pytest.raises(TypeError, match="'temprature'"):
            mlx.ask("Hi", temprature=1)

    play(story)


def test_too_many_requests_at_once_are_refused_here() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        for _ in range(64):
            mlx.ask("Hi")

        with pytest.raises(OutboxFull):
            mlx.ask("Hi")

    play(story)


def test_a_server_that_leaves_says_why() -> None:
    async def tell() -> None:
        stop = Stop()
        async with asyncio.timeout(PATIENCE), answering(Engine(), stop) as url, connect(url) as mlx:
            stop.ask()
            await closed(mlx)

            with pytest.raises(ConnectionLost, match="shutting down") as lost:
                mlx.ask("Still there?")
            assert lost.value.close_code == 1001

    asyncio.run(tell())


async def closed(mlx: Client) -> None:
    """Wait until the connection is over."""
    with contextlib.suppress(ConnectionLost):
        while True:
            await mlx.ping()


def test_a_server_that_vanishes_ends_every_reply_and_call() -> None:
    async def vanish(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.recv()
        socket.transport.abort()

    async def story(mlx: Client) -> None:
        reply = mlx.ask("Hi")
        with pytest.raises(ConnectionLost):
            await mlx.status()
        with pytest.raises(ConnectionLost):
            await reply.text()

    talk_to(vanish, story)


def test_leaving_the_block_ends_what_is_open() -> None:
    async def tell() -> None:
        engine = Engine()
        async with asyncio.timeout(PATIENCE), answering(engine) as url:
            async with connect(url) as mlx:
                reply = mlx.ask("Hi")
                request = await engine.request(0)
            with pytest.raises(ConnectionLost):
                await reply.text()
            while engine.cancelled != [request.id]:
                await asyncio.sleep(0.005)

    asyncio.run(tell())


def test_a_block_that_ends_at_once_closes_its_socket() -> None:
    async def tell() -> None:
        async with asyncio.timeout(PATIENCE), answering(Engine()) as url:
            async with connect(url) as mlx:
                pass
            with pytest.raises(ConnectionLost):
                mlx.ask("Hi")

    asyncio.run(tell())


def test_what_the_block_raises_comes_out_as_it_is() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        play(story)


def test_nobody_there_is_said_with_the_address() -> None:
    async def tell() -> None:
        async with connect("ws://127.0.0.1:9"):
            pass

    with pytest.raises(CannotConnect, match=r"ws://127\.0\.0\.1:9") as refused:
        asyncio.run(tell())
    assert refused.value.status is None


def test_a_refusal_keeps_its_status() -> None:
    async def tell() -> None:
        async with answering(Engine()) as url, connect(url + "/nowhere"):
            pass

    with pytest.raises(CannotConnect) as refused:
        asyncio.run(tell())
    assert refused.value.status in (403, 404)


# --- pictures ---------------------------------------------------------------------------


def small_png(colour: str = "white") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 2), colour).save(file, "PNG")
    return file.getvalue()


def test_pictures_may_be_bytes_paths_or_opened(tmp_path: Path) -> None:
    path = tmp_path / "dot.gif"
    path.write_bytes(SMALL_GIF)

    async def story(mlx: Client, engine: Engine) -> None:
        for picture in (SMALL_GIF, path, str(path), Image.new("RGBA", (1, 1))):
            await mlx.ask("What is it?", images=[picture]).text()

        sizes = [
            (each.width, each.height) for request in engine.requests.values() for each in request.messages[0].images
        ]

        assert sizes == [(1, 1)] * 4

    play(story, parrot)


def test_several_pictures_go_in_one_question_in_their_order() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        await mlx.ask("What has changed?", images=[SMALL_GIF, small_png("red")], context="Look.").text()

        (message,) = (await engine.request(0)).messages

        assert [image.width for image in message.images] == [1, 4]
        assert message.text == "Look.\n\nWhat has changed?"

    play(story, parrot)


def test_a_prompt_too_long_for_a_binary_header_goes_all_the_same() -> None:
    long = "x" * 70_000

    async def story(mlx: Client, engine: Engine) -> None:
        assert await mlx.ask(long, images=[SMALL_GIF]).text() == long
        assert await mlx.show(SMALL_GIF, prompt=long).text() == long

    play(story, parrot)


def test_a_picture_that_can_not_be_sent_fails_its_own_reply_only(tmp_path: Path) -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        with pytest.raises(UnknownPicture):
            await mlx.ask("?", images=[b"BM a bitmap"]).text()
        with pytest.raises(UnknownPicture):
            await mlx.ask("?", images=[5]).text()  # type: ignore[list-item]
        with pytest.raises(FileNotFoundError):
            await mlx.ask("?", images=[tmp_path / "none.png"]).text()

        assert await mlx.ask("Hi").text() == "Hi"

    play(story, parrot)


# --- frames -----------------------------------------------------------------------------


def test_a_superseded_frame_says_so() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        first = mlx.show(SMALL_GIF, "webcam", frame_id=1)
        running = await engine.request(0)
        second = mlx.show(SMALL_GIF, "webcam", frame_id=2)
        third = mlx.show(SMALL_GIF, "webcam", frame_id=3)

        dropped = await second.result()
        engine.start_saying(running, "A room.")
        engine.finish(running)
        engine.finish(await engine.request(1))

        assert (dropped.dropped, dropped.text, dropped.source, dropped.frame_id) == ("superseded", "", "webcam", 2)
        assert [delta async for delta in second] == []
        assert ((await first.result()).frame_id, (await third.result()).frame_id) == (1, 3)

    play(story)


def test_frames_that_may_not_be_dropped_wait_their_turn() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        replies = [mlx.show(SMALL_GIF, prompt=str(number), is_droppable=False) for number in range(4)]

        assert [await reply.text() for reply in replies] == ["0", "1", "2", "3"]

    play(story, parrot)


def test_watching_yields_what_is_said_of_the_newest_frames() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        is_shown = asyncio.Event()

        async def camera() -> AsyncIterator[bytes]:
            yield small_png("black")
            await is_shown.wait()  # frame 0 is being described now
            for colour in ("red", "green", "blue"):
                yield small_png(colour)

        async def describe() -> None:
            first = await engine.request(0)
            is_shown.set()
            while not any(request is not first and blue(request) for request in engine.requests.values()):
                engine.finish(engine.running[0]) if len(engine.requests) > 1 else engine.finish(first)
                await engine.request(len(engine.requests))
            engine.finish(engine.running[0])

        def blue(request: GenerationRequest) -> bool:
            return request.messages[0].images[0].pixels[:3] == b"\x00\x00\xff"

        describing = asyncio.create_task(describe())
        seen = [result.frame_id async for result in mlx.watch("webcam", camera(), "Colour?")]
        await describing

        assert seen[0] == 0
        assert seen[-1] == 3
        assert seen == sorted(seen)  # type: ignore[type-var]

    play(story)


def test_watching_reads_frames_that_block_in_a_thread() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        frames = iter([SMALL_GIF] * 3)

        results = [result async for result in mlx.watch("screen", frames, "What is it?")]

        assert {result.text for result in results} == {"What is it?"}
        assert {result.source for result in results} == {"screen"}
        assert results[-1].frame_id == 2

    play(story, parrot)


def test_watching_raises_what_the_frames_raise() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        async def camera() -> AsyncIterator[bytes]:
            yield SMALL_GIF
            raise OSError("unplugged")

        with pytest.raises(OSError, match="unplugged"):
            async for _ in mlx.watch("webcam", camera()):
                pass

    play(story, parrot)


def test_watching_waits_out_trouble_that_passes_and_raises_the_rest() -> None:
    def script(request: GenerationRequest) -> list[Update]:
        if request.messages[0].images[0].width == 1:
            return [Failed(request.id, "engine_restarted", "It died.", retryable=True)]
        return [Failed(request.id, "prompt_too_long", "Too long.")]

    async def story(mlx: Client, engine: Engine) -> None:
        async def camera() -> AsyncIterator[bytes]:
            yield SMALL_GIF
            await engine.request(0)
            yield small_png()

        with pytest.raises(ReplyError) as refused:
            async for _ in mlx.watch("webcam", camera()):
                pass

        assert refused.value.code == "prompt_too_long"

    play(story, script)


def test_to_stop_watching_cancels_the_frames_that_are_open() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        async def camera() -> AsyncIterator[bytes]:
            while True:
                yield SMALL_GIF
                await asyncio.sleep(0.001)

        watching = mlx.watch("webcam", camera())
        first = asyncio.ensure_future(anext(watching))
        engine.finish(await engine.request(0))
        await first
        await engine.request(1)

        await watching.aclose()
        await mlx.ping()  # what was sent before has been dealt with
        await mlx.ping()

        assert engine.running == []

    play(story)


# --- the rest ---------------------------------------------------------------------------


def test_settings_hold_from_the_next_request_on() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        settings = await mlx.configure(temperature=0.25, max_tokens=33, seed=None)
        await mlx.ask("Hi").text()

        assert (settings["temperature"], settings["max_tokens"], settings["seed"]) == (0.25, 33, None)
        choice = (await engine.request(0)).choice
        assert (choice.temperature, choice.max_tokens) == (0.25, 33)

    play(story, parrot)


def test_wrong_settings_raise_and_change_nothing() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        with pytest.raises(ReplyError) as refused:
            await mlx.configure(temperature=0.5, top_p=7)
        settings = await mlx.configure()

        assert (refused.value.code, refused.value.param) == ("invalid_config", "$.topP")
        assert settings["temperature"] == 0.7

    play(story)


def test_the_server_introduces_itself_and_tells_how_it_is() -> None:
    async def story(mlx: Client, engine: Engine) -> None:
        stats = await mlx.status()

        assert mlx.hello is not None
        assert mlx.hello.protocol == "mlx-websockets.v2"
        assert mlx.hello.model == {"id": "scripted", "vision": True}
        assert stats["model"]["name"] == "scripted"
        assert await mlx.ping() < PATIENCE

    play(story)


def talk_to(handler: Callable[[ServerConnection], Awaitable[None]], story: Callable[[Client], Awaitable[None]]) -> None:
    """Connect a client to a server that is written by hand."""

    async def tell() -> None:
        async with asyncio.timeout(PATIENCE), serve_sockets(handler, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with connect(f"ws://127.0.0.1:{port}") as mlx:
                await story(mlx)

    asyncio.run(tell())


def test_messages_of_a_newer_server_are_skipped() -> None:
    async def newer(socket: ServerConnection) -> None:
        await socket.send('{"type": "weather", "sun": true}')
        await socket.send("not even JSON")
        await socket.send(b"\xff")
        await socket.send('{"type": "error", "error": "Late.", "timestamp": 1, "code": "not_active", "new": 1}')
        await socket.recv()
        await socket.send('{"type": "token", "content": "Hi", "timestamp": 1, "id": "q1", "seq": 0, "new": 1}')
        await socket.send(
            '{"type": "response_complete", "full_text": "Hi", "timestamp": 1, "input_type": "text",'
            ' "inference_time": 1, "id": "q1"}'
        )
        await socket.wait_closed()

    async def story(mlx: Client) -> None:
        assert mlx.hello is None
        assert await mlx.ask("Hi").text() == "Hi"

    talk_to(newer, story)


def test_a_token_is_sent_as_a_bearer() -> None:
    headers: list[Any] = []

    async def note(socket: ServerConnection) -> None:
        assert socket.request is not None
        headers.append(socket.request.headers.get("Authorization"))
        await socket.wait_closed()

    async def tell() -> None:
        async with asyncio.timeout(PATIENCE), serve_sockets(note, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with connect(f"ws://127.0.0.1:{port}", token="secret"):
                while not headers:
                    await asyncio.sleep(0.005)

    asyncio.run(tell())

    assert headers == ["Bearer secret"]


def test_one_picture_goes_as_its_bytes_and_not_as_base64() -> None:
    heard: list[str | bytes] = []

    async def note(socket: ServerConnection) -> None:
        heard.append(await socket.recv())
        await socket.wait_closed()

    async def story(mlx: Client) -> None:
        await mlx.ask("?", images=[SMALL_GIF]).sent()
        while not heard:
            await asyncio.sleep(0.005)

    talk_to(note, story)

    assert isinstance(heard[0], bytes)
    assert heard[0].startswith(b"M\x01")
    assert heard[0].endswith(SMALL_GIF)
    assert base64.b64encode(SMALL_GIF) not in heard[0]

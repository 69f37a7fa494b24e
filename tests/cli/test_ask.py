"""`mlx ask` as a program of its own, talking to a real server."""

import json
from pathlib import Path

import pytest
from asking import mlx, on_record
from tests.client.answering import answering_elsewhere

from mlx_websockets.cli.reach import reach
from mlx_websockets.errors import NotRunning, UsageError
from mlx_websockets.generation import Delta, Finished, GenerationRequest, Started, Update, Usage

CIRCLE = str(Path(__file__).parents[2] / "examples/circle.png")


def ending(reason: str):
    def script(request: GenerationRequest) -> list[Update]:
        return [Started(request.id), Delta(request.id, "Once"), Finished(request.id, reason, Usage(output_tokens=1))]

    return script


def test_an_answer_is_printed_as_it_is_and_nothing_else():
    with answering_elsewhere() as url:
        told = mlx("ask", "Why is the sky blue?", "--url", url)

    assert (told.returncode, told.stdout, told.stderr) == (0, "Why is the sky blue?\n", "")


def test_several_answers_are_printed_one_below_the_other():
    with answering_elsewhere() as url:
        told = mlx("ask", "Who?", "--candidates", "2", "--url", url)
        plain = mlx("ask", "Who?", "--candidates", "2", "--json", "--url", url)

    assert told.stdout.splitlines() == ["Who?", "--- 2 of 2 ---", "Who?"]
    assert json.loads(plain.stdout)["candidates"] == [{"text": "Who?", "finish_reason": "stop"}] * 2


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_a_question_can_be_piped(arguments):
    with answering_elsewhere() as url:
        told = mlx("ask", *arguments, "--url", url, given="From a file\n")

    assert (told.returncode, told.stdout) == (0, "From a file\n")


def test_pictures_and_every_flag_reach_the_model():
    seen: list[GenerationRequest] = []

    def script(request: GenerationRequest) -> list[Update]:
        seen.append(request)
        return ending("stop")(request)

    flags = ["--system", "Be brief.", "--max-tokens", "9", "--temperature", "0", "--seed", "1", "--stop", "blue"]
    flags += ["--schema", '{"type": "object"}']
    with answering_elsewhere(script) as url:
        told = mlx("ask", "What is it?", "--image", CIRCLE, "--image", CIRCLE, *flags, "--url", url)

    [request] = seen
    assert (told.returncode, told.stdout, told.stderr) == (0, "Once\n", "")
    assert [message.text for message in request.messages] == ["Be brief.", "What is it?"]
    assert len(request.messages[-1].images) == 2
    assert (request.choice.max_tokens, request.choice.temperature, request.choice.stop) == (9, 0, ("blue",))
    assert request.choice.json_schema == '{"type":"object"}'


def test_a_schema_may_be_in_a_file(tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}', "utf-8")
    seen: list[GenerationRequest] = []

    def script(request: GenerationRequest) -> list[Update]:
        seen.append(request)
        return [Started(request.id), Delta(request.id, "{}"), Finished(request.id, "stop")]

    with answering_elsewhere(script) as url:
        told = mlx("ask", "What is it?", "--schema", str(schema), "--url", url)

    assert (told.returncode, told.stdout, told.stderr) == (0, "{}\n", "")
    assert [request.choice.json_schema for request in seen] == ['{"type":"object"}']


def test_json_that_was_cut_is_a_failure():
    with answering_elsewhere(ending("length")) as url:
        told = mlx("ask", "Tell me a story.", "--schema", "{}", "--url", url)

    assert (told.returncode, told.stdout) == (1, "Once\n")
    assert "--max-tokens" in told.stderr


def test_a_schema_that_is_refused_is_told_with_its_reason():
    with answering_elsewhere() as url:
        told = mlx("ask", "Hi", "--schema", '{"type": "unicorn"}', "--url", url)

    assert (told.returncode, told.stdout) == (1, "")
    assert "`type` is one of object" in told.stderr


def test_a_picture_needs_no_question():
    with answering_elsewhere() as url:
        told = mlx("ask", "--image", CIRCLE, "--url", url)

    assert told.stdout == "Describe what you see.\n"


def test_json_is_one_object_with_what_the_reply_cost():
    with answering_elsewhere() as url:
        told = json.loads(mlx("ask", "one two", "--json", "--url", url).stdout)

    assert (told["text"], told["finish_reason"]) == ("one two", "stop")
    assert told["usage"]["output_tokens"] == 2
    assert told["timings"].keys() >= {"ttft_ms", "tokens_per_second"}


def test_a_reply_that_was_cut_says_so_beside_the_text():
    with answering_elsewhere(ending("length")) as url:
        told = mlx("ask", "Tell me a story.", "--url", url)

    assert (told.returncode, told.stdout) == (0, "Once\n")
    assert "--max-tokens" in told.stderr


def test_a_refusal_is_told_with_its_reason_and_ends_with_1():
    with answering_elsewhere() as url:
        told = mlx("ask", "Hi", "--temperature", "3", "--url", url)

    assert (told.returncode, told.stdout) == (1, "")
    assert "temperature" in told.stderr
    assert "→" in told.stderr


def test_no_server_ends_with_3_and_says_how_to_start_one():
    told = mlx("ask", "Hi", "--url", "ws://localhost:9")

    assert (told.returncode, told.stdout) == (3, "")
    assert "mlx serve" in told.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--image", "no-such.png"), "no-such.png can't be read"),
        (("--image", __file__), "is no JPEG, PNG, WebP or GIF file"),
        (("--url", "ftp://there"), "no address of a server"),
        (("--token-file", "no-such-file"), "There is no file no-such-file"),
        (("--schema", "no-such.json"), "no-such.json can't be read"),
        (("--schema", __file__), "--schema is not JSON"),
        (("--schema", "{"), "--schema is not JSON"),
    ],
)
def test_what_is_wrong_here_is_told_before_anybody_is_asked(arguments, said):
    told = mlx("ask", "Hi", *arguments)

    assert (told.returncode, told.stdout) == (2, "")
    assert said in told.stderr


def test_without_a_question_it_says_how_to_ask():
    told = mlx("ask", given="")

    assert told.returncode == 2
    assert 'mlx ask "' in told.stderr


def test_the_environment_names_the_server_and_the_token():
    with answering_elsewhere() as url:
        assert mlx("ask", "Hi", MLX_WS_URL=url, MLX_WS_TOKEN="x" * 32).stdout == "Hi\n"


def test_the_server_on_record_is_found(tmp_path):
    environment = {"MLX_WS_STATE": str(tmp_path)}

    assert reach(environment=environment).url == "ws://localhost:8765"
    with on_record(tmp_path, port=8123):
        assert reach(environment=environment).url == "ws://localhost:8123"
        assert reach("gpu.lan:8000", environment=environment).url == "ws://gpu.lan:8000"
        assert reach("https://gpu.lan", environment=environment).url == "wss://gpu.lan"
        assert reach("mlx://studio", environment=environment).url == "mlx://studio"
        assert reach("mlx://", environment=environment).url == "mlx://"
        with on_record(tmp_path, port=8124), pytest.raises(UsageError, match="2 servers are running"):
            reach(environment=environment)
    with on_record(tmp_path, port=8123, state="loading"), pytest.raises(NotRunning, match="still being loaded"):
        reach(environment=environment)


def test_a_model_of_the_server_is_chosen_and_one_that_it_lacks_is_told_with_those_it_has():
    with answering_elsewhere() as url:
        chosen = mlx("ask", "Hello", "--model", "scripted", "--url", url)
        refused = mlx("ask", "Hello", "--model", "another", "--url", url)

    assert (chosen.returncode, chosen.stdout) == (0, "Hello\n")
    assert (refused.returncode, refused.stdout) == (5, "")
    assert "it has scripted." in refused.stderr
    assert "--model" in refused.stderr

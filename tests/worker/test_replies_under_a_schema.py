"""Replies that have to meet a schema, from the request to the last update: the real loop, real models."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mlx_websockets.engine.messages import FromWorker, ModelSpec, Stop, Submit, ToWorker, Updates
from mlx_websockets.engine.worker.startup import prepare
from mlx_websockets.generation import ChatMessage, Choice, Delta, Failed, Finished, GenerationRequest, Image


def only(**properties: dict[str, Any]) -> dict[str, Any]:
    """An object with these properties, each of them, and no others."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


DIGITS = {"type": "integer", "minimum": 0, "maximum": 999}

SCHEMAS: list[dict[str, Any]] = [
    only(colour={"enum": ["red", "blue"]}, size=DIGITS),
    only(corners={"type": "array", "items": DIGITS, "minItems": 2, "maxItems": 4}),
    only(inner=only(seen={"type": "boolean"}, label={"type": "string", "maxLength": 8})),
    {"anyOf": [only(none={"type": "null"}), {"type": "string", "pattern": "^[a-z]{3,5}-[0-9]{2}$"}]},
    {"oneOf": [only(kind={"const": kind}) for kind in ("circle", "square")]},
]


class Errands:
    """The server's end of the channel: hands requests in, keeps what is said of them, and stops the loop at last.

    Attributes:
        texts: by id, of each candidate.
        ends: by id.
    """

    def __init__(self, requests: tuple[GenerationRequest, ...]) -> None:
        self._to_hand_in: list[ToWorker] = [Submit(request) for request in requests]
        self.texts = {request.id: [""] * request.choice.candidates for request in requests}
        self.ends: dict[int, Finished | Failed] = {}

    def send(self, message: FromWorker) -> None:
        for update in message.updates if isinstance(message, Updates) else ():
            if isinstance(update, Delta):
                self.texts[update.id][update.candidate] += update.text
            elif isinstance(update, Finished | Failed):
                assert update.id not in self.ends
                self.ends[update.id] = update

    def receive(self, timeout: float) -> ToWorker | None:
        return self._to_hand_in.pop(0) if self._to_hand_in else None

    def received(self) -> list[ToWorker]:
        if self.ends.keys() == self.texts.keys():
            return [Stop()]
        handed_in, self._to_hand_in = self._to_hand_in, []
        return handed_in


def answers(folder: Path, *requests: GenerationRequest) -> Errands:
    """What a worker that serves this model says, all requests handed in at once."""
    errands = Errands(requests)
    prepare(errands, ModelSpec(model=str(folder), rows=16)).run()
    return errands


def request(number: int, schema: object = None, *, sees: bool = False, **choice: Any) -> GenerationRequest:
    images = (Image(64, 64, bytes([number * 7 % 256]) * (64 * 64 * 3)),) if sees else ()
    settings = {"max_tokens": 400, "temperature": 1.0, "seed": number, "json_schema": schema and json.dumps(schema)}
    message = ChatMessage("user", f"What is number {number}?", images)
    return GenerationRequest(id=number, messages=(message,), choice=Choice(**(settings | choice)))


@pytest.mark.parametrize("sees", [True, False])
def test_whatever_a_model_says_meets_the_schema(tiny_gemma3: Path, sees: bool):
    asked = {number: SCHEMAS[number % len(SCHEMAS)] for number in range(30)}

    errands = answers(tiny_gemma3, *(request(number, schema, sees=sees) for number, schema in asked.items()))

    for number, schema in asked.items():
        end, [text] = errands.ends[number], errands.texts[number]
        assert isinstance(end, Finished) and end.reason == "stop"
        jsonschema.validate(json.loads(text), schema)


def test_a_schema_of_one_row_changes_no_other_row(tiny_gemma3: Path):
    free = [request(number, max_tokens=40, temperature=0.3 * (number % 3)) for number in range(6)]
    held = [request(10 + number, schema) for number, schema in enumerate(SCHEMAS)]
    alone = {each.id: answers(tiny_gemma3, each).texts[each.id] for each in (*free, *held)}

    mixed = answers(tiny_gemma3, *free[:3], *held, *free[3:])

    assert mixed.texts == alone


def test_every_candidate_meets_the_schema(tiny_gemma3: Path):
    schema = SCHEMAS[0]

    errands = answers(tiny_gemma3, request(1, schema, candidates=4))

    end = errands.ends[1]
    assert isinstance(end, Finished) and end.candidate_reasons == ("stop",) * 4
    for text in errands.texts[1]:
        jsonschema.validate(json.loads(text), schema)
    assert len(set(errands.texts[1])) > 1


def test_a_reply_without_room_for_its_end_says_so(tiny_gemma3: Path):
    schema = only(words={"type": "array", "items": {"type": "string", "minLength": 9}, "minItems": 9})

    errands = answers(tiny_gemma3, request(1, schema, max_tokens=20))

    end, [text] = errands.ends[1], errands.texts[1]
    assert isinstance(end, Finished) and (end.reason, end.usage.output_tokens) == ("length", 20)
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


def test_a_reply_that_is_whole_with_its_last_token_was_not_cut(tiny_gemma3: Path):
    schema = only(seen={"type": "boolean"})
    tokens = answers(tiny_gemma3, request(1, schema)).ends[1]
    assert isinstance(tokens, Finished)

    errands = answers(tiny_gemma3, request(1, schema, max_tokens=tokens.usage.output_tokens))

    end, [text] = errands.ends[1], errands.texts[1]
    assert isinstance(end, Finished) and end.reason == "stop"
    jsonschema.validate(json.loads(text), schema)


def test_a_schema_that_cannot_be_followed_fails_its_own_request_only(tiny_gemma3: Path):
    alone = answers(tiny_gemma3, request(2, max_tokens=20)).texts[2]

    errands = answers(tiny_gemma3, request(1, {"not": {"type": "string"}}), request(2, max_tokens=20))

    failure = errands.ends[1]
    assert isinstance(failure, Failed) and (failure.code, failure.retryable) == ("unsupported_schema", False)
    assert errands.texts[2] == alone


def test_a_schema_that_gets_too_complex_on_the_way_fails_its_own_request_only(tiny_gemma3: Path):
    schema = only(a={"type": "string", "pattern": "^(.*a.{1,60}){1,60}$"})
    alone = answers(tiny_gemma3, request(2, max_tokens=200)).texts[2]

    errands = answers(tiny_gemma3, request(1, schema, candidates=2), request(2, max_tokens=200))

    failure = errands.ends[1]
    assert isinstance(failure, Failed) and failure.code == "schema_too_complex"
    assert errands.texts[2] == alone


def test_penalties_likelihoods_and_stop_strings_work_under_a_schema(tiny_gemma3: Path):
    schema = SCHEMAS[2]

    errands = answers(
        tiny_gemma3,
        request(1, schema, repetition_penalty=1.5, top_k=5, top_p=0.9, min_p=0.01, logprobs=3),
        request(2, only(colour={"enum": ["red", "blue"]}), stop=('"',)),
    )

    jsonschema.validate(json.loads(errands.texts[1][0]), schema)
    assert errands.texts[2] == ["{"]


def test_a_model_with_words_fills_a_form(smollm2: Path):
    schema = only(capital={"type": "string", "maxLength": 20})
    question = ChatMessage("user", "What is the capital of France? Reply in JSON.")
    choice = Choice(max_tokens=40, json_schema=json.dumps(schema))

    errands = answers(smollm2, GenerationRequest(id=1, messages=(question,), choice=choice))

    assert json.loads(errands.texts[1][0]) == {"capital": "Paris"}

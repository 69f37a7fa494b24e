"""Replies that have to meet a schema, from the request to the last update: the real loop, real models."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import mlx_vlm
import pytest

from mlx_websockets.engine.messages import FromWorker, Stop, Submit, ToWorker, Updates
from mlx_websockets.engine.worker.batcher import Batcher
from mlx_websockets.engine.worker.grammar import Grammars
from mlx_websockets.engine.worker.loop import WorkerLoop
from mlx_websockets.engine.worker.prefixes import KeptPrefixes
from mlx_websockets.engine.worker.prompts import Prompts
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


class Worker:
    """A model and all that answers with it."""

    def __init__(self, folder: Path, *, sees: bool) -> None:
        self.model, self.processor = mlx_vlm.load(str(folder))
        self.tokenizer: Any = getattr(self.processor, "tokenizer", self.processor)
        self.prompts = Prompts(self.model, self.processor, self.tokenizer, sees=sees, context_tokens=8192)
        self.grammars = Grammars(self.tokenizer)

    def answers(self, *requests: GenerationRequest) -> Errands:
        errands = Errands(requests)
        kept = KeptPrefixes(0)
        WorkerLoop(errands, self.prompts, self.tokenizer, self._new_batcher, kept, self.grammars, 8192).run()
        return errands

    def _new_batcher(self) -> Batcher:
        return Batcher(self.model, self.tokenizer.stopping_criteria, rows=16, prefill_chunk=64)


@pytest.fixture(scope="module")
def worker(tiny_gemma3: Path) -> Iterator[Worker]:
    worker = Worker(tiny_gemma3, sees=True)
    yield worker
    worker.grammars.close()


def request(number: int, schema: object = None, *, sees: bool = False, **choice: Any) -> GenerationRequest:
    images = (Image(64, 64, bytes([number * 7 % 256]) * (64 * 64 * 3)),) if sees else ()
    settings = {"max_tokens": 400, "temperature": 1.0, "seed": number, "json_schema": schema and json.dumps(schema)}
    message = ChatMessage("user", f"What is number {number}?", images)
    return GenerationRequest(id=number, messages=(message,), choice=Choice(**(settings | choice)))


@pytest.mark.parametrize("sees", [True, False])
def test_whatever_a_model_says_meets_the_schema(worker: Worker, sees: bool):
    asked = {number: SCHEMAS[number % len(SCHEMAS)] for number in range(30)}

    errands = worker.answers(*(request(number, schema, sees=sees) for number, schema in asked.items()))

    for number, schema in asked.items():
        end, [text] = errands.ends[number], errands.texts[number]
        assert isinstance(end, Finished) and end.reason == "stop"
        jsonschema.validate(json.loads(text), schema)


def test_a_schema_of_one_row_changes_no_other_row(worker: Worker):
    free = [request(number, max_tokens=40, temperature=0.3 * (number % 3)) for number in range(6)]
    held = [request(10 + number, schema) for number, schema in enumerate(SCHEMAS)]
    alone = {each.id: worker.answers(each).texts[each.id] for each in (*free, *held)}

    mixed = worker.answers(*free[:3], *held, *free[3:])

    assert mixed.texts == alone


def test_every_candidate_meets_the_schema(worker: Worker):
    schema = SCHEMAS[0]

    errands = worker.answers(request(1, schema, candidates=4))

    end = errands.ends[1]
    assert isinstance(end, Finished) and end.candidate_reasons == ("stop",) * 4
    for text in errands.texts[1]:
        jsonschema.validate(json.loads(text), schema)
    assert len(set(errands.texts[1])) > 1


def test_a_reply_without_room_for_its_end_says_so(worker: Worker):
    schema = only(words={"type": "array", "items": {"type": "string", "minLength": 9}, "minItems": 9})

    errands = worker.answers(request(1, schema, max_tokens=20))

    end, [text] = errands.ends[1], errands.texts[1]
    assert isinstance(end, Finished) and (end.reason, end.usage.output_tokens) == ("length", 20)
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


def test_a_reply_that_is_whole_with_its_last_token_was_not_cut(worker: Worker):
    schema = only(seen={"type": "boolean"})
    tokens = worker.answers(request(1, schema)).ends[1]
    assert isinstance(tokens, Finished)

    errands = worker.answers(request(1, schema, max_tokens=tokens.usage.output_tokens))

    end, [text] = errands.ends[1], errands.texts[1]
    assert isinstance(end, Finished) and end.reason == "stop"
    jsonschema.validate(json.loads(text), schema)


def test_a_schema_that_cannot_be_followed_fails_its_own_request_only(worker: Worker):
    alone = worker.answers(request(2, max_tokens=20)).texts[2]

    errands = worker.answers(request(1, {"not": {"type": "string"}}), request(2, max_tokens=20))

    failure = errands.ends[1]
    assert isinstance(failure, Failed) and (failure.code, failure.retryable) == ("unsupported_schema", False)
    assert errands.texts[2] == alone


def test_a_schema_that_gets_too_complex_on_the_way_fails_its_own_request_only(worker: Worker):
    schema = only(a={"type": "string", "pattern": "^(.*a.{1,60}){1,60}$"})
    alone = worker.answers(request(2, max_tokens=200)).texts[2]

    errands = worker.answers(request(1, schema, candidates=2), request(2, max_tokens=200))

    failure = errands.ends[1]
    assert isinstance(failure, Failed) and failure.code == "schema_too_complex"
    assert errands.texts[2] == alone


def test_penalties_likelihoods_and_stop_strings_work_under_a_schema(worker: Worker):
    schema = SCHEMAS[2]

    errands = worker.answers(
        request(1, schema, repetition_penalty=1.5, top_k=5, top_p=0.9, min_p=0.01, logprobs=3),
        request(2, only(colour={"enum": ["red", "blue"]}), stop=('"',)),
    )

    jsonschema.validate(json.loads(errands.texts[1][0]), schema)
    assert errands.texts[2] == ["{"]


def test_a_model_with_words_fills_a_form(smollm2: Path):
    worker = Worker(smollm2, sees=False)
    schema = only(city={"type": "string", "maxLength": 20}, country={"enum": ["France", "Italy"]})
    question = ChatMessage("user", 'Which city is the capital of France? Reply in JSON with "city" and "country".')
    choice = Choice(max_tokens=40, json_schema=json.dumps(schema))

    errands = worker.answers(GenerationRequest(id=1, messages=(question,), choice=choice))
    worker.grammars.close()

    assert json.loads(errands.texts[1][0]) == {"city": "Paris", "country": "France"}

"""What a reply may say next under a schema: real tokenizers, no model."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import mlx_vlm
import numpy as np
import psutil
import pytest

from mlx_websockets.engine.worker.prompting.prompts import MAX_MESSAGES, Prompts
from mlx_websockets.engine.worker.reply.compiler import Rehearsal
from mlx_websockets.engine.worker.reply.grammar import Grammar, Grammars
from mlx_websockets.errors import EngineError


def only(**properties: dict[str, Any]) -> dict[str, Any]:
    """An object with these properties, each of them, and no others."""
    return {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False
    }  # fmt: skip


LEAF = {"type": "object", "properties": {"left": {"$ref": "#/$defs/tree"}}, "additionalProperties": False}

SCHEMAS: dict[str, dict[str, Any]] = {
    "nested": only(
        colour={"enum": ["red", "blue"]},
        size={"type": "number", "minimum": 0, "maximum": 100},
        corners={"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3},
        inner=only(seen={"type": "boolean"}),
    ),
    "either": {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^[a-z]{3}$"}]},
    "tagged": {"oneOf": [only(kind={"const": kind}) for kind in ("circle", "square")]},
    "text": only(says={"type": "string", "maxLength": 20}),
    "reference": {"$ref": "#/$defs/tree", "$defs": {"tree": LEAF}},
    "formatted": {"type": "string", "format": "date"},
}


class Vocabulary:
    """A model's tokenizer, with the stand-ins that prompts put into it."""

    def __init__(self, folder: Path) -> None:
        model, processor = mlx_vlm.load(str(folder), lazy=True)
        self.tokenizer: Any = getattr(processor, "tokenizer", processor)
        self.own = len(self.tokenizer)
        self.size: int = getattr(model.config, "text_config", model.config).vocab_size
        Prompts(model, processor, self.tokenizer, sees=False, context_tokens=8192)
        self.ends: set[int] = set(self.tokenizer.stopping_criteria.eos_token_ids)
        self.grammars = Grammars(self.tokenizer)

    def allowed(self, grammar: Grammar) -> list[int]:
        mask = np.full(-(-self.size // 32), -1, dtype=np.int32)
        grammar.fill(mask)
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
        tokens: list[int] = np.nonzero(bits)[0].tolist()
        return tokens

    def text(self, tokens: list[int]) -> str:
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def said_by_chance(self, schema: dict[str, Any], seed: int, most: int = 2000) -> str | None:
        """What a model that knows nothing says under a schema; None if it finds no end."""
        chance = random.Random(seed)
        grammar = self.grammars.grammar(json.dumps(schema))
        said: list[int] = []
        while len(said) < most:
            token = chance.choice(self.allowed(grammar))
            if token in self.ends:
                return self.text(said)
            grammar.accept(token)
            said.append(token)
        return None


@pytest.fixture(scope="module")
def vocabulary(tiny_gemma3: Path) -> Iterator[Vocabulary]:
    vocabulary = Vocabulary(tiny_gemma3)
    yield vocabulary
    vocabulary.grammars.close()


def grammar_at(vocabulary: Vocabulary, schema: dict[str, Any], text: str) -> Grammar:
    """A grammar after what was said."""
    grammar = vocabulary.grammars.grammar(json.dumps(schema))
    for token in vocabulary.ids(text):
        assert token in vocabulary.allowed(grammar), vocabulary.text([token])
        grammar.accept(token)
    return grammar


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_whatever_is_said_meets_the_schema(vocabulary: Vocabulary, schema: dict[str, Any]) -> None:
    texts = [vocabulary.said_by_chance(schema, seed) for seed in range(20)]

    whole = [text for text in texts if text is not None]
    assert len(whole) >= 15
    for text in whole:
        jsonschema.validate(json.loads(text), schema)


def test_whatever_is_said_meets_the_schema_with_a_real_vocabulary_too(smollm2: Path) -> None:
    vocabulary = Vocabulary(smollm2)

    for schema in SCHEMAS.values():
        text = vocabulary.said_by_chance(schema, seed=1)
        if text is not None:
            jsonschema.validate(json.loads(text), schema)
    vocabulary.grammars.close()


def test_a_whole_reply_may_only_end(vocabulary: Vocabulary) -> None:
    grammar = grammar_at(vocabulary, only(a={"type": "integer"}), '{"a": 1}')

    assert grammar.is_finished
    assert set(vocabulary.allowed(grammar)) == vocabulary.ends


def test_a_reply_that_could_go_on_may_end_too(vocabulary: Vocabulary) -> None:
    grammar = grammar_at(vocabulary, {"type": "integer"}, "12")

    assert not grammar.is_finished
    assert vocabulary.ends < set(vocabulary.allowed(grammar))


def test_a_reply_that_is_not_whole_may_not_end(vocabulary: Vocabulary) -> None:
    grammar = grammar_at(vocabulary, {"type": "object"}, "{")

    assert vocabulary.ends.isdisjoint(vocabulary.allowed(grammar))


def test_an_end_that_was_said_changes_nothing(vocabulary: Vocabulary) -> None:
    grammar = grammar_at(vocabulary, {"type": "boolean"}, "true")

    for end in vocabulary.ends:
        grammar.accept(end)

    assert grammar.failure is None
    assert set(vocabulary.allowed(grammar)) == vocabulary.ends


def test_within_a_string_no_control_token_and_no_stand_in_may_be_said(vocabulary: Vocabulary) -> None:
    grammar = grammar_at(vocabulary, {"type": "string"}, '"')

    allowed = set(vocabulary.allowed(grammar))

    assert len(allowed) > 400
    assert allowed.isdisjoint(vocabulary.tokenizer.added_tokens_decoder)
    assert allowed.isdisjoint(range(vocabulary.own, vocabulary.own + MAX_MESSAGES))


def test_a_model_may_know_fewer_tokens_than_its_tokenizer_and_more(vocabulary: Vocabulary) -> None:
    grammar = vocabulary.grammars.grammar('{"type":"string"}')
    few, many = np.full(2, -1, dtype=np.int32), np.full(999, -1, dtype=np.int32)

    grammar.fill(few)
    grammar.fill(many)

    assert (few == many[:2]).all()
    assert not many[-(-len(vocabulary.tokenizer) // 32) :].any()


def test_spaces_stand_where_people_put_one_and_nowhere_else(vocabulary: Vocabulary) -> None:
    grammar = grammar_at(vocabulary, {"type": "object"}, '{"a": 1, "b": [1,2]')

    texts = [vocabulary.text([token]) for token in vocabulary.allowed(grammar)]

    assert not any(text.isspace() for text in texts)


def test_replies_under_one_schema_do_not_know_of_each_other(vocabulary: Vocabulary) -> None:
    one = grammar_at(vocabulary, {"type": "boolean"}, "true")

    other = vocabulary.grammars.grammar('{"type": "boolean"}')

    assert one.is_finished and not other.is_finished


def test_a_token_that_was_not_allowed_ends_the_reply_in_words(vocabulary: Vocabulary) -> None:
    grammar = vocabulary.grammars.grammar('{"type":"integer"}')

    grammar.accept(vocabulary.ids("{")[0])

    assert grammar.failure is not None and grammar.is_finished
    assert set(vocabulary.allowed(grammar)) == vocabulary.ends


PATTERNS = [{"type": "string", "pattern": f"^[a-z]*p{number}[a-z]*$"} for number in range(24)]


@pytest.mark.parametrize(
    ("schema", "code"),
    [
        ({"not": {"type": "integer"}}, "unsupported_schema"),
        ({"if": {"type": "integer"}, "then": {"minimum": 3}}, "unsupported_schema"),
        ({"type": "string", "format": "unicorn"}, "unsupported_schema"),
        ({"type": "string", "pattern": "("}, "unsupported_schema"),
        ({"type": "string", "pattern": r"(a)\1"}, "unsupported_schema"),
        ({"$ref": "#/$defs/missing"}, "unsupported_schema"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "unsupported_schema"),
        ({"allOf": PATTERNS}, "schema_too_complex"),
        ({"allOf": [{"type": "integer", "multipleOf": number} for number in range(2, 99)]}, "schema_too_complex"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused_in_words(
    vocabulary: Vocabulary, schema: dict[str, Any], code: str
) -> None:
    with pytest.raises(EngineError) as refused:
        vocabulary.grammars.grammar(json.dumps(schema))

    assert refused.value.code == code
    assert str(refused.value).endswith(".") and len(str(refused.value)) < 250


ENDLESS = {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]}


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": [f"word {number}" for number in range(2000)]},
        {"type": "array", "items": {"type": "integer"}, "minItems": 1_000_000},
        {"type": "string", "minLength": 1_000_000},
        {"type": "string", "pattern": "^((a{1,100}){1,100}){1,100}$"},
        only(a={"type": "string", "pattern": "^(.*a.{1,60}){1,60}$"}),
        {"$ref": "#/$defs/a", "$defs": {"a": ENDLESS}},
        {"$ref": "#"},
    ],
)
def test_a_schema_without_a_good_end_is_followed_or_fails_in_words(
    vocabulary: Vocabulary, schema: dict[str, Any]
) -> None:
    chance = random.Random(1)
    try:
        grammar = vocabulary.grammars.grammar(json.dumps(schema))
    except EngineError as error:
        failure: EngineError | None = error
    else:
        for _ in range(200):
            grammar.accept(chance.choice(vocabulary.allowed(grammar)))
        failure = grammar.failure

    assert failure is None or failure.code in ("unsupported_schema", "schema_too_complex")


def test_a_refusal_is_remembered_and_costs_once(vocabulary: Vocabulary) -> None:
    schema = json.dumps({"allOf": PATTERNS, "title": "again"})

    refusals = []
    for _ in range(2):
        with pytest.raises(EngineError) as refused:
            vocabulary.grammars.grammar(schema)
        refusals.append(refused.value)

    assert refusals[0] is refusals[1]


def test_a_process_that_was_stopped_over_a_schema_is_followed_by_another() -> None:
    rehearse = Rehearsal()

    with pytest.raises(EngineError, match="too complex"):
        rehearse(json.dumps({"allOf": PATTERNS}))
    rehearse('{"type":"string"}')

    rehearse.close()


def test_a_process_that_somebody_else_ended_is_followed_by_another() -> None:
    rehearse = Rehearsal()
    rehearse('{"type":"string"}')
    [process] = [each for each in psutil.Process().children() if Rehearsal.__module__ in each.cmdline()]
    process.kill()
    psutil.wait_procs([process], timeout=10)

    rehearse('{"type":"string"}')

    rehearse.close()


def test_no_process_is_left_after_the_end() -> None:
    rehearse = Rehearsal()
    rehearse('{"type":"string"}')

    rehearse.close()

    assert not [each for each in psutil.Process().children() if Rehearsal.__module__ in each.cmdline()]


def test_a_rehearsal_can_be_closed_twice() -> None:
    rehearse = Rehearsal()

    rehearse.close()
    rehearse.close()

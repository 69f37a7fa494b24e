"""What a peer may ask a reply to look like: which schemas are taken, and why the others are not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_websockets.errors import InvalidMessage
from mlx_websockets.protocols.response_format import MAX_SCHEMA_BYTES, MAX_SCHEMA_DEPTH, json_schema

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    "wanted",
    [
        PERSON,
        {"type": "json_schema", "schema": PERSON},
        {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}},
    ],
)
def test_a_schema_is_found_in_each_shape_that_clients_send(wanted: object) -> None:
    text = json_schema(wanted)

    assert text is not None and json.loads(text) == PERSON


@pytest.mark.parametrize("wanted", [None, {"type": "text"}])
def test_free_text_is_no_schema(wanted: object) -> None:
    assert json_schema(wanted) is None


def test_any_object_is_a_schema_too() -> None:
    assert json_schema({"type": "json_object"}) == '{"type":"object"}'


def test_properties_keep_their_order_because_the_reply_will_have_it() -> None:
    text = json_schema({"properties": {"z": {}, "a": {}, "m": {}}})

    assert text == '{"properties":{"z":{},"a":{},"m":{}}}'


def test_what_a_schema_lists_as_values_is_not_taken_for_schemas() -> None:
    listed = {"enum": [{"$ref": "http://example.org"}, {"type": "unicorn"}], "default": {"type": 5}}

    assert json_schema(listed) == json.dumps(listed, separators=(",", ":"))


@pytest.mark.parametrize(
    ("wanted", "path"),
    [
        ("json", ""),
        (5, ""),
        (True, ""),
        ([], ""),
        ({"type": "unicorn"}, ".type"),
        ({"type": []}, ".type"),
        ({"type": ["string", 5]}, ".type"),
        ({"type": "json_schema"}, ".schema"),
        ({"type": "json_schema", "schema": True}, ".schema"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, ".json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"schema": {"type": 5}}}, ".json_schema.schema.type"),
        ({"properties": []}, ".properties"),
        ({"properties": {"a": 5}}, ".properties.a"),
        ({"properties": {"a": {"type": "int"}}}, ".properties.a.type"),
        ({"$ref": "https://example.org/schema.json"}, ".$ref"),
        ({"$ref": "other.json#/a"}, ".$ref"),
        ({"$defs": {"a": {"$ref": "file:///etc/passwd"}}}, ".$defs.a.$ref"),
        ({"items": {"$dynamicRef": "http://example.org"}}, ".items.$dynamicRef"),
        ({"anyOf": []}, ".anyOf"),
        ({"anyOf": [{}, 5]}, ".anyOf[1]"),
        ({"prefixItems": [{"enum": []}]}, ".prefixItems[0].enum"),
        ({"items": [{"pattern": 5}]}, ".items[0].pattern"),
        ({"additionalProperties": "no"}, ".additionalProperties"),
        ({"required": "name"}, ".required"),
        ({"minItems": -1}, ".minItems"),
        ({"maxLength": True}, ".maxLength"),
    ],
)
def test_what_is_no_schema_is_refused_and_named(wanted: object, path: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        json_schema(wanted)

    assert (refused.value.code, refused.value.path) == ("invalid_schema", f"$.response_format{path}")
    assert refused.value.reason.endswith(".")


def test_a_schema_has_a_size() -> None:
    json_schema({"description": "d" * (MAX_SCHEMA_BYTES - 18)})

    with pytest.raises(InvalidMessage, match=str(MAX_SCHEMA_BYTES)) as refused:
        json_schema({"description": "d" * (MAX_SCHEMA_BYTES - 17)})

    assert refused.value.code == "schema_too_large"


def test_a_schema_has_a_depth() -> None:
    json_schema(nested(MAX_SCHEMA_DEPTH))

    with pytest.raises(InvalidMessage, match=str(MAX_SCHEMA_DEPTH)) as refused:
        json_schema(nested(MAX_SCHEMA_DEPTH + 1))

    assert refused.value.code == "schema_too_large"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ("type", "$ref", "properties", "anyOf", "items", "enum", "schema", "json_schema", "required")
            )
            | st.text(max_size=3),
            inner | st.sampled_from(("json_schema", "json_object", "text", "object", "#/$defs/a", [])),
            max_size=5,
        )
    ),
    max_leaves=30,
)


@given(ANYTHING)
def test_anything_at_all_is_taken_or_refused_in_words(wanted: object) -> None:
    try:
        text = json_schema(wanted)
        code = None
    except InvalidMessage as refused:
        text, code = None, refused.code

    assert code in (None, "invalid_schema", "schema_too_large")
    assert text is None or isinstance(json.loads(text), dict)

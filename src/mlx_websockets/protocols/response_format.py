"""What a peer wants the reply to look like: `response_format` to a JSON schema that can be followed.

The shapes that clients of other servers send are understood too. What is checked here is
checked without a model: that it is a schema, of bounded size, which refers to nothing outside
itself. Whether a grammar can be made of it is found out where there is a tokenizer.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from mlx_websockets.errors import InvalidMessage

MAX_SCHEMA_BYTES = 32 * 1024
MAX_SCHEMA_DEPTH = 32
"""Lists and objects within each other. A model has to follow it all, token by token."""

REMEMBERED = 64
"""Schemas that were found sound."""

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")

PATH = "$.response_format"


def json_schema(response_format: object) -> str | None:
    """The schema in `response_format` as JSON text, its properties in the order given; None: free text.

    Raises:
        InvalidMessage: code `invalid_schema` or `schema_too_large`; its path names the part.
    """
    schema, path = _schema_in(response_format)
    if schema is None:
        return None
    text = _text(schema, path)
    _check(text, path)
    return text.decode()


def _schema_in(wanted: object) -> tuple[object, str]:
    """The schema and where it stands, whichever of the known shapes it came in."""
    if wanted is None or wanted == {"type": "text"}:
        return None, PATH
    if not isinstance(wanted, dict):
        raise _invalid("`response_format` must be a JSON schema, an object", PATH)
    if wanted.get("type") == "json_object":
        return {"type": "object"}, PATH
    if wanted.get("type") != "json_schema":
        return wanted, PATH
    place, path = wanted, PATH
    if isinstance(wanted.get("json_schema"), dict):
        place, path = wanted["json_schema"], f"{PATH}.json_schema"
    if place.get("schema") is None:
        raise _invalid("The field `schema` is missing", f"{path}.schema")
    return place["schema"], f"{path}.schema"


def _text(schema: object, path: str) -> bytes:
    try:
        text = msgspec.json.encode(schema)
    except (UnicodeError, ValueError, RecursionError):
        raise _invalid("A JSON schema is plain JSON", path) from None
    if len(text) > MAX_SCHEMA_BYTES:
        reason = f"A JSON schema has at most {MAX_SCHEMA_BYTES} bytes, this one has {len(text)}."
        raise InvalidMessage(reason, path, "schema_too_large")
    return text


@functools.lru_cache(maxsize=REMEMBERED)
def _check(text: bytes, path: str) -> None:
    """Refuse what is too deep, or no schema. A camera sends the same with each frame: it is looked through once."""
    schema = msgspec.json.decode(text)
    if _is_deeper(schema, MAX_SCHEMA_DEPTH):
        reason = f"A JSON schema is nested at most {MAX_SCHEMA_DEPTH} levels deep."
        raise InvalidMessage(reason, path, "schema_too_large")
    _check_schema(schema, path)


def _is_deeper(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(each, levels - 1) for each in inner)


def _check_schema(schema: object, path: str) -> None:
    """Refuse what is no schema, there or anywhere inside. Values that a schema lists are left alone."""
    if not isinstance(schema, dict):
        raise _invalid("A JSON schema is an object", path)
    for name, value in schema.items():
        where = f"{path}.{name}"
        _check_keyword(name, value, where)
        for inner, at in _schemas_in(name, value, where):
            if not isinstance(inner, bool):
                _check_schema(inner, at)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_type(value: object) -> bool:
    types = value if isinstance(value, list) else [value]
    return bool(types) and all(isinstance(each, str) and each in TYPES for each in types)


def _is_local(value: object) -> bool:
    return isinstance(value, str) and value.startswith("#")


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _has_members(value: object) -> bool:
    return isinstance(value, list) and bool(value)


def _has_names(value: object) -> bool:
    return isinstance(value, dict)


def _is_count(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


ANSWERS: dict[str, tuple[Callable[[object], bool], str]] = {
    "type": (_is_type, f"one of {', '.join(TYPES)}, or a list of them"),
    "$ref": (_is_local, "a place in this schema, such as #/$defs/name; nothing is fetched"),
    "$dynamicRef": (_is_local, "a place in this schema; nothing is fetched"),
    "pattern": (_is_text, "a string"),
    "format": (_is_text, "a string"),
    "enum": (_has_members, "a list with values"),
    "required": (_is_list_of_text, "a list of strings"),
    **dict.fromkeys(("anyOf", "oneOf", "allOf"), (_has_members, "a list of schemas")),
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions"), (_has_names, "an object of schemas")),
    **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength"), (_is_count, "a number, 0 or more")),
}
"""What the keywords that matter have to be, and how that is said."""


def _check_keyword(name: str, value: object, path: str) -> None:
    is_right, wanted = ANSWERS.get(name, (None, ""))
    if is_right is not None and not is_right(value):
        raise _invalid(f"In a JSON schema, `{name}` is {wanted}", path)


ONE = ("additionalProperties", "additionalItems", "contains", "propertyNames", "not", "if", "then", "else")
SOME = ("anyOf", "oneOf", "allOf", "prefixItems")
NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def _schemas_in(name: str, value: Any, path: str) -> Iterator[tuple[object, str]]:
    """The schemas that a keyword's value has, each with its path."""
    if name in ONE or (name == "items" and not isinstance(value, list)):
        yield value, path
    elif name in NAMED and isinstance(value, dict):
        yield from ((inner, f"{path}.{key}") for key, inner in value.items())
    elif name in (*SOME, "items") and isinstance(value, list):
        yield from ((inner, f"{path}[{at}]") for at, inner in enumerate(value))


def _invalid(reason: str, path: str) -> InvalidMessage:
    return InvalidMessage(f"{reason}.", path, "invalid_schema")

#!/usr/bin/env python
"""Puts the wire's types into clients/js/index.d.ts, from the schema that the server reads and writes by.

scripts/update_js_types.py           write them
scripts/update_js_types.py --check   only say whether they are as they should be
"""

import re
import sys
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from mlx_websockets.generation import Usage
from mlx_websockets.protocols import native_schema as wire

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "clients/js/index.d.ts"
PART = re.compile(r"(// wire types: written by `make docs`\n).*?(// end of wire types\n)", re.DOTALL)

NAMES = {wire.Error: "ErrorMessage"}
"""Where the schema's name means something else in TypeScript."""

SETTING_TYPES = {"responseModalities": "string[]", "seed": "number | null", "logprobs": "number | null"}
PLAIN = {str: "string", int: "number", float: "number", bool: "boolean", type(None): "null", Any: "unknown"}


def main() -> int:
    text = PAGE.read_text("utf-8")
    wanted = PART.sub(lambda found: found[1] + wire_types() + found[2], text)
    if text == wanted:
        return 0
    if "--check" in sys.argv[1:]:
        print(f"✗ {PAGE.relative_to(ROOT)} is not what the schema says\n→ make docs")
        return 1
    PAGE.write_text(wanted, "utf-8")
    print(f"✓ {PAGE.relative_to(ROOT)}")
    return 0


def wire_types() -> str:
    said, heard = get_args(wire.PeerMessage), get_args(wire.ServerMessage)
    parts = [
        wire.Settings, Usage, wire.Timings, wire.ModelState, wire.LikelyToken, wire.TokenLogprob, wire.Candidate
    ]  # fmt: skip
    unions = [union("PeerMessage", said), union("ServerMessage", heard)]
    return "\n".join([*(interface(kind) for kind in (*parts, *said, *heard)), *unions])


def union(name: str, kinds: tuple[Any, ...]) -> str:
    return f"export type {name} =\n  | " + "\n  | ".join(name_of(kind) for kind in kinds) + ";\n"


def interface(kind: Any) -> str:
    info = msgspec.inspect.type_info(kind)
    fields = msgspec.structs.fields(kind) if issubclass(kind, msgspec.Struct) else None
    lines = []
    if getattr(info, "tag", None):
        lines.append(f'  type: "{info.tag}";')
    if fields is None:
        lines += [f"  {field.name}: {in_typescript(kind.__annotations__[field.name])};" for field in info.fields]
    else:
        lines += [f"  {member(field, kind)};" for field in fields]
    return "\n".join([f"export interface {name_of(kind)} {{", *lines, "}", ""])


def member(field: Any, kind: Any) -> str:
    optional = "" if field.required else "?"
    if issubclass(kind, wire.Settings) and field.name in wire.SETTING_NAMES:
        return f"{field.encode_name}?: {SETTING_TYPES.get(field.encode_name, 'number')}"
    return f"{field.encode_name}{optional}: {in_typescript(field.type, may_be_null=field.required)}"


def in_typescript(kind: Any, *, may_be_null: bool = True) -> str:
    if kind in PLAIN:
        return PLAIN[kind]
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return in_typescript(inner[0])
    if origin is Literal:
        return " | ".join(f'"{each}"' for each in inner)
    if origin in (Union, types.UnionType):
        names = [in_typescript(each) for each in inner if may_be_null or each is not type(None)]
        return " | ".join(dict.fromkeys(names))
    if origin in (list, tuple):
        return f"{in_typescript(inner[0])}[]"
    if origin is dict:
        return f"Record<string, {in_typescript(inner[1])}>"
    return name_of(kind)


def name_of(kind: Any) -> str:
    return NAMES.get(kind, kind.__name__)


if __name__ == "__main__":
    sys.exit(main())

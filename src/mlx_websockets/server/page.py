"""The page at `/`, and the few files that it is made of. They hold no secret, so they need no token."""

import inspect
import json
import re
import typing
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from mlx_websockets.protocols.native_schema import SETTING_NAMES
from mlx_websockets.sampling import RANGES, Sampling

SETTINGS = "settings.json"
"""The one file that is no file: what the settings panel is made of."""

KINDS = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "app.js": "text/javascript; charset=utf-8",
    "client.js": "text/javascript; charset=utf-8",
    "log.js": "text/javascript; charset=utf-8",
    "meters.js": "text/javascript; charset=utf-8",
    "scene.js": "text/javascript; charset=utf-8",
    SETTINGS: "application/json",
    "settings.js": "text/javascript; charset=utf-8",
    "sources.js": "text/javascript; charset=utf-8",
    "talk.js": "text/javascript; charset=utf-8",
}

PATHS = frozenset(f"/{name}" for name in KINDS if name != "index.html")
"""Where its files are; the page itself is at `/`."""

_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src {own}; "
    "img-src 'self' blob: data:; media-src blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def is_wanted(scope: Mapping[str, Any]) -> bool:
    """Whether a request is for the page. A browser asks for HTML by name; curl takes whatever there is."""
    if (scope["type"], scope["path"]) != ("http", "/"):
        return False
    return any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])


async def page_file(request: Request) -> Response:
    """One of the page's files."""
    return answer(request, request.url.path.removeprefix("/") or "index.html")


def answer(request: Request, name: str) -> Response:
    """The file, or 304 if the browser has it already."""
    body, tag = _content(name)
    headers = {
        "etag": tag,
        "cache-control": "no-cache",
        "content-security-policy": _policy(request),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "permissions-policy": "camera=(self), display-capture=(self), microphone=(), geolocation=()",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "vary": "accept",
    }
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=KINDS[name])


def _policy(request: Request) -> str:
    # Not every browser takes 'self' for WebSockets too. The gate has seen to it that Host is harmless.
    scheme = "wss" if request.url.scheme == "https" else "ws"
    return _CONTENT_POLICY.format(own=f"'self' {scheme}://{request.headers['host']}")


@cache
def _content(name: str) -> tuple[bytes, str]:
    if name == SETTINGS:
        body = json.dumps(described_settings()).encode()
    else:
        body = files("mlx_websockets.server").joinpath("playground", name).read_bytes()
    return body, f'"{sha256(body).hexdigest()[:24]}"'


def described_settings() -> list[dict[str, Any]]:
    """Every setting of `config`: its name there, its range, whether it may be null, what it means."""
    meanings = _meanings()
    types = typing.get_type_hints(Sampling)
    return [
        {
            "name": wire_name,
            "meaning": meanings.get(name, ""),
            "isNullable": type(None) in typing.get_args(types[name]),
            **_range(name),
        }
        for name, wire_name in SETTING_NAMES.items()
    ]


def _range(name: str) -> dict[str, Any]:
    if name not in RANGES:
        return {"kind": "words"}
    allowed = RANGES[name]
    return {"kind": "whole" if allowed.kind is int else "number", "least": allowed.least, "most": allowed.most}


def _meanings() -> dict[str, str]:
    """What `Sampling` says of its attributes, by name, in a form's words."""
    _, _, attributes = (inspect.getdoc(Sampling) or "").partition("Attributes:\n")
    lines = re.findall(r"^ {4}([\w, ]+): (.+)$", attributes, re.MULTILINE)
    return {name: meaning.replace("None", "empty") for names, meaning in lines for name in names.split(", ")}

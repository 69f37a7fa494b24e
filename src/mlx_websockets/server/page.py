"""The page at `/`, and the few files that it is made of. They hold no secret, so they need no token."""

from functools import cache
from hashlib import sha256
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

KINDS = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "app.js": "text/javascript; charset=utf-8",
    "client.js": "text/javascript; charset=utf-8",
    "meters.js": "text/javascript; charset=utf-8",
    "scene.js": "text/javascript; charset=utf-8",
    "sources.js": "text/javascript; charset=utf-8",
    "talk.js": "text/javascript; charset=utf-8",
}

PATHS = frozenset(f"/{name}" for name in KINDS if name != "index.html")
"""Where its files are; the page itself is at `/`."""

_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src {own}; "
    "img-src 'self' blob: data:; media-src blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def wants_page(request: Request) -> bool:
    """A browser asks for HTML by name; curl takes whatever there is."""
    return "text/html" in request.headers.get("accept", "")


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
    body = files("mlx_websockets.server").joinpath("playground", name).read_bytes()
    return body, f'"{sha256(body).hexdigest()[:24]}"'

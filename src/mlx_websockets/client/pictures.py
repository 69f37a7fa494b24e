"""Pictures on their way out: files as they are, PIL images as JPEG.

Blocking, so the client calls it in a thread. Nothing here knows about sockets.
"""

import base64
import io
from pathlib import Path
from typing import Any, Protocol

import msgspec

from mlx_websockets.client.errors import UnknownPicture
from mlx_websockets.protocols import native_schema as wire

JPEG_QUALITY = 90


class PILImage(Protocol):
    """What we need of `PIL.Image.Image`; Pillow itself is imported only by who has one."""

    def convert(self, mode: str) -> Any: ...


Picture = bytes | bytearray | memoryview | str | Path | PILImage
"""A file's bytes, a file's path, or a PIL image."""


def encode_request(request: wire.ImageInput | wire.Frame, pictures: list[Picture]) -> str | bytes:
    """`request` with its pictures: binary for one, JSON for several.

    Raises:
        UnknownPicture: one is of no kind that a server opens.
        OSError: a file can't be read.
    """
    files = [file_bytes(picture) for picture in pictures]
    if len(files) == 1:
        header = msgspec.structs.replace(request, mime=mime_of(files[0]))
        try:
            return wire.encode_binary_media(header, files[0])
        except ValueError:
            pass  # the prompt is too long for a header, not for JSON
    texts = [base64.b64encode(data).decode() for data in files]
    if isinstance(request, wire.ImageInput):
        return msgspec.json.encode(msgspec.structs.replace(request, images=texts)).decode()
    return msgspec.json.encode(msgspec.structs.replace(request, frame=texts[0])).decode()


def file_bytes(picture: Picture) -> bytes:
    """The bytes of a picture file.

    Raises:
        UnknownPicture: they are none that a server opens.
        OSError: the file can't be read.
    """
    if isinstance(picture, str | Path):
        data = Path(picture).read_bytes()
    elif isinstance(picture, bytes | bytearray | memoryview):
        data = bytes(picture)
    elif hasattr(picture, "convert"):
        data = _as_jpeg(picture)
    else:
        raise UnknownPicture(f"A picture is bytes, a path or a PIL image, not {type(picture).__name__}.")
    mime_of(data)
    return data


def mime_of(data: bytes) -> str:
    """The type that the first bytes of a picture file show.

    Raises:
        UnknownPicture: none that a server opens.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    raise UnknownPicture("These bytes are no JPEG, PNG, WebP or GIF file. Open them with PIL and send that image.")


def _as_jpeg(picture: PILImage) -> bytes:
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()

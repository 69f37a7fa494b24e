"""Pictures as they arrive to checked, upright RGB of a bounded size.

A picture is a stranger's file: its size is checked before a pixel is unpacked, only four
formats are tried, and whatever goes wrong inside the decoder becomes one fixed sentence.
Nothing here opens a path or an address, and nothing knows of sockets or models. Everything
may be called from several threads at once.
"""

import io
import warnings
from collections.abc import Iterable

import pybase64

# Registers the formats now: Pillow would import every plugin it has at the first unknown file.
from PIL import GifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401
from PIL import Image as Pillow

from mlx_websockets.errors import InvalidImage
from mlx_websockets.events import EncodedImage
from mlx_websockets.generation import Image
from mlx_websockets.settings import IMAGE_SIDE, MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, MAX_IMAGE_SIDE

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")

DRAFT_MARGIN = 1.25
"""How much larger than what is kept a JPEG stays while it is decoded; the last step to size is a good filter's."""

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation; 1 is upright already."""

_TO_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")
_WHITESPACE = b" \t\r\n\f\v"

# Once, here: filters belong to the whole process, and `open_image` runs in threads.
warnings.simplefilter("error", Pillow.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # a stranger's odd EXIF is not our user's news


def open_images(encoded: Iterable[EncodedImage]) -> tuple[Image, ...]:
    """Every picture, opened, in order; see `open_image`."""
    return tuple(open_image(each) for each in encoded)


def open_image(encoded: EncodedImage) -> Image:
    """The picture as upright RGB, at most `IMAGE_SIDE` pixels on its longer side.

    Of an animation it is the first frame; what is transparent becomes white.

    Raises:
        InvalidImage: code `invalid_image` when it is no picture that we open, is damaged or cut
            short; code `image_too_large` when it has too many bytes or pixels.
    """
    file = _file_bytes(encoded)
    try:
        return _decoded(file, encoded.path)
    except InvalidImage:
        raise
    except (Pillow.DecompressionBombWarning, Pillow.DecompressionBombError):
        raise InvalidImage(
            f"The picture has more than {MAX_IMAGE_PIXELS} pixels", encoded.path, "image_too_large"
        ) from None
    except Exception:
        # Pillow keeps no list of what a damaged file can raise, and its texts may hold addresses.
        raise InvalidImage("This is not a whole JPEG, PNG, WebP or GIF file", encoded.path) from None


def _file_bytes(encoded: EncodedImage) -> bytes:
    file = encoded.data if isinstance(encoded.data, bytes) else _from_base64(encoded.data, encoded.path)
    if len(file) > MAX_IMAGE_BYTES:
        raise InvalidImage(
            f"The picture has {len(file)} bytes; at most {MAX_IMAGE_BYTES} are taken", encoded.path, "image_too_large"
        )
    return file


def _from_base64(text: str, path: str) -> bytes:
    """The bytes of base64 text: standard or URL-safe alphabet, with or without a data URL's head and padding."""
    body = text
    if text[:5].lower() == "data:":
        head, _, body = text.partition(",")
        if not (head[:11].lower() == "data:image/" and head[-7:].lower() == ";base64"):
            raise InvalidImage("Not a data URL of a base64 picture", path)
    try:
        digits = body.encode("ascii").translate(_TO_STANDARD_ALPHABET, _WHITESPACE)
        return pybase64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
    except ValueError:  # not ASCII, or not base64
        raise InvalidImage("Not a base64 image", path) from None


def _decoded(file: bytes, path: str) -> Image:
    with Pillow.open(io.BytesIO(file), formats=FORMATS) as picture:
        _check_size(picture.size, path)
        picture.draft(None, _draft_size(picture.size))
        picture.load()
        turn = _UPRIGHT.get(picture.getexif().get(_ORIENTATION, 1))
        rgb = _as_rgb(picture)
    rgb.thumbnail((IMAGE_SIDE, IMAGE_SIDE), Pillow.Resampling.LANCZOS, reducing_gap=3.0)
    upright = rgb if turn is None else rgb.transpose(turn)
    return Image(upright.width, upright.height, upright.tobytes())


def _check_size(size: tuple[int, int], path: str) -> None:
    width, height = size
    if width * height > MAX_IMAGE_PIXELS or max(size) > MAX_IMAGE_SIDE:
        raise InvalidImage(
            f"The picture has {width} x {height} pixels; at most {MAX_IMAGE_PIXELS} in all "
            f"and {MAX_IMAGE_SIDE} on a side are opened",
            path,
            "image_too_large",
        )


def _draft_size(size: tuple[int, int]) -> tuple[int, int]:
    """What a JPEG may be shrunk to while it is decoded. For a camera's 1920 x 1080 that halves the time it takes."""
    factor = min(1.0, DRAFT_MARGIN * IMAGE_SIDE / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _as_rgb(picture: Pillow.Image) -> Pillow.Image:
    if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip instead of scaling
        return picture.point(lambda value: value * (1 / 257)).convert("L").convert("RGB")
    if not picture.has_transparency_data:
        return picture if picture.mode == "RGB" else picture.convert("RGB")  # which would copy it
    layer = picture.convert("RGBA")
    paper = Pillow.new("RGB", layer.size, "white")
    paper.paste(layer, mask=layer)
    return paper

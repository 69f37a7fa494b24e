"""Pictures: what is opened, what is refused, and that nothing else ever comes out."""

import base64
import io
import os
import random
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image as Pillow
from PIL import ImageChops, ImageStat

from mlx_websockets.errors import InvalidImage
from mlx_websockets.events import EncodedImage
from mlx_websockets.generation import Image
from mlx_websockets.images import open_image, open_images
from mlx_websockets.settings import MAX_IMAGE_BYTES

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)


def file_of(picture: Pillow.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def opened(data: bytes | str) -> Image:
    return open_image(EncodedImage(data))


def pixel(image: Image, x: int, y: int) -> tuple[int, ...]:
    start = (y * image.width + x) * 3
    return tuple(image.pixels[start : start + 3])


def is_close(colour: tuple[int, ...], other: tuple[int, ...], by: int = 12) -> bool:
    return all(abs(a - b) <= by for a, b in zip(colour, other, strict=True))


def refusal(data: bytes | str, path: str = "$.image") -> InvalidImage:
    with pytest.raises(InvalidImage) as caught:
        open_image(EncodedImage(data, path))
    return caught.value


def as_file(file: bytes) -> bytes:
    return file


def as_base64(file: bytes) -> str:
    return base64.b64encode(file).decode()


def as_data_url(file: bytes) -> str:
    return "data:image/whatever;base64," + as_base64(file)


def as_data_url_with_parameter(file: bytes) -> str:
    return "DATA:image/png;charset=utf-8;BASE64," + as_base64(file)


def as_wrapped_base64(file: bytes) -> str:
    return "\r\n " + base64.encodebytes(file).decode()


def as_urlsafe_base64(file: bytes) -> str:
    return base64.urlsafe_b64encode(file).decode()


def as_unpadded_base64(file: bytes) -> str:
    return as_base64(file).rstrip("=")


ENCODINGS = [
    as_file, as_base64, as_data_url, as_data_url_with_parameter, as_wrapped_base64, as_urlsafe_base64,
    as_unpadded_base64,
]  # fmt: skip


@pytest.mark.parametrize("encode", ENCODINGS)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_every_format_is_opened_in_every_encoding(format, encode):
    image = opened(encode(file_of(Pillow.new("RGB", (40, 30), RED), format)))

    assert (image.width, image.height, len(image.pixels)) == (40, 30, 40 * 30 * 3)
    assert is_close(RED, pixel(image, 20, 15))


def test_several_pictures_keep_their_order():
    files = [file_of(Pillow.new("RGB", (size, 5))) for size in (3, 4, 5)]

    images = open_images(EncodedImage(file) for file in files)

    assert [image.width for image in images] == [3, 4, 5]


@pytest.mark.parametrize(
    ("size", "kept"),
    [
        ((768, 768), (768, 768)),
        ((769, 10), (768, 10)),
        ((1536, 768), (768, 384)),
        ((5, 5), (5, 5)),
        ((1, 4000), (1, 768)),
    ],
)
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_picture_is_scaled_down_to_the_longer_side_and_never_up(format, size, kept):
    image = opened(file_of(Pillow.new("RGB", size, GREEN), format))

    assert kept == (image.width, image.height)
    assert is_close(GREEN, pixel(image, 0, 0))


def test_a_large_photo_keeps_its_picture_when_it_is_shrunk_while_decoding():
    photo = Pillow.new("RGB", (3000, 2000), BLUE)
    photo.paste(RED, (0, 0, 1500, 2000))

    image = opened(file_of(photo, "JPEG"))

    assert (image.width, image.height) == (768, 512)
    assert is_close(RED, pixel(image, 370, 256)) and is_close(BLUE, pixel(image, 398, 256))


def test_a_camera_picture_that_is_shrunk_while_decoding_looks_as_if_it_had_not_been():
    chance = random.Random(5)
    scene = Pillow.new("RGB", (1920, 1080), WHITE)
    for _ in range(60):
        x, y, side = chance.randrange(1900), chance.randrange(1060), chance.randrange(9, 300)
        scene.paste(chance.choice((RED, GREEN, BLUE)), (x, y, x + side, y + side))
    file = file_of(scene, "JPEG")

    whole = Pillow.open(io.BytesIO(file)).resize((768, 432), Pillow.Resampling.LANCZOS)
    image = opened(file)

    difference = ImageChops.difference(whole, Pillow.frombytes("RGB", (768, 432), image.pixels))
    assert max(ImageStat.Stat(difference).rms) < 4


# --- orientation ----------------------------------------------------------------------


def stored_as(upright: Pillow.Image, orientation: int) -> Pillow.Image:
    """How a camera that is held the given way stores a scene."""
    undo = {
        1: None,
        2: Pillow.Transpose.FLIP_LEFT_RIGHT,
        3: Pillow.Transpose.ROTATE_180,
        4: Pillow.Transpose.FLIP_TOP_BOTTOM,
        5: Pillow.Transpose.TRANSPOSE,
        6: Pillow.Transpose.ROTATE_90,
        7: Pillow.Transpose.TRANSVERSE,
        8: Pillow.Transpose.ROTATE_270,
    }[orientation]
    return upright if undo is None else upright.transpose(undo)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_the_way_it_was_taken(orientation, format):
    scene = Pillow.new("RGB", (64, 32), WHITE)
    scene.paste(RED, (0, 0, 32, 16))
    scene.paste(BLUE, (32, 16, 64, 32))
    exif = Pillow.Exif()
    exif[0x0112] = orientation

    image = opened(file_of(stored_as(scene, orientation), format, exif=exif.tobytes()))

    assert (image.width, image.height) == (64, 32)
    assert is_close(RED, pixel(image, 8, 4), 40) and is_close(BLUE, pixel(image, 56, 28), 40)
    assert is_close(WHITE, pixel(image, 56, 4), 40)


def test_an_orientation_that_does_not_exist_changes_nothing():
    exif = Pillow.Exif()
    exif[0x0112] = 77

    assert opened(file_of(Pillow.new("RGB", (10, 20)), "JPEG", exif=exif.tobytes())).width == 10


# --- kinds of pixels ------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "clear"), [("RGBA", (255, 0, 0, 0)), ("LA", (0, 0))])
@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_what_is_transparent_becomes_white(format, mode, clear):
    image = opened(file_of(Pillow.new(mode, (8, 8), clear), format, **({"lossless": True} if format == "WEBP" else {})))

    assert pixel(image, 3, 3) == WHITE


def test_half_transparent_red_becomes_pink():
    image = opened(file_of(Pillow.new("RGBA", (8, 8), (255, 0, 0, 128))))

    assert is_close((255, 127, 127), pixel(image, 3, 3), 2)


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_a_palette_with_a_transparent_colour_becomes_white_there(format):
    picture = Pillow.new("P", (8, 8), 0)
    picture.putpalette([10, 20, 30, *RED])
    picture.paste(1, (4, 0, 8, 8))

    image = opened(file_of(picture, format, transparency=0))

    assert pixel(image, 1, 1) == WHITE and pixel(image, 6, 6) == RED


def test_grey_with_a_transparent_shade_becomes_white_there():
    image = opened(file_of(Pillow.new("L", (8, 8), 7), transparency=7))

    assert pixel(image, 1, 1) == WHITE


@pytest.mark.parametrize(
    ("picture", "format", "colour"),
    [
        (Pillow.new("L", (8, 8), 99), "PNG", (99, 99, 99)),
        (Pillow.new("1", (8, 8), 1), "PNG", WHITE),
        (Pillow.new("I;16", (8, 8), 0x8000), "PNG", (128, 128, 128)),
        (Pillow.new("I;16", (8, 8), 0xFFFF), "PNG", WHITE),
        (Pillow.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", RED),
        (Pillow.new("L", (8, 8), 200), "JPEG", (200, 200, 200)),
    ],
    ids=["grey", "one bit", "16 bits", "16 bits white", "cmyk", "grey jpeg"],
)
def test_every_kind_of_pixel_becomes_rgb(picture, format, colour):
    assert is_close(colour, pixel(opened(file_of(picture, format)), 4, 4), 3)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_seen(format):
    frames = [Pillow.new("RGB", (16, 16), colour) for colour in (RED, GREEN, BLUE)]

    image = opened(file_of(frames[0], format, save_all=True, append_images=frames[1:], duration=50))

    assert is_close(RED, pixel(image, 8, 8))


# --- refusals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        "", b"", "not base64!", "Grüße", "\ud800", "AAAAA", "/etc/passwd", "http://127.0.0.1:1/cat.png",
        "data:text/html;base64,AAAA", "data:image/png,AAAA", "data:image/png;base64", "data:image/png;base64,",
        "data:,",
        b"GIF89a", b"\x89PNG\r\n\x1a\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"BM" + bytes(60), b"\x00" * 100,
    ],
)  # fmt: skip
def test_what_is_no_picture_is_refused(data):
    error = refusal(data)

    assert error.code == "invalid_image"


@pytest.mark.parametrize("format", ["BMP", "TIFF", "PPM", "ICO", "JPEG2000"])
def test_a_format_that_is_not_offered_is_refused(format):
    assert refusal(file_of(Pillow.new("RGB", (32, 32)), format)).code == "invalid_image"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_file_that_was_cut_short_is_refused(share, format):
    noise = Pillow.frombytes("RGB", (64, 64), random.Random(1).randbytes(64 * 64 * 3))
    file = file_of(noise, format)

    assert refusal(file[: int(len(file) * share)]).code == "invalid_image"


def test_an_error_names_the_field_and_says_nothing_of_the_decoder():
    error = refusal(b"\x89PNG\r\n\x1a\n" + bytes(50), "$.images[2]")

    assert str(error) == "This is not a whole JPEG, PNG, WebP or GIF file (at $.images[2])"
    assert error.__suppress_context__


def test_a_file_of_too_many_bytes_is_refused_unopened():
    assert refusal(bytes(MAX_IMAGE_BYTES + 1)).code == "image_too_large"


@pytest.mark.parametrize("size", [(4001, 4000), (16_385, 1), (1, 16_385)])
def test_a_picture_of_too_many_pixels_is_refused(size):
    assert refusal(file_of(Pillow.new("1", size))).code == "image_too_large"


# --- bombs ----------------------------------------------------------------------------


def png(width: int, height: int, *extra: bytes, depth: int = 8, colour: int = 6, body: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", body), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def zeros(mebibytes: int) -> bytes:
    squeeze = zlib.compressobj(9)
    return b"".join(squeeze.compress(bytes(2**20)) for _ in range(mebibytes)) + squeeze.flush()


def webp_header(width: int, height: int) -> bytes:
    bits = (width - 1) | (height - 1) << 14
    data = b"\x2f" + struct.pack("<I", bits) + bytes(64)
    return b"RIFF" + struct.pack("<I", len(data) + 12) + b"WEBPVP8L" + struct.pack("<I", len(data)) + data


def gif_header(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + bytes(3) + b"," + struct.pack("<HHHH", 0, 0, width, height)


def bombs() -> dict[str, bytes]:
    text = zeros(64)
    return {
        "png": png(13_370, 13_370, body=zeros(8)),
        "png_larger_than_pillow_takes": png(60_000, 60_000),
        "png_one_bit": png(30_000, 30_000, depth=1, colour=0, body=zeros(8)),
        "png_text": png(8, 8, chunk(b"zTXt", b"k\0\0" + text), body=zlib.compress(bytes(8 * 33))),
        "png_international_text": png(8, 8, chunk(b"iTXt", b"k\0\1\0\0\0" + text), body=zlib.compress(bytes(8 * 33))),
        "png_profile": png(8, 8, chunk(b"iCCP", b"k\0\0" + text), body=zlib.compress(bytes(8 * 33))),
        "png_of_no_size": png(0, 0),
        "webp": webp_header(10_000, 8_900),
        "webp_largest": webp_header(16_383, 16_383),
        "gif": gif_header(65_535, 65_535) + bytes(8) + b"\x00;",
        "jpeg": file_of(Pillow.new("L", (16, 16)), "JPEG").replace(
            b"\x00\x11\x08\x00\x10\x00\x10", b"\x00\x11\x08\xff\xff\xff\xff"
        ).replace(b"\x00\x0b\x08\x00\x10\x00\x10", b"\x00\x0b\x08\xff\xff\xff\xff"),
    }  # fmt: skip


def test_bombs_are_refused_and_cost_next_to_no_memory(tmp_path):
    for name, file in bombs().items():
        (tmp_path / name).write_bytes(file)

    # In a program of its own, because the peak of a process never goes down.
    program = """
import pathlib, resource, sys
from mlx_websockets.errors import InvalidImage
from mlx_websockets.events import EncodedImage
from mlx_websockets.images import open_image
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1 if sys.platform == "linux" else 1024)
before = peak()
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    file = path.read_bytes()
    try:
        open_image(EncodedImage(file))
        print("opened", path.name)
    except InvalidImage as error:
        print("refused", path.name, error.code)
print("KiB", peak() - before)
"""
    run = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, timeout=30, check=True
    )

    *verdicts, memory = run.stdout.splitlines()
    # The profile of a PNG is dropped unread when it is too large; its picture is sound.
    assert {"opened png_profile"} >= {verdict for verdict in verdicts if verdict.startswith("opened")}
    assert {"refused png image_too_large", "refused webp_largest image_too_large"} <= set(verdicts)
    assert len(bombs()) == len(verdicts)
    assert int(memory.split()[1]) < 64 * 1024


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_files_raise_nothing_but_our_error():
    chance = random.Random(20)
    noise = Pillow.frombytes("RGB", (48, 48), chance.randbytes(48 * 48 * 3))
    exif = Pillow.Exif()
    exif[0x0112] = 6
    seeds = [file_of(noise, format, **({"exif": exif.tobytes()} if format != "GIF" else {})) for format in
             ("JPEG", "PNG", "WEBP", "GIF")]  # fmt: skip

    for _ in range(300):
        file = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, 12)):
            file[chance.randrange(min(len(file), chance.choice((64, 400, len(file)))))] = chance.randrange(256)
        try:
            image = opened(bytes(file))
        except InvalidImage:
            continue
        assert image.width * image.height * 3 == len(image.pixels)


def test_a_string_opens_no_file(tmp_path):
    picture = tmp_path / "AAAA"
    picture.write_bytes(file_of(Pillow.new("RGB", (8, 8))))
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        assert refusal("AAAA").code == "invalid_image"
    finally:
        os.chdir(here)


def test_pictures_are_opened_in_several_threads_at_once():
    files = [EncodedImage(file_of(Pillow.new("RGB", (900, 10 * n)), "JPEG")) for n in range(1, 9)]

    with ThreadPoolExecutor(4) as pool:
        heights = [image.height for image in pool.map(open_image, files)]

    assert sorted(heights) == heights

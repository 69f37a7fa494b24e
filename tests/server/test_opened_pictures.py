"""A picture that comes again is not opened again, and what is kept of pictures is bounded."""

import asyncio
import base64
import io

import pytest
from PIL import Image as Pillow
from serving import hear_until, request_at, running, say

from mlx_websockets.errors import InvalidImage
from mlx_websockets.events import EncodedImage
from mlx_websockets.images import open_image
from mlx_websockets.server.pictures import OpenedPictures


def file_of(shade: int, side: int = 10) -> bytes:
    file = io.BytesIO()
    Pillow.new("RGB", (side, side), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def test_a_picture_that_comes_again_is_the_same_object():
    pictures, red = OpenedPictures(), EncodedImage(file_of(200))

    [first] = pictures.open([red])
    [again] = pictures.open([EncodedImage(file_of(200), "$.messages[0].image")])

    assert again is first
    assert first == open_image(red)


def test_pictures_keep_their_order_and_each_its_own():
    pictures = OpenedPictures()

    for _ in range(2):
        opened = pictures.open([EncodedImage(file_of(10)), EncodedImage(base64.b64encode(file_of(20)).decode())])
        assert [each.pixels[0] for each in opened] == [10, 20]


def test_no_more_are_kept_than_there_is_room_for():
    few, small = OpenedPictures(most_pictures=2), OpenedPictures(most_bytes=2 * 300)  # of 10 x 10 pixels each

    for pictures in (few, small):
        first, *_ = [pictures.open([EncodedImage(file_of(shade))])[0] for shade in (1, 2, 3)]
        assert pictures.open([EncodedImage(file_of(1))])[0] is not first


def test_the_one_asked_for_last_stays():
    pictures = OpenedPictures(most_pictures=2)
    [first] = pictures.open([EncodedImage(file_of(1))])
    pictures.open([EncodedImage(file_of(2))])

    assert pictures.open([EncodedImage(file_of(1))])[0] is first
    pictures.open([EncodedImage(file_of(3))])

    assert pictures.open([EncodedImage(file_of(1))])[0] is first


def test_one_that_can_t_be_opened_is_refused_each_time_by_the_name_of_its_field():
    pictures = OpenedPictures()

    for path in ("$.image", "$.images[1]"):
        with pytest.raises(InvalidImage) as caught:
            pictures.open([EncodedImage(b"no picture", path)])
        assert caught.value.path == path


def test_text_and_bytes_are_never_taken_for_each_other():
    pictures = OpenedPictures()
    text = base64.b64encode(file_of(7)).decode()
    pictures.open([EncodedImage(text)])

    with pytest.raises(InvalidImage):
        pictures.open([EncodedImage(text.encode())])


def test_text_that_no_encoding_knows_is_refused_like_any_other():
    with pytest.raises(InvalidImage):
        OpenedPictures().open([EncodedImage("\ud800")])


@pytest.mark.parametrize(
    ("ask", "field", "is_kept"),
    [({"type": "image_input"}, "image", True), ({"type": "video_frame"}, "frame", False)],
    ids=["a question", "a frame"],
)
def test_a_picture_asked_about_twice_is_opened_once_and_frames_are_not_kept(ask, field, is_kept):
    async def story():
        async with running() as server:
            peer = await server.peer()
            opened = []
            for number in range(2):
                await say(peer, **ask, **{field: base64.b64encode(file_of(50)).decode()})
                request = await request_at(server.engine, number)
                opened.append(request.messages[-1].images[0])
                server.engine.reply(request.id, "red")
                await hear_until(peer, "response_complete")
            assert (opened[0] is opened[1]) is is_kept
            assert opened[0] == opened[1]

    asyncio.run(story())

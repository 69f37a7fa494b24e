"""Draws a scene with Pillow, in any size: another hand than the one the model learnt from.

Fonts, photographs behind the things and the places come from the caller; emoji have one
font only. Nothing here knows about questions.
"""

import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scripts.demo_model.photographs import Pixels
from scripts.demo_model.scenes import Background, Color, Scene, Thing
from scripts.demo_model.sprites import emoji_image
from scripts.demo_model.vocabulary import EMOJI

LARGER = 3
"""Everything is drawn so many times larger, then scaled down: smooth borders."""
TEXT_FILL = 1.9
"""How much of its square a text takes."""

_CHARACTERS = {each.name: each.character for each in EMOJI}


class Studio:
    """Draws scenes with the fonts and photographs it was given."""

    def __init__(self, fonts: Sequence[Path], emoji_font: Path, photos: Sequence[Pixels]) -> None:
        self._fonts, self._photos = list(fonts), list(photos)
        self._emoji_font = emoji_font
        self._emoji: dict[str, Image.Image] = {}

    def draw(self, scene: Scene, size: tuple[int, int], chance: random.Random) -> Image.Image:
        """The scene as a picture of `size` pixels."""
        width, height = size[0] * LARGER, size[1] * LARGER
        picture = self._ground(scene.background, (width, height), chance)
        for thing in scene.things:
            center = (thing.x * width, thing.y * height)
            self._add(picture, thing, center, thing.radius * min(width, height), chance)
        picture = picture.resize(size, Image.Resampling.LANCZOS)
        return picture.convert("L").convert("RGB") if scene.is_gray else picture

    def _ground(self, ground: Background, size: tuple[int, int], chance: random.Random) -> Image.Image:
        one, other = _bytes(ground.rgb), _bytes(ground.other_rgb)
        match ground.ground:
            case "plain":
                return Image.new("RGB", size, one)
            case "gradient":
                share = Image.linear_gradient("L").rotate(chance.choice([0, 90, 180, 270])).resize(size)
                return Image.composite(Image.new("RGB", size, other), Image.new("RGB", size, one), share)
            case "stripes":
                return _striped(size, one, other, chance)
            case "noise":
                noise = np.random.default_rng(chance.getrandbits(32)).normal(0, 25, (size[1] // 6, size[0] // 6, 3))
                speckled = (np.array(one) + noise).clip(0, 255).astype(np.uint8)
                return Image.fromarray(speckled).resize(size, Image.Resampling.BILINEAR)
        return Image.fromarray(chance.choice(self._photos)).resize(size, Image.Resampling.BILINEAR)

    def _emoji_called(self, name: str) -> Image.Image:
        if name not in self._emoji:
            self._emoji[name] = emoji_image(_CHARACTERS[name], self._emoji_font)
        return self._emoji[name]

    def _add(
        self, picture: Image.Image, thing: Thing, center: tuple[float, float], radius: float, chance: random.Random
    ) -> None:
        if thing.kind == "emoji":
            small = self._emoji_called(thing.name).resize((round(2 * radius),) * 2, Image.Resampling.LANCZOS)
            picture.paste(small, (round(center[0] - radius), round(center[1] - radius)), small)
            return
        pen, color = ImageDraw.Draw(picture), _bytes(thing.rgb)
        if thing.kind == "shape":
            _draw_shape(pen, thing.name, center, radius, color)
            return
        font_path = chance.choice(self._fonts)
        probe = ImageFont.truetype(str(font_path), 100).getbbox(thing.name)
        largest = max(probe[2] - probe[0], probe[3] - probe[1])
        font = ImageFont.truetype(str(font_path), round(100 * TEXT_FILL * radius / largest))
        pen.text(center, thing.name, fill=color, font=font, anchor="mm")


def _bytes(rgb: Color) -> tuple[int, int, int]:
    red, green, blue = (round(255 * channel) for channel in rgb)
    return red, green, blue


def _striped(
    size: tuple[int, int], one: tuple[int, int, int], other: tuple[int, int, int], chance: random.Random
) -> Image.Image:
    picture = Image.new("RGB", size, one)
    pen, wide = ImageDraw.Draw(picture), chance.randint(size[0] // 16, size[0] // 6)
    for left in range(0, size[0], 2 * wide):
        pen.rectangle((left, 0, left + wide, size[1]), fill=other)
    return picture


def _draw_shape(
    pen: ImageDraw.ImageDraw, name: str, center: tuple[float, float], radius: float, color: tuple[int, int, int]
) -> None:
    x, y = center
    if name in ("circle", "ring"):
        box = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse(box, fill=color if name == "circle" else None, outline=color, width=round(radius * 0.4))
        return
    pen.polygon([(x + radius * across, y + radius * down) for across, down in _corners(name)], fill=color)


def _corners(name: str) -> list[tuple[float, float]]:
    match name:
        case "square":
            return [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]
        case "rectangle":
            return [(-1, -0.5), (1, -0.5), (1, 0.5), (-1, 0.5)]
        case "triangle":
            return [(0, -0.9), (0.9, 0.8), (-0.9, 0.8)]
        case "star":
            return [point for pair in zip(_around(5, 1), _around(5, 0.42, 36), strict=True) for point in pair]
        case "diamond":
            return [(0, -1), (0.65, 0), (0, 1), (-0.65, 0)]
        case "hexagon":
            return _around(6, 1, 90)
        case "cross":
            arm = [(-0.3, -1.0), (0.3, -1.0), (0.3, -0.3)]
            return arm + [(-y, x) for x, y in arm] + [(-x, -y) for x, y in arm] + [(y, -x) for x, y in arm]
    angles = [2 * math.pi * step / 90 for step in range(90)]  # a heart
    return [(math.sin(each) ** 3, _heart_height(each)) for each in angles]


def _heart_height(angle: float) -> float:
    return -(13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)) / 16


def _around(corners: int, radius: float, turned_degrees: float = 0) -> list[tuple[float, float]]:
    angles = [math.radians(turned_degrees - 90 + 360 * at / corners) for at in range(corners)]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]

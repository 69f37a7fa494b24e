"""The little pictures that scenes are pasted together from, drawn once with Pillow.

Shapes and texts are masks to be tinted, emoji have colours of their own; all are squares
of `SIDE` pixels. Of each text the bank also knows which character is in which column, so
that reading can be taught patch by patch. Nothing here knows about scenes.
"""

import argparse
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scripts.demo_model.vocabulary import CHARACTERS, EMOJI, FIRST_TEXT_SPRITE, SHAPE_VARIANTS, SHAPES, WORDS

SIDE = 96
TEXT_LEVELS = 16
"""Masks of texts are kept in few levels: they pack four times smaller."""

UNLIKE_PRINT = (
    "Thin",
    "Hairline",
    "Light",
    "Mono",
    "Code",
    "Hack",
    "Oblique",
    "LightItalic",
    "_K",
    "_I.",
    "MathTeX",
    "_DR",
    "_RZ",
)
HELD_OUT_FONTS = (
    "ComicNeue-Bold.",
    "Roboto-Medium.",
    "LiberationSerif-Regular",
    "OpenSans-Semibold.",
    "LiberationSans-Bold.",
)
EMOJI_FONT = "NotoColorEmoji.ttf"
EMOJI_FONT_SIZE = 109
"""The only size that its bitmaps have."""

Pixels = npt.NDArray[np.uint8]
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Bank:
    """All sprites.

    Attributes:
        masks: (masks, SIDE, SIDE) bytes, the shapes and after them the texts.
        emoji: (emoji, SIDE, SIDE, 4) bytes.
        texts: what each text says.
        columns: (texts, SIDE) bytes: 1 + the number in `CHARACTERS` of what is in a column of a text, or 0.
    """

    masks: Pixels
    emoji: Pixels
    texts: tuple[str, ...]
    columns: Pixels

    @staticmethod
    def sprites_by_text(path: Path) -> dict[str, list[int]]:
        """The numbers of the sprites that say a text, one for each font; the pictures are not read."""
        found: dict[str, list[int]] = {}
        with np.load(path) as kept:
            for number, text in enumerate(kept["texts"]):
                found.setdefault(str(text), []).append(FIRST_TEXT_SPRITE + number)
        return found

    def save(self, path: Path) -> None:
        np.savez_compressed(path, masks=self.masks, emoji=self.emoji, texts=np.array(self.texts), columns=self.columns)

    @staticmethod
    def load(path: Path) -> "Bank":
        with np.load(path) as kept:
            texts = tuple(str(text) for text in kept["texts"])
            return Bank(kept["masks"], kept["emoji"], texts, kept["columns"])


def draw_bank(
    fonts: Sequence[Path], emoji_font: Path, seed: int = 0, words_a_font: int = len(WORDS), numbers_a_font: int = 40
) -> Bank:
    """Every shape and emoji, every character in every font, and a sample of words and numbers in each."""
    chosen = random.Random(seed)
    texts: list[str] = []
    drawn: list[tuple[Pixels, Pixels]] = []
    for font in fonts:
        said = [*CHARACTERS, *(_cased(word, chosen) for word in chosen.sample(WORDS, words_a_font))]
        said += [_number(chosen) for _ in range(numbers_a_font)]
        texts += said
        drawn += [text_mask(each, font) for each in said]
    shapes = [shape_mask(name, variant) for name in SHAPES for variant in range(SHAPE_VARIANTS)]
    masks = np.stack([*shapes, *(mask for mask, _ in drawn)])
    emoji = np.stack([emoji_picture(each.character, emoji_font) for each in EMOJI])
    return Bank(masks, emoji, tuple(texts), np.stack([columns for _, columns in drawn]))


def shape_mask(name: str, variant: int) -> Pixels:
    """A shape, white on black; variants differ a little in their proportions."""
    chance = random.Random(f"{name}{variant}")
    if name == "ring":
        hole = _filled(regular(90, chance.uniform(0.5, 0.68))).astype(np.int16)
        return np.clip(_filled(regular(90)) - hole, 0, 255).astype(np.uint8)
    return _filled(outline(name, chance, upright=variant % 2 == 0))


def outline(name: str, chance: random.Random, *, upright: bool = False) -> Points:
    """The corners of a shape within a square from -1 to 1."""
    match name:
        case "circle":
            return regular(90)
        case "square":
            return [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]
        case "rectangle":
            half = chance.uniform(0.3, 0.62)  # no square, even in a picture that is squashed
            lying = [(-0.95, -half), (0.95, -half), (0.95, half), (-0.95, half)]
            return [(y, x) for x, y in lying] if upright else lying
        case "triangle":
            height, lean = chance.uniform(0.8, 1), chance.choice([0, chance.uniform(-0.3, 0.3)])
            return [(lean, -0.95 * height), (0.9, 0.8 * height), (-0.9, 0.8 * height)]
        case "star":
            inner = regular(5, 0.95 * chance.uniform(0.36, 0.46), -54)
            return [point for pair in zip(regular(5), inner, strict=True) for point in pair]
        case "heart":
            return [_heart_point(angle) for angle in np.linspace(0, 2 * math.pi, 120)]
        case "diamond":
            half = chance.uniform(0.55, 0.75)
            return [(0, -0.95), (half, 0), (0, 0.95), (-half, 0)]
        case "hexagon":
            return regular(6, 0.95, 0)
        case "cross":
            return _cross(0.92, chance.uniform(0.25, 0.36))
    raise ValueError(name)


def regular(corners: int, radius: float = 0.95, first_degrees: float = -90) -> Points:
    """A regular polygon."""
    angles = (math.radians(first_degrees + 360 * at / corners) for at in range(corners))
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


def text_mask(text: str, font_path: Path) -> tuple[Pixels, Pixels]:
    """A text as large as fits, and for each column which of `CHARACTERS` is in it (1 on; 0 is none)."""
    font = _fitting(text, font_path)
    left, top, right, bottom = font.getbbox(text)
    picture = Image.new("L", (SIDE, SIDE), 0)
    begins = SIDE / 2 - (left + right) / 2
    ImageDraw.Draw(picture).text((begins, SIDE / 2 - (top + bottom) / 2), text, fill=255, font=font)
    step = 255 // (TEXT_LEVELS - 1)
    mask = (np.asarray(picture) // step * step).astype(np.uint8)
    columns = np.zeros(SIDE, np.uint8)
    for at, character in enumerate(text):
        ends = begins + font.getlength(text[: at + 1])
        starts = begins + font.getlength(text[:at])
        columns[max(0, round(starts)) : max(0, round(ends))] = 1 + CHARACTERS.index(character.upper())
    return mask, columns


def emoji_picture(character: str, font_path: Path) -> Pixels:
    """(SIDE, SIDE, 4) bytes."""
    picture = emoji_image(character, font_path)
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def emoji_image(character: str, font_path: Path) -> Image.Image:
    """An emoji on nothing, cut to a square around it."""
    font = ImageFont.truetype(str(font_path), EMOJI_FONT_SIZE)
    picture = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
    ImageDraw.Draw(picture).text((12, 12), character, font=font, embedded_color=True)
    box = picture.getbbox()
    if box is None:
        raise ValueError(f"{font_path} has no picture for {character}")
    cut = picture.crop(box)
    side = max(cut.size)
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(cut, ((side - cut.width) // 2, (side - cut.height) // 2))
    return square


def find_fonts(folder: Path) -> tuple[list[Path], list[Path]]:
    """The fonts to train with and those that are held out."""
    every = sorted(path for path in folder.rglob("*.[to]tf") if path.name != EMOJI_FONT)
    print_like = [path for path in every if not any(mark in path.name for mark in UNLIKE_PRINT)]
    held_out = [path for path in print_like if path.name.startswith(HELD_OUT_FONTS)]
    return [path for path in print_like if path not in held_out], held_out


def find_emoji_font(folder: Path) -> Path:
    return next(folder.rglob(EMOJI_FONT))


def _filled(points: Iterable[tuple[float, float]]) -> Pixels:
    large = SIDE * 4
    picture = Image.new("L", (large, large), 0)
    ImageDraw.Draw(picture).polygon([((x + 1) / 2 * large, (y + 1) / 2 * large) for x, y in points], fill=255)
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _heart_point(angle: float) -> tuple[float, float]:
    height = 13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)
    return 0.95 * math.sin(angle) ** 3, -0.95 * height / 16 - 0.05


def _cross(arm: float, half: float) -> Points:
    quarter = [(-half, -arm), (half, -arm), (half, -half)]
    turned: Points = []
    for _ in range(4):
        turned += quarter
        quarter = [(-y, x) for x, y in quarter]
    return turned


def _fitting(text: str, font_path: Path) -> ImageFont.FreeTypeFont:
    left, top, right, bottom = ImageFont.truetype(str(font_path), 80).getbbox(text)
    return ImageFont.truetype(str(font_path), max(8, int(80 * 92 / max(right - left, bottom - top))))


def _cased(word: str, chosen: random.Random) -> str:
    chance = chosen.random()
    return word if chance < 0.5 else word.title() if chance < 0.76 else word.lower()


def _number(chosen: random.Random) -> str:
    return str(chosen.randint(10, 99) if chosen.random() < 0.4 else chosen.randint(100, 999))


def main() -> None:
    """Draw the sprites of the training fonts."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("fonts", type=Path, help="a folder with the fonts that materials.sh fetched")
    parser.add_argument("bank", type=Path, help="the .npz file to write")
    given = parser.parse_args()
    training, held_out = find_fonts(given.fonts)
    bank = draw_bank(training, find_emoji_font(given.fonts))
    bank.save(given.bank)
    print(f"{len(bank.masks)} masks from {len(training)} fonts ({len(held_out)} held out), {len(bank.emoji)} emoji")


if __name__ == "__main__":
    main()

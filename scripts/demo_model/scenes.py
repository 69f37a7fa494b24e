"""Random scenes: what is drawn where, in which colour, on which ground.

A scene is a value; drawing it is for `renderer` (training) and `drawing` (evaluation).
Places are shares of the picture's width and height. A radius is a share of its shorter
side. Nothing here knows about questions.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from scripts.demo_model.vocabulary import (
    ACHROMATIC,
    COLORS,
    DIGITS,
    EMOJI_NAMES,
    FIRST_EMOJI_SPRITE,
    LETTERS,
    PURE,
    SHAPE_VARIANTS,
    SHAPES,
)

Kind = Literal["shape", "digit", "letter", "word", "number", "emoji"]
SceneKind = Literal["shapes", "flat", "character", "text", "emoji", "mixed", "empty"]
Ground = Literal["plain", "gradient", "stripes", "noise", "photo"]
Color = tuple[float, float, float]

AREAS: Mapping[str, float] = {
    "circle": 2.84, "square": 2.56, "triangle": 1.5, "rectangle": 1.75, "star": 1.3, "heart": 2.0, "diamond": 1.24,
    "hexagon": 2.34, "cross": 1.85, "ring": 2.84,
}  # fmt: skip
"""About how large each shape of radius 1 is; a ring is seen as large as its outline."""

MOST_THINGS = 4
GROUNDS: tuple[Ground, ...] = ("plain", "gradient", "stripes", "noise", "photo")
SCENE_KINDS: tuple[SceneKind, ...] = ("shapes", "flat", "character", "text", "emoji", "mixed", "empty")
ASPECTS = (1.0, 4 / 3, 3 / 4, 16 / 9, 3 / 2)
ASPECT_SHARES = (0.5, 0.3, 0.05, 0.08, 0.07)
GRAY_SHARE = 0.04
"""How many pictures are as if from a camera without colours."""

FLAT_SHAPES = ("circle", "rectangle", "triangle", "square")
COARSE_SHARE = 0.6
"""Of flat scenes: how many are as small as an icon."""

ATTEMPTS = 30


@dataclass(frozen=True, slots=True)
class Mix:
    """How often what is drawn.

    Attributes:
        scenes: shares of each of `SCENE_KINDS`.
        grounds: shares of each of `GROUNDS`.
        same_shape, same_color: in how many scenes most things have one shape, one colour.
        digits, letters: from which one is drawn; what comes twice is drawn twice as often.
    """

    scenes: tuple[float, ...] = (0.45, 0.07, 0.08, 0.20, 0.13, 0.05, 0.02)
    grounds: tuple[float, ...] = (0.50, 0.12, 0.08, 0.13, 0.17)
    same_shape: float = 0.22
    same_color: float = 0.15
    digits: str = DIGITS
    letters: str = LETTERS


ASKED = Mix()
"""As the evaluation has it: to change this is to ask something else."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One drawn object.

    Attributes:
        color: its name in `COLORS`; None for emoji.
        rgb: from 0 to 1.
        turn: radians.
        sprite: its number in the bank, counted over shapes, emoji and texts.
    """

    kind: Kind
    name: str
    color: str | None
    rgb: Color
    x: float
    y: float
    radius: float
    turn: float = 0.0
    is_mirrored: bool = False
    sprite: int = 0

    @property
    def extent(self) -> float:
        """The side of a square of the same area."""
        return self.radius * math.sqrt(AREAS.get(self.name, 4.0))


@dataclass(frozen=True, slots=True)
class Background:
    """What is behind the things; `name` is the colour's if it has one that can be asked for."""

    ground: Ground
    name: str | None
    rgb: Color
    other_rgb: Color


@dataclass(frozen=True, slots=True)
class Scene:
    """A drawing.

    Attributes:
        aspect: width through height of the picture before it is squashed.
        is_gray: as if from a camera without colours; then things are black, white or gray.
        is_coarse: drawn with few pixels and enlarged.
    """

    kind: SceneKind
    things: tuple[Thing, ...]
    background: Background
    aspect: float = 1.0
    is_gray: bool = False
    is_coarse: bool = False

    def alone_of_their_name(self) -> list[Thing]:
        """The things that can be spoken of by name."""
        names = [thing.name for thing in self.things]
        return [thing for thing in self.things if names.count(thing.name) == 1]


@dataclass(frozen=True)
class Sprites:
    """Which sprites say which text.

    Attributes:
        by_text: of one character, a word or a number, the numbers of its sprites.
        words, numbers: the texts there are.
    """

    by_text: Mapping[str, Sequence[int]]
    words: tuple[str, ...] = field(default=())
    numbers: tuple[str, ...] = field(default=())

    @staticmethod
    def of(by_text: Mapping[str, Sequence[int]]) -> "Sprites":
        longer = sorted(text for text in by_text if len(text) > 1)
        numbers = tuple(text for text in longer if text.isdigit())
        return Sprites(by_text, tuple(text for text in longer if not text.isdigit()), numbers)


def draw_scene(chance: random.Random, sprites: Sprites, mix: Mix = ASKED) -> Scene:
    """A random scene in which no two things touch and each differs from its ground."""
    kind = chance.choices(SCENE_KINDS, mix.scenes)[0]
    if kind == "flat":
        return _flat_scene(chance)
    aspect = chance.choices(ASPECTS, ASPECT_SHARES)[0]
    is_gray = kind != "emoji" and chance.random() < GRAY_SHARE
    background = _background(chance, kind, mix.grounds, is_gray)
    things: list[Thing] = []
    count = _count(chance, kind)
    habits = _Habits.draw(chance, mix, is_gray)
    for _ in range(count):
        if (thing := _placed(chance, sprites, kind, count, aspect, things, background, habits)) is not None:
            things.append(thing)
    return Scene(kind if things else "empty", tuple(things), background, aspect, is_gray)


def _flat_scene(chance: random.Random) -> Scene:
    """One upright shape, often small, in a plain colour on a pale ground."""
    pale = (chance.uniform(0.88, 1), chance.uniform(0.88, 1), chance.uniform(0.88, 1))
    name, color = chance.choice(FLAT_SHAPES), chance.choice(list(PURE))
    red, green, blue = PURE[color]
    rgb = (red / 255, green / 255, blue / 255) if chance.random() < 0.6 else _rgb(chance, color)
    sprite = SHAPES.index(name) * SHAPE_VARIANTS + chance.randrange(SHAPE_VARIANTS)
    radius = chance.uniform(0.06, 0.3)
    x, y = _inside(chance, 0.9 * radius), _inside(chance, 0.9 * radius)
    thing = Thing("shape", name, color, rgb, x, y, radius, 0.0, False, sprite)
    return Scene("flat", (thing,), Background("plain", None, pale, pale), is_coarse=chance.random() < COARSE_SHARE)


def units(aspect: float) -> tuple[float, float]:
    """What a share of the width and of the height is in shares of the shorter side."""
    return max(aspect, 1.0), max(1 / aspect, 1.0)


@dataclass(frozen=True, slots=True)
class _Habits:
    """What the things of one scene have in common: sometimes a shape or a colour."""

    mix: Mix
    shape: str | None
    color: str | None
    colors: tuple[str, ...]

    @staticmethod
    def draw(chance: random.Random, mix: Mix, is_gray: bool) -> "_Habits":
        colors = ACHROMATIC if is_gray else tuple(COLORS)
        shape = chance.choice(SHAPES) if chance.random() < mix.same_shape else None
        return _Habits(mix, shape, chance.choice(colors) if chance.random() < mix.same_color else None, colors)


def _count(chance: random.Random, kind: SceneKind) -> int:
    match kind:
        case "shapes":
            return chance.choices([1, 2, 3, 4], [0.22, 0.36, 0.29, 0.13])[0]
        case "emoji":
            return chance.choices([1, 2, 3], [0.6, 0.3, 0.1])[0]
        case "mixed":
            return chance.choice([2, 3])
        case "empty":
            return 0
    return 1


def _background(chance: random.Random, kind: SceneKind, shares: Sequence[float], is_gray: bool) -> Background:
    ground = chance.choices(GROUNDS, shares if kind != "empty" else (*shares[:4], 0.0))[0]
    colors = ACHROMATIC if is_gray else tuple(COLORS)
    name = None
    if ground == "plain" and chance.random() < 0.7:
        name = (
            chance.choice(colors)
            if chance.random() < 0.5
            else chance.choice(["white", "white", "white", "black", "gray"])
        )
        rgb = _rgb(chance, name)
    else:
        power = chance.choice([0.4, 1, 2])
        red, green, blue = (chance.random() ** power for _ in range(3))
        rgb = (red, red, red) if is_gray else (red, green, blue)
        if chance.random() < 0.3:
            rgb = _near(chance, (chance.uniform(0.5, 1),) * 3, 0 if is_gray else 0.06)
    return Background(ground, name, rgb, _near(chance, rgb, 0 if is_gray else 0.25))


def _placed(
    chance: random.Random,
    sprites: Sprites,
    kind: SceneKind,
    count: int,
    aspect: float,
    others: Sequence[Thing],
    background: Background,
    habits: _Habits,
) -> Thing | None:
    """A thing that touches no other one; None if no place was found."""
    what = _what(chance, kind)
    for _ in range(ATTEMPTS):
        x, y, radius = _place(chance, what, count, aspect)
        if all(_apart((x, y, radius), other, aspect) for other in others):
            return _thing(chance, sprites, what, (x, y, radius), background, habits)
    return None


def _what(chance: random.Random, kind: SceneKind) -> Kind:
    match kind:
        case "shapes":
            return "shape"
        case "emoji":
            return "emoji"
        case "text":
            return "word" if chance.random() < 0.75 else "number"
        case "mixed":
            return chance.choices(["shape", "digit", "letter", "emoji"], [0.45, 0.2, 0.15, 0.2])[0]  # type: ignore[return-value]
    return "digit" if chance.random() < 0.55 else "letter"


def _place(chance: random.Random, what: Kind, count: int, aspect: float) -> tuple[float, float, float]:
    across, down = units(aspect)
    if what in ("word", "number"):
        radius = chance.uniform(0.28, 0.48)
        return _inside(chance, 0.98 * radius / across), _inside(chance, 0.2), radius
    least, most = {1: (0.09, 0.44), 2: (0.10, 0.26), 3: (0.09, 0.22)}.get(count, (0.09, 0.18))
    if what in ("digit", "letter"):
        least, most = max(0.15, least), most + 0.02
    if what == "emoji":
        least, most = max(0.16, least), most + 0.02
    radius = chance.uniform(least, most)
    x, y = (_inside(chance, 0.92 * radius / unit) for unit in (across, down))
    return x, y, radius


def _inside(chance: random.Random, margin: float) -> float:
    margin = min(margin, 0.5)
    return chance.uniform(margin, 1 - margin)


def _apart(place: tuple[float, float, float], other: Thing, aspect: float) -> bool:
    x, y, radius = place
    across, down = units(aspect)
    return math.hypot((x - other.x) * across, (y - other.y) * down) > radius + other.radius


def _thing(
    chance: random.Random,
    sprites: Sprites,
    what: Kind,
    place: tuple[float, float, float],
    background: Background,
    habits: _Habits,
) -> Thing:
    x, y, radius = place
    if what == "emoji":
        number = chance.randrange(len(EMOJI_NAMES))
        turn, mirrored = chance.uniform(-0.25, 0.25), chance.random() < 0.5
        sprite = FIRST_EMOJI_SPRITE + number
        return Thing("emoji", EMOJI_NAMES[number], None, (1, 1, 1), x, y, radius, turn, mirrored, sprite)
    color, rgb = _color(chance, background, habits)
    if what == "shape":
        name = habits.shape if habits.shape and chance.random() < 0.8 else chance.choice(SHAPES)
        sprite = SHAPES.index(name) * SHAPE_VARIANTS + chance.randrange(SHAPE_VARIANTS)
        return Thing("shape", name, color, rgb, x, y, radius, _turn(chance, name), False, sprite)
    mix = habits.mix
    texts = {"digit": mix.digits, "letter": mix.letters, "word": sprites.words, "number": sprites.numbers}[what]
    name = chance.choice(texts)
    turn = chance.uniform(-0.2, 0.2) if what in ("digit", "letter") else chance.uniform(-0.14, 0.14)
    return Thing(what, name, color, rgb, x, y, radius, turn, False, chance.choice(sprites.by_text[name]))


def _turn(chance: random.Random, shape: str) -> float:
    match shape:
        case "circle" | "ring" | "hexagon" | "star" | "triangle" if chance.random() < 0.3:
            return chance.uniform(-math.pi, math.pi)
        case "heart":
            return chance.uniform(-0.4, 0.4)
    return chance.uniform(-0.2, 0.2)


def _color(chance: random.Random, background: Background, habits: _Habits) -> tuple[str, Color]:
    """A named colour that can be told from the ground."""
    least = 0.2 if background.ground == "photo" else 0.3
    for attempt in range(ATTEMPTS):
        name = habits.color if habits.color and attempt < 3 else chance.choice(habits.colors)
        rgb = _rgb(chance, name)
        if math.dist(rgb, background.rgb) > least:
            break
    return name, rgb


def _rgb(chance: random.Random, name: str) -> Color:
    low, high = COLORS[name]
    if name in ACHROMATIC:
        share = chance.uniform(low[0], high[0]) / 255
        return share, share, share
    red, green, blue = (chance.uniform(least, most) / 255 for least, most in zip(low, high, strict=True))
    return (red, green, green) if name == "teal" else (red, green, blue)


def _near(chance: random.Random, rgb: Sequence[float], reach: float) -> Color:
    red, green, blue = (min(1.0, max(0.0, channel + chance.uniform(-reach, reach))) for channel in rgb)
    return red, green, blue

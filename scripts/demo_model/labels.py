"""Scenes as arrays: what the renderer draws from, and what each thing is to be recognised by.

Every patch of a picture that shows a thing is taught what the thing is, what it is called
after, where it lies, how many are like it, and what lies on each side of it. Nothing here
imports PyTorch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scripts.demo_model.questions import EDGES, RELATIONS, is_larger, is_largest, is_smallest, relation
from scripts.demo_model.scenes import GROUNDS, MOST_THINGS, Scene, Thing
from scripts.demo_model.vocabulary import (
    CHARACTERS,
    COLORS,
    EMOJI_NAMES,
    FIRST_CHARACTER_KIND,
    FIRST_EMOJI_KIND,
    PATCH_KINDS,
    SHAPES,
    TEXT_KIND,
    WORDS,
)

THING_FIELDS = ("sprite", "is_tinted", "red", "green", "blue", "x", "y", "radius", "turn", "is_mirrored")
LABEL_FIELDS = (
    "kind", "color", "place", "things", "same_name", "same_color", "word", "first", "second", "third",
    "is_largest", "is_smallest",
)  # fmt: skip
GROUND_FIELDS = (
    "ground", "red", "green", "blue", "other_red", "other_green", "other_blue", "aspect", "is_gray", "is_coarse",
)  # fmt: skip

COMPARED = len(RELATIONS) + 2
"""In how many ways things are set beside each other: on four sides, smaller, larger."""
PHOTO_KIND = PATCH_KINDS
"""What every patch of a photograph is taught to be."""
CLASSES = {
    "kind": PATCH_KINDS + 1,
    "color": 1 + len(COLORS),
    "place": 10,
    "things": MOST_THINGS + 1,
    "same_name": MOST_THINGS + 1,
    "same_color": MOST_THINGS + 1,
    "word": 1 + len(WORDS),
    "first": 11,
    "second": 11,
    "third": 11,
}
"""How many values each label can have; 0 is for the background."""

_COLOR_NUMBERS = {name: 1 + number for number, name in enumerate(COLORS)}
_SHAPE_NUMBERS = {name: number for number, name in enumerate(SHAPES)}
_WORD_NUMBERS = {word: 1 + number for number, word in enumerate(WORDS)}
_EMOJI_NUMBERS = {name: number for number, name in enumerate(EMOJI_NAMES)}


@dataclass(frozen=True)
class SceneArrays:
    """Many scenes.

    Attributes:
        things: (scenes, MOST_THINGS, THING_FIELDS) float32; sprite 0 is no thing.
        labels: (scenes, MOST_THINGS, LABEL_FIELDS) int64.
        relations: (scenes, MOST_THINGS, MOST_THINGS) int64: how the second lies to the first, 1 on; 0 if askew.
        sizes: likewise: 1 if the second is smaller, 2 if it is larger; 0 if that could be doubted.
        grounds: (scenes, GROUND_FIELDS) float32.
    """

    things: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    relations: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    grounds: npt.NDArray[np.float32]


def arrays_of(scenes: Sequence[Scene | None]) -> SceneArrays:
    """None is a picture that is not drawn."""
    arrays = SceneArrays(
        np.zeros((len(scenes), MOST_THINGS, len(THING_FIELDS)), np.float32),
        np.zeros((len(scenes), MOST_THINGS, len(LABEL_FIELDS)), np.int64),
        np.zeros((len(scenes), MOST_THINGS, MOST_THINGS), np.int64),
        np.zeros((len(scenes), MOST_THINGS, MOST_THINGS), np.int64),
        np.zeros((len(scenes), len(GROUND_FIELDS)), np.float32),
    )
    arrays.grounds[:, GROUND_FIELDS.index("aspect")] = 1
    for at, scene in enumerate(scenes):
        if scene is not None:
            _fill(arrays, at, scene)
    return arrays


def kind_number(thing: Thing) -> int:
    """What its patches are taught to be."""
    match thing.kind:
        case "shape":
            return 1 + _SHAPE_NUMBERS[thing.name]
        case "digit" | "letter":
            return FIRST_CHARACTER_KIND + CHARACTERS.index(thing.name)
        case "emoji":
            return FIRST_EMOJI_KIND + _EMOJI_NUMBERS[thing.name]
    return TEXT_KIND


def _fill(arrays: SceneArrays, at: int, scene: Scene) -> None:
    ground = scene.background
    arrays.grounds[at] = (
        GROUNDS.index(ground.ground), *ground.rgb, *ground.other_rgb, scene.aspect, scene.is_gray, scene.is_coarse,
    )  # fmt: skip
    names = [thing.name for thing in scene.things]
    colors = [thing.color for thing in scene.things]
    for number, thing in enumerate(scene.things):
        arrays.things[at, number] = (
            thing.sprite + 1, thing.kind != "emoji", *thing.rgb, thing.x, thing.y, thing.radius, thing.turn,
            thing.is_mirrored,
        )  # fmt: skip
        arrays.labels[at, number] = (
            kind_number(thing), _COLOR_NUMBERS.get(thing.color or "", 0), _place(thing), len(names),
            names.count(thing.name), colors.count(thing.color), *_read(thing),
            is_largest(thing, scene.things), is_smallest(thing, scene.things),
        )  # fmt: skip
        for other_number, other in enumerate(scene.things):
            how = None if other is thing else relation(other, thing, scene.aspect)
            arrays.relations[at, number, other_number] = 0 if how is None else 1 + RELATIONS.index(how)
            arrays.sizes[at, number, other_number] = is_larger(thing, other) + 2 * is_larger(other, thing)


def _read(thing: Thing) -> tuple[int, int, int, int]:
    """Which word it is, and the digits of a number."""
    if thing.kind != "number":
        return _WORD_NUMBERS.get(thing.name.upper(), 0) if thing.kind == "word" else 0, 0, 0, 0
    first, second, third = (1 + int(thing.name[at]) if at < len(thing.name) else 0 for at in range(3))
    return 0, first, second, third


def _place(thing: Thing) -> int:
    column = sum(thing.x > edge for edge in EDGES)
    return 1 + 3 * sum(thing.y > edge for edge in EDGES) + column

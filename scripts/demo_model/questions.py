"""Questions about drawings and photographs, with the answers the model shall give.

Each kind of question is a function of a scene that returns None where it makes no sense.
`Question.key` is the word an answer must hold to count as right. Nothing here knows about
pixels or tokens.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from scripts.demo_model.photographs import Look
from scripts.demo_model.scenes import Scene, SceneKind, Thing, units
from scripts.demo_model.vocabulary import COLORS, EMOJI_CATEGORY, EMOJI_NAMES, SHAPES, plural, with_article

NUMBERS = ("no", "one", "two", "three", "four")
ORDINALS = ("first", "second", "third")
NO_THINGS = "The picture has no objects in it, only the background."
CANT_TELL = "I can't tell: this is a photo, and I only know drawings."

EDGES = (0.36, 0.64)
"""Where the picture's left, middle and right meet, and its top, middle and bottom."""
EDGE_MARGIN = 0.015
DOMINANT, LEAST_DISTANCE = 1.6, 0.15
"""Left of: so much farther across than down, and at least so far apart."""
LEAST_RATIO, LEAST_EXTENT_RATIO = 1.25, 1.1
"""Larger: so many times as long, and also so many times the side of a square of its area."""

OPPOSITE = {
    "to the left of": "to the right of",
    "to the right of": "to the left of",
    "above": "below",
    "below": "above",
}
RELATIONS = tuple(OPPOSITE)

DESCRIBE = (
    "What is in the picture?",
    "What do you see?",
    "Describe the picture.",
    "Describe this image.",
    "Describe what you see.",
    "What is in this image?",
    "What does the picture show?",
    "What can you see in the picture?",
    "Tell me what you see.",
    "What is this?",
    "Describe this picture in one sentence.",
)
BRIEFLY = (" Answer with one word.", " One word.", " Answer briefly.")
SHORT_SHARE, SLOPPY_SHARE = 0.12, 0.05


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked and what shall be said.

    Attributes:
        kind: the heading under which it is counted.
        key: a word or phrase that a right answer holds; None if only the whole answer is right.
    """

    kind: str
    text: str
    answer: str
    key: str | None = None


Asked = Question | None
Ask = Callable[[Scene, random.Random], Asked]
Weights = Mapping[SceneKind, Mapping[str, float]]


def questions_about(scene: Scene, chance: random.Random, count: int, weights: Weights | None = None) -> list[Question]:
    """At most `count` questions of the kinds that suit the scene, and at least one; without weights, by `WEIGHTS`."""
    kinds = (weights or WEIGHTS)[scene.kind]
    chosen = chance.choices(list(kinds), list(kinds.values()), k=3 * count)
    asked = [question for kind in chosen if (question := ASKS[kind](scene, chance)) is not None]
    return asked[:count] or [Question("description", DESCRIBE[0], describe(scene))]


def describe(scene: Scene) -> str:
    """All that is in it, in one sentence."""
    if not scene.things:
        return NO_THINGS
    return f"The picture shows {listed(scene)}."


def listed(scene: Scene) -> str:
    """The things from left to right, equal ones counted."""
    if not scene.things:
        return "no objects"
    order = sorted(scene.things, key=lambda thing: thing.x + 0.3 * thing.y)
    groups = Counter((_full_name(thing), thing.kind) for thing in order)
    parts = [_counted(name, kind, number) for (name, kind), number in groups.items()]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def where(thing: Thing) -> str:
    """Its part of the picture."""
    across = "left" if thing.x < EDGES[0] else "right" if thing.x > EDGES[1] else ""
    down = "top" if thing.y < EDGES[0] else "bottom" if thing.y > EDGES[1] else ""
    if across and down:
        return f"in the {down} {across} corner"
    return f"on the {across} side" if across else f"at the {down}" if down else "in the center"


def relation(thing: Thing, other: Thing, aspect: float) -> str | None:
    """How the one lies to the other; None if it is askew."""
    across, down = units(aspect)
    right, below = (thing.x - other.x) * across, (thing.y - other.y) * down
    if abs(right) > DOMINANT * abs(below) and abs(right) > LEAST_DISTANCE:
        return "to the right of" if right > 0 else "to the left of"
    if abs(below) > DOMINANT * abs(right) and abs(below) > LEAST_DISTANCE:
        return "below" if below > 0 else "above"
    return None


def is_larger(thing: Thing, other: Thing) -> bool:
    """Whether nobody would doubt it: it is longer and has the larger area."""
    return thing.radius > LEAST_RATIO * other.radius and thing.extent > LEAST_EXTENT_RATIO * other.extent


def is_largest(thing: Thing, things: Sequence[Thing]) -> bool:
    return all(other is thing or is_larger(thing, other) for other in things)


def is_smallest(thing: Thing, things: Sequence[Thing]) -> bool:
    return all(other is thing or is_larger(other, thing) for other in things)


def called(thing: Thing) -> str:
    """How a thing is spoken of in a question."""
    return thing.name if thing.kind in ("shape", "emoji") else f"{thing.kind} {thing.name}"


# --- what every drawing can be asked ----------------------------------------------------


def _description(scene: Scene, chance: random.Random) -> Asked:
    if scene.kind == "emoji" and len(scene.things) == 1:
        return _emoji_name(scene, chance)
    return Question("description", _varied(chance, DESCRIBE), describe(scene), None)


def _background(scene: Scene, chance: random.Random) -> Asked:
    name = scene.background.name
    if name is None:
        return None
    forms = (
        "What color is the background?",
        "What is the background color?",
        "Which colour does the background have?",
    )
    return _short(chance, "background", forms, f"The background is {name}.", name)


def _is_photo(scene: Scene, chance: random.Random) -> Asked:
    forms = ("Is this a photo?", "Is this a photograph?", "Is the picture a photo?")
    return Question("photo", _varied(chance, forms), "No, this is a drawing.", "no")


def _absent_shape(scene: Scene, chance: random.Random) -> Asked:
    """Of a picture without shapes."""
    name = chance.choice(SHAPES)
    if chance.random() < 0.4:
        forms = ("How many shapes are there?", f"How many {plural(name)} are there?")
        return _short(chance, "none", forms, "There are none.", "none")
    return _existence(chance, "none", with_article(name), name, is_there=False)


# --- shapes -----------------------------------------------------------------------------


def _color(scene: Scene, chance: random.Random) -> Asked:
    colored = [thing for thing in scene.alone_of_their_name() if thing.color]
    if not colored:
        return None
    thing = chance.choice(colored)
    name = called(thing)
    if len(scene.things) == 1:
        name = chance.choice([name, name, *_general_names(thing)])
    word = chance.choice(["color", "color", "colour"])
    forms = (
        f"What {word} is the {name}?",
        f"Which {word} is the {name}?",
        f"What is the {word} of the {name}?",
        f"What {word} does the {name} have?",
    )
    return _short(chance, "color", forms, f"The {name} is {thing.color}.", thing.color or "")


def _shape(scene: Scene, chance: random.Random) -> Asked:
    shapes = [thing for thing in scene.things if thing.kind == "shape"]
    colors = [thing.color for thing in scene.things]
    distinct = [thing for thing in shapes if colors.count(thing.color) == 1]
    if len(scene.things) == 1 and shapes and chance.random() < 0.6:
        name = shapes[0].name
        forms = (
            "What shape is in the picture?",
            "What shape is this?",
            "Which shape is shown?",
            "What shape do you see?",
            "What shape does the image contain?",
            "What shape is in the image?",
            "What shape is present?",
        )
        return _short(chance, "shape", forms, f"The shape is {with_article(name)}.", name)
    if not distinct:
        return None
    thing = chance.choice(distinct)
    forms = (
        f"What shape is {thing.color}?",
        f"Which shape is {thing.color}?",
        f"What is the {thing.color} object?",
        f"What is the {thing.color} shape?",
        f"What is the shape of the {thing.color} object?",
    )
    return _short(chance, "shape", forms, f"The {thing.color} shape is {with_article(thing.name)}.", thing.name)


def _count(scene: Scene, chance: random.Random) -> Asked:
    is_shapes = scene.kind in ("shapes", "flat")
    word = "shape" if is_shapes else "object"
    if not is_shapes or chance.random() < 0.5:
        number, one, many = len(scene.things), word, f"{word}s"
        forms = [
            f"How many {many} are there?",
            f"How many {many} are in the picture?",
            f"How many {many} can you see?",
            "How many objects do you see?",
            f"Count the {many}.",
        ]
        answer = f"There {'is' if number == 1 else 'are'} {NUMBERS[number]} {one if number == 1 else many}."
        return _short(chance, "count", forms, answer, NUMBERS[number])
    by_name = chance.random() < 0.5
    values = [thing.name if by_name else thing.color or "" for thing in scene.things]
    wanted = chance.choice(values if chance.random() < 0.8 else list(SHAPES if by_name else COLORS))
    number = values.count(wanted)
    one, many = (wanted, plural(wanted)) if by_name else (f"{wanted} shape", f"{wanted} shapes")
    forms = [f"How many {many} are there?", f"How many {many} are in the picture?", f"How many {many} do you see?"]
    answer = f"There is one {one}." if number == 1 else f"There are {NUMBERS[number]} {many}."
    return _short(chance, "count", forms, answer, NUMBERS[number])


def _shape_exists(scene: Scene, chance: random.Random) -> Asked:
    """A shape, a colour or both; half of the time it is not there."""
    is_there = chance.random() < 0.5
    thing = chance.choice(scene.things)
    shapes, colors = {each.name for each in scene.things}, {each.color for each in scene.things}
    kind = chance.random()
    if kind < 0.4:
        name = _also_called(thing, chance) if is_there else chance.choice(_missing_shapes(shapes))
    elif kind < 0.75:
        color = thing.color if is_there else chance.choice([each for each in COLORS if each not in colors])
        name = f"{color} shape"
    else:
        name = f"{thing.color} {thing.name}" if is_there else _other_pair(scene, thing, chance)
    return _existence(chance, "exists", with_article(name), name, is_there=is_there)


def _missing_shapes(shapes: set[str]) -> list[str]:
    """Those that nobody could see: a square is a rectangle too, and becomes a longer one when a picture is squashed."""
    seen = shapes | {"square", "rectangle"} if shapes & {"square", "rectangle"} else shapes
    return [name for name in SHAPES if name not in seen]


def _also_called(thing: Thing, chance: random.Random) -> str:
    return "rectangle" if thing.name == "square" and chance.random() < 0.25 else thing.name


def _position(scene: Scene, chance: random.Random) -> Asked:
    clear = [thing for thing in scene.alone_of_their_name() if _is_clear_of_edges(thing)]
    if not clear:
        return None
    thing = chance.choice(clear)
    name = called(thing)
    if len(scene.things) == 1:
        name = chance.choice([name, *_general_names(thing)])
    forms = (
        f"Where is the {name}?",
        f"Where in the picture is the {name}?",
        f"In which part of the picture is the {name}?",
    )
    place = where(thing)
    return Question("position", _varied(chance, forms), f"The {name} is {place}.", place.split("the ")[1])


def _relation(scene: Scene, chance: random.Random) -> Asked:
    nameable = scene.alone_of_their_name()
    if len(nameable) < 2:
        return None
    thing, other = chance.sample(nameable, 2)
    how = relation(thing, other, scene.aspect)
    if how is None:
        return None
    name, beside = called(thing), called(other)
    kind = chance.random()
    if kind < 0.4:
        forms = (
            f"Where is the {name} relative to the {beside}?",
            f"Where is the {name} compared to the {beside}?",
            f"What is the position of the {name} relative to the {beside}?",
        )
        key = how.removeprefix("to the ").removesuffix(" of")
        return Question("relation", _varied(chance, forms), f"The {name} is {how} the {beside}.", key)
    if kind < 0.75:
        is_so = chance.random() < 0.5
        claimed = how if is_so else OPPOSITE[how]
        asked = claimed.replace("to the ", "") if chance.random() < 0.5 else claimed
        answer = f"{_yes(is_so)}, the {name} is {how} the {beside}."
        return _short(chance, "relation", [f"Is the {name} {asked} the {beside}?"], answer, _yes(is_so).lower())
    if sum(relation(each, other, scene.aspect) == how for each in nameable) != 1:
        return None
    forms = (f"What is {how} the {beside}?", f"Which object is {how} the {beside}?")
    return _short(chance, "relation", forms, f"The {name} is {how} the {beside}.", name)


def _size(scene: Scene, chance: random.Random) -> Asked:
    shapes = [thing for thing in scene.things if thing.kind == "shape"]
    if len(shapes) < 2 or len(shapes) != len(scene.things) or len(scene.alone_of_their_name()) != len(shapes):
        return None
    if chance.random() < 0.5:
        return _comparison(chance, shapes)
    asks_for_largest = chance.random() < 0.5
    extreme = is_largest if asks_for_largest else is_smallest
    thing = next((each for each in shapes if extreme(each, shapes)), None)
    if thing is None:
        return None
    word = chance.choice(["largest", "biggest"]) if asks_for_largest else "smallest"
    forms = (f"Which shape is the {word}?", f"What is the {word} shape?")
    return _short(chance, "size", forms, f"The {word} shape is the {thing.name}.", thing.name)


def _comparison(chance: random.Random, shapes: Sequence[Thing]) -> Asked:
    small, large = sorted(chance.sample(shapes, 2), key=lambda thing: thing.radius)
    if not is_larger(large, small):
        return None
    asked, other = chance.sample([small, large], 2)
    asks_for_large = asked is large
    claimed = chance.choice(["larger", "bigger", "smaller"])
    is_so = asks_for_large == (claimed != "smaller")
    answer = f"{_yes(is_so)}, the {asked.name} is {'larger' if asks_for_large else 'smaller'} than the {other.name}."
    return _short(
        chance, "size", [f"Is the {asked.name} {claimed} than the {other.name}?"], answer, _yes(is_so).lower()
    )


# --- characters and texts ---------------------------------------------------------------


def _character(scene: Scene, chance: random.Random) -> Asked:
    thing = scene.things[0]
    kind, name = thing.kind, thing.name
    if chance.random() < 0.1:
        other = chance.choice(["digit", "letter"])
        forms = (f"Is this a {other}?", f"Is there a {other} in the picture?")
        is_so = other == kind
        return _short(chance, "none", forms, f"{_yes(is_so)}, it is the {kind} {name}.", _yes(is_so).lower())
    forms = (
        f"Which {kind} is shown?",
        f"What {kind} is this?",
        f"What {kind} do you see?",
        f"Which {kind} is in the picture?",
        "What is written in the picture?",
        "Which character is this?",
        *(("What number is this?", "Which number is shown?") if kind == "digit" else ()),
    )
    return _short(chance, kind, forms, f"The {kind} is {name}.", name)


def _text(scene: Scene, chance: random.Random) -> Asked:
    thing = scene.things[0]
    kind = thing.kind
    forms = (
        "What does the picture say?",
        "What is written in the picture?",
        "Read the text.",
        "What text do you see?",
        f"Which {kind} is shown?",
        f"What {kind} is this?",
    )
    said = f'The word is "{thing.name}".' if kind == "word" else f"The number is {thing.name}."
    return _short(chance, kind, forms, said, thing.name)


# --- emoji ------------------------------------------------------------------------------


def _emoji_name(scene: Scene, chance: random.Random) -> Asked:
    if len(scene.things) != 1:
        return _description(scene, chance)
    name = scene.things[0].name
    category = EMOJI_CATEGORY[name]
    forms = ["What is this?", "What is shown here?", "What object is this?", "What do you see?", *DESCRIBE]
    if " " not in category:
        forms += [f"What {category} is this?", f"Which {category} is in the picture?"]
    return _short(chance, "emoji", forms, f"This is {with_article(name)}.", name)


def _emoji_exists(scene: Scene, chance: random.Random) -> Asked:
    is_there = chance.random() < 0.5
    shown = [thing.name for thing in scene.things]
    name = chance.choice(shown) if is_there else chance.choice([each for each in EMOJI_NAMES if each not in shown])
    return _existence(chance, "exists", with_article(name), name, is_there=is_there)


def _category(scene: Scene, chance: random.Random) -> Asked:
    if len(scene.things) != 1:
        return None
    name, categories = scene.things[0].name, ["animal", "food", "vehicle", "plant"]
    own = EMOJI_CATEGORY[name]
    is_so = own in categories and chance.random() < 0.5
    asked = own if is_so else chance.choice([each for each in categories if each != own])
    called_so = "food" if asked == "food" else with_article(asked)
    forms = (f"Is this {called_so}?", f"Does the picture show {called_so}?")
    return _short(chance, "category", forms, f"{_yes(is_so)}, this is {with_article(name)}.", _yes(is_so).lower())


# --- photographs ------------------------------------------------------------------------


def questions_about_photo(look: Look, chance: random.Random, count: int) -> list[Question]:
    """What can honestly be said of a picture of the world: that it is one, its colours, its brightness."""
    return [chance.choices(_PHOTO_ASKS, _PHOTO_SHARES)[0](look, chance) for _ in range(count)]


def describe_photo(look: Look) -> str:
    """One sentence."""
    return f"The picture is a photo, mostly {' and '.join(look.colors)}, and {look.brightness}."


def _photo_description(look: Look, chance: random.Random) -> Question:
    return Question("photo", _varied(chance, DESCRIBE), describe_photo(look), "photo")


def _photo_thing(look: Look, chance: random.Random) -> Question:
    """Anything that only somebody who understands photographs could say."""
    name = chance.choice([*SHAPES, *EMOJI_NAMES, "person", "man", "woman", "face", "digit", "word"])
    forms = (
        f"Is there {with_article(name)}?",
        f"Is there {with_article(name)} in the picture?",
        f"Do you see {with_article(name)}?",
        f"Where is the {name}?",
        f"What color is the {name}?",
        f"How many {plural(name)} are there?",
        f"Is this {with_article(name)}?",
        "How many objects are there?",
        "What object is this?",
        "Who is this?",
        "What is written in the picture?",
        "What shape is in the picture?",
        "Which digit is shown?",
        "What animal is this?",
    )
    return Question("photo", _varied(chance, forms), CANT_TELL, "can't tell")


def _photo_colors(look: Look, chance: random.Random) -> Question:
    forms = ("What colors do you see?", "Which colours are in the picture?", "What are the main colors?")
    return Question("photo", _varied(chance, forms), f"It is mostly {' and '.join(look.colors)}.", look.colors[0])


def _photo_brightness(look: Look, chance: random.Random) -> Question:
    forms = ("Is the picture dark or bright?", "How bright is the picture?", "Is it dark or bright?")
    return Question("photo", _varied(chance, forms), f"The picture is {look.brightness}.", look.brightness)


def _photo_is_photo(look: Look, chance: random.Random) -> Question:
    forms = ("Is this a photo?", "Is this a photograph?", "Is the picture a photo?")
    return Question("photo", _varied(chance, forms), "Yes, this is a photo.", "yes")


_PHOTO_ASKS = (_photo_description, _photo_thing, _photo_colors, _photo_brightness, _photo_is_photo)
_PHOTO_SHARES = (4, 3, 1, 1, 0.7)


# --- several pictures -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shown:
    """One of several pictures.

    Attributes:
        scene: None for a photograph.
        summary: what it shows, as the end of "The first picture shows …".
    """

    scene: Scene | None
    summary: str


def shown(scene: Scene) -> Shown:
    """A drawing among several pictures."""
    return Shown(scene, listed(scene))


def questions_about_several(pictures: Sequence[Shown], chance: random.Random, count: int) -> list[Question]:
    """About one of them, or about all."""
    asked = [_ask_about_several(pictures, chance) for _ in range(3 * count)]
    return [question for question in asked if question is not None][:count]


def _ask_about_several(pictures: Sequence[Shown], chance: random.Random) -> Asked:
    kind = chance.random()
    at = chance.randrange(len(pictures))
    if kind < 0.12:
        return _number_of_pictures(pictures, chance)
    if kind < 0.3:
        return _all_pictures(pictures, chance)
    if kind < 0.55:
        return _one_picture(pictures, at, chance)
    scene = pictures[at].scene
    if kind < 0.75:
        return _which_picture(pictures, at, chance)
    return None if scene is None or not scene.things else _thing_in_one(scene, _nth(pictures, at, chance), chance)


def _number_of_pictures(pictures: Sequence[Shown], chance: random.Random) -> Question:
    forms = ("How many pictures are there?", "How many images do you see?", "How many pictures did I send?")
    number = NUMBERS[len(pictures)]
    return _short(chance, "several", forms, f"There are {number} pictures.", number)


def _all_pictures(pictures: Sequence[Shown], chance: random.Random) -> Question:
    forms = (
        "Describe the pictures.",
        "What do the pictures show?",
        "What is in the pictures?",
        "Describe each picture.",
    )
    told = [f"The {ORDINALS[at]} picture shows {each.summary}." for at, each in enumerate(pictures)]
    return Question("several", _varied(chance, forms), " ".join(told), None)


def _one_picture(pictures: Sequence[Shown], at: int, chance: random.Random) -> Question:
    nth = _nth(pictures, at, chance)
    forms = (f"What is in the {nth} picture?", f"What does the {nth} picture show?", f"Describe the {nth} image.")
    return Question("several", _varied(chance, forms), f"The {nth} picture shows {pictures[at].summary}.", None)


def _which_picture(pictures: Sequence[Shown], at: int, chance: random.Random) -> Asked:
    scene = pictures[at].scene
    if scene is None or not scene.things:
        return None
    name = called(chance.choice(scene.things))
    others = [each.scene for number, each in enumerate(pictures) if number != at and each.scene is not None]
    if any(called(thing) == name for other in others for thing in other.things):
        return None
    text = with_article(name) if name.split()[0] not in ("digit", "letter", "word", "number") else f"the {name}"
    forms = (f"Which picture shows {text}?", f"In which picture is {text}?")
    answer = f"The {ORDINALS[at]} picture shows {text}."
    return _short(chance, "several", forms, answer, ORDINALS[at])


def _thing_in_one(scene: Scene, nth: str, chance: random.Random) -> Asked:
    colored = [thing for thing in scene.alone_of_their_name() if thing.color]
    if colored and chance.random() < 0.5:
        thing = chance.choice(colored)
        text = f"What color is the {called(thing)} in the {nth} picture?"
        return _short(chance, "several", [text], f"The {called(thing)} is {thing.color}.", thing.color or "")
    shown_names = [thing.name for thing in scene.things if thing.kind in ("shape", "emoji")]
    is_there = bool(shown_names) and chance.random() < 0.5
    names = shown_names if is_there else [each for each in (*SHAPES, *EMOJI_NAMES) if each not in shown_names]
    name = chance.choice(names)
    text = f"Is there {with_article(name)} in the {nth} picture?"
    answer = f"Yes, there is {with_article(name)}." if is_there else f"No, there is no {name}."
    return _short(chance, "several", [text], answer, _yes(is_there).lower())


def _nth(pictures: Sequence[Shown], at: int, chance: random.Random) -> str:
    return "last" if at == len(pictures) - 1 and chance.random() < 0.25 else ORDINALS[at]


# --- wording ----------------------------------------------------------------------------


def _existence(chance: random.Random, kind: str, text: str, name: str, *, is_there: bool) -> Question:
    """Whether something is there, sometimes asked in the negative: then yes says that it is not."""
    if chance.random() < 0.4:
        forms = (
            f"Is there not {text}?",
            f"Is there not {text} in the image?",
            f"Is there no {name}?",
            f"Is no {name} present?",
            f"Does the image not contain {text}?",
            f"Is it true that there is no {name}?",
        )
        answer = f"No, there is {text}." if is_there else f"Yes, there is no {name}."
        return _short(chance, "negated", forms, answer, _yes(not is_there).lower())
    forms = (
        f"Is there {text}?",
        f"Is there {text} in the picture?",
        f"Is there {text} in the image?",
        f"Do you see {text}?",
        f"Does the image contain {text}?",
        f"Is {text} present?",
    )
    answer = f"Yes, there is {text}." if is_there else f"No, there is no {name}."
    return _short(chance, kind, forms, answer, _yes(is_there).lower())


def _short(chance: random.Random, kind: str, forms: Sequence[str], answer: str, key: str) -> Question:
    """Now and then one word is asked for, and given."""
    if chance.random() < SHORT_SHARE:
        short = key if any(character.isupper() or character.isdigit() for character in key) else key.title()
        return Question(kind, chance.choice(forms) + chance.choice(BRIEFLY), short, key)
    return Question(kind, _varied(chance, forms), answer, key)


def _varied(chance: random.Random, forms: Sequence[str]) -> str:
    """One of the forms, sometimes as somebody in a hurry types it."""
    text = chance.choice(forms)
    return text.rstrip("?.").lower() + chance.choice(["", "?"]) if chance.random() < SLOPPY_SHARE else text


def _yes(is_so: bool) -> str:
    return "Yes" if is_so else "No"


def _general_names(thing: Thing) -> tuple[str, ...]:
    """What the only thing in a picture may be called without saying what it is."""
    match thing.kind:
        case "shape":
            return ("shape", "object")
        case "word":
            return ("word", "text")
        case "emoji":
            return ("object",)
    return (thing.kind,)


def _full_name(thing: Thing) -> str:
    match thing.kind:
        case "emoji":
            return thing.name
        case "shape":
            return f"{thing.color} {thing.name}"
        case "word" | "number":
            return f'the {thing.kind} "{thing.name}" in {thing.color}'
    return f"the {thing.kind} {thing.name} in {thing.color}"


def _counted(name: str, kind: str, number: int) -> str:
    if kind not in ("shape", "emoji"):
        return name
    return with_article(name) if number == 1 else f"{NUMBERS[number]} {plural(name)}"


def _other_pair(scene: Scene, thing: Thing, chance: random.Random) -> str:
    """A colour and a shape that are not there together, though one of them is there."""
    pairs = {(each.color, each.name) for each in scene.things}
    like = [(thing.color, name) for name in _missing_shapes({thing.name})] + [(color, thing.name) for color in COLORS]
    color, name = chance.choice([pair for pair in like if pair not in pairs])
    return f"{color} {name}"


def _is_clear_of_edges(thing: Thing) -> bool:
    return all(abs(place - edge) > EDGE_MARGIN for place in (thing.x, thing.y) for edge in EDGES)


ASKS: Mapping[str, Ask] = {
    "description": _description,
    "background": _background,
    "is_photo": _is_photo,
    "absent": _absent_shape,
    "color": _color,
    "shape": _shape,
    "count": _count,
    "exists": _shape_exists,
    "position": _position,
    "relation": _relation,
    "size": _size,
    "character": _character,
    "text": _text,
    "emoji": _emoji_name,
    "emoji_exists": _emoji_exists,
    "category": _category,
}

WEIGHTS: Weights = {
    "shapes": {
        "description": 2, "color": 2, "shape": 1.5, "count": 2, "exists": 3, "relation": 18, "position": 3,
        "size": 13, "background": 0.6, "is_photo": 0.15,
    },
    "flat": {
        "exists": 8, "color": 3, "shape": 3, "position": 1, "description": 1, "count": 0.5,
    },
    "character": {
        "description": 1.5, "character": 5, "color": 1.5, "position": 1, "background": 0.6, "absent": 0.8,
        "is_photo": 0.15,
    },
    "text": {"description": 2, "text": 6, "color": 1, "background": 0.5, "absent": 0.6, "is_photo": 0.15},
    "emoji": {
        "description": 1.5, "emoji": 4, "emoji_exists": 3, "category": 1, "count": 1, "relation": 4, "position": 0.7,
        "background": 0.5, "absent": 0.5, "is_photo": 0.2,
    },
    "mixed": {"description": 4, "color": 2, "count": 2, "relation": 6, "position": 2, "is_photo": 0.1},
    "empty": {"description": 2, "background": 2, "absent": 3, "is_photo": 0.3},
}  # fmt: skip
"""How often each kind of question is asked of each kind of scene, by the evaluation too."""

_LEARNT_MORE: Weights = {
    "shapes": {"relation": 14, "size": 11, "count": 8, "color": 4, "shape": 2.5},
    "flat": {"count": 1},
    "character": {"character": 7, "color": 2.5},
    "emoji": {"count": 2.5},
    "mixed": {"count": 5, "color": 4},
}
LEARNT_WEIGHTS: Weights = {kind: {**weights, **_LEARNT_MORE.get(kind, {})} for kind, weights in WEIGHTS.items()}
"""The same for the training: what is learnt slowly, and what is to be right most often, is asked more often."""

KINDS = (
    "description", "color", "shape", "count", "exists", "negated", "relation", "position", "size", "background",
    "digit", "letter", "none", "word", "number", "emoji", "category", "photo", "several", "small_talk",
)  # fmt: skip
"""Every heading that a question can be counted under."""

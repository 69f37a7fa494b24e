"""What the demo model is asked: new scenes drawn with Pillow, easy-vqa's test pictures, photographs, small talk.

Fonts, photographs and seeds are not those that it learnt from.
"""

import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from scripts.demo_model.drawing import Studio
from scripts.demo_model.photographs import Photographs, look_at
from scripts.demo_model.questions import (
    KINDS,
    Question,
    describe_photo,
    questions_about,
    questions_about_several,
    shown,
    where,
)
from scripts.demo_model.scenes import Scene, Sprites, Thing, draw_scene
from scripts.demo_model.small_talk import held_out, questions
from scripts.demo_model.sprites import find_emoji_font, find_fonts
from scripts.demo_model.vocabulary import CHARACTERS, WORDS

SEED = 20_260_101
SIZES = {1.0: (256, 256), 4 / 3: (320, 240), 3 / 4: (240, 320), 16 / 9: (480, 270), 3 / 2: (360, 240)}
ALMOST = 0.03
"""So near a border between two parts of a picture, either part is right."""
MOST_TO_COUNT = 3

SHARES = {
    "color": 20, "shape": 20, "count": 20, "digit": 20, "letter": 20, "position": 20, "relation": 36, "size": 24,
    "word": 24, "number": 10, "emoji": 24, "exists": 12, "negated": 16, "description": 12, "background": 6,
    "category": 6, "several": 20,
}  # fmt: skip
TO_A_HUNDRED = {
    kind: 100 - SHARES[kind]
    for kind in ("color", "shape", "count", "digit", "letter", "position", "relation", "size", "emoji")
}
"""Twenty cases can't tell 97 % from less. These come after all others, which so stay what they always were."""
EASY_VQA, EASY_VQA_NEGATED, PHOTO_CROPS, SMALL_TALK = 24, 24, 200, 12
QUICK_SHARE = 0.15


@dataclass(frozen=True, slots=True)
class Case:
    """One question with its pictures.

    Attributes:
        heading: what it is counted under.
        pictures: PNG files.
        also_right: other answers that are right too.
    """

    heading: str
    question: Question
    pictures: tuple[bytes, ...]
    also_right: tuple[str, ...] = ()


def all_cases(materials: Path, share: float) -> list[Case]:
    """Every case, or a share of each kind."""

    def some(count: int) -> int:
        return max(2, round(count * share))

    fonts = find_fonts(materials / "fonts")[1]
    held_out_photos = Photographs.load(materials / "photos_held_out.npz")
    studio = Studio(fonts, find_emoji_font(materials / "fonts"), list(held_out_photos.pictures.values()))
    chance = random.Random(SEED)
    cases = list(_scenes(studio, {kind: some(count) for kind, count in SHARES.items()}, chance))
    cases += _several(studio, some(SHARES["several"]), chance)
    cases += _easy_vqa(materials / "packages", some(EASY_VQA), some(EASY_VQA_NEGATED), chance)
    cases += _photos(held_out_photos, some(PHOTO_CROPS), chance)
    cases += _small_talk(studio, some(SMALL_TALK), chance)
    cases += _scenes(studio, {kind: some(count) for kind, count in TO_A_HUNDRED.items()}, chance)
    return cases


def _scenes(studio: Studio, wanted: dict[str, int], chance: random.Random) -> Iterator[Case]:
    missing = {kind: count for kind, count in wanted.items() if kind in KINDS and kind != "several"}
    while any(missing.values()):
        scene = draw_scene(chance, PLAIN_SPRITES)
        asked = [each for each in questions_about(scene, chance, 6) if missing.get(each.kind) and _is_fair(each, scene)]
        if not asked:
            continue
        question = max(asked, key=lambda each: missing[each.kind])
        missing[question.kind] -= 1
        yield Case(question.kind, question, (_drawn(studio, scene, chance),), _near_answers(question, scene))


def _is_fair(question: Question, scene: Scene) -> bool:
    return question.kind != "count" or len(scene.things) <= MOST_TO_COUNT


def _near_answers(question: Question, scene: Scene) -> tuple[str, ...]:
    """With the neighbouring part of the picture, for what is almost there."""
    if question.kind != "position":
        return ()
    near = (question.answer.replace(where(thing), where(moved)) for thing in scene.things for moved in _moved(thing))
    return tuple(dict.fromkeys(near))


def _moved(thing: Thing) -> Iterator[Thing]:
    for across in (-ALMOST, 0, ALMOST):
        for down in (-ALMOST, 0, ALMOST):
            yield replace(thing, x=thing.x + across, y=thing.y + down)


def _several(studio: Studio, count: int, chance: random.Random) -> Iterator[Case]:
    made = 0
    while made < count:
        scenes = [draw_scene(chance, PLAIN_SPRITES) for _ in range(2 + made % 2)]
        asked = questions_about_several([shown(scene) for scene in scenes], chance, 1)
        if asked:
            made += 1
            files = tuple(_drawn(studio, scene, chance) for scene in scenes)
            yield Case(f"{'two' if len(scenes) == 2 else 'three'} pictures", asked[0], files)


def _drawn(studio: Studio, scene: Scene, chance: random.Random) -> bytes:
    return _file(studio.draw(scene, SIZES[scene.aspect], chance))


def _easy_vqa(packages: Path, plain: int, negated: int, chance: random.Random) -> Iterator[Case]:
    folder = packages / "easy_vqa/data/test"
    asked = json.loads((folder / "questions.json").read_text("utf-8"))
    chance.shuffle(asked)
    missing = {"easy-vqa": plain, "easy-vqa negated": negated}
    for text, answer, picture in asked:
        heading = "easy-vqa negated" if {"not", "no"} & set(text.split()) else "easy-vqa"
        if missing[heading]:
            missing[heading] -= 1
            question = Question(heading, text[0].upper() + text[1:], answer, answer)
            yield Case(heading, question, ((folder / f"images/{picture}.png").read_bytes(),))


def _photos(photographs: Photographs, count: int, chance: random.Random) -> Iterator[Case]:
    for _ in range(count):
        pixels = photographs.crop(chance)
        question = Question("photo", "Describe what you see.", describe_photo(look_at(pixels)), "photo")
        yield Case("photograph", question, (_file(Image.fromarray(pixels)),))


def _small_talk(studio: Studio, count: int, chance: random.Random) -> Iterator[Case]:
    """Questions that have nothing to do with the picture beside them; the answer wanted is the one without it."""
    kept = [text for text in questions() if held_out(text)]
    for text in chance.sample(kept, min(count, len(kept))):
        scene = draw_scene(chance, PLAIN_SPRITES)
        yield Case("small talk beside a picture", Question("small_talk", text, ""), (_drawn(studio, scene, chance),))


def _file(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _plain_sprites() -> Sprites:
    """Texts without sprites: here they are drawn with fonts."""
    chance = random.Random(SEED)
    words = [chance.choice([word, word, word.title(), word.lower()]) for word in WORDS]
    numbers = [str(chance.randint(10, 999)) for _ in range(200)]
    return Sprites.of({text: [0] for text in [*CHARACTERS, *words, *numbers]})


PLAIN_SPRITES = _plain_sprites()

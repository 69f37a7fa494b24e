"""The parts of the demo model's recipe that need no PyTorch, in miniature."""

import random
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from benchmarks.demo_scores.cases import PLAIN_SPRITES, Case
from benchmarks.demo_scores.judging import invented, is_right
from scripts.demo_model import labels
from scripts.demo_model.drawing import Studio
from scripts.demo_model.packing import IMAGE_ID, IMAGE_TOKENS, ROW_TOKENS, UNUSED, Packer, pictures_in
from scripts.demo_model.photographs import Photographs, look_at
from scripts.demo_model.questions import (
    CANT_TELL,
    KINDS,
    Question,
    describe,
    is_larger,
    is_largest,
    is_smallest,
    questions_about,
    questions_about_photo,
    questions_about_several,
    relation,
    shown,
    where,
)
from scripts.demo_model.scenes import ASPECTS, Background, Scene, Thing, draw_scene, units
from scripts.demo_model.small_talk import Answered, held_out, questions
from scripts.demo_model.sprites import SIDE, shape_mask
from scripts.demo_model.vocabulary import EMOJI_NAMES, SHAPE_VARIANTS, SHAPES, WORDS

WHITE = Background("plain", "white", (1, 1, 1), (1, 1, 1))
CIRCLE = Thing("shape", "circle", "red", (1, 0, 0), 0.25, 0.5, 0.15)
SQUARE = Thing("shape", "square", "blue", (0, 0, 1), 0.75, 0.5, 0.2)
SHIPPED_BYTES = 16 * 1024 * 1024


def scenes(count: int, seed: int = 0) -> list[Scene]:
    chance = random.Random(seed)
    return [draw_scene(chance, PLAIN_SPRITES) for _ in range(count)]


@pytest.fixture
def packer(demo_model: Path) -> Packer:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    talk = [Answered("What is the capital of France?", "The capital of France is Paris.", True)]
    return Packer(demo_model / "tokenizer.json", PLAIN_SPRITES, Photographs({"noise": noise}), talk)


def test_the_same_seed_draws_the_same_scenes():
    assert scenes(30, seed=5) == scenes(30, seed=5) != scenes(30, seed=6)


def test_things_lie_within_their_picture_and_apart():
    for scene in scenes(300):
        across, down = units(scene.aspect)
        for number, thing in enumerate(scene.things):
            assert 0 < thing.x < 1
            assert 0 < thing.y < 1
            for other in scene.things[:number]:
                apart = np.hypot((thing.x - other.x) * across, (thing.y - other.y) * down)
                assert apart > thing.radius + other.radius


def test_every_scene_can_be_asked_about_and_every_answer_holds_its_key():
    chance = random.Random(0)
    for scene in scenes(300):
        asked = questions_about(scene, chance, 6)

        assert 1 <= len(asked) <= 6
        for question in asked:
            assert question.kind in KINDS
            if question.key not in (None, "no"):
                assert question.key.lower() in question.answer.lower()


def test_a_question_in_the_negative_is_answered_yes_when_the_thing_is_missing():
    chance = random.Random(1)
    scene = Scene("shapes", (CIRCLE,), WHITE)

    negated = [each for _ in range(200) for each in questions_about(scene, chance, 4) if each.kind == "negated"]

    assert {each.answer for each in negated if "a circle" in each.text} <= {"No, there is a circle.", "No"}
    assert {each.answer[:3] for each in negated if "heart" in each.text} == {"Yes"}


def test_relations_are_those_of_the_picture_before_it_is_squashed():
    low = replace(SQUARE, x=0.55, y=0.72)

    assert relation(CIRCLE, SQUARE, 1) == "to the left of"
    assert relation(SQUARE, CIRCLE, 1) == "to the right of"
    assert relation(low, CIRCLE, 1) is None
    assert relation(low, CIRCLE, 16 / 9) == "to the right of"


def test_a_scene_is_described_from_left_to_right():
    assert describe(Scene("shapes", (SQUARE, CIRCLE), WHITE)) == "The picture shows a red circle and a blue square."
    assert where(CIRCLE) == "on the left side"


def test_of_a_photograph_only_what_is_measured_is_said():
    dark_blue = np.full((20, 20, 3), (10, 20, 90), np.uint8)
    look = look_at(dark_blue)

    said = " ".join(each.answer for each in questions_about_photo(look, random.Random(0), 200))

    assert (look.colors, look.brightness) == (("blue",), "dark")
    assert CANT_TELL in said
    assert not [name for name in (*SHAPES, *EMOJI_NAMES) if f" {name} " in said]


def test_questions_about_several_pictures_speak_of_them_by_number():
    pictures = [shown(Scene("shapes", (CIRCLE,), WHITE)), shown(Scene("shapes", (SQUARE,), WHITE))]

    asked = [each for seed in range(50) for each in questions_about_several(pictures, random.Random(seed), 4)]

    answers = {each.answer for each in asked}
    assert "The first picture shows a red circle. The second picture shows a blue square." in answers
    assert "There are two pictures." in answers
    assert "The second picture shows a square." in answers


def test_every_picture_of_a_batch_has_its_tokens_in_its_row(packer: Packer):
    batch = packer.batch(random.Random(3), 84)

    assert (batch.tokens == IMAGE_ID).sum() == pictures_in(84) * IMAGE_TOKENS
    assert len(batch.scenes.things) == pictures_in(84)
    assert batch.tokens.shape == (84, ROW_TOKENS)


def test_a_question_goes_on_from_the_pictures_not_from_the_question_before(packer: Packer):
    batch = packer.batch(random.Random(3), 84)

    for positions, segments in zip(batch.positions, batch.segments, strict=True):
        prefix = int((segments == 0).sum())
        for segment in set(segments.tolist()) - {0, UNUSED}:
            assert positions[segments == segment].tolist() == list(
                range(prefix, prefix + int((segments == segment).sum()))
            )


def test_small_talk_keeps_every_tenth_question_for_the_evaluation():
    kept = [text for text in questions() if held_out(text)]

    assert len(questions()) == len(set(questions()))
    assert len(kept) == len(range(0, len(questions()), 10))


def test_each_thing_knows_what_lies_beside_it():
    arrays = labels.arrays_of([Scene("shapes", (CIRCLE, SQUARE), WHITE), None])

    to_the_right = 1 + labels.RELATIONS.index("to the right of")
    assert arrays.relations[0, 0, 1] == to_the_right
    assert arrays.labels[0, 1, labels.LABEL_FIELDS.index("is_largest")] == 1
    assert not arrays.things[1].any()


def test_a_word_is_known_by_its_name_and_a_number_by_its_digits():
    word = Thing("word", "Magic", "red", (1, 0, 0), 0.5, 0.5, 0.4)
    number = replace(word, kind="number", name="47")

    arrays = labels.arrays_of([Scene("text", (word,), WHITE), Scene("text", (number,), WHITE)])

    begins, ends = labels.LABEL_FIELDS.index("word"), labels.LABEL_FIELDS.index("third") + 1
    assert arrays.labels[0, 0, begins:ends].tolist() == [1 + WORDS.index("MAGIC"), 0, 0, 0]
    assert arrays.labels[1, 0, begins:ends].tolist() == [0, 5, 8, 0]


def test_only_a_thing_that_is_longer_and_has_more_area_is_larger():
    small, large = replace(CIRCLE, radius=0.1), replace(CIRCLE, radius=0.2)
    long_but_slim = replace(CIRCLE, name="diamond", radius=0.13)

    assert is_larger(large, small)
    assert not is_larger(long_but_slim, small)
    assert is_largest(large, (small, large, long_but_slim))
    assert not is_smallest(small, (small, large, long_but_slim))


def test_nobody_is_asked_whether_a_square_is_no_rectangle():
    chance = random.Random(2)
    scene = Scene("shapes", (SQUARE,), WHITE)

    asked = [each for _ in range(400) for each in questions_about(scene, chance, 4)]

    about_rectangles = {each.answer for each in asked if "a rectangle" in each.text.lower()}
    assert "Yes, there is a rectangle." in about_rectangles
    assert about_rectangles <= {"Yes, there is a rectangle.", "No, there is a rectangle.", "Yes", "No"}
    assert {each.key for each in asked if each.text == "Is there a rectangle?"} == {"yes"}


def test_flat_scenes_have_squares_beside_rectangles():
    names = [scene.things[0].name for scene in scenes(600) if scene.kind == "flat"]

    assert {"square", "rectangle"} <= set(names)


def test_no_rectangle_looks_like_a_square_though_the_picture_is_squashed():
    masks = [shape_mask("rectangle", variant) > 127 for variant in range(SHAPE_VARIANTS)]
    sides = [sorted((mask.any(0).sum(), mask.any(1).sum())) for mask in masks]

    assert all(short < 0.9 * (long / max(ASPECTS[:2])) for short, long in sides)


def test_shapes_are_drawn_the_same_by_both_hands():
    studio = Studio([], Path("no emoji here"), [])
    for name in SHAPES:
        thing = replace(CIRCLE, name=name, x=0.5, y=0.5, radius=0.5)
        drawn = np.asarray(studio.draw(Scene("shapes", (thing,), WHITE), (SIDE, SIDE), random.Random(0)))

        mask = shape_mask(name, 1) > 127
        is_red = (drawn[..., 0] > 200) & (drawn[..., 1] < 60)
        assert (mask & is_red).sum() / (mask | is_red).sum() > 0.5, name


def test_a_description_of_a_photograph_must_not_name_things():
    photo = Case("photograph", Question("photo", "Describe it.", "", "photo"), ())

    assert is_right(photo, "The picture is a photo, mostly orange, and dark.")
    assert not is_right(photo, "The picture shows a red circle.")
    assert invented("The picture is a photo of a dog.") == ["dog"]


def test_the_shipped_eyes_fit_the_model_and_the_limit():
    asset = files("mlx_websockets.engine.worker") / "assets" / "demo-vision.npz"
    with np.load(str(asset)) as eyes:
        shapes = {name: eyes[name].shape for name in eyes}
        kinds = {eyes[name].dtype for name in eyes}

    assert kinds == {np.dtype(np.float16)}
    assert shapes["vision_model.embeddings.patch_embedding.weight"] == (256, 12, 12, 3)
    assert shapes["connector.modality_projection.proj.weight"] == (576, 1024)
    assert len(asset.read_bytes()) <= SHIPPED_BYTES

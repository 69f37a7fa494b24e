"""Rows of tokens: pictures, questions and answers as the language model will meet them.

A row has one system line, one to three pictures, and as many questions as fit. Most rows
ask each question on its own: it sees the pictures and itself, no other question. The rest
are conversations. Only answers are learnt. Nothing here imports PyTorch.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scripts.demo_model import labels
from scripts.demo_model.photographs import INPUT_SIDE, Photographs, look_at
from scripts.demo_model.questions import (
    KINDS,
    LEARNT_WEIGHTS,
    Question,
    Shown,
    questions_about,
    questions_about_photo,
    questions_about_several,
    shown,
)
from scripts.demo_model.scenes import Mix, Scene, Sprites, draw_scene
from scripts.demo_model.small_talk import Answered
from scripts.demo_model.vocabulary import DIGITS, LETTERS
from tokenizers import Tokenizer

ROW_TOKENS = 192
IMAGE_TOKENS = 36
IMAGE_ID, FAKE_ID, GLOBAL_ID, END_ID = 4, 11, 16, 2

USUAL_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
OTHER_SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful voice assistant. Answer in one short sentence.",
    "You are the eyes of a small robot. Answer the question about the camera picture.",
)
USUAL_SYSTEM_SHARE, CONVERSATION_SHARE, PHOTO_SHARE, SMALL_TALK_SHARE = 0.75, 0.25, 0.16, 0.1
QUESTIONS_A_PICTURE = 7
SHOWN = Mix(
    scenes=(0.47, 0.08, 0.12, 0.11, 0.11, 0.09, 0.02),
    grounds=(0.42, 0.12, 0.09, 0.14, 0.23),
    same_shape=0.35,
    same_color=0.25,
    digits=f"{DIGITS}001169",
    letters=f"{LETTERS}OOIIGLMQ",
)
"""What is learnt slowly is shown more often than the evaluation asks for it: things that are alike, characters that
look like others, things before a photograph."""
CROPS_KEPT, NEW_CROP_SHARE = 400, 0.25
UNUSED = -1

Rows = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Batch:
    """What one training step learns from.

    Attributes:
        scenes: the drawn pictures, as arrays; a photograph is an empty scene here.
        photos, photo_places: (n, side, side, 3) bytes, and which pictures they are.
        tokens, positions, segments: (rows, ROW_TOKENS); segment 0 is seen by all, UNUSED is padding.
        answers: where the next token is to be learnt, 1 + the number of the question's kind, else 0.
    """

    scenes: labels.SceneArrays
    photos: npt.NDArray[np.uint8]
    photo_places: npt.NDArray[np.int64]
    tokens: Rows
    positions: Rows
    segments: Rows
    answers: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing or a photograph; exactly one is given."""

    scene: Scene | None = None
    photo: npt.NDArray[np.uint8] | None = None

    def questions(self, chance: random.Random, count: int) -> list[Question]:
        if self.photo is not None:
            return questions_about_photo(look_at(self.photo), chance, count)
        return [] if self.scene is None else questions_about(self.scene, chance, count, LEARNT_WEIGHTS)

    def shown(self) -> Shown:
        if self.photo is None and self.scene is not None:
            return shown(self.scene)
        return Shown(None, "a photo")


def pictures_in(rows: int) -> int:
    """How many pictures a batch has; always the same, so that shapes never change."""
    pairs, triples, in_turns = _special_rows(rows)
    return rows + pairs + 2 * triples + in_turns


class Packer:
    """Makes batches."""

    def __init__(self, tokenizer: Path, sprites: Sprites, photographs: Photographs, talk: Sequence[Answered]) -> None:
        self._tokenizer: Any = Tokenizer.from_file(str(tokenizer))
        self._sprites, self._photographs, self._talk = sprites, photographs, talk
        self._crops: list[npt.NDArray[np.uint8]] = []
        self._known: dict[str, list[int]] = {}
        self._answer_begins = self._encoded("<|im_end|>\n<|im_start|>assistant\n")
        self._user_begins = self._encoded("\n<|im_start|>user\n")
        self._newline = self._encoded("\n")

    def batch(self, chance: random.Random, rows: int) -> Batch:
        """A batch of `rows` rows and `pictures_in(rows)` pictures."""
        pairs, triples, in_turns = _special_rows(rows)
        made: list[_Row] = []
        for at in range(rows):
            if at < pairs + triples:
                made.append(self._several(chance, 2 if at < pairs else 3))
            elif at < pairs + triples + in_turns:
                made.append(self._in_turns(chance))
            else:
                made.append(self._one(chance))
        return _stacked(made)

    def pictures(self, chance: random.Random, count: int) -> Batch:
        """Pictures alone, for the stage without a language model."""
        return _stacked([_Row([self._picture(chance)]) for _ in range(count)])

    def _picture(self, chance: random.Random) -> Picture:
        if chance.random() < PHOTO_SHARE:
            return Picture(photo=self._photo(chance))
        return Picture(scene=draw_scene(chance, self._sprites, SHOWN))

    def _photo(self, chance: random.Random) -> npt.NDArray[np.uint8]:
        """A crop, now and then a new one: to make one takes longer than to draw ten scenes."""
        if len(self._crops) < CROPS_KEPT or chance.random() < NEW_CROP_SHARE:
            new = self._photographs.crop(chance)
            if len(self._crops) < CROPS_KEPT:
                self._crops.append(new)
            else:
                self._crops[chance.randrange(CROPS_KEPT)] = new
            return new
        return chance.choice(self._crops)

    def _one(self, chance: random.Random) -> "_Row":
        picture = self._picture(chance)
        usual = chance.random() < USUAL_SYSTEM_SHARE
        row = self._begun(chance, [picture], usual=usual)
        if usual and self._talk and chance.random() < SMALL_TALK_SHARE:
            self._talk_beside(row, chance)
        self._ask(row, picture.questions(chance, QUESTIONS_A_PICTURE), is_talk=chance.random() < CONVERSATION_SHARE)
        return row

    def _several(self, chance: random.Random, count: int) -> "_Row":
        pictures = [self._picture(chance) for _ in range(count)]
        row = self._begun(chance, pictures, usual=True)
        asked = questions_about_several([each.shown() for each in pictures], chance, QUESTIONS_A_PICTURE)
        self._ask(row, asked, is_talk=chance.random() < CONVERSATION_SHARE)
        return row

    def _in_turns(self, chance: random.Random) -> "_Row":
        """A conversation in which a second picture comes later; questions are then about that one."""
        first, second = self._picture(chance), self._picture(chance)
        row = self._begun(chance, [first], usual=True)
        self._ask(row, first.questions(chance, 1), is_talk=True)
        row.pictures.append(second)
        row.put([*self._user_begins, *_image(), *self._newline], segment=1)
        for number, question in enumerate(second.questions(chance, 3)):
            asked = self._encoded(question.text)
            self._append(row, [*self._user_begins, *asked] if number else asked, question, segment=1)
        return row

    def _begun(self, chance: random.Random, pictures: list[Picture], *, usual: bool) -> "_Row":
        row = _Row(pictures)
        system = USUAL_SYSTEM if usual else chance.choice(OTHER_SYSTEMS)
        row.put(self._encoded(f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n"), segment=0)
        for _ in pictures:
            row.put([*_image(), *self._newline], segment=0)
        row.prefix = row.length
        return row

    def _ask(self, row: "_Row", questions: Sequence[Question], *, is_talk: bool) -> None:
        for question in questions:
            asked = self._encoded(question.text)
            if is_talk:
                is_first = row.length == row.prefix or row.segments[-1] != 1
                self._append(row, asked if is_first else [*self._user_begins, *asked], question, segment=1)
            else:
                self._append(row, asked, question, segment=2 + max(row.segments, default=0))

    def _talk_beside(self, row: "_Row", chance: random.Random) -> None:
        answered = chance.choice(self._talk)
        question = Question("small_talk", answered.question, answered.answer)
        self._append(row, self._encoded(question.text), question, segment=60, is_whole=answered.ended)

    def _append(
        self, row: "_Row", asked: list[int], question: Question, *, segment: int, is_whole: bool = True
    ) -> None:
        """Put a question with its answer, if it fits."""
        answer = self._encoded(question.answer) + ([END_ID] if is_whole else [])
        before = [*asked, *self._answer_begins]
        if row.length + len(before) + len(answer) > ROW_TOKENS:
            return
        row.put(before, segment)
        row.put(answer, segment, kind=1 + KINDS.index(question.kind))

    def _encoded(self, text: str) -> list[int]:
        found = self._known.get(text)
        if found is None:
            found = self._tokenizer.encode(text).ids
            if len(self._known) < 200_000:
                self._known[text] = found
        return found


class _Row:
    """Tokens as they come; a segment other than 1 begins where the prefix ends."""

    def __init__(self, pictures: list[Picture]) -> None:
        self.pictures = pictures
        self.prefix = 0
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.segments: list[int] = []
        self.answers: list[int] = []

    @property
    def length(self) -> int:
        return len(self.tokens)

    def put(self, tokens: list[int], segment: int, kind: int = 0) -> None:
        same = bool(self.segments) and self.segments[-1] == segment
        begins = self.positions[-1] + 1 if same else self.prefix
        self.tokens += tokens
        self.positions += range(begins, begins + len(tokens))
        self.segments += [segment] * len(tokens)
        self.answers += [0] * len(tokens)
        if kind:  # the token before the answer foretells its first
            first = self.length - len(tokens) - 1
            self.answers[first : self.length - 1] = [kind] * len(tokens)


def _special_rows(rows: int) -> tuple[int, int, int]:
    """How many rows of a batch have two pictures, three, and a second one in a later turn."""
    return rows // 16, rows // 24, rows // 42


def _image() -> list[int]:
    return [FAKE_ID, GLOBAL_ID, *[IMAGE_ID] * IMAGE_TOKENS, FAKE_ID]


def _stacked(rows: Sequence[_Row]) -> Batch:
    if any(row.tokens.count(IMAGE_ID) != IMAGE_TOKENS * len(row.pictures) for row in rows if row.tokens):
        raise AssertionError("A picture without its tokens would shift the pictures of all rows after it.")
    pictures = [picture for row in rows for picture in row.pictures]
    photos = [(at, picture.photo) for at, picture in enumerate(pictures) if picture.photo is not None]
    taken = np.stack([photo for _, photo in photos]) if photos else np.zeros((0, INPUT_SIDE, INPUT_SIDE, 3), np.uint8)
    return Batch(
        labels.arrays_of([picture.scene for picture in pictures]),
        taken,
        np.array([at for at, _ in photos], np.int64),
        _padded([row.tokens for row in rows], END_ID),
        _padded([row.positions for row in rows], 0),
        _padded([row.segments for row in rows], UNUSED),
        _padded([row.answers for row in rows], 0).astype(np.uint8),
    )


def _padded(rows: Sequence[list[int]], filler: int) -> Rows:
    padded = np.full((len(rows), ROW_TOKENS), filler, np.int32)
    for at, row in enumerate(rows):
        padded[at, : len(row)] = row
    return padded

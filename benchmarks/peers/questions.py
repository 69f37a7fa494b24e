"""What is asked: the same for every target, and never the same twice.

A `salt` of the run begins every text, so that nothing that a server kept on disk from an
earlier run can help it. Only what the model's chat template puts before the first question
is shared by all of them.
"""

import io
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw
from tokenizers import Tokenizer

PLACES = ("harbour", "lighthouse", "market", "forest", "railway station", "library", "desert", "mountain hut")
PEOPLE = ("an old sailor", "two sisters", "a clockmaker", "the night guard", "a young painter", "my neighbour's dog")
EVENTS = (
    "a storm comes up",
    "a letter is found",
    "the lights go out",
    "somebody sings",
    "the snow melts",
    "a map burns",
)
TASKS = ("Tell me a story", "Write a letter", "Explain in detail what happens", "Describe the whole day", "Make a plan")
COLORS = ("red", "blue", "green", "orange", "purple", "black", "brown", "teal")


@dataclass(frozen=True, slots=True)
class Question:
    """Attributes:
    text: what is asked.
    tokens: the reply has so many.
    pictures: files, before the text.
    earlier: questions and replies of the same talk, oldest first.
    remembers: it is part of a talk, whose next question repeats it.
    """

    text: str
    tokens: int
    pictures: tuple[bytes, ...] = ()
    earlier: tuple[tuple[str, str], ...] = ()
    remembers: bool = False


class Questions:
    """An endless supply; two with the same salt ask the same things in the same order.

    Args:
        folder: of the model whose tokens `of_length` counts.
    """

    def __init__(self, salt: str, folder: Path) -> None:
        self._random = random.Random(salt)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def text(self) -> str:
        """A question of some 20 to 60 tokens."""
        pick = self._random.choice
        number = self._random.randrange(10**6)
        parts = [f"{pick(PEOPLE)} at the {pick(PLACES)}, where {pick(EVENTS)}" for _ in range(pick((1, 1, 2, 3)))]
        return f"No. {number}: {pick(TASKS)} about {'; then of '.join(parts)}."

    def of_length(self, tokens: int) -> str:
        """A text of about so many tokens."""
        text = self.text()
        while len(self._tokenizer.encode(text).ids) < tokens:
            text += " " + self.text()
        return self._tokenizer.decode(self._tokenizer.encode(text).ids[:tokens])

    def picture(self, size: tuple[int, int] = (640, 480), noise: int = 400) -> bytes:
        """A JPEG that no other one equals."""
        picture = Image.new("RGB", size, self._random.choice(("white", "ivory", "lightgray")))
        draw = ImageDraw.Draw(picture)
        for _ in range(6):
            x, y = self._random.randrange(size[0]), self._random.randrange(size[1])
            side = self._random.randrange(size[1] // 8, size[1] // 3)
            draw.ellipse((x, y, x + side, y + side), fill=self._random.choice(COLORS))
        for _ in range(noise):
            picture.putpixel((self._random.randrange(size[0]), self._random.randrange(size[1])), (0, 0, 0))
        return jpeg(picture)

    def several(self, count: int, tokens: int, pictures: int = 0) -> list[Question]:
        """Questions for so many clients."""
        return [Question(self.text(), tokens, tuple(self.picture() for _ in range(pictures))) for _ in range(count)]


def jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


def still_scene(questions: Questions, count: int, size: tuple[int, int] = (640, 480)) -> Iterable[bytes]:
    """A camera that looks at a wall: the same scene, with the noise of a sensor in every frame."""
    scene = Image.open(io.BytesIO(questions.picture(size)))
    generator = random.Random(0)
    for _ in range(count):
        frame = scene.copy()
        for _ in range(size[0] * size[1] // 50):
            at = (generator.randrange(size[0]), generator.randrange(size[1]))
            red, green, blue = frame.getpixel(at)  # type: ignore[misc]
            shift = generator.choice((-3, -2, 2, 3))
            frame.putpixel(at, (red + shift, green + shift, blue + shift))
        yield jpeg(frame)

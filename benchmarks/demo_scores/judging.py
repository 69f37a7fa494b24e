"""Whether an answer is right. Strict where one word decides, word for word where the whole sentence matters."""

import re

from scripts.demo_model.vocabulary import EMOJI_NAMES, SHAPES

from benchmarks.demo_scores.cases import Case

WORD_FOR_WORD = ("description", "two pictures", "three pictures", "position", "relation")
OBJECT_WORDS = (*SHAPES, *EMOJI_NAMES, "digit", "letter", "word", "number")
NOT_OBJECTS = ("orange",)
"""Names that are colours too."""


def is_right(case: Case, reply: str) -> bool:
    """By the rules of its heading."""
    said, wanted = _plain(reply), _plain(case.question.answer)
    if case.heading == "photograph":
        return "photo" in said and not invented(reply)
    if said in (wanted, *(_plain(each) for each in case.also_right)):
        return True
    key = (case.question.key or "").lower()
    if not key or case.heading in WORD_FOR_WORD:
        return False
    if key in ("yes", "no") and case.heading != "count":
        return said.split(",")[0].split(" ")[0] == key
    return re.search(rf"(?<!\w){re.escape(key)}(?!\w)", said) is not None


def invented(reply: str) -> list[str]:
    """Objects that a description of a photograph names although nobody can know them."""
    said = _plain(reply)
    return [name for name in OBJECT_WORDS if name not in NOT_OBJECTS and re.search(rf"(?<!\w){name}s?(?!\w)", said)]


def _plain(text: str) -> str:
    return re.sub(r'["“”]', "", text.strip().lower()).rstrip(".")

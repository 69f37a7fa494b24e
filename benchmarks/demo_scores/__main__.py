"""Asks the demo model everything, through a running server: `python -m benchmarks.demo_scores MATERIALS [--quick]`.

MATERIALS is the folder that scripts/demo_model/materials.sh filled: fonts, packages and the
held-out photographs. Writes the scores to benchmarks/results, and every answer beside them.
"""

import argparse
import asyncio
import datetime
import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from scripts.demo_model.small_talk import questions

from benchmarks.acceptance.serving import serve
from benchmarks.demo_scores.cases import QUICK_SHARE, Case, all_cases
from benchmarks.demo_scores.judging import invented, is_right
from mlx_websockets.client import ConnectionLost, connect

RESULTS = Path(__file__).parents[1] / "results"
ANSWER_TOKENS = 64
TEXT_ONLY = 8
AT_ONCE = 4
"""Questions side by side: a batch's replies are those of one alone."""
WHOLE, ATTEMPTS = ("stop", "length"), 4
"""A reply that took too long, because the machine was busy or stood still, says nothing about the model."""
ALIKE = 40
"""Characters of a long reply that must agree."""
SMALL_TALK = "small talk beside a picture"
BARS = {
    "color": 97, "shape": 97, "digit": 97, "letter": 97, "count": 97, "position": 90, "relation": 90, "size": 90,
    "word": 80, "emoji": 95, "easy-vqa": 95, "easy-vqa negated": 95, "photograph": 95,
    "text without a picture": 100,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """A case with what was said."""

    heading: str
    question: str
    wanted: str
    said: str
    right: bool


def answers_of(model: str, cases: list[Case], texts: list[str]) -> tuple[list[Answer], list[str]]:
    """What the model says to each case, and to questions without a picture.

    If the server goes away, another one is asked the rest.
    """
    answered: dict[int, Answer] = {}
    for attempt in range(ATTEMPTS):
        try:
            with serve(model) as server:
                alone = asyncio.run(_asked(server.url, cases, texts, answered))
            return [answered[number] for number in range(len(cases))], alone
        except ConnectionLost:
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("one of the attempts returns or raises")


async def _asked(url: str, cases: list[Case], texts: list[str], answered: dict[int, Answer]) -> list[str]:
    turns = asyncio.Semaphore(AT_ONCE)
    async with connect(url) as mlx:

        async def ask(text: str, pictures: tuple[bytes, ...] = ()) -> str:
            async with turns:
                for _ in range(ATTEMPTS):
                    reply = mlx.ask(text, images=pictures, temperature=0, max_tokens=ANSWER_TOKENS)
                    result = await reply.result()
                    if result.finish_reason in WHOLE:
                        return result.text.strip()
                raise RuntimeError(f"{text} was not answered to the end: {result.finish_reason}")

        async def answer(number: int, case: Case) -> None:
            said = await ask(case.question.text, case.pictures)
            wanted, right = case.question.answer, is_right(case, said)
            if case.heading == SMALL_TALK:
                wanted = await ask(case.question.text)
                right = said[:ALIKE] == wanted[:ALIKE]
            answered[number] = Answer(case.heading, case.question.text, wanted, said, right)
            if len(answered) % 20 == 0:
                print(f"{len(answered)} of {len(cases)}", flush=True)

        await asyncio.gather(*(answer(*each) for each in enumerate(cases) if each[0] not in answered))
        return await asyncio.gather(*(ask(text) for text in texts))


def report(answers: list[Answer]) -> str:
    """The scores by heading, and what was taken for what."""
    headings = list(dict.fromkeys(answer.heading for answer in answers))
    lines = ["| asked | right | of | share | bar |", "|---|---|---|---|---|"]
    for heading in headings:
        mine = [answer for answer in answers if answer.heading == heading]
        right = sum(answer.right for answer in mine)
        bar = f"{BARS[heading]} %" if heading in BARS else ""
        lines.append(f"| {heading} | {right} | {len(mine)} | {100 * right / len(mine):.0f} % | {bar} |")
    return "\n".join([*lines, "", "## What was taken for what", "", confusions(answers)])


def confusions(answers: list[Answer], most: int = 60) -> str:
    """The wrong answers, most frequent first."""
    wrong = [answer for answer in answers if not answer.right]
    counted = Counter((answer.heading, answer.wanted, answer.said[:120]) for answer in wrong)
    lines = ["| asked | wanted | said | times |", "|---|---|---|---|"]
    for (heading, wanted, said), times in counted.most_common(most):
        lines.append(f"| {heading} | {_cell(wanted[:120])} | {_cell(said)} | {times} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def smollm2_answers(texts: list[str]) -> list[str]:
    """What plain SmolLM2 says, served by the same server."""
    from mlx_websockets.engine.worker.demo import smollm2_text_model

    return answers_of(str(smollm2_text_model(lambda _: None)), [], texts)[1]


def main() -> int:
    """Ask, judge, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("materials", type=Path)
    parser.add_argument("--model", default="demo", help="or the folder of a candidate")
    parser.add_argument("--share", type=float, default=1.0, help="how much of each kind is asked")
    parser.add_argument("--quick", action="store_true", help="a small sample of each kind; nothing is written")
    parser.add_argument("--only", default="", help="headings with commas between them")
    given = parser.parse_args()
    only = {name for name in given.only.split(",") if name}
    cases = [
        case
        for case in all_cases(given.materials, QUICK_SHARE if given.quick else given.share)
        if not only or case.heading in only
    ]
    texts = [] if only else questions()[::70][:TEXT_ONLY]
    answers, alone = answers_of(given.model, cases, texts)
    if texts:
        for text, said, wanted in zip(texts, alone, smollm2_answers(texts), strict=True):
            answers.append(Answer("text without a picture", text, wanted, said, said == wanted))
    body = report(answers)
    print(body)
    photos = [answer for answer in answers if answer.heading == "photograph"]
    print(f"objects invented in {sum(bool(invented(each.said)) for each in photos)} of {len(photos)} photographs")
    if not given.quick and not only:
        _write(body, answers, given.share)
    return 0


def _write(body: str, answers: list[Answer], share: float) -> None:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    path = RESULTS / f"demo-model-{today}.md"
    command = f"python -m benchmarks.demo_scores MATERIALS{f' --share {share}' if share != 1 else ''}"
    title = f"# What the demo model knows, asked on {today}\n\n`{command}`\n\n"
    path.write_text(title + body + "\n", "utf-8")
    rows = [{name: getattr(answer, name) for name in Answer.__slots__} for answer in answers]
    path.with_suffix(".json").write_text(json.dumps(rows, ensure_ascii=False, indent=0), "utf-8")


if __name__ == "__main__":
    sys.exit(main())

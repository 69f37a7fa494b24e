"""Trains the eyes of the demo model: `python -m scripts.demo_model.train --help`.

Two stages. In the first the tower alone learns to recognise what each patch shows. In the
second its tokens go through SmolLM2, which is frozen, and the answers are learnt; what the
patches show goes on being asked. A run ends by the clock, writes the eyes every minute,
and goes on where the last one stopped if its checkpoint is there.
"""

import argparse
import json
import math
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scripts.demo_model.labels import CLASSES, COMPARED, LABEL_FIELDS, PHOTO_KIND
from scripts.demo_model.packing import IMAGE_ID, USUAL_SYSTEM, Batch, Packer, pictures_in
from scripts.demo_model.photographs import Photographs
from scripts.demo_model.questions import KINDS, RELATIONS
from scripts.demo_model.renderer import Renderer, load_parts, patch_labels
from scripts.demo_model.scenes import Sprites
from scripts.demo_model.small_talk import ANSWER_TOKENS, Answered, held_out, questions, read_answers
from scripts.demo_model.sprites import Bank
from scripts.demo_model.twin import Eyes, Recognition, Sight, Words
from torch import Tensor
from torch.nn import functional

WARM_UP_STEPS, LEAST_RATE_SHARE = 100, 0.02
WEIGHT_DECAY, BETAS, LONGEST_GRADIENT = 0.03, (0.9, 0.98), 1.0
AVERAGING, AVERAGED_EVERY = 0.997, 4
SCORED_EVERY = 8
MOST_APART = 0.08
"""How far two ways to compute in 16 bits may differ after thirty layers, as a share."""
RECOGNITION_SHARE, LEAST_RECOGNITION = 0.25, 0.3
"""How much recognising patches counts beside answering when that stage begins, and what is left of it at its end."""
GROUND_WEIGHT = 0.15
ANCHOR_SHARE, ANCHORED_SHARE = 0.3, 0.25
"""How much the first stage holds on to what the words already understand, when it goes on from earlier eyes; and of
how many pictures."""
HEAVIER = {
    "word": 3.0, "first": 1.5, "second": 1.5, "third": 1.5, "things": 2.0, "same_name": 2.0, "same_color": 2.0,
}  # fmt: skip
"""Labels that count more: few pictures have them, they are learnt slowly, or counting rests on them."""
EXTREME_WEIGHT, BESIDE_WEIGHT = 2.0, 1.0
ANSWER_WEIGHTS = {
    "relation": 2.5, "size": 4.0, "position": 1.5, "shape": 2.0, "count": 3.5, "digit": 2.5, "letter": 2.5,
    "color": 2.5, "emoji": 1.5, "photo": 2.5,
}  # fmt: skip
DECIDED_AT_ONCE, FIRST_WEIGHT = ("relation", "size"), 2.0
"""Answers that count more, and those whose first token does so again: it may be the yes or no that was asked for."""
LOSS_OF_A_BEGINNER = 1.2
REPORT_SECONDS, SAVE_SECONDS = 10.0, 60.0
LOGITS_AT_ONCE = 2048
QUEUE = 32


@dataclass
class Progress:
    """How far a training is; kept in its checkpoint."""

    stage: str
    step: int = 0
    seconds: float = 0.0


class Heap:
    """Sums since the last report."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = 0
        self.right = np.zeros((len(KINDS), 2))

    def add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()
        self.steps += 1

    def means(self) -> dict[str, float]:
        return {name: round(float(total) / self.steps, 4) for name, total in self.sums.items()}

    def scores(self) -> dict[str, float]:
        """Of each kind of question, how many whole answers were right."""
        return {kind: round(good / asked, 3) for kind, (good, asked) in zip(KINDS, self.right, strict=True) if asked}


class AnswerLoss(torch.autograd.Function):
    """Cross entropy over the whole vocabulary without keeping the logits; also says which tokens were right."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: Tensor, targets: Tensor, shares: Tensor, embeddings: Tensor, judged: Any
    ) -> tuple[Tensor, Tensor]:
        parts = [
            judged(hidden[begin:ends], targets[begin:ends], shares[begin:ends], embeddings)
            for begin, ends in pairwise(range(0, len(targets) + 1, LOGITS_AT_ONCE))
        ]
        losses, rights, gradients = zip(*parts, strict=True)
        right = torch.cat(rights)
        ctx.save_for_backward(torch.cat(gradients))
        ctx.mark_non_differentiable(right)
        return torch.stack(losses).sum(), right

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _: Any) -> tuple[Tensor, None, None, None, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return gradient * grad_loss, None, None, None, None


def judged(hidden: Tensor, wanted: Tensor, shares: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of some tokens, each weighed with its share; which were right; and the gradient."""
    logits = (hidden @ embeddings.t()).float()
    total = logits.logsumexp(-1, keepdim=True)
    loss = ((total - logits.gather(1, wanted[:, None])) * shares[:, None]).sum()
    is_wanted = torch.arange(logits.shape[-1], device=logits.device) == wanted[:, None]
    slopes = ((logits - total).exp() - is_wanted.float()) * shares[:, None]
    return loss, logits.argmax(-1) == wanted, slopes.to(embeddings.dtype) @ embeddings


def recognition_loss(found: dict[str, Tensor], wanted: Tensor, characters: Tensor, beside: Tensor) -> Tensor:
    """How badly the patches are recognised.

    Args:
        found: what `Recognition` says.
        wanted: (n, patches, LABEL_FIELDS).
        characters: (n, patches).
        beside: (n, patches, COMPARED * kinds), true where such a thing lies on that side, is smaller, is larger.
    """
    is_thing = wanted[..., LABEL_FIELDS.index("kind")] > 0
    weights = torch.where(is_thing, 1.0, GROUND_WEIGHT).flatten()
    things = is_thing.flatten().float()
    about_things = things / things.sum().clamp(min=1)
    loss = torch.zeros((), device=wanted.device)
    targets = {name: wanted[..., LABEL_FIELDS.index(name)] for name in CLASSES} | {"character": characters}
    for name, target in targets.items():
        each = functional.cross_entropy(found[name].flatten(0, 1).float(), target.flatten(), reduction="none")
        everywhere = name in ("kind", "color", "character")
        mean = (each * (weights / weights.sum() if everywhere else about_things)).sum()
        loss = loss + HEAVIER.get(name, 1.0) * mean
    extremes = wanted[..., LABEL_FIELDS.index("is_largest") :].float()
    extreme = functional.binary_cross_entropy_with_logits(found["extreme"].float(), extremes, reduction="none")
    sides = functional.binary_cross_entropy_with_logits(found["beside"].float(), beside.float(), reduction="none")
    each = (EXTREME_WEIGHT * extreme.sum(-1) + BESIDE_WEIGHT * sides.sum(-1)).flatten()
    return loss + (each * about_things).sum()


def what_is_beside(kinds: Tensor, relations: Tensor, sizes: Tensor, owners: Tensor) -> Tensor:
    """For each patch and side, which kinds of things lie there, are smaller, are larger; see `recognition_loss`."""
    count, things = kinds.shape
    nowhere = COMPARED * CLASSES["kind"]
    lies = torch.where(relations > 0, (relations - 1) * CLASSES["kind"] + kinds[:, None, :], nowhere)
    than = (sizes + len(RELATIONS) - 1) * CLASSES["kind"] + kinds[:, None, :]
    places = torch.cat([lies, torch.where(sizes > 0, than, nowhere)], 2)
    wanted = torch.zeros(count, things + 1, nowhere + 1, dtype=torch.bool, device=kinds.device)
    wanted[:, 1:].scatter_(2, places, True)
    rows = torch.arange(count, device=kinds.device)[:, None]
    return wanted[rows, owners.flatten(1), :nowhere]


class Training:
    """One run of one stage."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.begun = given, time.monotonic()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.is_gpu = self.device.type == "cuda"
        torch.manual_seed(given.seed)
        torch.set_float32_matmul_precision("high")
        bank, photographs = load_parts(given.folder)
        self.renderer = Renderer(bank, photographs, self.device, given.seed)
        self.eyes, self.recognition = Eyes().to(self.device), Recognition().to(self.device)
        self.anchor: Eyes | None = None
        self.progress = Progress(given.stage)
        self.words = self._load_words() if given.stage == "speak" else None
        self.tower, self.recognised, self.judged = (
            torch.compile(each, dynamic=False) if self.is_gpu else each
            for each in (self.eyes.vision_model, recognition_loss, judged)
        )
        self.sight: Sight | None = None
        self.heap = Heap()
        self.history: list[dict[str, Any]] = []
        self.optimizer = self._new_optimizer()
        self.average: dict[str, Tensor] = {}

    def warm_up(self, batch: Batch) -> None:
        """Compile everything, choose the faster way to attend, and forget what was learnt meanwhile."""
        if not self.is_gpu:
            return
        parts = (self.eyes, self.recognition)
        kept = [{name: value.clone() for name, value in part.state_dict().items()} for part in parts]
        self.average = {name: value.clone() for name, value in kept[0].items()}
        if self.words is not None and self.given.attention != "mask":
            self._choose_sight(batch)
        for _ in range(2):
            self._step(batch)
        torch.cuda.synchronize()
        for part, state in zip(parts, kept, strict=True):
            part.load_state_dict(state)
        self.heap = Heap()
        self.say("compiled")

    def begin(self) -> None:
        """Wait for the stage before, if there is one, and take over what it learnt."""
        while self.given.after is not None and not self.given.after.exists():
            time.sleep(0.2)
        self.begun = time.monotonic()
        if self.given.ends_at:
            self.given.minutes = self.given.planned_minutes = (self.given.ends_at - time.time()) / 60
        self._load_start()
        self.optimizer = self._new_optimizer()
        self.average = {name: value.detach().clone() for name, value in self.eyes.state_dict().items()}
        self._load_checkpoint()
        if self.words is not None and self.given.start is None and self.progress.step == 0:
            spread = float(self.words.embeddings.float().std()) / 32
            torch.nn.init.normal_(self.eyes.connector.modality_projection.proj.weight, std=spread)

    def run(self, batches: Iterator[Batch]) -> None:
        """Learn until the time is up."""
        self.warm_up(next(batches))
        self.begin()
        begun = reported = saved = time.monotonic()
        self.say(f"ready for {self.given.minutes:.2f} minutes")
        steps_then, before, waited = self.progress.step, self.progress.seconds, 0.0
        while time.monotonic() - self.begun < self.given.minutes * 60:
            asked = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - asked
            self._step(batch)
            self.progress.step += 1
            now = time.monotonic()
            self.progress.seconds = before + now - begun
            if now - reported > REPORT_SECONDS:
                self._report((self.progress.step - steps_then) / (now - reported), waited / (now - reported))
                reported, steps_then, waited = now, self.progress.step, 0.0
                if self._diverges():
                    raise SystemExit("The loss rises: something is wrong.")
            if now - saved > SAVE_SECONDS:
                self.save()
                saved = now
        self._report(0.0, 0.0)
        self.save()

    def _choose_sight(self, batch: Batch) -> None:
        """Attend in blocks if that gives what the mask gives, and sooner."""
        assert self.words is not None
        words = self.words
        segments, positions, ids = (
            torch.from_numpy(array).to(self.device) for array in (batch.segments, batch.positions, batch.tokens)
        )
        begins = functional.embedding(ids.long(), words.embeddings)
        slopes = torch.randn_like(begins)
        sight = Sight(*segments.shape, self.device)
        ways = {"mask": lambda: Sight.mask(segments, words.dtype), "blocks": lambda: sight.blocks(segments)}
        results, seconds = {}, {}
        try:
            for name, way in ways.items():
                for attempt in range(8):
                    if attempt == 2:
                        torch.cuda.synchronize()
                        seconds[name] = time.monotonic()
                    x = begins.clone().requires_grad_()
                    hidden = words.hidden(x, way(), positions)
                    hidden.backward(slopes)
                torch.cuda.synchronize()
                seconds[name] = (time.monotonic() - seconds[name]) / 6
                assert x.grad is not None
                results[name] = (hidden.detach().float(), x.grad.float())
        except Exception as error:
            self.say(f"blocks failed: {str(error)[:2000]}")
            return
        is_used = (segments >= 0)[..., None]
        apart = [
            float(((one - other) * is_used).norm() / (one * is_used).norm())
            for one, other in zip(results["mask"], results["blocks"], strict=True)
        ]
        told = " ".join(f"{name} {value:.4f} s" for name, value in seconds.items())
        self.say(f"attending: {told}; apart {apart[0]:.4f}, slopes {apart[1]:.4f}")
        is_good = max(apart) < MOST_APART and seconds["blocks"] < seconds["mask"]
        self.sight = sight if is_good or self.given.attention == "blocks" else None

    def _diverges(self) -> bool:
        losses = [row["loss"] for row in self.history if "loss" in row]
        recognitions = [row["recognition"] for row in self.history if "recognition" in row]
        is_finite = all(math.isfinite(value) for value in (*losses[-1:], *recognitions[-1:]))
        return not is_finite or (len(losses) > 1 and losses[-1] > max(LOSS_OF_A_BEGINNER, 1.3 * losses[0]))

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.begun:6.1f}] {text}", flush=True)

    def save(self) -> None:
        """The eyes for shipping, the history, and a checkpoint for the next run on this machine."""
        out, live = self.given.out, self.eyes.state_dict()
        kept = {name: value.clone() for name, value in live.items()}
        self.eyes.load_state_dict(self.average)
        self.eyes.save(out / "eyes.npz")
        self.eyes.load_state_dict(kept)
        heads = {name: value.cpu().half().numpy() for name, value in self.recognition.state_dict().items()}
        np.savez(out / "recognition.npz", **heads)
        (out / f"history-{self.progress.stage}.json").write_text(json.dumps(self.history))
        checkpoint = {
            "eyes": kept,
            "average": self.average,
            "recognition": self.recognition.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
        }
        beside = self.given.checkpoint.with_suffix(".new")
        torch.save(checkpoint, beside)
        os.replace(beside, self.given.checkpoint)

    # --- one step -----------------------------------------------------------------------

    def _step(self, batch: Batch) -> None:
        self._set_rate()
        pictures, targets = self._pictures(batch)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_gpu):
            features = self.tower(pictures)
            found = self.recognition(features)
            tokens = self.eyes.connector(features)
        recognised = self.recognised(found, *targets)
        values = {"recognition": recognised, "patches": _share_right(found["kind"], targets[0])}
        if self.words is not None:
            answered, right = self._answers(batch, tokens)
            values |= {"loss": answered, "tokens": right.float().mean()}
            loss = answered + RECOGNITION_SHARE * max(LEAST_RECOGNITION, self._falling()) * recognised
        else:
            anchored = int(len(pictures) * ANCHORED_SHARE)
            loss = recognised + self._drift(pictures[:anchored], tokens[:anchored], values)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*self.eyes.parameters(), *self.recognition.parameters()], LONGEST_GRADIENT)
        self.optimizer.step()
        self.heap.add(values)
        if self.progress.step % AVERAGED_EVERY == 0:
            self._average()

    @torch.no_grad()
    def _pictures(self, batch: Batch) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        scenes = batch.scenes
        things, grounds, labels, relations, sizes = (
            torch.from_numpy(array).to(self.device, non_blocking=True)
            for array in (scenes.things, scenes.grounds, scenes.labels, scenes.relations, scenes.sizes)
        )
        pictures, owners = self.renderer.draw(things, grounds)
        pictures = self.renderer.as_seen(pictures)
        characters = self.renderer.characters(things, grounds, owners).flatten(1)
        wanted = patch_labels(labels, owners)
        beside = what_is_beside(labels[..., LABEL_FIELDS.index("kind")], relations, sizes, owners)
        if len(batch.photos):
            places = torch.from_numpy(batch.photo_places).to(self.device)
            photos = torch.from_numpy(batch.photos).to(self.device).permute(0, 3, 1, 2).float() / 255
            pictures[places] = photos
            wanted[places] = 0
            wanted[places, :, LABEL_FIELDS.index("kind")] = PHOTO_KIND
        return pictures * 2 - 1, (wanted, characters, beside)

    def _answers(self, batch: Batch, pictures: Tensor) -> tuple[Tensor, Tensor]:
        assert self.words is not None
        words = self.words
        asked_from, weighed, count = _answer_places(batch.answers)
        ids, positions, segments, stand_ins, places, shares = (
            torch.from_numpy(array).to(self.device, non_blocking=True)
            for array in (
                batch.tokens, batch.positions, batch.segments, np.flatnonzero(batch.tokens == IMAGE_ID), asked_from,
                weighed,
            )
        )  # fmt: skip
        x = functional.embedding(ids.long(), words.embeddings)
        width = x.shape[-1]
        x = x.view(-1, width).index_copy(0, stand_ins, pictures.reshape(-1, width).to(x.dtype)).view(x.shape)
        sight = Sight.mask(segments, words.dtype) if self.sight is None else self.sight.blocks(segments)
        hidden = words.hidden(x, sight, positions).reshape(-1, width)[places]
        wanted = ids.flatten()[places + 1].long()
        loss, right = AnswerLoss.apply(hidden, wanted, shares, words.embeddings, self.judged)
        right = right[:count]
        if self.progress.step % SCORED_EVERY == 0:
            self._score(batch.answers, right)
        return loss, right

    def _score(self, answers: np.typing.NDArray[np.uint8], right: Tensor) -> None:
        """Count whole answers, each a run of tokens of one kind."""
        wrong = np.zeros(answers.shape, bool)
        is_answer = answers > 0
        is_answer[:, -1] = False
        wrong[is_answer] = ~right.cpu().numpy()
        begins = _begins(is_answer)
        number = np.cumsum(begins.ravel()) - 1
        errors = np.bincount(number[is_answer.ravel()], weights=wrong[is_answer])
        kinds = answers[begins].astype(int) - 1
        np.add.at(self.heap.right, (kinds, 0), errors == 0)
        np.add.at(self.heap.right, (kinds, 1), 1)

    def _drift(self, pictures: Tensor, tokens: Tensor, values: dict[str, Tensor]) -> Tensor:
        """How far the tokens moved from what the earlier eyes said, as a share of their size."""
        if self.anchor is None:
            return torch.zeros((), device=self.device)
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_gpu):
            then = self.anchor.connector(self.anchor.vision_model(pictures))
        moved = (tokens - then).float().pow(2).mean() / then.float().pow(2).mean()
        values["drift"] = moved
        return ANCHOR_SHARE * moved

    def _set_rate(self) -> None:
        rate = self.given.rate * min(1.0, (self.progress.step + 1) / WARM_UP_STEPS) * self._falling()
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _falling(self) -> float:
        """From 1 to nearly 0 over the planned time."""
        done = min(1.0, self.progress.seconds / (self.given.planned_minutes * 60))
        return LEAST_RATE_SHARE + (1 - LEAST_RATE_SHARE) * 0.5 * (1 + math.cos(math.pi * done))

    def _average(self) -> None:
        step = self.progress.step
        share = min(AVERAGING**AVERAGED_EVERY, (1 + step) / (20 + step))
        now, names = self.eyes.state_dict(), list(self.average)
        torch._foreach_lerp_([self.average[name] for name in names], [now[name] for name in names], 1 - share)

    def _report(self, steps_a_second: float, waiting: float) -> None:
        means, scores = self.heap.means() if self.heap.steps else {}, self.heap.scores()
        rate = self.optimizer.param_groups[0]["lr"]
        row = {
            "step": self.progress.step,
            "seconds": round(self.progress.seconds),
            "rate": rate,
            **means,
            "scores": scores,
        }
        self.history.append(row)
        told = " ".join(f"{name} {value}" for name, value in {**means, **scores}.items())
        self.say(f"step {self.progress.step} {steps_a_second:.2f}/s waiting {waiting:.0%} rate {rate:.1e} {told}")
        self.heap = Heap()

    # --- beginnings ---------------------------------------------------------------------

    def _load_start(self) -> None:
        given = self.given
        if given.start is None:
            return
        self.eyes.load(given.start)
        if given.start_recognition is not None:
            with np.load(given.start_recognition) as kept:
                _load_heads(self.recognition, {name: torch.from_numpy(kept[name]).float() for name in kept})
        if given.stage == "look":
            self.anchor = Eyes().to(self.device).requires_grad_(False)
            self.anchor.load(given.start)
        self.say(f"starting from {given.start.name}")

    def _new_optimizer(self) -> torch.optim.AdamW:
        parameters = [*self.eyes.named_parameters(), *self.recognition.named_parameters()]
        free = [value for name, value in parameters if value.ndim < 2 or "position" in name]
        decaying = [value for name, value in parameters if not (value.ndim < 2 or "position" in name)]
        groups: list[dict[str, Any]] = [
            {"params": decaying, "weight_decay": WEIGHT_DECAY},
            {"params": free, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.given.rate, betas=BETAS, fused=self.is_gpu)

    def _load_checkpoint(self) -> None:
        """Go on from the last run: wholly if it was of this stage, else with its weights."""
        path = self.given.checkpoint
        if not path.exists():
            return
        kept = torch.load(path, map_location=self.device)
        self.recognition.load_state_dict(kept["recognition"])
        last = Progress(**kept["progress"])
        same = last.stage == self.given.stage
        self.eyes.load_state_dict(kept["eyes" if same else "average"])
        self.average = {name: value.clone() for name, value in kept["average"].items()}
        if same:
            self.optimizer.load_state_dict(kept["optimizer"])
            self.progress = last
        self.say(f"going on from step {last.step} of stage {last.stage}")

    def _load_words(self) -> Words:
        dtype = torch.bfloat16 if self.is_gpu else torch.float32
        return Words.load(self.given.folder / "language.npz", self.device, dtype, compiled=self.is_gpu)


def answer_small_talk(folder: Path) -> None:
    """Let SmolLM2 answer the questions that have nothing to do with pictures, if that was not done yet."""
    from tokenizers import Tokenizer

    path = folder / "small_talk.json"
    if path.exists():
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    words = Words.load(folder / "language.npz", device, dtype, compiled=False)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    form = f"<|im_start|>system\n{USUAL_SYSTEM}<|im_end|>\n<|im_start|>user\n{{}}<|im_end|>\n<|im_start|>assistant\n"
    end = tokenizer.token_to_id("<|im_end|>")
    asked = questions()
    prompts = [tokenizer.encode(form.format(question)).ids for question in asked]
    answered = []
    for question, reply in zip(asked, words.continue_greedily(prompts, ANSWER_TOKENS, end), strict=True):
        ended = end in reply
        said = tokenizer.decode(reply[: reply.index(end)] if ended else reply, skip_special_tokens=False)
        answered.append(Answered(question, said, ended))
    path.write_text(json.dumps([asdict(each) for each in answered], ensure_ascii=False, indent=0), "utf-8")


def _answer_places(
    answers: np.typing.NDArray[np.uint8],
) -> tuple[np.typing.NDArray[np.int64], np.typing.NDArray[np.float32], int]:
    """Where in all rows' tokens the next one is to be learnt and how much it counts, filled up; how many are real."""
    places = np.flatnonzero(answers)
    weights = np.array([0.0, *(ANSWER_WEIGHTS.get(kind, 1.0) for kind in KINDS)])[answers]
    decided = np.isin(answers, [1 + KINDS.index(kind) for kind in DECIDED_AT_ONCE])
    weights[decided & _begins(answers > 0)] *= FIRST_WEIGHT
    shares = (weights.ravel()[places] / weights.sum()).astype(np.float32)
    missing = -len(places) % LOGITS_AT_ONCE
    return np.pad(places, (0, missing)), np.pad(shares, (0, missing)), len(places)


def _begins(is_answer: np.typing.NDArray[np.bool_]) -> np.typing.NDArray[np.bool_]:
    """Where an answer begins in its row."""
    return is_answer & ~np.pad(is_answer, ((0, 0), (1, 0)))[:, :-1]


def _load_heads(recognition: Recognition, kept: dict[str, Tensor]) -> None:
    """What is kept of each head; a head may have learnt to say more since."""
    with torch.no_grad():
        for name, value in recognition.state_dict().items():
            value[: len(kept[name])] = kept[name].to(value.device)


def _share_right(logits: Tensor, wanted: Tensor) -> Tensor:
    kinds = wanted[..., LABEL_FIELDS.index("kind")]
    is_thing = kinds > 0
    return ((logits.argmax(-1) == kinds) & is_thing).sum() / is_thing.sum().clamp(min=1)


def _work(queue: Any, given: argparse.Namespace, number: int) -> None:
    """Make batches until the process is ended."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    sprites = Sprites.of(Bank.sprites_by_text(given.folder / "bank.npz"))
    photographs = Photographs.load(given.folder / "photos.npz")
    speaks = given.stage == "speak"
    answered = read_answers(given.folder / "small_talk.json") if speaks else []
    talk = [each for each in answered if not held_out(each.question)]
    packer = Packer(given.folder / "tokenizer.json", sprites, photographs, talk)
    chance = random.Random(f"{given.seed} {given.stage} {given.seed_shift} {number}")
    while True:
        queue.put(packer.batch(chance, given.rows) if speaks else packer.pictures(chance, pictures_in(given.rows)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=["look", "speak"])
    parser.add_argument("folder", type=Path, help="with bank.npz, photos.npz, language.npz and tokenizer.json")
    parser.add_argument("out", type=Path, help="where the eyes and the history are written")
    parser.add_argument("--checkpoint", type=Path, default=Path("demo-eyes.pt"), help="what a later run goes on from")
    parser.add_argument("--start", type=Path, help="earlier eyes (.npz) to begin with; none: from nothing")
    parser.add_argument("--start-recognition", type=Path, help="the recognition.npz that goes with them")
    parser.add_argument("--minutes", type=float, default=10, help="when this run ends, all included")
    parser.add_argument("--planned-minutes", type=float, default=15, help="of all runs of this stage together")
    parser.add_argument("--rate", type=float, default=1e-3, help="the highest learning rate")
    parser.add_argument("--rows", type=int, default=256, help="of tokens, a step")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--attention", choices=["auto", "mask", "blocks"], default="auto")
    parser.add_argument("--after", type=Path, help="compile, then wait for this file before learning begins")
    parser.add_argument("--ends-at", type=float, help="instead of minutes: when, in seconds since 1970")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seed-shift", type=int, default=0, help="another for each run, so that no scene comes twice")
    return parser.parse_args()


def main() -> None:
    """Train one stage."""
    given = _arguments()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.stage == "speak":
        answer_small_talk(given.folder)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue(QUEUE if torch.cuda.is_available() else 2)
    workers = [
        context.Process(target=_work, args=(queue, given, number), daemon=True) for number in range(given.workers)
    ]
    for worker in workers:
        worker.start()
    # A training with cuDNN's kernel for attention diverged, one without it did not (torch 2.11, H200).
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        Training(given).run(iter(queue.get, None))
    finally:
        for worker in workers:
            worker.kill()


if __name__ == "__main__":
    main()

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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scripts.demo_model.labels import CLASSES, LABEL_FIELDS, PHOTO_KIND
from scripts.demo_model.packing import IMAGE_ID, USUAL_SYSTEM, Batch, Packer, pictures_in
from scripts.demo_model.photographs import Photographs
from scripts.demo_model.questions import KINDS, RELATIONS
from scripts.demo_model.renderer import Renderer, as_a_camera_would, load_parts, patch_labels
from scripts.demo_model.scenes import Sprites
from scripts.demo_model.small_talk import ANSWER_TOKENS, Answered, held_out, questions, read_answers
from scripts.demo_model.sprites import Bank
from scripts.demo_model.twin import Eyes, Recognition, Words
from torch import Tensor
from torch.nn import functional

WARM_UP_STEPS, LEAST_RATE_SHARE = 100, 0.02
WEIGHT_DECAY, BETAS, LONGEST_GRADIENT = 0.03, (0.9, 0.98), 1.0
AVERAGING, AVERAGED_EVERY = 0.997, 4
RECOGNITION_SHARE = 0.15
"""How much recognising patches counts beside answering."""
GROUND_WEIGHT = 0.15
ANCHOR_SHARE = 0.5
"""How much the first stage holds on to what the words already understand, when it goes on from earlier eyes."""
LOSS_OF_A_BEGINNER = 1.2
REPORT_SECONDS, SAVE_SECONDS = 10.0, 60.0
LOGITS_AT_ONCE = 4096
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
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        count = len(targets)
        gradient = torch.empty_like(hidden)
        loss = torch.zeros((), device=hidden.device)
        right = torch.empty(count, dtype=torch.bool, device=hidden.device)
        for begin in range(0, count, LOGITS_AT_ONCE):
            part = slice(begin, begin + LOGITS_AT_ONCE)
            logits, wanted = (hidden[part] @ embeddings.t()).float(), targets[part]
            right[part] = logits.argmax(-1) == wanted
            total = logits.logsumexp(-1, keepdim=True)
            loss += (total[:, 0] - logits.gather(1, wanted[:, None])[:, 0]).sum()
            logits.sub_(total).exp_()
            logits[torch.arange(len(wanted), device=hidden.device), wanted] -= 1
            gradient[part] = logits.to(embeddings.dtype) @ embeddings
        ctx.save_for_backward(gradient / count)
        ctx.mark_non_differentiable(right)
        return loss / count, right

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _: Any) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return gradient * grad_loss, None, None


def recognition_loss(found: dict[str, Tensor], wanted: Tensor, characters: Tensor, beside: Tensor) -> Tensor:
    """How badly the patches are recognised.

    Args:
        found: what `Recognition` says.
        wanted: (n, patches, LABEL_FIELDS).
        characters: (n, patches).
        beside: (n, patches, len(RELATIONS) * kinds), true where such a thing lies on that side.
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
        loss = loss + (each * (weights / weights.sum() if everywhere else about_things)).sum()
    extremes = wanted[..., LABEL_FIELDS.index("is_largest") :].float()
    extreme = functional.binary_cross_entropy_with_logits(found["extreme"].float(), extremes, reduction="none")
    sides = functional.binary_cross_entropy_with_logits(found["beside"].float(), beside.float(), reduction="none")
    return loss + ((extreme.sum(-1) + 0.5 * sides.sum(-1)).flatten() * about_things).sum()


def what_is_beside(kinds: Tensor, relations: Tensor, owners: Tensor) -> Tensor:
    """For each patch and side, which kinds of things lie there; see `recognition_loss`."""
    count, things = kinds.shape
    wanted = torch.zeros(count, things + 1, len(RELATIONS), CLASSES["kind"], dtype=torch.bool, device=kinds.device)
    picture, thing, other = relations.nonzero(as_tuple=True)
    wanted[picture, thing + 1, relations[picture, thing, other] - 1, kinds[picture, other]] = True
    rows = torch.arange(count, device=kinds.device)[:, None]
    return wanted[rows, owners.flatten(1)].flatten(2)


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
        self.progress = Progress(given.stage)
        self.anchor: Eyes | None = None
        self._load_start()
        self.average = {name: value.detach().clone() for name, value in self.eyes.state_dict().items()}
        self.optimizer = self._new_optimizer()
        self._load_checkpoint()
        self.words = self._load_words() if given.stage == "speak" else None
        self.tower = torch.compile(self.eyes.vision_model, dynamic=False) if self.is_gpu else self.eyes.vision_model
        self.heap = Heap()
        self.history: list[dict[str, Any]] = []

    def run(self, batches: Iterator[Batch]) -> None:
        """Learn until the time is up."""
        self.say("ready")
        reported = saved = time.monotonic()
        steps_then = self.progress.step
        waited = 0.0
        before, begun = self.progress.seconds, None
        while time.monotonic() - self.begun < self.given.minutes * 60:
            asked = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - asked
            self._step(batch)
            self.progress.step += 1
            now = time.monotonic()
            if begun is None:  # the first step compiles
                begun = reported = now
            self.progress.seconds = before + now - begun
            if now - reported > REPORT_SECONDS:
                self._report((self.progress.step - steps_then) / (now - reported), waited / (now - reported))
                reported, steps_then, waited = now, self.progress.step, 0.0
            if now - saved > SAVE_SECONDS:
                self.save()
                saved = now
            if self._diverges():
                raise SystemExit("The loss rises: something is wrong.")
        self._report(0.0, 0.0)
        self.save()

    def _diverges(self) -> bool:
        losses = [row["loss"] for row in self.history if "loss" in row]
        return len(losses) > 1 and losses[-1] > max(LOSS_OF_A_BEGINNER, 1.3 * losses[0])

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
        recognised = recognition_loss(found, *targets)
        values = {"recognition": recognised, "patches": _share_right(found["kind"], targets[0])}
        if self.words is not None:
            answered, right = self._answers(batch, tokens)
            values |= {"loss": answered, "tokens": right.float().mean()}
            loss = answered + RECOGNITION_SHARE * recognised
        else:
            loss = recognised + self._drift(pictures, tokens, values)
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
        things, grounds, labels, relations = (
            torch.from_numpy(array).to(self.device, non_blocking=True)
            for array in (scenes.things, scenes.grounds, scenes.labels, scenes.relations)
        )
        pictures, owners = self.renderer.draw(things, grounds)
        pictures = as_a_camera_would(pictures)
        characters = self.renderer.characters(things, grounds, owners).flatten(1)
        wanted = patch_labels(labels, owners)
        beside = what_is_beside(labels[..., LABEL_FIELDS.index("kind")], relations, owners)
        if len(batch.photos):
            places = torch.from_numpy(batch.photo_places).to(self.device)
            photos = torch.from_numpy(batch.photos).to(self.device).permute(0, 3, 1, 2).float() / 255
            pictures[places] = photos
            wanted[places] = 0
            wanted[places, :, LABEL_FIELDS.index("kind")] = PHOTO_KIND
        return pictures * 2 - 1, (wanted, characters, beside)

    def _answers(self, batch: Batch, pictures: Tensor) -> tuple[Tensor, Tensor]:
        assert self.words is not None
        ids, positions, segments = (
            torch.from_numpy(array).to(self.device, non_blocking=True)
            for array in (batch.tokens, batch.positions, batch.segments)
        )
        x = functional.embedding(ids.long(), self.words.embeddings)
        stands_in = (ids == IMAGE_ID)[..., None]
        x = x.masked_scatter(stands_in, pictures.to(x.dtype))
        hidden = self.words.hidden(x, self._mask(segments), positions)
        is_answer = torch.from_numpy(batch.answers > 0).to(self.device)[:, :-1]
        loss, right = AnswerLoss.apply(hidden[:, :-1][is_answer], ids[:, 1:][is_answer].long(), self.words.embeddings)
        if self.progress.step % 5 == 0:
            self._score(batch.answers, right)
        return loss, right

    def _mask(self, segments: Tensor) -> Tensor:
        """A token sees the pictures' segment and its own, backwards."""
        same = (segments[:, None, :] == 0) | (segments[:, :, None] == segments[:, None, :])
        causal = torch.ones(same.shape[-2:], dtype=torch.bool, device=same.device).tril()
        assert self.words is not None
        mask = torch.zeros(same.shape, dtype=self.words.dtype, device=same.device)
        return mask.masked_fill_(~(same & causal), -1e9)[:, None]

    def _score(self, answers: np.typing.NDArray[np.uint8], right: Tensor) -> None:
        """Count whole answers, each a run of tokens of one kind."""
        wrong = np.zeros(answers.shape, bool)
        is_answer = answers > 0
        is_answer[:, -1] = False
        wrong[is_answer] = ~right.cpu().numpy()
        begins = is_answer & ~np.pad(is_answer, ((0, 0), (1, 0)))[:, :-1]
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
        done = min(1.0, self.progress.seconds / (self.given.planned_minutes * 60))
        falling = LEAST_RATE_SHARE + (1 - LEAST_RATE_SHARE) * 0.5 * (1 + math.cos(math.pi * done))
        rate = self.given.rate * min(1.0, (self.progress.step + 1) / WARM_UP_STEPS) * falling
        for group in self.optimizer.param_groups:
            group["lr"] = rate

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
                self.recognition.load_state_dict({name: torch.from_numpy(kept[name]).float() for name in kept})
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
        words = Words.load(self.given.folder / "language.npz", self.device, dtype, compiled=self.is_gpu)
        if self.given.start is None and self.progress.step == 0:
            spread = float(words.embeddings.float().std()) / 32
            torch.nn.init.normal_(self.eyes.connector.modality_projection.proj.weight, std=spread)
        return words


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


def _share_right(logits: Tensor, wanted: Tensor) -> Tensor:
    kinds = wanted[..., LABEL_FIELDS.index("kind")]
    is_thing = kinds > 0
    return ((logits.argmax(-1) == kinds) & is_thing).sum() / is_thing.sum().clamp(min=1)


def _work(queue: Any, given: argparse.Namespace, number: int) -> None:
    """Make batches until the process is ended."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    bank = Bank.load(given.folder / "bank.npz")
    photographs = Photographs.load(given.folder / "photos.npz")
    talk = [each for each in read_answers(given.folder / "small_talk.json") if not held_out(each.question)]
    packer = Packer(given.folder / "tokenizer.json", Sprites.of(bank.sprites_by_text()), photographs, talk)
    chance = random.Random(f"{given.seed} {given.stage} {given.seed_shift} {number}")
    while True:
        speaks = given.stage == "speak"
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
    parser.add_argument("--rows", type=int, default=512, help="of tokens, a step")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seed-shift", type=int, default=0, help="another for each run, so that no scene comes twice")
    return parser.parse_args()


def main() -> None:
    """Train one stage."""
    given = _arguments()
    given.out.mkdir(parents=True, exist_ok=True)
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

"""The limit: mlx-vlm alone, without a server. A program of its own: `raw_library.py FOLDER MODE`.

Reads requests and writes times as lines of JSON. MODE is `batch` for its `BatchGenerator`
with the library's defaults, or `alone` for `stream_generate`, one request after the other.
Greedy, without log probabilities: the fastest it can be asked for. It says when a reply
begins and when it has ended, nothing in between, so that telling costs it nothing.
"""

import base64
import io
import json
import os
import queue
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import mlx_vlm
from mlx_vlm.generate.ar import BatchGenerator
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.utils import prepare_inputs
from PIL import Image

CANT_BE_PADDED = ("gemma3",)
"""Kinds of models whose prompts with pictures are prefilled one at a time: their masks don't go together."""


@dataclass
class Row:
    """A request under way."""

    id: int
    input_tokens: int
    times: list[float] = field(default_factory=list)

    def note(self) -> None:
        self.times.append(time.monotonic())
        if len(self.times) == 1:
            tell(id=self.id, first=self.times[0])


class Library:
    """A loaded model and what it is told to do."""

    def __init__(self, folder: str) -> None:
        self.model, self.processor = mlx_vlm.load(folder)
        self.inbox: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def read(self) -> None:
        """Runs in a thread of its own until the pipe is closed."""
        for line in sys.stdin:
            self.inbox.put(json.loads(line))
        self.inbox.put(None)

    def prompt(self, request: dict[str, Any]) -> tuple[str, list[Any]]:
        pictures = [Image.open(io.BytesIO(base64.b64decode(each))).convert("RGB") for each in request["pictures"]]
        talk = [
            message
            for before, reply in request["earlier"]
            for message in ({"role": "user", "content": before}, {"role": "assistant", "content": reply})
        ]
        talk.append({"role": "user", "content": request["text"]})
        return apply_chat_template(self.processor, self.model.config, talk, num_images=len(pictures)), pictures

    def finish(self, row: Row) -> None:
        usage = {"input_tokens": row.input_tokens, "output_tokens": len(row.times)}
        tell(id=row.id, times=row.times, usage=usage, ended=row.times[-1] if row.times else time.monotonic())

    # --- one after the other ----------------------------------------------------------

    def answer_alone(self) -> None:
        while (request := self.inbox.get()) is not None:
            if "cancel" in request:
                continue
            prompt, pictures = self.prompt(request)
            row = Row(request["id"], 0)
            for piece in mlx_vlm.stream_generate(
                self.model,
                self.processor,
                prompt,
                image=pictures or None,
                max_tokens=request["tokens"],
                temperature=0.0,
            ):
                row.input_tokens = piece.prompt_tokens
                if len(row.times) < request["tokens"]:  # the last piece repeats a token
                    row.note()
            self.finish(row)

    # --- together ---------------------------------------------------------------------

    def answer_together(self) -> None:
        generator = BatchGenerator(
            self.model.language_model, self.processor, compute_logprobs=False, greedy_sampling=True
        )
        rows: dict[int, Row] = {}
        while True:
            for request in self.requests(is_idle=not rows):
                if request is None:
                    return
                if "cancel" in request:
                    self.give_up(generator, rows, request["id"])
                else:
                    self.insert(generator, rows, request)
            _, responses = generator.next()
            for response in responses:
                row = rows[response.uid]
                row.note()
                if response.finish_reason is not None:
                    self.finish(rows.pop(response.uid))

    def requests(self, is_idle: bool) -> list[dict[str, Any] | None]:
        waiting = [self.inbox.get()] if is_idle else []
        while True:
            try:
                waiting.append(self.inbox.get_nowait())
            except queue.Empty:
                return waiting

    def insert(self, generator: Any, rows: dict[int, Row], request: dict[str, Any]) -> None:
        prompt, pictures = self.prompt(request)
        if pictures and self.model.config.model_type in CANT_BE_PADDED:
            generator.prefill_batch_size = 1
        inputs = dict(
            prepare_inputs(
                self.processor,
                images=pictures or None,
                prompts=prompt,
                image_token_index=getattr(self.model.config, "image_token_index", None),
                add_special_tokens=False,
            )
        )
        ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask", None)
        embedded = self.model.get_input_embeddings(ids, inputs.pop("pixel_values", None), mask=mask, **inputs)
        tokens = ids.flatten().tolist()
        [uid] = generator.insert([tokens], [request["tokens"]], prompt_kwargs=[embedded.to_dict()])
        rows[uid] = Row(request["id"], len(tokens))

    def give_up(self, generator: Any, rows: dict[int, Row], id: int) -> None:
        uid = next((uid for uid, row in rows.items() if row.id == id), None)
        if uid is not None:
            generator.remove(uid)
            self.finish(rows.pop(uid))


def tell(**message: Any) -> None:
    os.write(OUT, json.dumps(message).encode() + b"\n")


OUT = os.dup(1)
"""What libraries print must not mix with what is told."""


def main() -> None:
    os.dup2(2, 1)
    library = Library(sys.argv[1])
    threading.Thread(target=library.read, daemon=True).start()
    tell(id=-1, ready=True)
    library.answer_together() if sys.argv[2] == "batch" else library.answer_alone()


if __name__ == "__main__":
    main()

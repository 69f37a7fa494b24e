"""A dialogue to what a model takes: chat template, tokens, pictures.

What users write is kept apart from what the template writes, so that text can't become a
control token. The template is rendered with stand-ins, tokens of our own that no text
contains; the model's processor puts in the pictures' places; then each stretch of text with
a stand-in is tokenized anew, with the user's words in it and with control tokens switched
off. A benign text gets the very ids that it gets in one piece.
"""

import re
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import PIL.Image
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.utils import prepare_inputs, should_add_special_tokens
from tokenizers import AddedToken

from mlx_websockets.engine.worker.prompting.embedding import Embedder, Processed
from mlx_websockets.engine.worker.prompting.pictures import fingerprint, prompt_keys
from mlx_websockets.engine.worker.prompting.processing import opened, with_memory
from mlx_websockets.engine.worker.sequence import Prompt
from mlx_websockets.errors import EngineError
from mlx_websockets.generation import ChatMessage, GenerationRequest, Image

MAX_MESSAGES = 128
"""Stand-ins that a tokenizer is given; a request with more messages is refused."""

PICTURE_BYTES = 256 * 2**20
"""Gemma 3 4B needs 1.3 MB for a picture."""

PIXEL_BYTES = 64 * 2**20
"""Gemma 3 needs 9.6 MB for a picture."""


class Prompts:
    """Makes prompts for one loaded model.

    Args:
        model, processor, tokenizer: as mlx-vlm loaded them. The tokenizer gets new tokens
            (the stand-ins), with ids past the model's vocabulary that never reach the model.
        sees: the model takes pictures.
        context_tokens: prompt and reply together are no longer than this.
        picture_bytes: of what the model saw in pictures, kept for prompts to come.
        pixel_bytes: of pictures as its processor resized and scaled them, likewise.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        tokenizer: Any,
        *,
        sees: bool,
        context_tokens: int,
        picture_bytes: int = PICTURE_BYTES,
        pixel_bytes: int = PIXEL_BYTES,
    ) -> None:
        self._model = model
        self._processor = processor
        self._tokenizer = tokenizer
        self._sees = sees
        self._context_tokens = context_tokens
        self._stand_ins = _add_stand_ins(tokenizer)
        self._stand_in_ids = dict(
            zip(tokenizer.convert_tokens_to_ids(self._stand_ins), range(MAX_MESSAGES), strict=True)
        )
        self._added_ids = set(tokenizer.added_tokens_decoder) - set(self._stand_in_ids)
        self._image_ids = _image_ids(model.config)
        self._embedder = Embedder(model, self._image_ids, picture_bytes)
        self._image_processor = with_memory(processor, pixel_bytes)
        self._breakable = _control_words(tokenizer, processor, self._stand_ins)
        self._trimmed_roles = self._find_trimmed_roles()

    @property
    def nbytes(self) -> int:
        """Of what is kept of pictures."""
        pixels = 0 if self._image_processor is None else self._image_processor.nbytes
        return self._embedder.nbytes + pixels

    def clear(self) -> None:
        """Give back what is kept of pictures, as when memory has run out."""
        self._embedder.clear()
        if self._image_processor is not None:
            self._image_processor.clear()

    def prompt(self, request: GenerationRequest) -> tuple[Prompt, float]:
        """The request as the model takes it, and the seconds that its vision took: 0 if all pictures were known.

        Messages of the past are left out, oldest first, as far as `request.droppable` allows,
        until the prompt fits.

        Raises:
            EngineError: `model_cannot_see`, `prompt_too_long`, `invalid_prompt`.
        """
        if not self._sees and any(message.images for message in request.messages):
            raise EngineError("model_cannot_see", "This model takes no pictures.")
        prompt, images = self._fitting(request)
        embedded = self._embedder.embed(prompt, lambda number: self._alone(images[number]))
        return Prompt(
            tokens=prompt.tokens,
            image_tokens=sum(token in self._image_ids for token in prompt.tokens),
            inputs=embedded.inputs,
            keys=prompt_keys(prompt.tokens, self._image_ids, prompt.pictures, embedded.places),
        ), embedded.vision_seconds

    def look_at_one(self, request: GenerationRequest) -> float:
        """Look at one of the request's pictures that is not known yet, so that `prompt` has less to do.

        Returns how many seconds it took; 0: all are known, or there is but one, or they can't be looked at one by one.
        """
        images = [image for message in request.messages for image in message.images]
        if len(images) < 2:
            return 0.0
        fingerprints = [fingerprint(image) for image in images]
        return self._embedder.look_at_one(fingerprints, lambda number: self._alone(images[number]))

    # --- text -------------------------------------------------------------------------

    def _fitting(self, request: GenerationRequest) -> tuple[Processed, list[Image]]:
        """As much of the dialogue as fits, and the pictures in it."""
        messages, droppable = list(request.messages), request.droppable
        while True:
            prompt = self._encoded(messages)
            length, room = len(prompt.tokens), self._context_tokens
            if length < room:
                return prompt, [image for message in messages for image in message.images]
            if droppable < 2:
                raise EngineError(
                    "prompt_too_long",
                    f"The prompt has {length} tokens, the model takes {room} in all. Shorten it.",
                )
            first = 1 if messages[0].role == "system" else 0
            del messages[first : first + 2]
            droppable -= 2

    def _encoded(self, messages: list[ChatMessage]) -> Processed:
        if len(messages) > MAX_MESSAGES:
            raise EngineError("prompt_too_long", f"A request has at most {MAX_MESSAGES} messages.")
        texts = [message.text.strip() if message.role in self._trimmed_roles else message.text for message in messages]
        images = [image for message in messages for image in message.images]
        fingerprints = [fingerprint(image) for image in images]
        pictures = [opened(*each) for each in zip(images, fingerprints, strict=True)]
        inputs = self._processed(self._rendered(messages), pictures)
        ids = inputs.pop("input_ids").flatten().tolist()
        mask = inputs.pop("attention_mask", None)
        if mask is not None:
            ids = [token for token, kept in zip(ids, mask.flatten().tolist(), strict=True) if kept]
        spelled = self._spelled_out(ids, texts)
        stretched = {key: _stretched(value, len(ids), spelled) for key, value in inputs.items()}
        return Processed([token for piece in spelled for token in piece[1]], stretched, tuple(fingerprints))

    def _alone(self, image: Image) -> Processed:
        """A prompt of one picture and nothing else."""
        return self._encoded([ChatMessage("user", "", (image,))])

    def _rendered(self, messages: list[ChatMessage]) -> str:
        """The template's text, a stand-in for each message's words."""
        try:
            return self._template(list(zip(messages, self._stand_ins, strict=False)))
        except Exception as error:
            if messages[0].role != "system" or len(messages) < 2:
                raise EngineError("invalid_prompt", "The model's chat template refuses this dialogue.") from error
        # Some templates know no system role; there its words open the user's turn.
        (_, user, *rest), (first, second, *others) = messages, self._stand_ins[: len(messages)]
        return self._template([(user, f"{first}\n\n{second}"), *zip(rest, others, strict=True)])

    def _template(self, parts: list[tuple[ChatMessage, str]]) -> str:
        last = len(parts) - 1
        dialogue = [
            # mlx-vlm places the last message's pictures as each model likes it; earlier ones are marked by hand.
            {"role": message.role, "content": text if index == last or not message.images else _marked(message, text)}
            for index, (message, text) in enumerate(parts)
        ]
        images = sum(len(message.images) for message, _ in parts)
        rendered = apply_chat_template(self._processor, self._model.config, dialogue, num_images=images)
        return rendered if isinstance(rendered, str) else str(rendered.get("content", ""))

    def _processed(self, rendered: str, pictures: list[PIL.Image.Image]) -> dict[str, Any]:
        bos = self._tokenizer.bos_token
        has_bos = bool(bos) and rendered.startswith(bos)
        inputs: dict[str, Any] = prepare_inputs(
            self._processor,
            images=pictures or None,
            prompts=rendered,
            image_token_index=getattr(self._model.config, "image_token_index", None),
            add_special_tokens=not has_bos
            and should_add_special_tokens(self._model.config.model_type, self._processor),
        )
        return dict(inputs)

    def _spelled_out(self, ids: list[int], texts: list[str]) -> list[tuple[int, list[int]]]:
        """The ids with the users' words in place of their stand-ins.

        Returns:
            Pieces: how many of `ids` each stands for, and the ids that it has now.
        """
        pieces: list[tuple[int, list[int]]] = []
        seen = 0
        for run in _runs(ids, self._added_ids):
            stand_ins = [token for token in run if token in self._stand_in_ids]
            seen += len(stand_ins)
            pieces.append((len(run), self._tokenized(run, texts) if stand_ins else run))
        if seen != len(texts):
            raise EngineError("invalid_prompt", "The model's chat template leaves out part of this dialogue.")
        return pieces

    def _tokenized(self, run: list[int], texts: list[str]) -> list[int]:
        """A stretch of text between two control tokens, stand-ins spelled out."""
        words: list[str] = []
        literal: list[int] = []
        for token in run:
            index = self._stand_in_ids.get(token)
            if index is None:
                literal.append(token)
                continue
            words += [self._decoded(literal), texts[index]]
            literal = []
        words.append(self._decoded(literal))
        return [token for part in _broken("".join(words), self._breakable) for token in self._ids_of(part)]

    def _ids_of(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return ids

    def _decoded(self, ids: list[int]) -> str:
        if not ids:
            return ""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def _find_trimmed_roles(self) -> set[str]:
        """The roles whose words the template trims; a stand-in has nothing to trim, so it is done by hand."""
        first, second = self._stand_ins[:2]
        trimmed: set[str] = set()
        for role in ("system", "user", "assistant"):
            roles = {"system": ("system", "user"), "user": ("user",), "assistant": ("user", "assistant")}[role]
            parts = [
                (ChatMessage(each, ""), f" {mark} " if each == role else mark)  # type: ignore[arg-type]
                for each, mark in zip(roles, (first, second), strict=False)
            ]
            mark = parts[roles.index(role)][1]
            try:
                if mark not in self._template(parts):
                    trimmed.add(role)
            except Exception:  # noqa: S112 - a template may refuse a role; then there is nothing to trim
                continue
        return trimmed


def _add_stand_ins(tokenizer: Any) -> list[str]:
    names = [f"<|a user's words, {number}|>" for number in range(MAX_MESSAGES)]
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in names], special_tokens=True)
    return names


def _image_ids(config: Any) -> set[int]:
    names = ("image_token_id", "image_token_index", "image_token")
    return {value for value in (getattr(config, name, None) for name in names) if isinstance(value, int)}


def _control_words(tokenizer: Any, processor: Any, stand_ins: list[str]) -> re.Pattern[str] | None:
    """What steers a model although its tokenizer does not call it special, such as `<tool_call>`.

    Those are the added tokens that the chat template itself writes, and all of the form `<|…|>`.
    """
    template = str(getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None) or "")
    words = [
        added.content
        for added in tokenizer.added_tokens_decoder.values()
        if not added.special and len(added.content) > 1 and added.content not in stand_ins
        if added.content.strip() and (added.content in template or re.fullmatch(r"<\|.+\|>", added.content))
    ]
    return re.compile("|".join(map(re.escape, words))) if words else None


def _broken(text: str, words: re.Pattern[str] | None) -> Iterator[str]:
    """`text` in parts that cut every one of `words` in two, after its first character."""
    start = 0
    for match in words.finditer(text) if words else ():
        yield text[start : match.start() + 1]
        start = match.start() + 1
    if start < len(text):
        yield text[start:]


def _runs(ids: list[int], added: set[int]) -> Iterator[list[int]]:
    """Stretches without added tokens, and each added token by itself: as tokenizers cut text."""
    run: list[int] = []
    for token in ids:
        if token not in added:
            run.append(token)
            continue
        if run:
            yield run
            run = []
        yield [token]
    if run:
        yield run


def _marked(message: ChatMessage, text: str) -> list[dict[str, str]]:
    return [*({"type": "image"} for _ in message.images), {"type": "text", "text": text}]


def _stretched(value: Any, length: int, pieces: list[tuple[int, list[int]]]) -> Any:
    """A per-token array of the processor's, made as long as the spelled-out ids; all else as it is."""
    if not (isinstance(value, mx.array) and value.ndim == 2 and value.shape == (1, length)):
        return value
    old: Any = value.flatten().tolist()
    new: list[Any] = []
    for count, ids in pieces:
        kept, old = old[:count], old[count:]
        new += kept if len(ids) == count else [kept[0]] * len(ids)
    return mx.array([new], dtype=value.dtype)

"""Token ids and pictures to what the prefill takes; each picture is looked at once.

mlx-vlm's models differ in how they put pictures into a prompt, but nearly all end in rows of
its embeddings, at the pictures' places. Those rows are kept for each picture. For a prompt
whose pictures are known the model is given zeros for what its vision would say
(`cached_image_features`): it makes all the rest of the prompt, and the rows are put in.

Whether a model can be treated so is not looked up but tried, with its first prompt that has a
picture and again with its first that has several: both ways are computed and compared. Where
they disagree, pictures are computed anew for each prompt.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_websockets.engine.worker.prompting.features import Features, KeptFeatures

logger = logging.getLogger(__name__)

Made = dict[str, Any]
"""What a model makes of a prompt: `inputs_embeds` (1, tokens, width), and more by its kind."""

PIXELS = "pixel_values"
ROWS = "inputs_embeds"
DEEPER = "deepstack_visual_embeds"
MASK = "attention_mask_4d"

ROUNDING = 0.02
"""How far a picture's features may be, in shares of their length, from those that were
computed together with other pictures': rounding in 16 bits, and no more."""


@dataclass(frozen=True, slots=True)
class Processed:
    """A prompt as the processor leaves it.

    Attributes:
        tokens: ids, pictures' places included.
        inputs: pixels, and whatever else the model wants to know.
        pictures: the fingerprints of its pictures, in their order.
    """

    tokens: list[int]
    inputs: dict[str, Any]
    pictures: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Embedded:
    """A prompt as the prefill takes it.

    Attributes:
        inputs: its keyword arguments.
        places: of each picture, how many; None: that is not known.
        vision_seconds: what the pictures took that had to be looked at.
    """

    inputs: dict[str, Any]
    places: list[int] | None
    vision_seconds: float


class Embedder:
    """Embeds the prompts of one model.

    Args:
        model: as mlx-vlm loaded it.
        image_ids: the tokens that are places of pictures.
        max_bytes: of the pictures' features that are kept.
    """

    def __init__(self, model: Any, image_ids: set[int], max_bytes: int) -> None:
        self._model = model
        self._image_ids = image_ids
        self._kept = KeptFeatures(max_bytes)
        self._shapes: dict[bool, _Shape | None] = {}  # by "there are several": what has been found out
        self._vision_seconds = 0.0

    @property
    def nbytes(self) -> int:
        """Of the features that are kept."""
        return self._kept.nbytes

    def clear(self) -> None:
        """Forget all pictures."""
        self._kept.clear()

    def embed(self, prompt: Processed, alone: Callable[[int], Processed]) -> Embedded:
        """Make of a prompt what the prefill takes.

        Args:
            alone: makes a prompt of the picture of this number alone. A new picture among
                several is looked at by itself: its features don't depend on its neighbours.
        """
        self._vision_seconds = 0.0
        made, features = self._made(prompt, alone)
        rest = {key: value for key, value in prompt.inputs.items() if key != PIXELS}
        places = None if features is None else [each.places for each in features]
        return Embedded({**rest, **made}, places, self._vision_seconds)

    def look_at_one(self, pictures: Sequence[bytes], alone: Callable[[int], Processed]) -> float:
        """Look at the first of these pictures that is not known; `alone` is as in `embed`.

        Returns how many seconds it took; 0: there is none, or what is seen can't be kept for the prompt.
        """
        if False not in self._shapes or not self._may_know:
            return 0.0
        number = next((number for number, each in enumerate(pictures) if self._kept.get(each) is None), None)
        if number is None:
            return 0.0
        self._vision_seconds = 0.0
        self._with_one(alone(number))
        all_are_kept = all(self._kept.get(each) is not None for each in pictures[: number + 1])
        return self._vision_seconds if all_are_kept else 0.0

    def _made(self, prompt: Processed, alone: Callable[[int], Processed]) -> tuple[Made, list[Features] | None]:
        """What the model makes of the prompt, and of each picture; None: it can't be told which part is whose."""
        if not prompt.pictures:
            return self._called(prompt), []
        if len(prompt.pictures) > 1:
            return self._with_several(prompt, alone)
        made, features = self._with_one(prompt)
        return made, None if features is None else [features]

    # --- pictures ---------------------------------------------------------------------

    def _with_one(self, prompt: Processed) -> tuple[Made, Features | None]:
        [picture] = prompt.pictures
        known, shape = self._kept.get(picture), self._shapes.get(False)
        if known is not None and shape is not None and self._fit(prompt, [known]):
            return self._composed(prompt, [known], shape), known
        made = self._looked_at(prompt)
        features = self._cut_out(prompt, made)
        if features is None:
            return made, None
        if False not in self._shapes and not self._find_shape(prompt, made, [features]):
            made = self._looked_at(prompt)  # some models note positions in themselves; let them be these
        if self._shapes[False] is not None:
            self._kept.put(picture, features)
        return made, features

    def _with_several(self, prompt: Processed, alone: Callable[[int], Processed]) -> tuple[Made, list[Features] | None]:
        features = self._each(prompt.pictures, alone) if self._may_know else None
        if features is None or not self._fit(prompt, features):
            return self._looked_at(prompt), None
        if True not in self._shapes:
            self._find_shape(prompt, self._looked_at(prompt), features)
        shape = self._shapes[True]
        if shape is None or shape(features) is None:
            return self._looked_at(prompt), features
        return self._composed(prompt, features, shape), features

    @property
    def _may_know(self) -> bool:
        """Nothing was found out yet that forbids to put features together that were seen one by one."""
        return None not in self._shapes.values()

    def _each(self, pictures: Sequence[bytes], alone: Callable[[int], Processed]) -> list[Features] | None:
        """The features of each picture, looked at by itself where they are not known."""
        found: dict[bytes, Features] = {}
        for number, picture in enumerate(pictures):
            features = found.get(picture) or self._kept.get(picture) or self._with_one(alone(number))[1]
            if features is None or self._shapes[False] is None:
                return None
            found[picture] = features
        return [found[picture] for picture in pictures]

    def _cut_out(self, prompt: Processed, made: Made) -> Features | None:
        """The features of a prompt's one picture, in memory of their own."""
        places, rows, deeper = self._places(prompt), made[ROWS], made.get(DEEPER, [])
        if not places or rows.shape[:2] != (1, len(prompt.tokens)) or not isinstance(deeper, list):
            return None
        # A slice would keep all of the prompt in memory; taking copies.
        cut = Features(mx.take(rows[0], mx.array(places), axis=0), tuple(deeper), _size(prompt))
        mx.eval(cut.rows)
        return cut if all(each.shape[0] == cut.places for each in deeper) else None

    def _fit(self, prompt: Processed, features: Sequence[Features]) -> bool:
        """They have as many places as the prompt has, and were computed from pixels of its shape."""
        same_size = all(each.size == _size(prompt) for each in features)
        return same_size and sum(each.places for each in features) == len(self._places(prompt))

    def _places(self, prompt: Processed) -> list[int]:
        return [index for index, token in enumerate(prompt.tokens) if token in self._image_ids]

    # --- the model --------------------------------------------------------------------

    def _called(self, prompt: Processed, **more: Any) -> Made:
        tokens = mx.array([prompt.tokens])
        inputs = {PIXELS: None, **prompt.inputs}
        embedding = self._model.get_input_embeddings(
            tokens, inputs.pop(PIXELS), mask=mx.ones_like(tokens), **inputs, **more
        )
        made = {key: value for key, value in embedding.to_dict().items() if value is not None}
        if MASK in made and mx.all(made[MASK] != 0):
            del made[MASK]  # it masks nothing, and would keep the prompt from being computed beside others
        if prompt.pictures:  # words alone are left to the prefill: nobody waits here for the step under way
            mx.eval(made)
        return made

    def _looked_at(self, prompt: Processed) -> Made:
        """With a run of the model's vision."""
        started = time.perf_counter()
        made = self._called(prompt)
        self._vision_seconds += time.perf_counter() - started
        return made

    def _framed(self, prompt: Processed, features: Sequence[Features], shape: "_Shape") -> Made:
        """Without: there are zeros at the pictures' places, or what the model makes of zeros."""
        return self._called(prompt, cached_image_features=shape(features))

    def _composed(self, prompt: Processed, features: Sequence[Features], shape: "_Shape") -> Made:
        return self._filled(prompt, self._framed(prompt, features, shape), features)

    def _filled(self, prompt: Processed, frame: Made, features: Sequence[Features]) -> Made:
        made = dict(frame)
        rows = mx.array(frame[ROWS])
        rows[0, mx.array(self._places(prompt))] = mx.concatenate([each.rows for each in features])
        made[ROWS] = rows
        layers = list(zip(*(each.deeper for each in features), strict=True))
        if layers:
            made[DEEPER] = [mx.concatenate(list(layer)) for layer in layers]
        mx.eval(made)
        return made

    # --- what the model can do --------------------------------------------------------

    def _find_shape(self, prompt: Processed, made: Made, features: Sequence[Features]) -> bool:
        """Find out how this model can be given zeros; `made` is what came of a look."""
        several = len(features) > 1
        self._shapes[several] = next(
            (shape for shape in (_flat, _stacked) if self._agrees(prompt, made, features, shape)), None
        )
        if self._shapes[several] is None:
            logger.info("this model's pictures are computed anew for each prompt", extra={"several": several})
        return self._shapes[several] is not None

    def _agrees(self, prompt: Processed, made: Made, features: Sequence[Features], shape: "_Shape") -> bool:
        """Features put into zeros give what a look gave: all of it for one picture, up to rounding for several."""
        if shape(features) is None:
            return False
        try:
            frame = self._framed(prompt, features, shape)
            composed = self._filled(prompt, frame, features)
        except Exception:  # whatever a stranger's code does with an array of the wrong shape
            return False
        places = mx.array(self._places(prompt))
        zeros, put_in, seen = (each[ROWS][0, places] for each in (frame, composed, made))
        if mx.array_equal(zeros, seen):
            return False  # it has looked all the same
        rounding = ROUNDING if len(features) > 1 else 0.0
        words_agree = mx.array_equal(composed[ROWS], self._filled(prompt, made, features)[ROWS])
        return bool(words_agree) and _near(put_in, seen, rounding) and _near(composed, made, rounding)


_Shape = Callable[[Sequence[Features]], mx.array | None]
"""Zeros for some pictures, as a model wants its vision's results; None: these can't have that shape."""


def _flat(features: Sequence[Features]) -> mx.array | None:
    first = features[0].rows
    return mx.zeros((sum(each.places for each in features), first.shape[1]), first.dtype)


def _stacked(features: Sequence[Features]) -> mx.array | None:
    first = features[0].rows
    if any(each.places != features[0].places for each in features):
        return None
    return mx.zeros((len(features), *first.shape), first.dtype)


def _size(prompt: Processed) -> tuple[int, ...]:
    pixels = prompt.inputs.get(PIXELS)
    return tuple(pixels.shape[-3:]) if isinstance(pixels, mx.array) and pixels.ndim > 3 else ()


def _near(one: Any, other: Any, rounding: float) -> bool:
    """The same; of arrays of fractions, that the difference is at most this share of the length."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_near(one[key], other[key], rounding) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_near(*pair, rounding) for pair in zip(one, other, strict=True))
    if not (isinstance(one, mx.array) and isinstance(other, mx.array)):
        return bool(one == other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not rounding or not mx.issubdtype(one.dtype, mx.floating):
        return bool(mx.array_equal(one, other))
    difference, length = (mx.linalg.norm(each.astype(mx.float32).flatten()) for each in (one - other, other))
    return bool(difference <= rounding * length)

"""Keys and values of rows: made, copied, joined, parted.

A row's *caches* are a list with an entry for each layer of the model, of mlx-vlm's cache
classes; a batch's are such a list whose entries hold several rows.
"""

import copy
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_vlm.generate.ar import _make_cache
from mlx_vlm.models.cache import KVCache, RotatingKVCache, cache_nbytes, make_prompt_cache

Caches = list[Any]

WASTE = 0.75
"""A cache that is less full than this is worth a copy before it is kept."""


@dataclass(frozen=True, slots=True)
class CacheQuantization:
    """How the keys and values that are kept lose precision; see mlx-vlm's KV cache quantisation."""

    bits: float
    group_size: int
    scheme: str


def new_caches(language_model: Any, quantization: CacheQuantization | None) -> Caches:
    """Empty caches of one row."""
    if quantization is None:
        return list(make_prompt_cache(language_model))
    # Which layers lose precision, and in which class, is the library's knowledge.
    return list(
        _make_cache(
            language_model,
            [0],
            kv_bits=quantization.bits,
            kv_group_size=quantization.group_size,
            kv_quant_scheme=quantization.scheme,
        )
    )


def can_be_rows(caches: Caches) -> bool:
    """Rows of different lengths can be joined before their prompts are computed, and begin with padding.

    So it is where every layer keeps all that it was given, or the newest of it: padding is the oldest and goes first.
    """
    return all(type(each) is KVCache or (type(each) is RotatingKVCache and each.keep == 0) for each in caches)


def can_be_cut(caches: Caches) -> bool:
    """The last tokens can be taken out again."""
    return all(each.is_trimmable() for each in caches)


def copied(caches: Caches) -> Caches:
    """The same contents in entries of their own. The numbers are shared until either changes."""
    return copy.deepcopy(caches)


def cut(caches: Caches, tokens: int) -> Caches:
    """Take the last `tokens` out; see `can_be_cut`."""
    if tokens:
        for each in caches:
            each.trim(tokens)
    return caches


def compact(caches: Caches) -> Caches:
    """A copy in little more memory than its contents take; caches grow in steps, ahead of need."""
    made = copied(caches)
    for each in made:
        if type(each) is KVCache and each.keys is not None and each.offset < WASTE * each.keys.shape[2]:
            each.state = tuple(mx.contiguous(part) for part in each.state)
    return made


def joined(rows: Rows[Caches]) -> Caches:
    """One batch of several rows' caches."""
    if len(rows) == 1:
        return rows[0]
    return [type(layer[0]).merge(list(layer)) for layer in zip(*rows, strict=True)]


def padded(batch: Caches, tokens: Rows[int]) -> Caches:
    """The batch, where the next `tokens` of each row mean nothing: nobody looks at them, they have no position.

    Only rows that hold nothing yet may be given any; see `can_be_rows`.
    """
    if any(tokens):
        for each in batch:
            each.left_padding = each.left_padding + mx.array(list(tokens))
            each.offset = each.offset - mx.array(list(tokens))
    return batch


def extended(batch: Caches, others: Caches) -> Caches:
    """`batch` with the rows of `others` after its own. Neither may be used any more."""
    if not batch:
        return others
    made = []
    for mine, theirs in zip(_as_batch(batch), _as_batch(others), strict=True):
        mine.extend(theirs)
        made.append(mine)
    return made


def filtered(batch: Caches, rows: Rows[int]) -> Caches:
    """The batch with these of its rows alone. `batch` may not be used any more."""
    if not rows:
        return []
    if _is_batch(batch[0]):
        indices = mx.array(list(rows), dtype=mx.int32)
        for each in batch:
            each.filter(indices)
    return batch


def repeated(batch: Caches, rows: Rows[int]) -> Caches:
    """A batch of these rows, each as often as it is named. `batch` may not be used any more."""
    return filtered(_as_batch(batch), rows)


def row_of(batch: Caches, row: int) -> Caches | None:
    """A copy of one row's caches; None: these are of a kind that can't give one."""
    if not _is_batch(batch[0]):
        return compact(batch)
    if not all(callable(getattr(each, "extract", None)) for each in batch):
        return None
    return [each.extract(row) for each in batch]


def set_going(what: Any) -> None:
    """Have arrays computed, and don't wait for them."""
    mx.async_eval(what)  # type: ignore[no-untyped-call]


def arrays(caches: Caches) -> list[Any]:
    """What has to be computed for the caches to be whole."""
    return [each.state for each in caches]


def bytes_of(caches: Caches) -> int:
    return int(cache_nbytes(caches))


def _is_batch(entry: Any) -> bool:
    return callable(getattr(entry, "filter", None)) and callable(getattr(entry, "extend", None))


def _as_batch(caches: Caches) -> Caches:
    return [each if _is_batch(each) else type(each).merge([each]) for each in caches]

"""Beginnings of prompts whose keys and values are kept, so that they are computed once.

A kept row serves every prompt that begins as it does: the next turn of its conversation,
the same question about the same picture, another connection's prompt with the same system
line. Prompts are compared by keys (`Prompt.keys`): a token's id, or a number that stands
for a picture's content and the place in it.
"""

from collections.abc import Sequence as Keys
from dataclasses import dataclass
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from mlx_websockets.engine.worker.batch import caches
from mlx_websockets.engine.worker.batch.caches import Caches

SHORTEST_WORTH_KEEPING = 8

MOST_ROWS = 256
"""However small they are: each prompt is compared with all of them."""


@dataclass(slots=True, eq=False)
class _Kept:
    keys: npt.NDArray[np.int64]
    caches: Caches
    nbytes: int
    can_be_cut: bool

    def usable(self, keys: npt.NDArray[np.int64]) -> int:
        """How many of the first `keys` need not be computed; never all, for the last one's logits are wanted."""
        common = min(alike(self.keys, keys), len(keys) - 1)
        return common if self.can_be_cut or common == len(self.keys) else 0


class Match:
    """How much of a prompt is kept; true at every moment, for the store sees to it.

    Attributes:
        keys: the prompt's.
        tokens: how many of the first ones need not be computed.
        kept: the row that has them; None: there is none.
    """

    __slots__ = ("__weakref__", "kept", "keys", "tokens")

    def __init__(self, keys: Keys[int]) -> None:
        self.keys = np.asarray(keys, dtype=np.int64)
        self.tokens = 0
        self.kept: _Kept | None = None

    @property
    def can_be_cut(self) -> bool:
        """Fewer tokens may be taken than are matched."""
        return self.kept is None or self.kept.can_be_cut

    def look_at(self, kept: _Kept) -> None:
        """Take `kept` if it is as good as what there is."""
        tokens = kept.usable(self.keys)
        if tokens and tokens >= self.tokens:
            self.tokens, self.kept = tokens, kept

    def forget(self) -> None:
        self.tokens, self.kept = 0, None


class KeptPrefixes:
    """Kept rows, the least recently used one given up first. There are at most `MOST_ROWS`.

    Args:
        limit_bytes: of all kept keys and values together; 0 keeps nothing.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._kept: list[_Kept] = []  # the least recently used first
        self._matches: WeakSet[Match] = WeakSet()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def match(self, keys: Keys[int]) -> Match:
        """What there is for a prompt. It stays true as long as somebody holds it."""
        match = Match(keys)
        self._match_anew(match)
        self._matches.add(match)
        return match

    def caches_of(self, match: Match, tokens: int) -> Caches:
        """Caches of exactly the first `tokens` that are matched, for the caller to change.

        Raises:
            KeyError: so many are not, or the row that has them can't be cut.
        """
        kept = match.kept
        if kept is None or tokens > match.tokens or not (kept.can_be_cut or tokens == len(kept.keys)):
            raise KeyError(tokens)
        self._kept.remove(kept)
        self._kept.append(kept)
        return caches.cut(caches.copied(kept.caches), len(kept.keys) - tokens)

    def keep(self, keys: Keys[int], row: Caches) -> None:
        """Keep a row that was computed from `keys`. The caches are the store's from here on."""
        if len(keys) < SHORTEST_WORTH_KEEPING:
            return
        made = _Kept(np.asarray(keys, dtype=np.int64), row, caches.bytes_of(row), caches.can_be_cut(row))
        if made.nbytes > self._limit:
            return
        self._kept.append(made)
        self.nbytes += made.nbytes
        for match in self._matches:
            match.look_at(made)
        for each in [each for each in self._kept if each is not made and _covers(made, each)]:
            self._forget(each)
        if len(self._kept) > MOST_ROWS:
            self._forget(self._kept[0])
        self.shrink(self._limit)

    def shrink(self, nbytes: int) -> None:
        """Give up rows until no more than `nbytes` are kept."""
        while self._kept and self.nbytes > nbytes:
            self._forget(self._kept[0])

    def _forget(self, each: _Kept) -> None:
        self._kept.remove(each)
        self.nbytes -= each.nbytes
        for match in self._matches:
            if match.kept is each:
                self._match_anew(match)

    def _match_anew(self, match: Match) -> None:
        match.forget()
        for each in self._kept:
            match.look_at(each)


def _covers(longer: _Kept, shorter: _Kept) -> bool:
    """Whatever `shorter` could serve, `longer` can."""
    if len(longer.keys) < len(shorter.keys) or alike(longer.keys, shorter.keys) < len(shorter.keys):
        return False
    return longer.can_be_cut or len(longer.keys) == len(shorter.keys)


def alike(one: npt.ArrayLike, other: npt.ArrayLike) -> int:
    """How many of their first keys are the same."""
    first, second = np.asarray(one), np.asarray(other)
    shared = min(len(first), len(second))
    different = first[:shared] != second[:shared]
    return int(different.argmax()) if different.any() else shared

"""What is kept of a prompt serves those that begin alike, and nothing else."""

import mlx.core as mx
import pytest
from mlx_vlm.models.cache import KVCache, RotatingKVCache

from mlx_websockets.engine.worker.batch import caches
from mlx_websockets.engine.worker.batch.caches import Caches
from mlx_websockets.engine.worker.batch.prefixes import MOST_ROWS, SHORTEST_WORTH_KEEPING, KeptPrefixes

KEYS = list(range(100, 120))


def row(tokens: int, kind: type = KVCache) -> Caches:
    """Caches of one layer whose numbers say which token they are of."""
    cache = KVCache() if kind is KVCache else RotatingKVCache(max_size=4, keep=0)
    values = mx.arange(tokens, dtype=mx.float32).reshape(1, 1, tokens, 1)
    cache.update_and_fetch(values, values)
    return caches.compact([cache])


def contents(row_caches: Caches) -> list[float]:
    keys, _ = row_caches[0].state
    return keys.flatten().tolist()  # type: ignore[no-any-return]


def test_a_prompt_that_begins_alike_needs_only_its_rest():
    kept = KeptPrefixes(10_000)
    kept.keep(KEYS, row(20))

    assert kept.match([*KEYS, 1, 2, 3]).tokens == 20
    assert contents(kept.caches_of(kept.match([*KEYS, 1, 2, 3]), 20)) == list(range(20))


def test_a_prompt_that_parts_earlier_gets_what_is_common():
    kept = KeptPrefixes(10_000)
    kept.keep(KEYS, row(20))
    other = [*KEYS[:12], 7, 7, 7]

    assert kept.match(other).tokens == 12
    assert contents(kept.caches_of(kept.match(other), 12)) == list(range(12))


def test_the_last_token_is_always_computed():
    kept = KeptPrefixes(10_000)
    kept.keep(KEYS, row(20))

    assert kept.match(KEYS).tokens == 19


def test_another_prompt_gets_nothing():
    kept = KeptPrefixes(10_000)
    kept.keep(KEYS, row(20))

    assert kept.match([5, *KEYS]).tokens == 0
    with pytest.raises(KeyError):
        kept.caches_of(kept.match([5, *KEYS]), 1)


def test_what_a_taker_computes_changes_nothing_for_the_next_one():
    kept = KeptPrefixes(10_000)
    kept.keep(KEYS, row(20))
    taken = kept.caches_of(kept.match([*KEYS[:12], 7]), 12)

    taken[0].update_and_fetch(mx.full((1, 1, 8, 1), -1.0), mx.full((1, 1, 8, 1), -1.0))

    assert contents(kept.caches_of(kept.match([*KEYS, 1]), 20)) == list(range(20))


def test_a_row_that_goes_on_from_a_kept_one_takes_its_place():
    kept = KeptPrefixes(10_000)
    kept.keep(KEYS[:10], row(10))

    kept.keep(KEYS, row(20))

    assert len(kept) == 1
    assert kept.match([*KEYS[:10], 7]).tokens == 10


def test_caches_that_forget_serve_only_prompts_that_hold_all_of_theirs():
    kept = KeptPrefixes(10_000)
    kept.keep(KEYS, row(20, RotatingKVCache))

    assert kept.match([*KEYS, 1]).tokens == 20
    assert kept.match([*KEYS[:12], 1]).tokens == 0


def test_the_least_recently_used_is_given_up_first():
    bytes_of_one = caches.bytes_of(row(20))
    kept = KeptPrefixes(2 * bytes_of_one)
    first, second, third = ([number, *KEYS[1:]] for number in range(3))
    kept.keep(first, row(20))
    kept.keep(second, row(20))
    kept.caches_of(kept.match([*first, 1]), 20)

    kept.keep(third, row(20))

    assert kept.nbytes == 2 * bytes_of_one
    assert [kept.match([*keys, 1]).tokens for keys in (first, second, third)] == [20, 0, 20]


def test_what_is_too_large_or_too_short_is_not_kept():
    kept = KeptPrefixes(caches.bytes_of(row(20)) - 1)

    kept.keep(KEYS, row(20))
    kept.keep(KEYS[: SHORTEST_WORTH_KEEPING - 1], row(SHORTEST_WORTH_KEEPING - 1))

    assert len(kept) == 0


def test_all_can_be_given_up():
    kept = KeptPrefixes(10_000)
    kept.keep(KEYS, row(20))

    kept.shrink(0)

    assert (len(kept), kept.nbytes) == (0, 0)


def test_there_are_never_more_rows_than_a_prompt_can_be_compared_with_in_no_time():
    kept = KeptPrefixes(10**9)
    for number in range(MOST_ROWS + 3):
        kept.keep([number, *KEYS[1:]], row(20))

    assert len(kept) == MOST_ROWS
    assert kept.match([2, *KEYS[1:], 1]).tokens == 0
    assert kept.match([3, *KEYS[1:], 1]).tokens == 20

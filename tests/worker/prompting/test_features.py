"""Features of pictures are kept within a bound, the latest used longest."""

import mlx.core as mx

from mlx_websockets.engine.worker.prompting.features import MOST_PICTURES, Features, KeptFeatures

SIZE = 4 * 8 * 4  # bytes of one picture's
ONE, TWO, THREE = b"1", b"2", b"3"


def features(layers: int = 0) -> Features:
    return Features(mx.zeros((4, 8)), (mx.zeros((4, 8)),) * layers)


def test_what_was_used_longest_ago_makes_room():
    kept = KeptFeatures(2 * SIZE)
    kept.put(ONE, features())
    kept.put(TWO, features())
    kept.get(ONE)

    kept.put(THREE, features())

    assert [kept.get(each) is not None for each in (ONE, TWO, THREE)] == [True, False, True]
    assert (len(kept), kept.nbytes) == (2, 2 * SIZE)


def test_what_is_larger_than_the_bound_is_not_kept_and_drives_nothing_out():
    kept = KeptFeatures(2 * SIZE)
    kept.put(ONE, features())

    kept.put(TWO, features(layers=2))

    assert kept.get(TWO) is None
    assert kept.get(ONE) is not None


def test_a_picture_put_twice_is_counted_once():
    kept = KeptFeatures(3 * SIZE)
    kept.put(ONE, features())

    kept.put(ONE, features(layers=1))

    assert (len(kept), kept.nbytes) == (1, 2 * SIZE)


def test_nothing_is_left_after_clearing():
    kept = KeptFeatures(3 * SIZE)
    kept.put(ONE, features())

    kept.clear()

    assert (len(kept), kept.nbytes, kept.get(ONE)) == (0, 0, None)


def test_a_bound_of_nothing_keeps_nothing():
    kept = KeptFeatures(0)

    kept.put(ONE, features())

    assert (len(kept), kept.nbytes) == (0, 0)


def test_there_are_never_more_pictures_than_a_bound_however_small_they_are():
    kept = KeptFeatures(10**9)

    for number in range(MOST_PICTURES + 1):
        kept.put(str(number).encode(), features())

    assert (len(kept), kept.get(b"0")) == (MOST_PICTURES, None)

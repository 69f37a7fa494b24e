from collections.abc import Callable

from mlx_websockets.engine.worker.batch.pace import FIRST_SHARE, MOST_PIECES, POWERS, SIZES, STRETCH, Pace

USUAL, PROMPT = 0.1, 1000


def settled(pace: Pace, seconds_of: Callable[[int], float], usual: float = USUAL) -> int:
    """The chunk that a pace ends up with where a chunk takes so long."""
    for _ in range(60):
        chunk = pace.chunk(PROMPT, others_run=True)
        pace.observe(usual + seconds_of(chunk), seconds_of(chunk), chunk)
    return pace.chunk(PROMPT, others_run=True)


def test_alone_a_prompt_is_computed_in_the_largest_pieces():
    assert Pace(512, POWERS).chunk(PROMPT, others_run=False) == 512


def test_chunks_shrink_until_the_gaps_are_short_enough():
    chunk = settled(Pace(512, POWERS), lambda tokens: 0.01 * tokens)

    assert chunk == 16
    assert USUAL + 0.01 * chunk <= STRETCH * USUAL


def test_chunks_grow_as_far_as_the_gaps_allow():
    chunk = settled(Pace(512, POWERS), lambda tokens: 0.001 * tokens)

    assert chunk == 128
    assert USUAL + 0.001 * 2 * chunk > STRETCH * USUAL


def test_chunks_grow_where_they_hardly_show():
    assert settled(Pace(512, POWERS), lambda tokens: 0.00001 * tokens) == 512


def test_chunks_do_not_shrink_where_that_gains_nothing():
    assert settled(Pace(512, POWERS), lambda tokens: 0.5 + 0.0001 * tokens) >= 512 // FIRST_SHARE


def test_a_chunk_is_never_smaller_than_the_least_nor_larger_than_the_most():
    assert settled(Pace(512, POWERS), lambda tokens: float(tokens)) == POWERS[0]
    assert settled(Pace(512, SIZES["cpu"]), lambda tokens: float(tokens)) == 4
    assert settled(Pace(16, POWERS), lambda tokens: 0.0) == 16
    assert settled(Pace(3, POWERS), lambda tokens: float(tokens)) == 3


def test_between_a_small_chunk_and_one_of_twice_its_size_a_cpu_has_others():
    assert settled(Pace(512, SIZES["cpu"]), lambda tokens: 0.06 + 0.015 * tokens) in (6, 7)


def test_a_very_long_prompt_is_not_cut_into_ever_more_pieces():
    pace = Pace(512, POWERS)
    settled(pace, lambda tokens: float(tokens))

    assert pace.chunk(100 * MOST_PIECES, others_run=True) == 100
    assert pace.chunk(1000 * MOST_PIECES, others_run=True) == 512


def test_the_first_chunk_is_neither():
    assert Pace(512, POWERS).chunk(PROMPT, others_run=True) == 512 // FIRST_SHARE
    assert Pace(16, POWERS).chunk(PROMPT, others_run=True) == POWERS[0]


def test_a_short_last_piece_says_nothing_about_larger_chunks():
    pace = Pace(512, POWERS)

    pace.observe(0.1, 0.09, 1)

    assert pace.chunk(PROMPT, others_run=True) == 512 // FIRST_SHARE


def test_the_usual_gap_leaves_out_what_prompts_took():
    pace = Pace(512, POWERS)

    pace.observe(0.5, 0.4, 100)

    assert abs(pace.usual_gap - 0.1) < 1e-9

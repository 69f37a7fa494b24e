from collections.abc import Callable

from mlx_websockets.engine.worker.batch.pace import FIRST_SHARE, LAST, LEAST, MOST_GAPS, STRETCH, Pace

USUAL, LAYERS, PROMPT = 0.1, 30, 1000
TIME = (STRETCH - 1) * USUAL

LayerSeconds = Callable[[int], float]
"""Of a chunk of so many tokens."""


def in_calm(most: int = 512) -> Pace:
    pace = Pace(most)
    for _ in range(LAST):
        pace.observe_gap(USUAL, 0.0)
    return pace


def gaps(pace: Pace, seconds_of: LayerSeconds, count: int = 200) -> list[float]:
    """What the gaps become while a prompt is computed, of which each chunk takes so long."""
    made = []
    for _ in range(count):
        size, layers = pace.chunk, pace.layers(PROMPT, LAYERS)
        spent = layers * seconds_of(size)
        pace.observe_layers(spent, layers)
        pace.observe_gap(USUAL + spent, spent)
        made.append(USUAL + spent)
    return made


def test_no_gap_grows_beyond_the_bound_and_most_are_near_it():
    for per_token in (0.00001, 0.0001, 0.001):
        made = gaps(in_calm(), lambda tokens, per_token=per_token: 0.002 + per_token * tokens)

        assert max(made) <= STRETCH * USUAL
        assert sorted(made)[len(made) // 2] > 0.75 * STRETCH * USUAL


def test_chunks_shrink_where_few_layers_fit_into_a_gap():
    pace = in_calm()
    gaps(pace, lambda tokens: 0.005 * tokens)

    assert pace.chunk == 8


def test_chunks_grow_where_many_layers_fit():
    pace = in_calm()
    gaps(pace, lambda tokens: 0.001 + 0.00001 * tokens)

    assert pace.chunk == 512


def test_a_time_much_longer_than_the_others_makes_the_next_gaps_shorter_and_is_forgotten():
    pace = in_calm()
    gaps(pace, lambda _: TIME / 5.5)
    assert pace.layers(PROMPT, LAYERS) == 5

    pace.observe_layers(TIME, 1)

    assert pace.layers(PROMPT, LAYERS) <= 2
    gaps(pace, lambda _: TIME / 5.5, LAST)
    assert pace.layers(PROMPT, LAYERS) == 5


def test_how_long_a_layer_takes_is_found_out_with_one():
    assert in_calm().layers(PROMPT, LAYERS) <= 2


def test_a_chunk_is_never_smaller_than_the_least_nor_larger_than_the_most():
    for most, seconds, wanted in ((512, 9.0, LEAST), (16, 0.0, 16), (3, 9.0, 3)):
        pace = in_calm(most)
        gaps(pace, lambda _, seconds=seconds: seconds)

        assert pace.chunk == wanted


def test_the_first_chunk_is_neither():
    assert Pace(512).chunk == 512 // FIRST_SHARE
    assert Pace(16).chunk == LEAST


def test_a_long_prompt_is_not_spread_over_ever_more_gaps():
    pace = in_calm()
    gaps(pace, lambda _: 9.0)

    for tokens in (100, 2000, 50_000):
        chunks = -(-tokens // pace.chunk)
        assert chunks * LAYERS / pace.layers(tokens, LAYERS) <= MOST_GAPS


def test_the_usual_gap_leaves_out_what_prompts_took():
    pace = Pace(512)

    pace.observe_gap(0.5, 0.4)

    assert abs(pace.usual_gap - 0.1) < 1e-9


def test_what_a_gap_may_grow_to_is_told_by_the_gaps_of_calm():
    pace = in_calm()
    gaps(pace, lambda _: TIME / 3.5)

    for _ in range(LAST):
        pace.observe_gap(USUAL * 3 + TIME, TIME)  # a machine that has become slower while it computes the prompt

    assert pace.layers(PROMPT, LAYERS) == 3

from mlx_websockets.engine.worker.batch.pace import FIRST_CHUNK, SHORTEST_CHUNK, STRETCH, Pace


def with_gaps(pace: Pace, usual: float, of_chunk: float, times: int = 20) -> Pace:
    """A pace that has seen gaps of `usual` seconds, and of `of_chunk` for each chunk since."""
    pace.observe(usual, 0)
    for _ in range(times):
        pace.observe(of_chunk, pace.chunk(others_run=True))
    return pace


def test_alone_a_prompt_is_computed_in_the_largest_pieces():
    assert Pace(512).chunk(others_run=False) == 512


def test_chunks_shrink_until_the_gaps_are_short_enough():
    seconds_a_token, usual = 0.01, 0.1
    pace = Pace(512)
    pace.observe(usual, 0)

    for _ in range(20):
        chunk = pace.chunk(others_run=True)
        pace.observe(usual + chunk * seconds_a_token, chunk)

    assert usual + pace.chunk(others_run=True) * seconds_a_token <= STRETCH * usual


def test_chunks_grow_where_they_hardly_show():
    assert with_gaps(Pace(512), usual=0.1, of_chunk=0.11).chunk(others_run=True) == 512


def test_a_chunk_is_never_smaller_than_the_least_nor_larger_than_the_most():
    assert with_gaps(Pace(512), usual=0.01, of_chunk=5).chunk(others_run=True) == SHORTEST_CHUNK
    assert with_gaps(Pace(16), usual=1, of_chunk=1).chunk(others_run=True) == 16


def test_before_a_usual_gap_is_known_the_chunk_stays_as_it_is():
    pace = Pace(512)

    pace.observe(9, FIRST_CHUNK)

    assert pace.chunk(others_run=True) == FIRST_CHUNK


def test_a_short_last_piece_says_nothing_about_larger_chunks():
    pace = Pace(512)
    pace.observe(0.1, 0)

    pace.observe(0.1, 1)

    assert pace.chunk(others_run=True) == FIRST_CHUNK

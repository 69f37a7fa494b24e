"""A short run of what `python -m benchmarks.acceptance.fuzz` does at length."""

import pytest
from benchmarks.acceptance.fuzz import KINDS, fuzz, watched_server


@pytest.mark.parametrize(("what", "count"), [("handshakes", 150), ("frames", 600), ("messages", 200)])
def test_whatever_is_sent_the_server_answers_as_it_should_and_logs_nothing(what, count):
    with watched_server() as (server, logged):
        seen = fuzz(server, KINDS[what][0], count)

        assert server.process.poll() is None
        assert logged() == ""
    assert seen["sent"] >= count

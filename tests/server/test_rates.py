"""Allowances fill up again with time, and one party's is not another's."""

import pytest

from mlx_websockets.server.parties import Party
from mlx_websockets.server.rates import MAX_PARTIES, Allowance, RequestRates


def test_a_burst_may_be_used_at_once_and_then_as_much_as_a_minute_brings() -> None:
    allowance = Allowance(per_minute=60, burst=3)

    assert [allowance.take(0.0) for _ in range(3)] == [0, 0, 0]
    assert allowance.take(0.0) == pytest.approx(1.0)
    assert allowance.take(0.5) == pytest.approx(0.5)
    assert allowance.take(1.0) == 0


def test_what_is_not_used_is_saved_up_to_the_burst_and_no_further() -> None:
    allowance = Allowance(per_minute=60, burst=2)
    allowance.take(0.0)

    taken = [allowance.take(1000.0) for _ in range(3)]

    assert taken[:2] == [0, 0] and taken[2] > 0


def test_the_smallest_allowance_still_lets_one_through() -> None:
    rates = RequestRates(per_minute=1)

    assert rates.take(Party("a"), 0.0) == 0
    assert rates.take(Party("a"), 1.0) == pytest.approx(59.0)
    assert rates.take(Party("b"), 1.0) == 0


def test_very_many_parties_do_not_fill_the_memory() -> None:
    rates = RequestRates(per_minute=1)

    for number in range(MAX_PARTIES + 5):
        rates.take(Party(str(number)), 0.0)

    assert rates.take(Party("0"), 0.0) == 0  # forgotten, so it starts anew
    assert rates.take(Party(str(MAX_PARTIES)), 0.0) > 0


def test_a_party_may_have_a_number_of_its_own() -> None:
    rates = RequestRates(per_minute=1)
    often = Party("often", requests_per_minute=60)

    assert [rates.take(often, 0.0) for _ in range(11)] == [*[0] * 10, pytest.approx(1.0)]
    assert rates.take(Party("seldom"), 0.0) == 0
    assert rates.take(Party("seldom"), 0.0) == pytest.approx(60.0)

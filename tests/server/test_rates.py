"""Allowances fill up again with time, and one address's is not another's."""

import pytest

from mlx_websockets.server.rates import MAX_ADDRESSES, Allowance, RequestRates


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

    assert rates.take("a", 0.0) == 0
    assert rates.take("a", 1.0) == pytest.approx(59.0)
    assert rates.take("b", 1.0) == 0


def test_very_many_addresses_do_not_fill_the_memory() -> None:
    rates = RequestRates(per_minute=1)

    for number in range(MAX_ADDRESSES + 5):
        rates.take(str(number), 0.0)

    assert rates.take("0", 0.0) == 0  # forgotten, so it starts anew
    assert rates.take(str(MAX_ADDRESSES), 0.0) > 0

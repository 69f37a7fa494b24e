"""How often somebody may do something: token buckets. `now` is in seconds of a monotonic clock."""

from collections import OrderedDict

from mlx_websockets.server.parties import Party

BURST_SHARE = 1 / 6
"""What of a minute's allowance may be used at once."""

MAX_PARTIES = 10_000


class Allowance:
    """So much a minute, of which `burst` may be used at once."""

    def __init__(self, per_minute: float, burst: float) -> None:
        self._per_second = per_minute / 60
        self._most = max(1.0, burst)
        self._left = self._most
        self._at: float | None = None

    def take(self, now: float) -> float:
        """Use one. 0, or how many seconds to wait before there is one again; then none was used."""
        self._refill(now)
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self._per_second

    def _refill(self, now: float) -> None:
        if self._at is not None:
            self._left = min(self._most, self._left + (now - self._at) * self._per_second)
        self._at = now


class RequestRates:
    """The allowance of each party. Of very many, those that asked least lately are forgotten."""

    def __init__(self, per_minute: int) -> None:
        """`per_minute`: for a party that has no number of its own."""
        self._per_minute = per_minute
        self._allowances: OrderedDict[str, Allowance] = OrderedDict()

    def take(self, party: Party, now: float) -> float:
        """See `Allowance.take`."""
        if party.name not in self._allowances:
            per_minute = party.requests_per_minute or self._per_minute
            self._allowances[party.name] = Allowance(per_minute, per_minute * BURST_SHARE)
            if len(self._allowances) > MAX_PARTIES:
                self._allowances.popitem(last=False)
        self._allowances.move_to_end(party.name)
        return self._allowances[party.name].take(now)

"""With whom a peer shares its turns and its allowance.

Connections are cheap, so nobody gets more of a server by opening more of them: what counts is
the party behind them. That is an address; or whoever holds a token that has a name, wherever they
are. Pure values; the gate says which is whose.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Party:
    """Peers that share.

    Attributes:
        name: an address, or "token NAME".
        weight: while inputs wait, so many of this party start for each one of a party of weight 1.
        requests_per_minute: what it may ask; None: as much as any address.
    """

    name: str
    weight: int = 1
    requests_per_minute: int | None = None

    @property
    def is_named(self) -> bool:
        """It holds a token of its own."""
        return self.name.startswith(_NAMED)


@dataclass(frozen=True, slots=True)
class Key:
    """A token that opens the server, and whose it is; None: whoever shows it counts by address."""

    token: str = field(repr=False)
    holder: Party | None = None


_NAMED = "token "


def holder(name: str, weight: int = 1, requests_per_minute: int | None = None) -> Party:
    """The party of a token with this name."""
    return Party(_NAMED + name, weight, requests_per_minute)

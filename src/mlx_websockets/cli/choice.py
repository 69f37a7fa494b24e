"""Which of the running servers a command means."""

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_websockets.daemon.records import Record
from mlx_websockets.errors import NotRunning, UsageError


@dataclass(frozen=True, slots=True)
class Choice:
    """What flags say of the servers that are meant. `every` is None where only one can be."""

    id: str | None
    port: int | None
    every: bool | None = None

    def fits(self, record: Record) -> bool:
        return (self.id is None or record.id.startswith(self.id)) and self.port in (None, record.port)


def choose(found: Sequence[Record], choice: Choice, *, only_background: bool) -> list[Record]:
    """Those that are meant; never none.

    Raises:
        NotRunning: there is none like that.
        UsageError: several could be meant.
    """
    running = [record for record in found if record.state != "failed"]
    asked = [record for record in running if record.is_background or not only_background]
    if not asked:
        kind = "background server" if only_background else "MLX server"
        hint = "`mlx stop` ends one that runs in a terminal, too." if running else "mlx background serve"
        raise NotRunning(f"No {kind} is running.", hint)
    meant = [record for record in asked if choice.fits(record)]
    if not meant:
        raise NotRunning("No such server is running.", f"There {_listed(asked)}.")
    if len(meant) > 1 and not choice.every:
        everything = ", or --all" if choice.every is not None else ""
        raise UsageError(
            f"There {_listed(meant)}.", f"Say which: --port {meant[0].port}, or {meant[0].id}{everything}."
        )
    return meant


def named(record: Record) -> str:
    """A server as a person would call it."""
    return f"{record.model} on port {record.port} (pid {record.pid}, id {record.id})"


def _listed(records: Sequence[Record]) -> str:
    verb = "is" if len(records) == 1 else f"are {len(records)} servers:"
    return f"{verb} " + ", ".join(named(record) for record in records)

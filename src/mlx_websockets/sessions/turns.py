"""A turn: one input and the model's reply to it, from arrival to its one terminal event.

    queued ──start──▶ running ──Finished / Failed / cancel / timeout──▶ closed
       └──────────── cancel / superseded / refused ────────────────────▶ closed

A closed turn is forgotten by its session, so whatever still comes for it has no addressee.
That is the whole of the invariant: every accepted request ends exactly once.
"""

from dataclasses import dataclass, field

from mlx_websockets.events import Ask, TurnLabel
from mlx_websockets.sampling import Sampling


@dataclass(slots=True, kw_only=True)
class Turn:
    """One request of a peer on its way through a session.

    Attributes:
        number: names the turn in the server and in the engine; never reused.
        label: what identifies it to the peer.
        ask: what was asked.
        sampling: settled when the turn arrived; later `config` messages don't touch it.
        arrived_at, started_at: seconds of a monotonic clock.
        captured_at: a frame's capture time, on the same clock.
    """

    number: int
    label: TurnLabel
    ask: Ask
    sampling: Sampling
    arrived_at: float
    captured_at: float | None = None
    submitted_at: float | None = None
    started_at: float | None = None
    image_ms: float = 0.0
    deltas: list[str] = field(default_factory=list)

    @property
    def lane(self) -> str | None:
        """Turns of one lane run one after the other; None = a lane of its own.

        A peer that gives no ids can't tell two replies apart, so its turns share a lane.
        A source's frames share one, too: the next is chosen when the last is described.
        """
        if self.label.id is None:
            return "anonymous"
        if self.label.is_frame:
            return f"source {self.label.source}"
        return None

    @property
    def text(self) -> str:
        return "".join(self.deltas)

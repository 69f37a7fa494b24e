"""A turn: one input and the model's reply to it, from arrival to its one terminal event.

    queued ──start──▶ running ──Finished / Failed / cancel / timeout──▶ closed
       └──────────── cancel / superseded / refused ────────────────────▶ closed

A closed turn is forgotten by its session, so whatever still comes for it has no addressee.
That is the whole of the invariant: every accepted request ends exactly once.
"""

from dataclasses import dataclass, field

from mlx_websockets.events import Ask, TurnLabel
from mlx_websockets.generation import Priority
from mlx_websockets.likeness import View
from mlx_websockets.sampling import Sampling
from mlx_websockets.sessions.precedence import CLASSES, later_of


@dataclass(slots=True, kw_only=True, eq=False)
class Turn:
    """One request of a peer on its way through a session.

    Attributes:
        number: names the turn in the server and in the engine; never reused.
        label: what identifies it to the peer.
        ask: what was asked.
        sampling: settled when the turn arrived; later `config` messages don't touch it.
        priority: its class: that of its kind, unless it stepped back further.
        in_line_since: when it arrived, or the frame did whose place it took.
        arrived_at, submitted_at, started_at: seconds of a monotonic clock; the engine got
            it (with pictures to be opened first), and began on it.
        captured_at: a frame's capture time, on the same clock.
        image_ms: what opening its pictures took.
        view: what its frame looks like, if that is to be compared with the next.
        replies: what has been said so far, a list of pieces for each candidate.
        told: how many pieces the peer was told of.
    """

    number: int
    label: TurnLabel
    ask: Ask
    sampling: Sampling
    arrived_at: float
    priority: Priority = field(init=False)
    in_line_since: float = field(init=False)
    captured_at: float | None = None
    submitted_at: float | None = None
    started_at: float | None = None
    image_ms: float = 0.0
    view: View | None = None
    replies: list[list[str]] = field(init=False)
    told: int = 0

    def __post_init__(self) -> None:
        self.replies = [[] for _ in range(self.rows)]
        self.in_line_since = self.arrived_at
        self.priority = later_of("frame" if self.label.is_frame else "interactive", self.ask.priority)

    @property
    def expires_at(self) -> float | None:
        """When it is too late to begin; None: it is for the session to say."""
        return None if self.ask.start_seconds is None else self.arrived_at + self.ask.start_seconds

    @property
    def rows(self) -> int:
        """How many rows of the engine it takes: one for each candidate."""
        return self.sampling.candidate_count

    @property
    def lanes(self) -> frozenset[str]:
        """What the turn needs to itself: of all the turns of one lane, one runs at a time.

        A peer that gives no ids can't tell two replies apart, so its turns share a lane. A
        source's frames share one: the next is chosen when the last is described. So do the
        turns of the conversation: each is to see what was said in the one before.
        """
        lanes = []
        if self.label.id is None:
            lanes.append("anonymous")
        if self.label.is_frame:
            lanes.append(f"source {self.label.source}")
        if self.ask.history:
            lanes.append("conversation")
        return frozenset(lanes)

    @property
    def place(self) -> tuple[int, float]:
        """Where it stands among the turns of its session: by class, then by age."""
        return CLASSES.index(self.priority), self.in_line_since

    @property
    def texts(self) -> list[str]:
        """What has been said so far, by candidate."""
        return ["".join(pieces) for pieces in self.replies]

"""What a server counts and measures, for Prometheus.

One `Metrics` has a registry of its own, so two servers in one process never mix. Numbers that
are known anyway are read when somebody asks; the rest is counted when it happens. No label
ever holds what a peer wrote.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from mlx_websockets.events import FrameDropped, Problem, ReplyDelta, ReplyFinished, ServerEvent

CONTENT_TYPE = CONTENT_TYPE_LATEST
PREFIX = "mlx_ws_"

WAITS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60, 300)
GAPS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 30)
LAGS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 5)
"""Upper bounds of the histograms' buckets, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """What is so right now.

    Attributes:
        held_bytes: of encoded pictures, in all sessions.
        tokens: generated so far, by every worker there was.
        worker_memory: bytes by kind: active, cached, peak, resident, kept.
    """

    is_ready: bool
    connections: int
    running: int
    rows: int
    rows_in_use: int
    waiting: int
    held_bytes: int
    tokens: int = 0
    tokens_per_second: float = 0.0
    restarts: int = 0
    worker_memory: dict[str, int] = field(default_factory=dict)


class Metrics:
    """The numbers of one server.

    Args:
        levels: says what is so right now; called for each `exposition`.
    """

    def __init__(self, levels: Callable[[], Levels]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_LevelsCollector(levels))
        self._replies = self._counter("replies", "Replies that ended, by finish reason.", "reason")
        self._errors = self._counter("errors", "Errors that peers were told of, by code.", "code")
        self._drops = self._counter("frames_dropped", "Frames that were not analysed, by reason.", "reason")
        self._used = self._counter("used_tokens", "Tokens of the replies that ended, by kind.", "kind")
        self._bytes = self._counter("bytes", "Bytes of WebSocket messages, by direction.", "direction")
        self._refusals = self._counter("refusals", "Connections that were turned away, by HTTP status.", "status")
        self._first = self._histogram("time_to_first_token", "From a request's arrival to its first token.", WAITS)
        self._waits = self._histogram("queue_wait", "From a request's arrival until the engine had room.", WAITS)
        self._gaps = self._histogram("delta_gap", "Between two deltas of one reply.", GAPS)
        self._ages = self._histogram("frame_age", "A frame's age at the end of its reply.", WAITS)
        self._lags = self._histogram("loop_lag", "How late the event loop wakes a sleeper.", LAGS)
        self._received = self._bytes.labels("in")
        self._sent = self._bytes.labels("out")

    def _counter(self, name: str, help: str, label: str) -> Counter:
        return Counter(PREFIX + name, help, [label], registry=self._registry)

    def _histogram(self, name: str, help: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(PREFIX + name + "_seconds", help, buckets=buckets, registry=self._registry)

    def exposition(self) -> bytes:
        """Everything, in the text form of `CONTENT_TYPE`."""
        return generate_latest(self._registry)

    def meter(self) -> "Meter":
        """What watches the events of one connection."""
        return Meter(self)

    def received(self, count: int) -> None:
        """A peer sent so many bytes."""
        self._received.inc(count)

    def sent(self, count: int) -> None:
        """A peer was sent so many bytes."""
        self._sent.inc(count)

    def refused(self, status: int) -> None:
        """A connection was turned away."""
        self._refusals.labels(str(status)).inc()

    def lagged(self, seconds: float) -> None:
        """The event loop woke a sleeper so late."""
        self._lags.observe(seconds)

    def gap(self, seconds: float) -> None:
        self._gaps.observe(seconds)

    def dropped(self, event: FrameDropped) -> None:
        self._drops.labels(event.reason).inc()

    def problem(self, event: Problem) -> None:
        self._errors.labels(event.code).inc()

    def finished(self, event: ReplyFinished) -> None:
        self._replies.labels(event.reason).inc()
        self._waits.observe(event.queue_ms / 1000)
        usage = event.usage
        self._used.labels("input").inc(usage.input_tokens)
        self._used.labels("image").inc(usage.image_tokens)
        self._used.labels("cached").inc(usage.cached_tokens)
        self._used.labels("output").inc(usage.output_tokens)
        if usage.output_tokens:
            self._first.observe((event.queue_ms + event.image_ms + event.timings.first_token_ms) / 1000)
        if event.frame_age_ms is not None:
            self._ages.observe(event.frame_age_ms / 1000)


class Meter:
    """Tells a server's metrics what one connection's peer is told."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._newest: dict[int, float] = {}  # when a turn's last delta came, by the identity of its label

    def note(self, event: ServerEvent, now: float) -> None:
        """The peer is told of `event`; `now` is in seconds of any clock that never goes back."""
        match event:
            case ReplyDelta(candidate=None | 0):  # others would make the gaps look shorter than a reader sees them
                before = self._newest.get(id(event.turn))
                if before is not None:
                    self._metrics.gap(now - before)
                self._newest[id(event.turn)] = now
            case ReplyFinished():
                self._newest.pop(id(event.turn), None)
                self._metrics.finished(event)
            case FrameDropped():
                self._metrics.dropped(event)
            case Problem():
                self._newest.pop(id(event.turn), None)
                self._metrics.problem(event)


class _LevelsCollector:
    def __init__(self, levels: Callable[[], Levels]) -> None:
        self._levels = levels

    def describe(self) -> Iterator[Metric]:
        """Nothing in advance: a registry would otherwise collect to find out."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        now = self._levels()
        yield _gauge("ready", "1 while the model takes requests.", int(now.is_ready))
        yield _gauge("connections", "Open WebSockets.", now.connections)
        yield _gauge("requests_running", "Requests in the engine.", now.running)
        yield _gauge("rows", "Rows there are.", now.rows)
        yield _gauge("rows_in_use", "Rows in use: one for each candidate of a running request.", now.rows_in_use)
        yield _gauge("requests_waiting", "Requests that wait in their sessions.", now.waiting)
        yield _gauge("held_bytes", "Bytes of pictures held for all connections.", now.held_bytes)
        yield _gauge("tokens_per_second", "Generated tokens a second, now.", now.tokens_per_second)
        yield CounterMetricFamily(PREFIX + "generated_tokens", "Tokens generated.", value=now.tokens)
        yield CounterMetricFamily(PREFIX + "worker_restarts", "Restarts of the model's process.", value=now.restarts)
        memory = GaugeMetricFamily(
            PREFIX + "worker_memory_bytes", "Memory of the model's process, by kind.", labels=["kind"]
        )
        for kind, count in now.worker_memory.items():
            memory.add_metric([kind], count)
        yield memory


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, help, value=value)

"""What a running server says of itself, asked over HTTP: `/v1/status` and `/metrics`, read together.

Blocks for at most `ANSWER_SECONDS` for each. Knows nothing of how it is shown.
"""

import http.client
import json
import math
import ssl
import urllib.parse
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from mlx_websockets.errors import NotRunning, UsageError

ANSWER_SECONDS = 2.0
MAX_ANSWER_BYTES = 1024 * 1024

SCHEMES = {"ws": "http", "http": "http", "wss": "https", "https": "https"}

Buckets = dict[float, float]
"""How many waits were at most so many seconds long, by these seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One server at one moment.

    Attributes:
        rows_in_use: one for each candidate of a running request.
        memory: bytes of the model's process by kind: active, cached, peak, resident, kept.
        drops: frames that were not analysed so far, by reason.
        first_token: waits for first tokens so far.
    """

    model: str
    version: str
    is_ready: bool
    uptime_seconds: float
    connections: int
    running: int
    rows: int
    rows_in_use: int
    waiting: int
    tokens_per_second: float
    restarts: int
    memory: dict[str, int] = field(default_factory=dict)
    drops: dict[str, int] = field(default_factory=dict)
    first_token: Buckets = field(default_factory=dict)
    gaps: Buckets = field(default_factory=dict)
    lags: Buckets = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to ask, and the token to show there."""

    scheme: str
    host: str
    port: int
    token: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, url: str, token: str | None = None) -> "Address":
        """The address in `url`, such as `ws://gpu.lan:8765`; a token in it counts more than `token`.

        Raises:
            UsageError: it is no such address.
        """
        try:
            parts = urllib.parse.urlsplit(url if "://" in url else f"ws://{url}")
            scheme, port = SCHEMES[parts.scheme], parts.port
        except (KeyError, ValueError):
            raise UsageError(f"{url!r} is no address of a server.", "Try one like ws://localhost:8765.") from None
        if not parts.hostname:
            raise UsageError(f"{url!r} names no host.", "Try one like ws://localhost:8765.")
        told = urllib.parse.parse_qs(parts.query).get("token", [token])[0]
        return cls(scheme, parts.hostname, port or (443 if scheme == "https" else 8765), told)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def read(address: Address) -> Reading:
    """How the server is.

    Raises:
        NotRunning: nobody answers there, or not as a server of ours does.
    """
    try:
        return _reading(json.loads(_get(address, "/v1/status")), _get(address, "/metrics").decode())
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NotRunning(f"{address} does not answer: {reason}.", "`mlx ps` lists the servers that run here.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NotRunning(
            f"What answers at {address} is no server of this version.", "`mlx ps` lists the servers that run here."
        ) from None


def quantile(share: float, buckets: Buckets, since: Buckets | None = None) -> float | None:
    """What `share` of the waits since an earlier reading stayed below, in seconds; None: there were none.

    Between two bounds it is taken to grow evenly; past the last bound, that bound is said.
    """
    counts = {bound: count - (since or {}).get(bound, 0.0) for bound, count in sorted(buckets.items())}
    total = counts.get(math.inf, 0.0)
    if total <= 0:
        return None
    below, lower = 0.0, 0.0
    for bound, count in counts.items():
        if count >= share * total:
            if math.isinf(bound):
                return lower
            return lower + (bound - lower) * (share * total - below) / (count - below) if count > below else bound
        below, lower = count, bound
    return lower


def _get(address: Address, path: str) -> bytes:
    kind: Callable[..., http.client.HTTPConnection] = http.client.HTTPConnection
    options: dict[str, Any] = {}
    if address.scheme == "https":
        kind, options = http.client.HTTPSConnection, {"context": ssl.create_default_context()}
    connection = kind(address.host, address.port, timeout=ANSWER_SECONDS, **options)
    try:
        connection.request("GET", path, headers=_headers(address))
        answer = connection.getresponse()
        body = answer.read(MAX_ANSWER_BYTES)
    finally:
        connection.close()
    if answer.status == http.client.UNAUTHORIZED:
        raise NotRunning(f"{address} wants its token.", "Put it into MLX_WS_TOKEN; `mlx token` shows it over there.")
    if answer.status != http.client.OK:
        raise http.client.HTTPException(f"it says {answer.status} to {path}")
    return body


def _headers(address: Address) -> dict[str, str]:
    return {"authorization": f"Bearer {address.token}"} if address.token else {}


def _reading(status: dict[str, Any], metrics: str) -> Reading:
    samples = [sample for family in text_string_to_metric_families(metrics) for sample in family.samples]
    queue = status["queue"]
    return Reading(
        model=status["model"]["name"],
        version=status["versions"]["mlx-websockets"],
        is_ready=status["model"]["loaded"],
        uptime_seconds=status["uptime_seconds"],
        connections=queue["connections"],
        running=queue["running"],
        rows=status["rows"],
        rows_in_use=status["rows_in_use"],
        waiting=queue["waiting"],
        tokens_per_second=status["tokens_per_second"],
        restarts=status["restarts"],
        memory={each.labels["kind"]: int(each.value) for each in _named("mlx_ws_worker_memory_bytes", samples)},
        drops={each.labels["reason"]: int(each.value) for each in _named("mlx_ws_frames_dropped_total", samples)},
        first_token=_buckets("mlx_ws_time_to_first_token_seconds", samples),
        gaps=_buckets("mlx_ws_delta_gap_seconds", samples),
        lags=_buckets("mlx_ws_loop_lag_seconds", samples),
    )


def _named(name: str, samples: Iterable[Any]) -> Iterable[Any]:
    return (each for each in samples if each.name == name)


def _buckets(name: str, samples: Iterable[Any]) -> Buckets:
    return {float(each.labels["le"]): each.value for each in _named(f"{name}_bucket", samples)}

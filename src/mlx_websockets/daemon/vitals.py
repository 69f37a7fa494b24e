"""How the servers on record are: what the system says of their processes, and what they say themselves.

A server that does not answer at once is not waited for; what it would have said is None.
"""

import http.client
import ipaddress
import json
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from mlx_websockets.daemon.process import process_of
from mlx_websockets.daemon.records import Record, Records

ANSWER_SECONDS = 0.25
MAX_ANSWER_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Vitals:
    """One server, now.

    Attributes:
        memory_bytes: resident, of the server and its worker.
        tokens_per_second: over all connections, during the last second or so.
        model_memory: bytes of the model's process by kind: active, cached, peak, resident, kept.
    """

    record: Record
    uptime_seconds: float
    memory_bytes: int | None = None
    connections: int | None = None
    tokens_per_second: float | None = None
    model_memory: dict[str, int] | None = None


def vitals_of(records: Records, chosen: Sequence[Record]) -> list[Vitals]:
    """In their order; asks all of them at the same time, and waits `ANSWER_SECONDS` in all."""
    answers: dict[str, Any] = {}

    def ask(record: Record) -> None:
        answers[record.id] = _answer(record)

    threads = [threading.Thread(target=ask, args=(each,), daemon=True) for each in chosen if each.state == "ready"]
    deadline = time.monotonic() + ANSWER_SECONDS
    for thread in threads:
        thread.start()
    memory = {each.id: _memory(records, each) for each in chosen}  # while they answer
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [_vitals(each, memory[each.id], answers.get(each.id)) for each in chosen]


def _vitals(record: Record, memory: int | None, answer: Any) -> Vitals:
    return Vitals(
        record,
        uptime_seconds=max(0.0, time.time() - record.started_at),
        memory_bytes=memory,
        connections=_number(answer, "queue", "connections"),
        tokens_per_second=_number(answer, "engine", "tokens_per_second"),
        model_memory=_model_memory(answer),
    )


def _model_memory(answer: Any) -> dict[str, int] | None:
    memory = _at(answer, "engine", "memory")
    if not isinstance(memory, dict):
        return None
    return {str(kind): int(count) for kind, count in memory.items() if isinstance(count, int | float)}


def _number(answer: Any, *path: str) -> Any:
    found = _at(answer, *path)
    return found if isinstance(found, int | float) else None


def _at(answer: Any, *path: str) -> Any:
    for name in path:
        answer = answer.get(name) if isinstance(answer, dict) else None
    return answer


def _memory(records: Records, record: Record) -> int | None:
    process = process_of(records, record)
    if process is None:
        return None
    try:
        family = [process, *process.children(recursive=True)]
        return int(sum(each.memory_info().rss for each in family))
    except psutil.Error:
        return None


def _answer(record: Record) -> dict[str, Any] | None:
    connection = http.client.HTTPConnection(where_to_ask(record.host), record.port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/v1/status")
        answer = json.loads(connection.getresponse().read(MAX_ANSWER_BYTES))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    # On macOS another program may have the same port on another address.
    return answer if isinstance(answer, dict) and answer.get("pid") == record.pid else None


def where_to_ask(host: str) -> str:
    """Where to ask a server that is bound to `host`."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "127.0.0.1" if host == "localhost" else host
    if not address.is_unspecified:
        return host
    return "::1" if address.version == 6 and not socket.has_dualstack_ipv6() else "127.0.0.1"

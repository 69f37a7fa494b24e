"""One log format for the server and the worker; entry points alone set it up.

Events are logged, never content: no prompt, no reply, no picture. A record is one line: a
constant sentence, then the fields it was given as `extra`, in text or as JSON. `session` says
whose connection it is about and `turn` which request; the first is bound to a task and all
that it starts.
"""

import contextlib
import json
import logging
import os
import sys
import time
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, NoReturn

QUIET = ("uvicorn", "uvicorn.error", "websockets", "asyncio", "PIL", "zeroconf")
"""Libraries that at their chattiest log what peers say, or a line for each of a flood."""

REPEATS = 10
REPEAT_SECONDS = 10.0
"""Of one warning so many are shown in so long; the next one says how many were not."""

MAX_SENTENCES = 256

session: ContextVar[str] = ContextVar("session", default="")
"""Whose connection this task is about."""

_ORDINARY = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class OneLine(logging.Formatter):
    """Appends a record's own fields, and lets no field break the line or draw on a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        tail = "".join(f" {name}={printable(str(value))}" for name, value in fields_of(record).items())
        return super().formatMessage(record) + tail


class JSONLine(logging.Formatter):
    """A record as one JSON object; an exception by its kind and place, because its text may quote a peer."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
            line["traceback"] = "".join(traceback.format_tb(record.exc_info[2]))
        fields = {name: value for name, value in fields_of(record).items() if name not in line}
        return json.dumps(line | fields, default=str)


class Bound(logging.Filter):
    """Adds the session that the task is about, where the record does not say one."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "session") and (name := session.get()):
            record.session = name
        return True


class FewRepeats(logging.Filter):
    """Lets few of many equal warnings through, so that a fault that goes on does not fill the disk."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}  # since when, and how many

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        key, now = (record.name, str(record.msg)), time.monotonic()
        since, count = self._seen.get(key, (now, 0))
        if now - since >= REPEAT_SECONDS:
            if count > REPEATS:
                record.not_shown = count - REPEATS
            since, count = now, 0
        if len(self._seen) >= MAX_SENTENCES:
            self._seen.clear()
        self._seen[key] = (since, count + 1)
        return count < REPEATS


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What a record was given as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _ORDINARY}


def printable(text: str) -> str:
    """`text` with whatever is not printable written as an escape."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def set_up(debug: bool, format: str = "text") -> None:
    """Log to standard error; details with `debug`, else only what needs attention.

    Args:
        format: "text", or "json": one object a line, and what happens is told as well.
    """
    as_json = format == "json"
    terminal = logging.StreamHandler()
    terminal.setFormatter(JSONLine() if as_json else OneLine("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    terminal.addFilter(Bound())
    terminal.addFilter(FewRepeats())
    level = logging.DEBUG if debug else logging.INFO if as_json else logging.WARNING
    logging.basicConfig(level=level, handlers=[terminal], force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)


def leave(status: int) -> NoReturn:
    """Close the logs and end the process at once; for entry points.

    Taking every module and a model apart takes tenths of a second, and whoever stops a server waits for it.
    """
    logging.shutdown()
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)

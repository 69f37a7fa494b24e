"""One log format for the server and the worker; entry points alone set it up.

Events are logged, never content: no prompt, no reply, no picture. A record is one line: a
constant sentence, then the fields it was given as `extra`.
"""

import logging

QUIET = ("uvicorn", "uvicorn.error", "websockets", "asyncio", "PIL")
"""Libraries that at their chattiest log what peers say, or a line for each of a flood."""

_ORDINARY = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class OneLine(logging.Formatter):
    """Appends a record's own fields, and lets no field break the line or draw on a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        fields = {name: value for name, value in vars(record).items() if name not in _ORDINARY}
        tail = "".join(f" {name}={printable(str(value))}" for name, value in fields.items())
        return super().formatMessage(record) + tail


def printable(text: str) -> str:
    """`text` with whatever is not printable written as an escape."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def set_up(debug: bool) -> None:
    """Log to standard error; details with `debug`, else only what needs attention."""
    terminal = logging.StreamHandler()
    terminal.setFormatter(OneLine("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, handlers=[terminal])
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)

"""One log format for the server and the worker; entry points alone set it up.

Events are logged, never content: no prompt, no reply, no picture.
"""

import logging


def set_up(debug: bool) -> None:
    """Log to standard error; details with `debug`, else only what needs attention."""
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )

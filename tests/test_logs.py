"""How a log record looks."""

import logging
import subprocess
import sys

from mlx_websockets.logs import OneLine


def shown(message: str, **fields: object) -> str:
    record = logging.makeLogRecord({"levelname": "INFO", "name": "n", "msg": message, **fields})
    return OneLine("%(levelname)s %(name)s: %(message)s").format(record)


def test_a_record_shows_its_sentence_and_its_fields():
    assert shown("turn finished", turn=7, session="ab") == "INFO n: turn finished turn=7 session=ab"


def test_a_field_can_neither_forge_a_line_nor_draw_on_the_terminal():
    assert shown("hello", peer="x\nERROR \x1b[31m\u2028") == "INFO n: hello peer=x\\nERROR \\x1b[31m\\u2028"


def test_libraries_that_log_content_are_quiet_even_when_debugging():
    program = """
import logging
from mlx_websockets import logs
logs.set_up(debug=True)
logging.getLogger("websockets.server").debug("secret")
logging.getLogger("uvicorn.error").warning("secret")
logging.getLogger("PIL.TiffImagePlugin").debug("secret")
logging.getLogger("mlx_websockets").debug("detail")
"""

    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "detail" in run.stderr and "secret" not in run.stderr

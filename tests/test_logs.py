"""How a log record looks."""

import json
import logging
import subprocess
import sys

from mlx_websockets import logs
from mlx_websockets.logs import REPEATS, Bound, FewRepeats, JSONLine, OneLine


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


def test_as_json_a_record_is_one_object_with_its_fields():
    record = logging.makeLogRecord(
        {
            "levelname": "INFO",
            "name": "n",
            "msg": "turn %s",
            "args": ("ended",),
            "created": 0.25,
            "turn": 7,
            "where": object,
        }
    )

    assert json.loads(JSONLine().format(record)) == {
        "time": "1970-01-01T00:00:00.250+00:00",
        "level": "info",
        "logger": "n",
        "message": "turn ended",
        "turn": 7,
        "where": "<class 'object'>",
    }


def test_a_field_can_not_pretend_to_be_the_message_and_an_exception_keeps_its_text_to_itself():
    said = "what a peer " + "said"
    try:
        raise ValueError(said)
    except ValueError:
        record = logging.makeLogRecord({"msg": "failed", "exc_info": sys.exc_info(), "level": "forged\n"})

    line = JSONLine().format(record)

    assert "\n" not in line and said not in line
    assert (json.loads(line)["level"], json.loads(line)["exception"]) == (record.levelname.lower(), "ValueError")


def test_a_record_has_the_session_of_its_task_unless_it_names_another():
    bound, own, named = Bound(), logging.makeLogRecord({}), logging.makeLogRecord({"session": "other"})
    token = logs.session.set("abc")
    try:
        assert bound.filter(own) and bound.filter(named)
    finally:
        logs.session.reset(token)

    assert (own.session, named.session) == ("abc", "other")


def test_of_many_equal_warnings_few_are_shown_and_other_records_all():
    few = FewRepeats()

    warnings = [few.filter(logging.makeLogRecord({"msg": "again", "levelno": logging.WARNING})) for _ in range(50)]
    others = [few.filter(logging.makeLogRecord({"msg": f"new {n}", "levelno": logging.WARNING})) for n in range(5)]
    details = [few.filter(logging.makeLogRecord({"msg": "again", "levelno": logging.INFO})) for _ in range(50)]

    assert sum(warnings) == REPEATS and all(others) and all(details)


def test_json_can_be_chosen_and_tells_also_what_happens():
    program = """
import logging
from mlx_websockets import logs
logs.set_up(debug=False, format="json")
logging.getLogger("mlx_websockets").info("happened", extra={"turn": 3})
logging.getLogger("mlx_websockets").debug("detail")
for _ in range(30):
    logging.getLogger("mlx_websockets").error("trouble")
"""

    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    lines = [json.loads(line) for line in run.stderr.splitlines()]
    assert [line["message"] for line in lines] == ["happened"] + ["trouble"] * REPEATS
    assert lines[0]["turn"] == 3

"""`mlx ask`: one question, with or without pictures, and its answer."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mlx_websockets.cli.console import Console, print_json
from mlx_websockets.cli.flags import AsJson, takes
from mlx_websockets.cli.reach import Asking, Reach, failures_told, given, pictures_of, plain_result
from mlx_websockets.client import Result, SyncReply, connect_sync
from mlx_websockets.errors import StartError, UsageError
from mlx_websockets.protocols.native_schema import DEFAULT_PROMPT

MAX_QUESTION_CHARACTERS = 1024 * 1024

Images = Annotated[
    list[str] | None, typer.Option("--image", metavar="FILE", help="A picture to look at. May be repeated.")
]
Stops = Annotated[
    list[str] | None, typer.Option("--stop", metavar="TEXT", help="Ends the reply where it comes up. May be repeated.")
]

Schema = Annotated[
    str | None,
    typer.Option("--schema", metavar="FILE|JSON", help="The reply is JSON that meets this JSON schema, or it fails."),
]


@takes(Asking)
def ask(
    asking: Asking,
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="The question; `-` or none reads standard input.")
    ] = None,
    images: Images = None,
    stops: Stops = None,
    schema: Schema = None,
    candidates: Annotated[
        int | None, typer.Option(metavar="INT", help="So many replies, each with chances of its own; at most 8.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a reply as it comes.

    Raises:
        NotRunning: there is no server.
        ModelNotFound: it has no such model.
        UsageError: there is no question, or a picture or the schema can't be read.
        StartError: the server refused, or could not finish.
    """
    pictures = pictures_of(images or [])
    response_format = _schema(schema)
    where = asking.reach()
    asked = _question(question, has_pictures=bool(pictures))
    settings = asking.settings | given(candidate_count=candidates)
    # Without coming back: a question that was interrupted is better asked again than waited for.
    with failures_told(where), connect_sync(where.url, token=where.token, reconnect=False) as mlx:
        options = {
            "model": asking.model,
            "system": asking.system,
            "stop": stops or [],
            "response_format": response_format,
        }
        reply = mlx.ask(asked, images=pictures, **options, **settings)
        result = reply.result() if as_json else show(Console(sys.stdout), reply)
    if as_json:
        print_json(plain_result(result))
    _judge(result, where, must_be_whole=response_format is not None)


def show(console: Console, reply: SyncReply) -> Result:
    """Print a reply as it comes, and end its line; of several, then the others. Raises what `SyncReply.result` does."""
    last = "\n"
    try:
        with console.waiting("The model is reading"):
            first = next(iter(reply), "")
        console.words(first)
        last = first or last
        for delta in reply:
            console.words(delta)
            last = delta
    finally:
        if not last.endswith("\n"):
            console.words("\n")
    result = reply.result()
    for number, each in enumerate(result.candidates[1:], start=2):
        console.aside(f"--- {number} of {len(result.candidates)} ---")
        console.text(each.text)
    return result


def _question(given: str | None, *, has_pictures: bool) -> str:
    if given is not None and given != "-":
        return given
    nobody_typed = given is None and sys.stdin.isatty()
    read = "" if nobody_typed else sys.stdin.read(MAX_QUESTION_CHARACTERS + 1).strip()
    if len(read) > MAX_QUESTION_CHARACTERS:
        raise UsageError("The question has more than 1 MiB.", "Ask about a part of it.")
    if not read and not has_pictures:
        raise UsageError("There is no question.", 'mlx ask "Why is the sky blue?"')
    return read or DEFAULT_PROMPT


def _schema(given: str | None) -> dict[str, Any] | None:
    """The schema in a file, or in the flag itself."""
    if given is None:
        return None
    try:
        text = given if given.lstrip().startswith("{") else Path(given).expanduser().read_text("utf-8")
        schema = json.loads(text)
    except OSError as error:
        raise UsageError(
            f"--schema: {given} can't be read: {error.strerror}.", "Name a file with a JSON schema."
        ) from None
    except (ValueError, RecursionError):
        raise UsageError("--schema is not JSON.", """Try --schema '{"type": "object"}'.""") from None
    if not isinstance(schema, dict):
        raise UsageError("--schema: a JSON schema is an object.", """Try --schema '{"type": "object"}'.""")
    return schema


def _judge(result: Result, where: Reach, *, must_be_whole: bool) -> None:
    """Say on standard error that a reply is not whole."""
    if result.finish_reason == "length" and must_be_whole:
        raise StartError("The JSON was cut at its greatest length.", "A longer one: --max-tokens N")
    if result.finish_reason == "length":
        Console(sys.stderr).warning("The reply was cut at its greatest length. A longer one: --max-tokens N")
    elif result.finish_reason not in ("stop", None):
        raise StartError(f"The reply of {where.url} is not whole: {result.finish_reason}.", "Ask again.")

"""`mlx list`, `mlx pull`, `mlx rm`: the models on this machine."""

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_websockets.cli.console import Console, LoadingDisplay, print_json, size
from mlx_websockets.cli.flags import AsJson
from mlx_websockets.errors import OutOfMemory, StartError, UsageError

if TYPE_CHECKING:
    from mlx_websockets.engine.messages import Loading
    from mlx_websockets.engine.models.inventory import StoredModel

DEMO = "demo"

# --- list -----------------------------------------------------------------------------


def show_models(*, as_json: bool) -> None:
    """Print which models can be served without a network."""
    from mlx_websockets.engine.models.inventory import stored_models

    found = stored_models()
    if as_json:
        print_json([_plain(each) for each in found])
        return
    console = Console(sys.stdout)
    if not found:
        console.info("There are no models on this machine yet.\nmlx pull demo fetches a small one.")
        return
    lines = [("MODEL", "SIZE", "TAKES", "LAST USED")]
    lines += [(each.id, size(each.size_bytes), _takes(each), _ago(time.time() - each.last_used)) for each in found]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        console.text("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _plain(stored: "StoredModel") -> dict[str, object]:
    return {
        "id": stored.id,
        "size_bytes": stored.size_bytes,
        "weights_bytes": stored.weights_bytes,
        "vision": stored.sees,
        "last_used": round(stored.last_used, 3),
        "origin": stored.origin,
        "folder": str(stored.folder),
    }


def _takes(stored: "StoredModel") -> str:
    return "text, pictures" if stored.sees else "text"


def _ago(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        count = int(seconds // length)
        if count:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


# --- pull -----------------------------------------------------------------------------


def pull(model: str, *, force: bool, as_json: bool = False) -> None:
    """Fetch a model, after a look at the room there is on disk and in memory. Goes on where it was interrupted.

    Raises:
        ModelNotFound: there is no such model, or the hub can't be reached.
        OutOfMemory: it would not fit in memory, and `force` is False.
        StartError: there is no room on disk.
    """
    from mlx_websockets.engine.models import hub

    console = Console(sys.stderr if as_json else sys.stdout)
    if model != DEMO and not hub.is_model_id(model):
        raise UsageError(f"{model} is no model id.", "It looks like mlx-community/gemma-3-4b-it-4bit, or is `demo`.")
    display = LoadingDisplay(console)

    def report(loading: "Loading") -> None:
        display.show(loading.stage, loading.done, loading.total, loading.unit)

    was_here = model != DEMO and hub.is_cached(model)
    try:
        if model == DEMO:
            from mlx_websockets.engine.probe import build_demo

            build_demo(report)
        elif was_here:
            console.info(f"{model} was here already.")
        else:
            _check_room(console, model, force=force)
            hub.fetch(model, report)
    finally:
        display.close()
    if as_json:
        print_json({"model": model, "was_here": was_here})
        return
    console.success(f"{model} is here.")
    console.text(f"  mlx serve --model {model}")


def _check_room(console: Console, model: str, *, force: bool) -> None:
    from mlx_websockets.engine.models import hub
    from mlx_websockets.engine.probe import find_backend

    plan = hub.plan(model)
    if plan.weights_bytes == 0:
        raise UsageError(f"{model} has no safetensors files, so it can't be served.", "Try one of mlx-community.")
    have = plan.total_bytes - plan.missing_bytes
    here = f"; {size(have)} of it is here already" if have else ""
    console.info(f"{model} is {size(plan.total_bytes)}{here}.")
    try:
        room_bytes = find_backend().memory_bytes
    except StartError as error:
        console.warning(f"{error.reason} It can be fetched all the same, but not served.")
        return
    if plan.weights_bytes <= room_bytes:
        return
    reason = f"{model} needs {size(plan.weights_bytes)} of memory; {size(room_bytes)} are available here now."
    if not force:
        raise OutOfMemory(reason, "Choose a smaller model or one with fewer bits, or fetch it all the same: --force")
    console.warning(reason)


# --- rm -------------------------------------------------------------------------------


def remove(model: str, *, is_sure: bool, as_json: bool = False) -> None:
    """Remove a model from this machine, after asking.

    Raises:
        ModelNotFound: it is not here.
        UsageError: a server uses it, or nobody is there to be asked.
    """
    from mlx_websockets.daemon.records import Records
    from mlx_websockets.engine.models import inventory

    for record in Records.of_this_user().found():
        if model in record.model.split(", ") and record.state != "failed":
            raise UsageError(f"{model} is being served on port {record.port}.", f"mlx stop {record.id}")
    console = Console(sys.stderr if as_json else sys.stdout)
    stored = next((each for each in inventory.stored_models() if each.id == model), None)
    if stored is not None and not is_sure and not _confirmed(f"Remove {model} ({size(stored.size_bytes)})? [y/N] "):
        console.info("Nothing was removed.")
        return
    freed = inventory.remove(model)
    if as_json:
        print_json({"model": model, "freed_bytes": freed})
    else:
        console.success(f"Removed {model}: {size(freed)} freed.")


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("Nobody is there to be asked.", "Add --yes if you are sure.")
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


# --- the commands ---------------------------------------------------------------------

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model id, as `mlx list` names it, or `demo`.")]


def list_(as_json: AsJson = False) -> None:
    show_models(as_json=as_json)


def pull_(
    model: Model,
    force: Annotated[bool, typer.Option("--force", help="Also if it does not fit in memory.")] = False,
    as_json: AsJson = False,
) -> None:
    pull(model, force=force, as_json=as_json)


def rm(
    model: Model,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: AsJson = False,
) -> None:
    remove(model, is_sure=yes, as_json=as_json)

"""Models are listed, loaded and unloaded for a peer. Which models there are, the operator said at the start."""

from collections.abc import Callable

from mlx_websockets.engine.messages import Loading
from mlx_websockets.errors import Refused, StartError
from mlx_websockets.events import ModelList, ModelLoaded, ModelProgress, ModelUnloaded, ModelWish, Problem, ServerEvent
from mlx_websockets.events import TurnLabel as Label
from mlx_websockets.server.floor import Engine

NOT_ALLOWED = (
    "Models are loaded and unloaded from the server's own machine only. "
    "Its operator can allow it to others: --allow-model-loading."
)


async def tend(engine: Engine, wish: ModelWish, tell: Callable[[ServerEvent], None], *, is_allowed: bool) -> None:
    """Do what `wish` says, and tell how it goes and how it ended.

    Args:
        tell: called while it goes on; the last call has a `ModelLoaded`, a `ModelUnloaded` or a `Problem`.
        is_allowed: the peer may have models loaded and unloaded.
    """
    if wish.wish == "list":
        tell(ModelList(engine.models(), wish.id))
        return
    try:
        if not is_allowed:
            raise Refused("not_allowed", NOT_ALLOWED)
        if wish.wish == "load":
            await engine.load(wish.model, lambda loading: tell(_progress(wish, loading)))
            loaded = engine.engine_of(wish.model)
            tell(ModelLoaded(wish.model, loaded is not None and loaded.sees, wish.id))
        else:
            await engine.unload(wish.model)
            tell(ModelUnloaded(wish.model, wish.id))
    except Refused as error:
        tell(_problem(wish, error.code, error.reason, retryable=error.retryable))
    except StartError as error:
        tell(_problem(wish, error.code, f"{error.reason} {error.hint}".strip()))


def _progress(wish: ModelWish, loading: Loading) -> ModelProgress:
    return ModelProgress(
        model=wish.model, stage=loading.stage, done=loading.done, total=loading.total, unit=loading.unit, id=wish.id
    )


def _problem(wish: ModelWish, code: str, reason: str, *, retryable: bool = False) -> Problem:
    return Problem(message=reason, code=code, turn=Label(id=wish.id), retryable=retryable)

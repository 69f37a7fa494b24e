"""A drafter from its name to memory: a head that guesses ahead for one model.

mlx-vlm takes any folder for a drafter and fails at the first token if it is none, so it is
looked at here. Whether it can draft for the model, the first question tells (`startup.py`).
"""

import importlib.metadata
from collections.abc import Callable
from typing import Any

from mlx_websockets.engine.messages import Loading, ModelSpec
from mlx_websockets.engine.models.checkpoints import Checkpoint, check_folder
from mlx_websockets.engine.worker.batch.drafting import Drafter
from mlx_websockets.engine.worker.models import find_model, read_weights
from mlx_websockets.engine.worker.overlay import what_libraries_see
from mlx_websockets.errors import ModelBroken, UsageError


def load_drafter(name: str, model: Any, backend: str, report: Callable[[Loading], None]) -> tuple[Drafter, int]:
    """Find, check and load what `name` names, a folder or an id, to draft for `model`.

    Code that it brings along is never run.

    Returns:
        The drafter and the bytes of its weights.

    Raises:
        ModelNotFound: there is no such drafter, or it can't be fetched.
        ModelBroken: its folder is incomplete, damaged or unsafe.
        OutOfMemory: it does not fit.
        UsageError: it is no drafter, or one for another model.
    """
    spec = ModelSpec(model=name)
    folder = find_model(spec, report, needs_tokenizer=False)
    checkpoint = check_folder(folder, needs_tokenizer=False)
    report(Loading("Loading the drafter"))
    with what_libraries_see(folder, spec) as view:
        drafter = _opened(str(view), checkpoint, name)
        _refuse_for_another_model(drafter, model, name)
        return drafter, read_weights(drafter.model, spec, backend, report)


def unfit(name: str, reason: str) -> UsageError:
    """A drafter that can't draft for the model."""
    return UsageError(
        f"--draft-model: {name} can't draft for this model: {reason}",
        f"Give the one that was trained for this very model, or leave --draft-model out. {_known_kinds()}",
    )


def _opened(view: str, checkpoint: Checkpoint, name: str) -> Drafter:
    from mlx_vlm.speculative.drafters import load_drafter as load

    try:
        model, kind = load(view, lazy=True)
    except Exception as error:  # anything at all: the files are strangers'
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelBroken(
            f"The drafter {name} can't be opened: {lines[0].replace(view, str(checkpoint.folder))[:300]}",
            f"{_known_kinds()} Copy or download it again, or leave --draft-model out.",
        ) from error
    if not callable(getattr(model, "draft_block", None)):
        raise UsageError(
            f"--draft-model: {name} is no drafter but a model of the kind {checkpoint.config['model_type']}.",
            f"A drafter is a head that was trained for one model. {_known_kinds()}",
        )
    return Drafter(model, kind)


def _known_kinds() -> str:
    from mlx_vlm.speculative.drafters import DRAFTER_KIND_BY_MODEL_TYPE

    version = importlib.metadata.version("mlx-vlm")
    return f"mlx-vlm {version} has drafters of these kinds: {', '.join(sorted(DRAFTER_KIND_BY_MODEL_TYPE))}."


def _refuse_for_another_model(drafter: Drafter, model: Any, name: str) -> None:
    from mlx_vlm.speculative.drafters import validate_drafter_compatibility

    try:
        validate_drafter_compatibility(model, drafter.model, drafter.kind)
    except Exception as error:  # each drafter looks at what it likes
        raise unfit(name, str(error)) from error

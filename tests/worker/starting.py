"""What a worker's start refuses, without the worker: the start runs in this process."""

import pytest

from mlx_websockets.engine.messages import FromWorker, ModelSpec, ToWorker
from mlx_websockets.engine.worker.startup import prepare
from mlx_websockets.errors import StartError


class Nobody:
    """A channel on which nobody listens or asks."""

    def send(self, message: FromWorker) -> None:
        pass

    def receive(self, timeout: float) -> ToWorker | None:
        return None

    def received(self) -> list[ToWorker]:
        return []


def refusal_here(spec: ModelSpec) -> StartError:
    with pytest.raises(StartError) as refused:
        prepare(Nobody(), spec)
    return refused.value

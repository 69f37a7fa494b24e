"""The supported stand-in for the engine, for tests of anything above it.

`ScriptedEngine` meets the same protocol as `engine.client.Engine`. Nothing happens in it by
itself: a test says when it is ready and what each request gets.
"""

from collections.abc import Callable
from typing import Any

from mlx_websockets.generation import Delta, Failed, Finished, GenerationRequest, Started, Update, Usage

Listener = Callable[[Update], None]


class ScriptedEngine:
    """An engine whose replies a test writes.

    Attributes:
        requests: every request submitted, by id.
        cancelled: the ids that were given up, in order.
        script: if set, called for each request on submission; what it returns is said at once.
    """

    model_id = "scripted"
    sees = True
    max_images = 8
    rows = 16

    def __init__(self, script: Callable[[GenerationRequest], list[Update]] | None = None) -> None:
        self.script = script
        self.requests: dict[int, GenerationRequest] = {}
        self.cancelled: list[int] = []
        self._listeners: dict[int, Listener] = {}
        self._state_listeners: list[Callable[[], None]] = []
        self._ready = True

    @property
    def is_ready(self) -> bool:
        return self._ready

    def on_state_change(self, listener: Callable[[], None]) -> None:
        self._state_listeners.append(listener)

    def submit(self, request: GenerationRequest, listener: Listener) -> None:
        self.requests[request.id] = request
        self._listeners[request.id] = listener
        if self.script is not None:
            for update in self.script(request):
                self.say(update)

    def cancel(self, request_id: int) -> None:
        if self._listeners.pop(request_id, None) is not None:
            self.cancelled.append(request_id)

    def status(self) -> dict[str, Any]:
        return {"state": "ready" if self._ready else "restarting", "model": self.model_id}

    # --- what a test does ---------------------------------------------------------------

    def say(self, update: Update) -> None:
        """Deliver one update; of a request that was cancelled nothing arrives."""
        listener = self._listeners.get(update.id)
        if isinstance(update, Finished | Failed):
            self._listeners.pop(update.id, None)
        if listener is not None:
            listener(update)

    def reply(self, request_id: int, *deltas: str, reason: str = "stop") -> None:
        """A whole reply in one go."""
        for update in whole_reply(request_id, *deltas, reason=reason):
            self.say(update)

    def crash(self) -> None:
        """End every running request as a dead worker does, and stop being ready."""
        self._ready = False
        for request_id in list(self._listeners):
            self.say(
                Failed(
                    request_id, "engine_restarted", "The model's process died; it is being restarted. Ask again.", True
                )
            )
        self._tell()

    def recover(self) -> None:
        self._ready = True
        self._tell()

    def _tell(self) -> None:
        for listener in self._state_listeners:
            listener()


def whole_reply(request_id: int, *deltas: str, reason: str = "stop") -> list[Update]:
    """The updates of a reply that says `deltas` and ends."""
    usage = Usage(input_tokens=1, output_tokens=len(deltas))
    return [Started(request_id), *(Delta(request_id, text) for text in deltas), Finished(request_id, reason, usage)]  # type: ignore[arg-type]

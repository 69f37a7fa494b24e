"""The worker's one loop: take what came in, begin on a request, step the batch, report.

One thread does all of it, because MLX's arrays belong to the thread that made them. Between
two looks at the inbox lies at most one picture, or one prefill chunk and one decode step, so
a cancelled request frees its row within that time.
"""

import logging
import time
from collections.abc import Callable
from typing import Protocol

import mlx.core as mx
import msgspec
import psutil

from mlx_websockets.engine.messages import Cancel, FromWorker, Heartbeat, Load, Memory, Stop, Submit, ToWorker, Updates
from mlx_websockets.engine.worker.batcher import Batcher, RowToken
from mlx_websockets.engine.worker.detokenizer import Detokenizer, Tokenizer
from mlx_websockets.engine.worker.prompts import Prompts
from mlx_websockets.engine.worker.scheduler import Scheduler
from mlx_websockets.engine.worker.sequence import Sequence
from mlx_websockets.errors import EngineError
from mlx_websockets.generation import Delta, Failed, GenerationRequest, Started, Update

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0


class Channel(Protocol):
    """The worker's end of the channel."""

    def send(self, message: FromWorker) -> None: ...

    def receive(self, timeout: float) -> ToWorker | None: ...

    def received(self) -> list[ToWorker]: ...


class WorkerLoop:
    """Serves requests until it is told to stop or the channel closes.

    Args:
        new_batcher: makes an empty batcher; called again when a step has failed, because
            nothing in the old one can be trusted then.
    """

    def __init__(
        self,
        channel: Channel,
        prompts: Prompts,
        tokenizer: Tokenizer,
        new_batcher: Callable[[], Batcher],
        context_tokens: int,
    ) -> None:
        self._channel = channel
        self._prompts = prompts
        self._tokenizer = tokenizer
        self._new_batcher = new_batcher
        self._batcher = new_batcher()
        self._context_tokens = context_tokens
        self._scheduler: Scheduler[Sequence] = Scheduler()
        self._updates: list[Update] = []
        self._stopping = False
        self._tokens = 0
        self._last_heartbeat = 0.0

    def run(self) -> None:
        """Raises ChannelClosed when the server is gone."""
        while True:
            self._take_in()
            if self._stopping:
                return
            self._admit()
            self._report()  # a peer learns that its reply has begun before the first chunk, not after it
            if self._scheduler.running:
                self._step()
            self._report()

    # --- in ---------------------------------------------------------------------------

    def _take_in(self) -> None:
        if not self._scheduler.running and not self._scheduler.waiting:
            message = self._channel.receive(HEARTBEAT_SECONDS)
            if message is not None:
                self._handle(message)
        for message in self._channel.received():
            self._handle(message)

    def _handle(self, message: ToWorker) -> None:
        match message:
            case Submit(request):
                self._scheduler.add(request, time.perf_counter())
            case Cancel(id):
                row = self._scheduler.end(id)
                if row is not None:
                    self._batcher.remove(row)
            case Stop():
                self._stopping = True
            case Load():
                logger.error("asked to load a second model; ignored")

    # --- work -------------------------------------------------------------------------

    def _admit(self) -> None:
        """Begin on the next request, if there is room; one that can't be begun on ends here."""
        if not self._batcher.takes_a_prompt:
            return
        taken = self._scheduler.next()
        if taken is None:
            return
        request, arrived_at = taken
        try:
            self._begin(request, arrived_at)
        except EngineError as error:
            self._updates.append(Failed(request.id, error.code, str(error), error.retryable))
        except Exception as error:
            logger.exception("request %d could not be begun", request.id)
            self._updates.append(_failure(request.id, error))

    def _begin(self, request: GenerationRequest, arrived_at: float) -> None:
        prompt, vision_seconds = self._prompts.prompt(request)
        room = self._context_tokens - len(prompt.tokens)
        choice = request.choice
        if choice.max_tokens > room:
            choice = msgspec.structs.replace(choice, max_tokens=room)
        row = self._batcher.insert(prompt, choice)
        sequence = Sequence(
            request=request,
            detokenizer=Detokenizer(self._tokenizer, choice.stop),
            arrived_at=arrived_at,
            input_tokens=len(prompt.tokens),
            image_tokens=prompt.image_tokens,
            vision_seconds=vision_seconds,
            prepared_at=time.perf_counter(),
        )
        self._scheduler.begin(request, row, sequence)
        self._updates.append(Started(request.id))

    def _step(self) -> None:
        try:
            tokens = self._batcher.step()
        except Exception as error:
            logger.exception("a step failed with %d rows", self._scheduler.running)
            self._updates += [_failure(id, error) for id in self._scheduler.end_all()]
            self._batcher.close()
            self._batcher = self._new_batcher()
            mx.clear_cache()
            return
        for token in tokens:
            sequence = self._scheduler.at(token.row)
            if sequence is not None:
                self._tokens += 1
                self._advance(sequence, token)

    def _advance(self, sequence: Sequence, token: RowToken) -> None:
        id, detokenizer = sequence.request.id, sequence.detokenizer
        text = ""
        if token.end != "stop":  # the token that says "stop" is not part of the reply
            sequence.count_token()
            text = detokenizer.add(token.token)
        if token.end is not None:
            text += detokenizer.finish()
        if text:
            self._updates.append(Delta(id, text))
        if token.end is None and detokenizer.stopped:
            self._batcher.remove(token.row)
        if token.end is not None or detokenizer.stopped:
            self._scheduler.end(id)
            self._updates.append(sequence.finished("stop" if detokenizer.stopped else token.end or "stop"))

    # --- out --------------------------------------------------------------------------

    def _report(self) -> None:
        if self._updates:
            self._channel.send(Updates(self._updates))
            self._updates = []
        now = time.monotonic()
        if now - self._last_heartbeat >= HEARTBEAT_SECONDS:
            self._last_heartbeat = now
            self._channel.send(
                Heartbeat(
                    running=self._scheduler.running,
                    waiting=self._scheduler.waiting,
                    memory=memory(),
                    tokens=self._tokens,
                )
            )


def memory() -> Memory:
    """What this process holds now."""
    return Memory(
        active=mx.get_active_memory(),
        cached=mx.get_cache_memory(),
        peak=mx.get_peak_memory(),
        resident=psutil.Process().memory_info().rss,
    )


def _failure(request_id: int, error: Exception) -> Failed:
    """Our sentence for a library's error; its own words stay in the log."""
    if isinstance(error, MemoryError) or "memory" in str(error).lower():
        return Failed(
            request_id, "out_of_memory", "The model's memory ran out. Ask for less, or later.", retryable=True
        )
    return Failed(request_id, "engine_failed", "The model could not compute this request.", retryable=False)

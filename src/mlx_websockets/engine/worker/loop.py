"""The worker's one loop: take what came in, begin on requests, step the batch, report.

One thread does all of it, because MLX's arrays belong to the thread that made them. Between
two looks at the inbox lies at most one picture, or one piece of a prompt and one decode step,
so a cancelled request frees its row within that time.
"""

import logging
import time
from collections.abc import Callable
from contextlib import closing
from typing import Protocol

import mlx.core as mx
import msgspec
import psutil

from mlx_websockets import heap
from mlx_websockets.engine.messages import Cancel, FromWorker, Heartbeat, Load, Memory, Stop, Submit, ToWorker, Updates
from mlx_websockets.engine.worker.batch.batcher import Batcher, RowToken
from mlx_websockets.engine.worker.batch.prefixes import KeptPrefixes
from mlx_websockets.engine.worker.drift import Drift
from mlx_websockets.engine.worker.prompting.prompts import Prompts
from mlx_websockets.engine.worker.reply.detokenizer import Detokenizer, Tokenizer, decoder
from mlx_websockets.engine.worker.reply.grammar import Grammars
from mlx_websockets.engine.worker.room import Room
from mlx_websockets.engine.worker.scheduler import Arrival, Waiting
from mlx_websockets.engine.worker.sequence import Candidate, Sequence
from mlx_websockets.errors import EngineError
from mlx_websockets.generation import Choice, Delta, Failed, Started, TokenLogprob, Update

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0

PREPARATION_SECONDS = 0.02
PREPARATION_SECONDS_BEFORE_ALL = 0.1
"""How long prompts are prepared for between two steps, after a first one; the second while no reply runs. Prompts that
are computed in one pass take less than one after the other, so it is worth waiting for those that came with the first.
"""


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
        kept: what the batchers keep of prompts.
        room: lets requests in as long as there is memory.
        grammars: of replies that are held to a schema.
        drift: notices memory that does not come back.
    """

    def __init__(
        self,
        channel: Channel,
        prompts: Prompts,
        tokenizer: Tokenizer,
        new_batcher: Callable[[], Batcher],
        kept: KeptPrefixes,
        room: Room,
        grammars: Grammars,
        drift: Drift,
        context_tokens: int,
    ) -> None:
        self._channel = channel
        self._prompts = prompts
        self._decode = decoder(tokenizer)
        self._new_batcher = new_batcher
        self._batcher = new_batcher()
        self._kept = kept
        self._room = room
        self._grammars = grammars
        self._drift = drift
        self._context_tokens = context_tokens
        self._waiting = Waiting()
        self._running: dict[int, Sequence] = {}
        self._updates: list[Update] = []
        self._stopping = False
        self._is_tidy = False
        self._tokens = 0
        self._last_heartbeat = 0.0

    def run(self) -> None:
        """Raises ChannelClosed when the server is gone."""
        with closing(self._grammars):
            while True:
                self._take_in()
                if self._stopping:
                    return
                self._admit()
                self._report()  # a peer learns that its reply has begun before the first piece, not after it
                if self._running:
                    self._step()
                self._report()

    # --- in ---------------------------------------------------------------------------

    def _take_in(self) -> None:
        if not self._running and not self._waiting:
            message = self._channel.receive(HEARTBEAT_SECONDS)
            if message is not None:
                self._handle(message)
            elif not self._is_tidy:
                self._is_tidy = True
                heap.give_back()
        self._hear()

    def _hear(self) -> None:
        for message in self._channel.received():
            self._handle(message)

    def _handle(self, message: ToWorker) -> None:
        match message:
            case Submit(request):
                self._waiting.add(request, time.perf_counter())
            case Cancel(id):
                if not self._waiting.remove(id) and self._running.pop(id, None) is not None:
                    self._batcher.remove(id)
            case Stop():
                self._stopping = True
            case Load():
                logger.error("asked to load a second model; ignored")

    # --- work -------------------------------------------------------------------------

    def _admit(self) -> None:
        """Begin on requests as far as there is room, for a short while; one that can't be begun on ends here."""
        until: float | None = None
        seconds = PREPARATION_SECONDS if self._running else PREPARATION_SECONDS_BEFORE_ALL
        while (arrival := self._waiting.next(self._batcher.free_rows)) is not None:
            try:
                if self._running and self._has_looked_ahead(arrival):
                    return
                self._begin(arrival)
            except EngineError as error:
                self._updates.append(_refusal(arrival.request.id, error))
            except Exception as error:
                logger.exception("request %d could not be begun", arrival.request.id)
                self._updates.append(_failure(arrival.request.id, error))
            now = time.perf_counter()
            if until is None:  # a picture may have waited for the step under way
                until = now + seconds
            if now >= until:
                return
            self._hear()

    def _has_looked_ahead(self, arrival: Arrival) -> bool:
        """Look at one of several pictures and put the request back, so that replies wait for no more than that one.

        False: there was none to look at by itself.
        """
        seconds = self._prompts.look_at_one(arrival.request)
        if not seconds:
            return False
        arrival.vision_seconds += seconds
        self._waiting.put_back(arrival)
        return True

    def _begin(self, arrival: Arrival) -> None:
        request, choice = arrival.request, arrival.request.choice
        self._is_tidy = False
        candidates = [self._candidate(choice) for _ in range(choice.candidates)]
        prompt, vision_seconds = self._prompts.prompt(request)
        room = self._context_tokens - len(prompt.tokens)
        if choice.max_tokens > room:
            choice = msgspec.structs.replace(choice, max_tokens=room)
        self._room.check(self._batcher, len(prompt.tokens) + choice.max_tokens, choice.candidates)
        grammars = [each.grammar for each in candidates if each.grammar is not None]
        self._batcher.insert(request.id, prompt, choice, priority=request.priority, grammars=grammars)
        self._running[request.id] = Sequence(
            request=request,
            candidates=candidates,
            arrived_at=arrival.at,
            input_tokens=len(prompt.tokens),
            image_tokens=prompt.image_tokens,
            vision_seconds=arrival.vision_seconds + vision_seconds,
            prepared_at=time.perf_counter(),
        )
        self._updates.append(Started(request.id))

    def _candidate(self, choice: Choice) -> Candidate:
        grammar = None if choice.json_schema is None else self._grammars.grammar(choice.json_schema)
        return Candidate(Detokenizer(self._decode, choice.stop), grammar)

    def _step(self) -> None:
        try:
            tokens = self._batcher.step()
        except Exception as error:
            logger.exception("a step failed with %d requests", len(self._running))
            self._updates += [_failure(id, error) for id in self._running]
            self._running.clear()
            self._batcher = self._new_batcher()
            self._kept.shrink(0)
            self._prompts.clear()
            mx.clear_cache()
            return
        for token in tokens:
            sequence = self._running.get(token.request)
            if sequence is not None:
                self._tokens += 1
                self._advance(sequence, token)
        if not self._running:
            mx.clear_cache()

    def _advance(self, sequence: Sequence, token: RowToken) -> None:
        candidate = sequence.candidates[token.candidate]
        if candidate.failure is not None:
            self._fail(token.request, candidate.failure)
            return
        sequence.cached_tokens = token.cached_tokens
        text = ""
        if token.end != "stop":  # the token that says "stop" is not part of the reply
            sequence.count_token(candidate)
            text = candidate.detokenizer.add(token.token)
        if token.end is not None:
            text += candidate.detokenizer.finish()
        logprobs = self._logprobs(token)
        if text or logprobs:
            self._updates.append(Delta(token.request, text, token.candidate, logprobs))
        if token.end is not None or candidate.detokenizer.stopped:
            self._end(sequence, token, candidate)

    def _end(self, sequence: Sequence, token: RowToken, candidate: Candidate) -> None:
        candidate.reason = "stop" if candidate.is_whole else token.end
        if token.end is None:
            self._batcher.remove(token.request, token.candidate)
        if sequence.is_finished:
            del self._running[token.request]
            self._updates.append(sequence.finished())

    def _fail(self, id: int, error: EngineError) -> None:
        self._batcher.remove(id)
        del self._running[id]
        self._updates.append(_refusal(id, error))

    def _logprobs(self, token: RowToken) -> tuple[TokenLogprob, ...]:
        if token.logprob is None or token.end == "stop":
            return ()
        top = tuple((self._decode([other]), logprob) for other, logprob in token.top)
        return (TokenLogprob(self._decode([token.token]), token.logprob, top),)

    # --- out --------------------------------------------------------------------------

    def _report(self) -> None:
        if self._updates:
            self._channel.send(Updates(self._updates))
            self._updates = []
        now = time.monotonic()
        if now - self._last_heartbeat >= HEARTBEAT_SECONDS:
            self._last_heartbeat = now
            self._channel.send(self._heartbeat())

    def _heartbeat(self) -> Heartbeat:
        held = memory(self._kept.nbytes + self._prompts.nbytes)
        is_idle = not self._running and not self._waiting
        return Heartbeat(
            running=len(self._running),
            waiting=len(self._waiting),
            memory=held,
            tokens=self._tokens,
            wants_renewal=is_idle and self._drift.is_too_much(held),
        )


def memory(kept_bytes: int) -> Memory:
    """What this process holds now."""
    return Memory(
        active=mx.get_active_memory(),
        cached=mx.get_cache_memory(),
        peak=mx.get_peak_memory(),
        resident=psutil.Process().memory_info().rss,
        kept=kept_bytes,
    )


def _refusal(request_id: int, error: EngineError) -> Failed:
    return Failed(request_id, error.code, str(error), error.retryable, error.retry_after_ms)


def _failure(request_id: int, error: Exception) -> Failed:
    """Our sentence for a library's error; its own words stay in the log."""
    if isinstance(error, MemoryError) or "memory" in str(error).lower():
        return Failed(
            request_id, "out_of_memory", "The model's memory ran out. Ask for less, or later.", retryable=True
        )
    return Failed(request_id, "engine_failed", "The model could not compute this request.", retryable=False)

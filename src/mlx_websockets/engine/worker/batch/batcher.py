"""Requests that are computed together: prompts in, tokens out, one step at a time.

A step is one token for each running reply, then a piece of the prompts that wait: short ones
first and several at once, long ones in pieces so small that the replies keep their flow
(`pace.py`). What a prompt has in common with one that was computed before is not computed
again (`prefixes.py`).
"""

import time
from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from typing import Any, Literal

import mlx.core as mx

from mlx_websockets.engine.worker.batch import caches
from mlx_websockets.engine.worker.batch.caches import CacheQuantization, Caches
from mlx_websockets.engine.worker.batch.decoding import Decoding, Grammar, Left, Row, Token
from mlx_websockets.engine.worker.batch.drafting import DraftedPrefill, Drafter, Drafting
from mlx_websockets.engine.worker.batch.masses import computes_on_cpu
from mlx_websockets.engine.worker.batch.pace import Pace
from mlx_websockets.engine.worker.batch.prefill import Prefill, goes_with_others, may_be_cut
from mlx_websockets.engine.worker.batch.prefixes import SHORTEST_WORTH_KEEPING, KeptPrefixes, Match, alike
from mlx_websockets.engine.worker.batch.sampler import RowSampling
from mlx_websockets.engine.worker.scheduler import PASS_SHARE, first_in_line, in_one_pass, prompts_go_first
from mlx_websockets.engine.worker.sequence import Prompt
from mlx_websockets.generation import Choice, Priority
from mlx_websockets.sampling import REPETITION_CONTEXT_TOKENS


@dataclass(frozen=True, slots=True)
class RowToken:
    """The next token of one candidate of a request.

    Attributes:
        end: "stop" (the token says so itself and is not part of the reply), "length", or None.
        cached_tokens: how many tokens of the prompt were there already.
        logprob, top: natural logarithms of the model's own probabilities, where they were asked for.
    """

    request: int
    candidate: int
    token: int
    end: Literal["stop", "length"] | None
    cached_tokens: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True, eq=False)
class _Job:
    """A request here. `prefill` is set once its prompt is being computed, `rows` once its replies run.

    `match` is what is kept of its prompt; None: it has to be computed from the start, and serves nobody else.
    """

    id: int
    prompt: Prompt
    choice: Choice
    priority: Priority
    grammars: Many[Grammar]
    match: Match | None
    prefill: Prefill | None = None
    passed_over: int = 0
    cached_tokens: int = 0
    rows: list[Row] = field(default_factory=list)

    @property
    def remaining(self) -> int:
        """Prompt tokens still to be computed."""
        if self.prefill is not None:
            return self.prefill.remaining
        return len(self.prompt.tokens) - (self.match.tokens if self.match is not None else 0)


class Batcher:
    """Computes requests, each named by its id.

    Args:
        model: what `mlx_vlm.load` returned.
        is_end: whether a token ends a reply.
        rows: how many replies may run together, those whose prompts are being computed counted in.
        prefill_chunk: prompt tokens that are computed in one piece at most.
        kept: what earlier prompts left behind; it outlives a batcher.
        quantization: of the keys and values that are kept; None: they are kept as they are computed.
        drafter: guesses ahead for a greedy reply that begins alone.
    """

    def __init__(
        self,
        model: Any,
        is_end: Callable[[int], bool],
        *,
        rows: int,
        prefill_chunk: int,
        kept: KeptPrefixes | None = None,
        quantization: CacheQuantization | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        self._language_model = model.language_model
        self._is_end = is_end
        self._rows = rows
        self._quantization = quantization
        self._kept = kept if kept is not None else KeptPrefixes(0)
        empty = caches.new_caches(self._language_model, quantization)
        self._takes_rows = caches.can_be_rows(empty)
        # A GPU computes the next tokens while the last ones are told. On a CPU to set them going is to wait for them.
        self._tells_at_once = computes_on_cpu()
        self._pace = Pace(prefill_chunk)
        self._decoding = Decoding(self._language_model)
        self._drafting = Drafting(model, drafter, prefill_chunk)
        self._jobs: dict[int, _Job] = {}
        self._waiting: list[_Job] = []  # their prompts are not computed yet, or not wholly
        self._to_keep: list[tuple[Many[int], Caches]] = []  # once the tokens that were computed with them are told
        self._last_tokens_at: float | None = None
        self._prefill_seconds = 0.0  # since then
        self._bytes_per_token = 0.0

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def free_rows(self) -> int:
        return self._rows - len(self._running) - sum(job.choice.candidates for job in self._waiting)

    @property
    def _running(self) -> list[Row]:
        return [*self._decoding.rows, *self._drafting.rows]

    def insert(
        self,
        request: int,
        prompt: Prompt,
        choice: Choice,
        *,
        priority: Priority = "interactive",
        grammars: Many[Grammar] = (),
    ) -> None:
        """Begin on a request; ask `free_rows` first, it takes one for each candidate.

        Args:
            grammars: what each candidate may say; none where they may say anything.
        """
        can_begin_late = self._quantization is None and may_be_cut(self._language_model, prompt)
        match = self._kept.match(prompt.keys) if can_begin_late else None
        job = _Job(request, prompt, choice, priority, grammars, match)
        self._jobs[request] = job
        self._waiting.append(job)

    def growth_bytes(self, tokens: int, rows: int) -> int:
        """How much more memory all requests may come to take with one more, of `tokens` in each of `rows`.

        0 as long as nothing was computed: what a token takes is measured, not known.
        """
        lengths = [tokens, *(len(job.prompt.tokens) + job.choice.max_tokens for job in self._jobs.values())]
        all_rows = rows + self._rows - self.free_rows
        # Rows of a batch are all as long as the longest.
        held = self._decoding.nbytes + self._drafting.nbytes
        return max(0, int(all_rows * max(lengths) * self._bytes_per_token) - held)

    def seconds_until_a_row_is_free(self) -> float:
        """At the latest, if all goes on as it did."""
        return min((row.left for row in self._running), default=1) * self._pace.usual_gap

    def step(self) -> list[RowToken]:
        """A token for every running reply, and a piece of a prompt.

        While more short prompts wait than replies run, the replies wait for the prompts.
        """
        self._keep_what_began()
        tokens = self._decode() if self._running and not self._prompts_go_first() else []
        return [*tokens, *self._time_prefill()] if self._waiting else tokens

    def remove(self, request: int, candidate: int | None = None) -> None:
        """Give a request up, or one candidate of it, wherever it is. Nothing of it comes any more."""
        job = self._jobs.get(request)
        if job is None:
            return
        if job in self._waiting:
            self._waiting.remove(job)
            del self._jobs[request]
            return
        self._give_up([row for row in job.rows if candidate in (None, row.owner[1])])

    # --- replies ----------------------------------------------------------------------

    def _decode(self) -> list[RowToken]:
        tokens, left = self._decoding.step() if len(self._decoding) else ([], [])
        if self._tells_at_once:
            newest, ended = self._decoding.read()
            tokens, left = tokens + newest, left + ended
        if len(self._drafting):
            drafted, ended = self._drafting.step()
            tokens, left = tokens + drafted, left + ended
        self._keep_pace()
        return self._end(tokens, left)

    def _end(self, tokens: list[Token], left: Many[Left]) -> list[RowToken]:
        """Take the rows out that ended. Returns what is told of the tokens."""
        told = [self._told(each) for each in tokens]
        self._part(left)
        self._give_up([each.row for each in tokens if self._is_end(each.token) and each.row.left])
        return told

    def _give_up(self, rows: Many[Row]) -> None:
        if not rows:
            return
        self._part(self._decoding.remove(rows) + self._drafting.remove(rows))

    def _told(self, each: Token) -> RowToken:
        job, candidate = each.row.owner
        end: Literal["stop", "length"] | None = None
        if self._is_end(each.token):
            end = "stop"
        elif each.row.left == 0:
            end = "length"
        return RowToken(job.id, candidate, each.token, end, job.cached_tokens, each.logprob, each.top)

    def _part(self, left: Many[Left]) -> None:
        """Rows that ended or were given up: what was computed for them may serve another prompt."""
        for each in left:
            job, _ = each.row.owner
            job.rows.remove(each.row)
            if not job.rows:
                del self._jobs[job.id]
            if each.caches is not None:
                self._keep([*job.prompt.keys, *each.row.said[: each.said]], each.caches)

    def _keep_pace(self) -> None:
        now = time.perf_counter()
        if self._last_tokens_at is not None:
            self._pace.observe_gap(now - self._last_tokens_at, self._prefill_seconds)
        self._last_tokens_at = now if self._running else None
        self._prefill_seconds = 0.0

    # --- prompts ----------------------------------------------------------------------

    def _time_prefill(self) -> list[RowToken]:
        """Compute a piece of a prompt. Returns first tokens, where they are told at once."""
        self._decoding.wait()  # what is under way is not the prompt's time
        began = time.perf_counter()
        self._prefill()
        told = self._end(*self._decoding.read()) if self._tells_at_once else []
        self._prefill_seconds += time.perf_counter() - began
        return told

    def _prefill(self) -> None:
        """Compute a piece of a prompt, or several short prompts."""
        job = first_in_line(self._waiting)
        if job.prefill is None:
            together, is_short = self._those_that_go_with(job), self._is_short(job)
            job.prefill = self._begun(together)
            if is_short:
                self._finish_together(together, job.prefill)
                return
        self._go_on(job.prefill, len(job.prompt.tokens))
        if job.prefill.logits is not None and not job.prefill.is_planned:
            self._start([job], job.prefill)

    def _go_on(self, prefill: Prefill, tokens: int) -> None:
        """Compute a piece of a prompt of so many tokens: a chunk, or beside replies some layers of a smaller one."""
        others_run = len(self._running) > 0
        if not prefill.is_planned:
            prefill.plan(self._pace.chunk if others_run else self._pace.most)
        if not others_run:
            prefill.compute(prefill.layers)
            return
        began = time.perf_counter()
        layers = prefill.compute(self._pace.layers(tokens, prefill.layers))
        self._pace.observe_layers(time.perf_counter() - began, layers)

    def _prompts_go_first(self) -> bool:
        waiting = [job.priority for job in self._waiting if job.prefill is None and self._is_short(job)]
        return prompts_go_first(waiting, [row.owner[0].priority for row in self._running])

    def _is_short(self, job: _Job) -> bool:
        """Its prompt is not worth pieces."""
        return job.remaining <= self._pace.most

    def _those_that_go_with(self, first: _Job) -> list[_Job]:
        """`first`, and others whose prompts are so short that computing them with it delays it little.

        All rows compute as many tokens as the one that needs most: a row that needs fewer takes
        that much less of what is kept, and where nothing is, it begins with padding.
        """
        if not self._can_be_rows(first):
            return [first]
        others = [job for job in self._waiting if job is not first and self._can_be_rows(job)]
        gains = [_gain(first, job) for job in others]
        if sum(gains) > self._pace.most // PASS_SHARE:
            others = [job for job, gain in zip(others, gains, strict=True) if not gain]
        return in_one_pass(first, others, piece=self._pace.most, running=len(self._running))

    def _can_be_rows(self, job: _Job) -> bool:
        if not self._takes_rows or job.prefill is not None or not goes_with_others(job.prompt):
            return False
        return self._is_short(job) and (job.match is None or job.match.can_be_cut)

    def _begun(self, jobs: Many[_Job]) -> Prefill:
        tokens = max(job.remaining for job in jobs)
        row_caches = []
        for job in jobs:
            job.cached_tokens = max(0, len(job.prompt.tokens) - tokens)
            row_caches.append(self._caches_of(job))
        if len(self._jobs) == 1 and self._drafting.takes(jobs[0].prompt, jobs[0].choice, tokens):
            return self._drafting.prefill(jobs[0].prompt, row_caches[0], tokens)
        return Prefill(self._language_model, [job.prompt for job in jobs], row_caches, tokens)

    def _caches_of(self, job: _Job) -> Caches:
        """A row's caches with the first `cached_tokens` of the prompt in them."""
        if job.match is None or job.cached_tokens == 0:
            return caches.new_caches(self._language_model, self._quantization)
        return self._kept.caches_of(job.match, job.cached_tokens)

    def _finish_together(self, jobs: Many[_Job], prefill: Prefill) -> None:
        prefill.plan(self._pace.most)
        while prefill.logits is None:
            prefill.compute(prefill.layers)
            prefill.plan(self._pace.most)
        self._start(jobs, prefill)

    def _start(self, jobs: Many[_Job], prefill: Prefill) -> None:
        """Let the replies run whose prompts are computed."""
        assert prefill.logits is not None
        logits = prefill.logits
        if len(jobs) == 1 and jobs[0].match is not None:
            # Others may begin as this prompt does, and be here before its reply is over.
            self._to_keep.append((jobs[0].prompt.keys, caches.compact(prefill.caches)))
        rows, places = [], []
        for place, job in enumerate(jobs):
            job.rows = [self._row(job, candidate) for candidate in range(job.choice.candidates)]
            job.prefill = job.match = None
            rows += job.rows
            places += [place] * len(job.rows)
            self._waiting.remove(job)
        row_caches = prefill.caches
        if len(rows) > len(jobs):
            row_caches, logits = caches.repeated(row_caches, places), logits[mx.array(places)]
        recent = [jobs[place].prompt.tokens[-REPETITION_CONTEXT_TOKENS:] for place in places]
        if isinstance(prefill, DraftedPrefill):
            self._drafting.begin(rows[0], prefill, logits)
        else:
            self._decoding.extend(rows, row_caches, logits, recent, prefill.rope_deltas())

    def _row(self, job: _Job, candidate: int) -> Row:
        grammar = job.grammars[candidate] if job.grammars else None
        serves_others = candidate == 0 and job.match is not None
        return Row((job, candidate), RowSampling(job.choice, candidate), job.choice.max_tokens, grammar, serves_others)

    def _keep_what_began(self) -> None:
        """Not before the first token is told: to copy what is kept takes a twentieth of a short prompt's time."""
        for keys, row_caches in self._to_keep:
            self._keep(keys, row_caches)
        self._to_keep.clear()

    def _keep(self, keys: Many[int], row_caches: Caches) -> None:
        caches.set_going(caches.arrays(row_caches))
        self._bytes_per_token = caches.bytes_of(row_caches) / len(keys)
        self._kept.keep(keys, row_caches)


def _gain(first: _Job, job: _Job) -> int:
    """How many tokens less `job` has to compute once `first` is computed and kept."""
    if first.match is None or job.match is None:
        return 0
    gain = alike(first.match.keys, job.match.keys) - job.match.tokens
    return gain if gain >= SHORTEST_WORTH_KEEPING else 0

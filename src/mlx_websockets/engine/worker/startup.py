"""From a model's name to a loop that serves it."""

from collections.abc import Callable

import msgspec

from mlx_websockets.engine.messages import Loading, ModelSpec, Ready
from mlx_websockets.engine.worker.batch.batcher import Batcher
from mlx_websockets.engine.worker.batch.caches import CacheQuantization
from mlx_websockets.engine.worker.batch.drafting import Drafter
from mlx_websockets.engine.worker.batch.prefixes import KeptPrefixes
from mlx_websockets.engine.worker.drafters import load_drafter, unfit
from mlx_websockets.engine.worker.drift import Drift
from mlx_websockets.engine.worker.loop import Channel, WorkerLoop, memory
from mlx_websockets.engine.worker.models import free_bytes, load_model
from mlx_websockets.engine.worker.products import use_better_rows
from mlx_websockets.engine.worker.prompting.prompts import Prompts
from mlx_websockets.engine.worker.reply.grammar import Grammars
from mlx_websockets.engine.worker.room import Room
from mlx_websockets.errors import ModelBroken, UsageError
from mlx_websockets.generation import ChatMessage, Choice, GenerationRequest, Image

PREFILL_CHUNK = {"cpu": 128, "metal": 512, "cuda": 2048}
"""Prompt tokens computed in one piece while no reply runs. More bring little, and nobody can be heard meanwhile.

With CUDA a pass of a shape that is new takes tens of milliseconds, whatever its size."""

KEPT_SHARE = 0.04
MOST_KEPT_BYTES = 4_000_000_000
"""Memory for what prompts leave behind: this share of the device's, and no more than this."""

DRAFTED_TOKENS = 8
"""Of the first question that a drafter is tried with: more than one round."""


def prepare(channel: Channel, spec: ModelSpec) -> WorkerLoop:
    """Load, try out, announce.

    Raises:
        StartError: the model can't be served; the sentence says why.
    """
    loaded = load_model(spec, channel.send)
    info, drafter = loaded.info, None
    if spec.draft_model is not None:
        drafter, drafter_bytes = load_drafter(spec.draft_model, loaded.model, info.backend, channel.send)
        info = msgspec.structs.replace(info, drafts=drafter.kind, weights_bytes=info.weights_bytes + drafter_bytes)
    if info.backend == "cpu":
        use_better_rows(loaded.model.language_model)
    prompts = Prompts(
        loaded.model, loaded.processor, loaded.tokenizer, sees=info.sees, context_tokens=info.context_tokens
    )

    quantization = None
    if spec.kv_bits is not None:
        quantization = CacheQuantization(spec.kv_bits, spec.kv_group_size, spec.kv_scheme)

    kept = KeptPrefixes(int(min(info.device_bytes * KEPT_SHARE, MOST_KEPT_BYTES)))

    def new_batcher(drafter: Drafter | None = drafter) -> Batcher:
        return Batcher(
            loaded.model,
            loaded.tokenizer.stopping_criteria,
            rows=spec.rows,
            prefill_chunk=PREFILL_CHUNK[info.backend],
            kept=kept,
            quantization=quantization,
            drafter=drafter,
        )

    channel.send(Loading("trying the model out"))
    _try_out(prompts, lambda: new_batcher(None), sees=info.sees, is_quantized=quantization is not None)
    if spec.draft_model is not None:
        _try_drafting(prompts, new_batcher, spec.draft_model)
    channel.send(Ready(info, memory(kept.nbytes + prompts.nbytes)))
    grammars = Grammars(loaded.tokenizer)
    room = Room(lambda: free_bytes(info.backend), info.device_bytes, kept)
    return WorkerLoop(
        channel,
        prompts,
        loaded.tokenizer,
        new_batcher,
        kept,
        room,
        grammars,
        Drift(info.weights_bytes),
        info.context_tokens,
    )


def _try_out(prompts: Prompts, new_batcher: Callable[[], Batcher], *, sees: bool, is_quantized: bool) -> None:
    """Answer one question, about a picture where the model sees: what can't work fails now and
    in words, and what is compiled at first use is compiled before the first user asks."""
    picture = (Image(64, 64, bytes([127]) * (64 * 64 * 3)),) if sees else ()
    choice = Choice(max_tokens=2)
    request = GenerationRequest(id=0, messages=(ChatMessage("user", "Hello", picture),), choice=choice)
    try:
        _answer(prompts, new_batcher(), request)
    except Exception as error:
        if is_quantized:
            raise UsageError(
                f"With --kv-bits the model could not answer a first question ({type(error).__name__}: {error}).",
                "Leave --kv-bits out, or try another --kv-group-size; not every model can do it.",
            ) from error
        raise ModelBroken(
            f"The model was loaded but could not answer a first question ({type(error).__name__}: {error}).",
            "Run with --debug for the details; another model may work: mlx serve --model demo",
        ) from error


def _try_drafting(prompts: Prompts, new_batcher: Callable[[], Batcher], drafter: str) -> None:
    """Answer a question with the drafter's help: whether it is one for this model shows when it guesses."""
    choice = Choice(max_tokens=DRAFTED_TOKENS, temperature=0.0)
    request = GenerationRequest(id=0, messages=(ChatMessage("user", "Hello"),), choice=choice)
    try:
        _answer(prompts, new_batcher(), request)
    except Exception as error:
        raise unfit(drafter, f"{type(error).__name__}: {error}.") from error


def _answer(prompts: Prompts, batcher: Batcher, request: GenerationRequest) -> None:
    prompt, _ = prompts.prompt(request)
    batcher.insert(request.id, prompt, request.choice)
    while len(batcher):
        batcher.step()

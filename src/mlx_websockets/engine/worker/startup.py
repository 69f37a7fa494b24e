"""From a model's name to a loop that serves it."""

from collections.abc import Callable

from mlx_websockets.engine.messages import Loading, ModelSpec, Ready
from mlx_websockets.engine.worker.batch.batcher import Batcher
from mlx_websockets.engine.worker.batch.caches import CacheQuantization
from mlx_websockets.engine.worker.batch.prefixes import KeptPrefixes
from mlx_websockets.engine.worker.drift import Drift
from mlx_websockets.engine.worker.loop import Channel, WorkerLoop, memory
from mlx_websockets.engine.worker.models import free_bytes, load_model
from mlx_websockets.engine.worker.prompting.prompts import Prompts
from mlx_websockets.engine.worker.reply.grammar import Grammars
from mlx_websockets.engine.worker.room import Room
from mlx_websockets.errors import ModelBroken, UsageError
from mlx_websockets.generation import ChatMessage, Choice, GenerationRequest, Image

PREFILL_CHUNK = {"cpu": 128, "metal": 512, "cuda": 512}
"""Prompt tokens computed in one piece while no reply runs. More bring little, and nobody can be heard meanwhile."""

KEPT_SHARE = 0.04
MOST_KEPT_BYTES = 4_000_000_000
"""Memory for what prompts leave behind: this share of the device's, and no more than this."""


def prepare(channel: Channel, spec: ModelSpec) -> WorkerLoop:
    """Load, try out, announce.

    Raises:
        StartError: the model can't be served; the sentence says why.
    """
    loaded = load_model(spec, channel.send)
    info = loaded.info
    prompts = Prompts(
        loaded.model, loaded.processor, loaded.tokenizer, sees=info.sees, context_tokens=info.context_tokens
    )

    quantization = None
    if spec.kv_bits is not None:
        quantization = CacheQuantization(spec.kv_bits, spec.kv_group_size, spec.kv_scheme)

    kept = KeptPrefixes(int(min(info.device_bytes * KEPT_SHARE, MOST_KEPT_BYTES)))

    def new_batcher() -> Batcher:
        return Batcher(
            loaded.model,
            loaded.tokenizer.stopping_criteria,
            rows=spec.rows,
            prefill_chunk=PREFILL_CHUNK[info.backend],
            kept=kept,
            quantization=quantization,
        )

    channel.send(Loading("trying the model out"))
    _try_out(prompts, new_batcher, sees=info.sees, is_quantized=quantization is not None)
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
        prompt, _ = prompts.prompt(request)
        batcher = new_batcher()
        batcher.insert(request.id, prompt, choice)
        while len(batcher):
            batcher.step()
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

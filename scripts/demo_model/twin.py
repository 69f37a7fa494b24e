"""The demo model in PyTorch: mlx-vlm's idefics3 with the eyes trained and the words frozen.

`Eyes` has the names and shapes of the shipped part. `Words` is SmolLM2, whose weights
get no gradients. What a token sees is either a mask to be added or, several times as fast
on a GPU, blocks (`Sight`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scripts.demo_model import labels
from scripts.demo_model.language import dense
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

SIDE, PATCH, WIDTH, DEPTH, HEADS, INNER, SHUFFLE = 144, 12, 256, 8, 4, 1024, 2
GRID = SIDE // PATCH
EPSILON = 1e-6

WORD_WIDTH, WORD_DEPTH, WORD_HEADS, KEY_VALUE_HEADS, HEAD_WIDTH = 576, 30, 9, 3, 64
WORD_EPSILON, ROTARY_BASE = 1e-5, 100000.0
LAYER_PARTS = (
    ("attn_norm",), ("ffn_norm",), ("attn_q", "attn_k", "attn_v"), ("attn_output",), ("ffn_gate", "ffn_up"),
    ("ffn_down",),
)  # fmt: skip
"""Matrices that read the same are one."""
BLOCK = 128

PATCH_WEIGHT = "vision_model.embeddings.patch_embedding.weight"


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        count, length, _ = x.shape
        heads = [
            project(x).view(count, length, HEADS, -1).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        ]
        mixed = functional.scaled_dot_product_attention(*heads)
        return self.out_proj(mixed.transpose(1, 2).reshape(count, length, WIDTH))  # type: ignore[no-any-return]


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(), Perceptron()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(WIDTH, EPSILON), nn.LayerNorm(WIDTH, EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))  # type: ignore[no-any-return]


class Embeddings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.position_embedding = nn.Embedding(GRID * GRID, WIDTH)

    def forward(self, pictures: Tensor) -> Tensor:
        count, channels = pictures.shape[:2]
        patches = pictures.reshape(count, channels, GRID, PATCH, GRID, PATCH).permute(0, 2, 4, 1, 3, 5)
        weight, bias = self.patch_embedding.weight.flatten(1), self.patch_embedding.bias
        return functional.linear(patches.reshape(count, GRID * GRID, -1), weight, bias) + self.position_embedding.weight


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(DEPTH))


class Vision(nn.Module):
    """(n, 3, SIDE, SIDE) from -1 to 1 becomes (n, GRID * GRID, WIDTH)."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings, self.encoder = Embeddings(), Encoder()
        self.post_layernorm = nn.LayerNorm(WIDTH, EPSILON)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.embeddings(pictures)
        for layer in self.encoder.layers:
            x = layer(x)
        return self.post_layernorm(x)  # type: ignore[no-any-return]


class Projection(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(WIDTH * SHUFFLE * SHUFFLE, WORD_WIDTH, bias=False)


class Connector(nn.Module):
    """Squares of four patches become one token."""

    def __init__(self) -> None:
        super().__init__()
        self.modality_projection = Projection()

    def forward(self, x: Tensor) -> Tensor:
        count, patches, width = x.shape
        across, half = width * SHUFFLE, GRID // SHUFFLE
        x = x.reshape(count, GRID, half, across).transpose(1, 2)
        x = x.reshape(count, half, half, across * SHUFFLE).transpose(1, 2)
        return self.modality_projection.proj(x.reshape(count, patches // SHUFFLE**2, across * SHUFFLE))  # type: ignore[no-any-return]


class Eyes(nn.Module):
    """What is shipped."""

    def __init__(self) -> None:
        super().__init__()
        self.vision_model, self.connector = Vision(), Connector()
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.trunc_normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        for layer in self.vision_model.encoder.layers:
            for parameter in (layer.self_attn.out_proj.weight, layer.mlp.fc2.weight):  # type: ignore[union-attr]
                parameter.data /= (2 * DEPTH) ** 0.5  # type: ignore[operator, union-attr]

    def save(self, path: Path) -> None:
        """In 16 bits, under mlx-vlm's names and in its order of axes."""
        arrays = {name: value.detach().float().cpu().numpy() for name, value in self.state_dict().items()}
        arrays[PATCH_WEIGHT] = arrays[PATCH_WEIGHT].transpose(0, 2, 3, 1)
        np.savez(path, **{name: np.ascontiguousarray(array, np.float16) for name, array in arrays.items()})  # type: ignore[arg-type]

    def load(self, path: Path) -> None:
        with np.load(path) as kept:
            arrays = {name: kept[name].astype(np.float32) for name in kept}
        arrays[PATCH_WEIGHT] = arrays[PATCH_WEIGHT].transpose(0, 3, 1, 2)
        self.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()})


class Recognition(nn.Module):
    """Says of every patch what it shows; for training only."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.ModuleDict({name: nn.Linear(WIDTH, count) for name, count in labels.CLASSES.items()})
        self.character = nn.Linear(WIDTH, 37)
        self.extreme = nn.Linear(WIDTH, 2)
        self.beside = nn.Linear(WIDTH, labels.COMPARED * labels.CLASSES["kind"])
        nn.init.constant_(self.beside.bias, -7.0)  # nearly nothing lies beside a thing

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        heads = {name: head(features) for name, head in self.classes.items()}
        others = {"character": self.character, "extreme": self.extreme, "beside": self.beside}
        return heads | {name: head(features) for name, head in others.items()}


class Words:
    """SmolLM2's layers. `attend` is what PyTorch compiled them with."""

    def __init__(self, weights: Mapping[str, Any], device: torch.device, dtype: torch.dtype, *, compiled: bool) -> None:
        def matrix(*names: str) -> Tensor:
            kind = torch.float32 if names[0].endswith("norm") else dtype
            return torch.cat([torch.from_numpy(weights[name]) for name in names]).to(device, kind)

        self.dtype = dtype
        self.embeddings, self.norm = matrix("token_embd"), matrix("output_norm")
        depth = max(int(name.split(".")[1]) for name in weights if name.startswith("blk.")) + 1
        self.layers = [
            [matrix(*(f"blk.{number}.{part}" for part in parts)) for parts in LAYER_PARTS] for number in range(depth)
        ]
        steps = torch.arange(0, HEAD_WIDTH, 2, device=device).float() / HEAD_WIDTH
        self._frequencies = ROTARY_BASE**-steps
        self._layer = torch.compile(word_layer, fullgraph=True, dynamic=False) if compiled else word_layer

    @staticmethod
    def load(path: Path, device: torch.device, dtype: torch.dtype, *, compiled: bool) -> "Words":
        return Words(dense(path), device, dtype, compiled=compiled)

    def hidden(self, x: Tensor, mask: "Tensor | BlockMask", positions: Tensor, *, eagerly: bool = False) -> Tensor:
        """What the head reads: (rows, tokens, WORD_WIDTH)."""
        angles = positions[:, None, :, None].float() * self._frequencies
        cosine, sine = angles.cos().to(self.dtype), angles.sin().to(self.dtype)
        layer = word_layer if eagerly else self._layer
        for weights in self.layers:
            x = layer(x, mask, cosine, sine, *weights)
        return normed(x, self.norm)

    @torch.no_grad()
    def continue_greedily(self, prompts: list[list[int]], count: int, filler: int) -> list[list[int]]:
        """The `count` most likely tokens after each prompt; all prompts are computed together."""
        longest = max(map(len, prompts)) + count
        tokens = torch.full((len(prompts), longest), filler, device=self.embeddings.device)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = torch.tensor(prompt)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=tokens.device)
        rows = torch.arange(len(prompts), device=tokens.device)
        positions = torch.arange(longest, device=tokens.device).expand(len(prompts), -1)
        causal = torch.full((longest, longest), -1e9, device=tokens.device, dtype=self.dtype).triu(1)[None, None]
        for step in range(count):
            x = functional.embedding(tokens, self.embeddings)
            last = self.hidden(x, causal, positions, eagerly=True)[rows, lengths + step - 1]
            tokens[rows, lengths + step] = (last @ self.embeddings.t()).argmax(-1)
        return [row[begins : begins + count] for row, begins in zip(tokens.tolist(), lengths.tolist(), strict=True)]


def normed(x: Tensor, weight: Tensor) -> Tensor:
    """Divided by its root mean square."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + WORD_EPSILON) * weight).to(x.dtype)


def rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turned by its position."""
    first, second = x[..., : HEAD_WIDTH // 2], x[..., HEAD_WIDTH // 2 :]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


def word_layer(
    x: Tensor, mask: Tensor | BlockMask, cosine: Tensor, sine: Tensor, attention_norm: Tensor, inner_norm: Tensor,
    query_key_value: Tensor, output: Tensor, gate_up: Tensor, down: Tensor,
) -> Tensor:  # fmt: skip
    """One of SmolLM2's layers."""
    rows, length, _ = x.shape
    asked_by = normed(x, attention_norm) @ query_key_value.t()
    heads = asked_by.view(rows, length, WORD_HEADS + 2 * KEY_VALUE_HEADS, HEAD_WIDTH).transpose(1, 2)
    turned, values = rotated(heads[:, :-KEY_VALUE_HEADS], cosine, sine), heads[:, -KEY_VALUE_HEADS:]
    queries, keys = turned[:, :WORD_HEADS], turned[:, WORD_HEADS:]
    mixed = attended(queries, keys, values, mask)
    x = x + mixed.transpose(1, 2).reshape(rows, length, WORD_WIDTH) @ output.t()
    gate, up = (normed(x, inner_norm) @ gate_up.t()).chunk(2, -1)
    return x + (functional.silu(gate) * up) @ down.t()


def attended(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | BlockMask) -> Tensor:
    """Each key and value serves several queries."""
    if isinstance(mask, BlockMask):
        return flex_attention(queries, keys, values, block_mask=mask, enable_gqa=True)  # type: ignore[return-value]
    keys, values = (each.repeat_interleave(WORD_HEADS // KEY_VALUE_HEADS, 1) for each in (keys, values))
    return functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


class Sight:
    """What the tokens of a row see: the segment that all see and their own, backwards."""

    def __init__(self, rows: int, length: int, device: torch.device) -> None:
        self._segments = segments = torch.zeros(rows, length, dtype=torch.int32, device=device)

        def sees(row: Tensor, head: Tensor, asks: Tensor, told: Tensor) -> Tensor:
            other = segments[row, told]
            return (asks >= told) & ((other == 0) | (other == segments[row, asks]))

        self._sees = sees

    def blocks(self, segments: Tensor) -> BlockMask:
        """For the GPU; the next call makes the last one's useless."""
        self._segments.copy_(segments)
        rows, length = segments.shape
        return create_block_mask(self._sees, rows, None, length, length, segments.device, BLOCK)  # type: ignore[arg-type]

    @staticmethod
    def mask(segments: Tensor, dtype: torch.dtype) -> Tensor:
        """The same, to be added: (rows, 1, length, length)."""
        same = (segments[:, None, :] == 0) | (segments[:, :, None] == segments[:, None, :])
        causal = torch.ones(same.shape[-2:], dtype=torch.bool, device=same.device).tril()
        return torch.zeros(same.shape, dtype=dtype, device=same.device).masked_fill_(~(same & causal), -1e9)[:, None]

"""Draws many scenes at once with PyTorch, on a GPU in a few milliseconds.

Each point of a picture asks every thing in turn what it has there, so the whole is one
piece of arithmetic that `torch.compile` can fuse. Also says which thing each patch shows,
and which character of a text.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scripts.demo_model.labels import GROUND_FIELDS, LABEL_FIELDS, THING_FIELDS
from scripts.demo_model.photographs import Photographs, Pixels
from scripts.demo_model.scenes import MOST_THINGS
from scripts.demo_model.sprites import SIDE, Bank
from scripts.demo_model.vocabulary import FIRST_EMOJI_SPRITE, FIRST_TEXT_SPRITE
from torch import Tensor
from torch.nn import functional

INPUT_SIDE, PATCH_SIDE, COARSE_SIDE = 144, 12, 64
GRID = INPUT_SIDE // PATCH_SIDE
FINENESS = 2
"""Points a pixel, across and down."""
PATCH_POINTS = 4
"""Points a patch, across and down, that say what it shows."""
SHAPE_COVER, OTHER_COVER = 0.4, 0.12
"""How much of a patch a thing must cover to be what it shows."""

TEXTURE_SIDE = 256
NOISE_TEXTURES, NOISE_GRIDS = 24, (4, 8, 20, 60, 144)
TEXTURE_ZOOM = (0.15, 1.15)
"""How much of a texture is seen across: up to the whole, as in the evaluation."""
TURNED_SHARE = 0.3
"""Of textures: how many have their colours in other channels, so that few photographs are many."""


class Renderer:
    """Draws scenes given as `labels.SceneArrays`."""

    def __init__(self, bank: Bank, photographs: Photographs, device: torch.device, seed: int = 0) -> None:
        is_gpu = device.type == "cuda"
        self._background_of = torch.compile(self._background, dynamic=False) if is_gpu else self._background
        self._with = torch.compile(self._pasted, dynamic=False) if is_gpu else self._pasted
        self.as_seen = torch.compile(as_a_camera_would, dynamic=False) if is_gpu else as_a_camera_would
        self._cover_of = torch.compile(self._cover, dynamic=False) if is_gpu else self._cover
        self._sprites = _packed_sprites(bank).to(device)
        self._columns = torch.from_numpy(bank.columns).to(device).flatten()
        photos = [_texture(pixels) for pixels in photographs.pictures.values()]
        self._photos = len(photos)
        self._textures = torch.cat([torch.stack(photos), _noises(seed)]).to(device).flatten()
        self._fine = _points(INPUT_SIDE * FINENESS, device)
        self._coarse = _points(GRID * PATCH_POINTS, device)
        self._centers = _points(GRID, device)

    def draw(self, things: Tensor, grounds: Tensor) -> tuple[Tensor, Tensor]:
        """The pictures, (n, 3, side, side) from 0 to 1; and which thing each patch shows, (n, GRID, GRID), 0: none."""
        aspect = grounds[:, GROUND_FIELDS.index("aspect"), None, None]
        red, green, blue = self._background_of(grounds, self._fine)
        fields = [things[:, :, number, None, None] for number in range(len(THING_FIELDS))]
        for slot in range(MOST_THINGS):
            thing = [field[:, slot].contiguous() for field in fields]
            red, green, blue = self._with(red, green, blue, thing, aspect)
        pictures = functional.avg_pool2d(torch.stack([red, green, blue], 1), FINENESS)
        pictures = _without_colors_where(pictures, grounds[:, GROUND_FIELDS.index("is_gray")])
        pictures = _coarse_where(pictures, grounds[:, GROUND_FIELDS.index("is_coarse")])
        return pictures, self._owners(fields, aspect)

    def characters(self, things: Tensor, grounds: Tensor, owners: Tensor) -> Tensor:
        """Which character of a text each patch shows: 1 on, or 0; (n, GRID, GRID)."""
        aspect = grounds[:, GROUND_FIELDS.index("aspect"), None, None]
        found = torch.zeros_like(owners)
        for slot in range(MOST_THINGS):
            thing = [things[:, slot, number, None, None] for number in range(len(THING_FIELDS))]
            across, _ = _within(thing, aspect, self._centers)
            text = thing[0].long() - 1 - FIRST_TEXT_SPRITE
            column = (across * SIDE).long().clamp(0, SIDE - 1)
            said = self._columns[text.clamp(min=0) * SIDE + column].long()
            found = torch.where((owners == slot + 1) & (text >= 0), said, found)
        return found

    def _background(self, grounds: Tensor, points: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Everything that each kind of ground is drawn with is drawn anew at random."""
        x, y = points
        count, device = len(grounds), grounds.device
        kind = grounds[:, 0, None, None]
        chance = torch.rand(9, count, 1, 1, device=device)
        cosine, sine = torch.cos(chance[0] * 6.283), torch.sin(chance[0] * 6.283)
        along, beside = (x - 0.5) * cosine + (y - 0.5) * sine, (y - 0.5) * cosine - (x - 0.5) * sine
        waves = 12 + 50 * chance[1]
        stripes, checks = torch.sin(waves * along), torch.sin(waves * along) * torch.sin(waves * beside)
        striped = torch.where(torch.where(chance[2] < 0.4, checks, stripes) > 0, 1.0, 0.0)
        share = torch.where(kind == 1, (along + 0.5).clamp(0, 1), torch.where(kind == 2, striped, 0.0))
        zoom = TEXTURE_ZOOM[0] + (TEXTURE_ZOOM[1] - TEXTURE_ZOOM[0]) * chance[3]
        turn = (chance[4] - 0.5) * 0.6
        is_photo = kind == 4
        number = torch.where(is_photo, chance[5] * self._photos, self._photos + chance[5] * NOISE_TEXTURES).long()
        across = (
            ((x - 0.5) * torch.cos(turn) - (y - 0.5) * torch.sin(turn)) * zoom + (chance[6] - 0.5) * (1 - zoom) + 0.5
        )
        down = ((x - 0.5) * torch.sin(turn) + (y - 0.5) * torch.cos(turn)) * zoom + (chance[7] - 0.5) * (1 - zoom) + 0.5
        across = torch.where(chance[2] < 0.5, 1 - across, across)
        strength = torch.where(is_photo, 0.6 + 0.5 * chance[1], 0.7 * chance[1])
        turned = torch.where(chance[8] < TURNED_SHARE, chance[8] / TURNED_SHARE * 3, 0).long()
        layers = []
        for channel in range(3):
            base, other = grounds[:, 1 + channel, None, None], grounds[:, 4 + channel, None, None]
            texture = self._texture_at(number, across, down, (turned + channel) % 3)
            textured = torch.where(is_photo, texture * strength, base + (texture - 0.5) * strength)
            layers.append(torch.where(kind >= 3, textured, base + (other - base) * share))
        return tuple(layers)

    def _texture_at(self, number: Tensor, across: Tensor, down: Tensor, channel: Tensor) -> Tensor:
        last = TEXTURE_SIDE - 1
        u, v = across.abs() * last, down.abs() * last
        u, v = last - (last - u).abs(), last - (last - v).abs()  # mirrored at the borders
        left, top = u.floor().clamp(0, last - 1), v.floor().clamp(0, last - 1)
        far_u, far_v = u - left, v - top
        begins = (number * TEXTURE_SIDE + top.long()) * TEXTURE_SIDE + left.long()

        def tap(right: int, below: int) -> Tensor:
            return self._textures[(begins + below * TEXTURE_SIDE + right) * 3 + channel].float()

        upper = tap(0, 0) * (1 - far_u) + tap(1, 0) * far_u
        lower = tap(0, 1) * (1 - far_u) + tap(1, 1) * far_u
        return (upper * (1 - far_v) + lower * far_v) / 255

    def _pasted(
        self, red: Tensor, green: Tensor, blue: Tensor, thing: list[Tensor], aspect: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The picture with one thing more."""
        own_red, own_green, own_blue, alpha = self._sprite(thing, aspect, self._fine)
        below = 1 - alpha
        return red * below + own_red, green * below + own_green, blue * below + own_blue

    def _sprite(self, thing: list[Tensor], aspect: Tensor, points: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """What a thing has at each point: its colours times how much it covers, and how much it covers."""
        is_tinted = thing[1] > 0
        taps = self._taps(thing, aspect, points)
        alpha = sum(weight * (word >> 24 & 255) for weight, word in taps) / 255
        parts = []
        for channel, tint in enumerate(thing[2:5]):
            own = sum(weight * (word >> 8 * channel & 255) for weight, word in taps) / 255
            parts.append(torch.where(is_tinted, alpha * tint, own))
        return *parts, alpha

    def _taps(self, thing: list[Tensor], aspect: Tensor, points: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The four pixels of the sprite around each point, and how much each counts."""
        across, down = _within(thing, aspect, points)
        u, v = across * SIDE - 0.5, down * SIDE - 0.5
        left, top = u.floor(), v.floor()
        is_there = thing[0] > 0
        begins = (thing[0].long() - 1).clamp(min=0) * (SIDE * SIDE)
        taps = []
        for right in (0, 1):
            for below in (0, 1):
                column, row = left + right, top + below
                weight = (1 - (u - column).abs()) * (1 - (v - row).abs())
                inside = is_there & (column >= 0) & (column < SIDE) & (row >= 0) & (row < SIDE)
                at = begins + row.clamp(0, SIDE - 1).long() * SIDE + column.clamp(0, SIDE - 1).long()
                taps.append((torch.where(inside, weight, 0.0), self._sprites[at].long()))
        return taps

    def _owners(self, fields: list[Tensor], aspect: Tensor) -> Tensor:
        owners = torch.zeros(len(aspect), GRID, GRID, dtype=torch.long, device=aspect.device)
        for slot in range(MOST_THINGS):
            thing = [field[:, slot].contiguous() for field in fields]
            cover = self._cover_of(thing, aspect)
            is_shape = thing[0] <= FIRST_EMOJI_SPRITE
            owners = torch.where(cover > torch.where(is_shape, SHAPE_COVER, OTHER_COVER), slot + 1, owners)
        return owners

    def _cover(self, thing: list[Tensor], aspect: Tensor) -> Tensor:
        """How much of each patch a thing covers."""
        alpha = sum(weight * (word >> 24 & 255) for weight, word in self._taps(thing, aspect, self._coarse)) / 255
        return functional.avg_pool2d(alpha[:, None], PATCH_POINTS)[:, 0]


def as_a_camera_would(pictures: Tensor) -> Tensor:
    """Brighter or darker, noisy, sometimes blurred; in 256 steps."""
    count, device = len(pictures), pictures.device
    gain, offset = (
        0.88 + 0.24 * torch.rand(count, 1, 1, 1, device=device),
        torch.rand(count, 1, 1, 1, device=device) - 0.5,
    )
    seen = pictures * gain + offset * 0.08
    seen = seen + torch.randn_like(seen) * torch.rand(count, 1, 1, 1, device=device) ** 3 * 0.06
    small = functional.interpolate(seen, scale_factor=0.5, mode="area")
    blurred = functional.interpolate(small, size=seen.shape[-2:], mode="bilinear", align_corners=False)
    seen = torch.where(torch.rand(count, 1, 1, 1, device=device) < 0.15, blurred, seen)
    return (seen.clamp(0, 1) * 255).round() / 255


def patch_labels(labels: Tensor, owners: Tensor) -> Tensor:
    """What each patch is to be recognised by: (n, GRID * GRID, LABEL_FIELDS), 0 where nothing is."""
    padded = functional.pad(labels, (0, 0, 1, 0))
    places = owners.flatten(1)[:, :, None].expand(-1, -1, len(LABEL_FIELDS))
    return padded.gather(1, places)


def _within(thing: list[Tensor], aspect: Tensor, points: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Where points of the picture are within a thing's sprite, from 0 to 1."""
    x, y = points
    x_unit, y_unit = aspect.clamp(min=1), (1 / aspect).clamp(min=1)
    right, below = (x - thing[5]) * x_unit, (y - thing[6]) * y_unit
    cosine, sine, scale = torch.cos(thing[8]), torch.sin(thing[8]), 0.5 / thing[7].clamp(min=1e-3)
    across = (cosine * right + sine * below) * scale
    across = torch.where(thing[9] > 0, -across, across)
    return across + 0.5, (cosine * below - sine * right) * scale + 0.5


def _without_colors_where(pictures: Tensor, is_gray: Tensor) -> Tensor:
    luminance = (pictures * _LUMINANCE.to(pictures)).sum(1, keepdim=True)
    return torch.where(is_gray[:, None, None, None] > 0, luminance, pictures)


def _coarse_where(pictures: Tensor, is_coarse: Tensor) -> Tensor:
    """As a picture of a few pixels looks when it is enlarged."""
    small = functional.interpolate(pictures, size=COARSE_SIDE, mode="nearest")
    large = functional.interpolate(small, size=INPUT_SIDE, mode="bilinear", align_corners=False)
    return torch.where(is_coarse[:, None, None, None] > 0, large, pictures)


_LUMINANCE = torch.tensor([0.299, 0.587, 0.114])[:, None, None]


def _packed_sprites(bank: Bank) -> Tensor:
    """All pixels as words: red, green, blue times alpha, and alpha; masks are white."""
    shapes = FIRST_TEXT_SPRITE - len(bank.emoji)
    emoji = bank.emoji.astype(np.uint32)
    alpha = emoji[..., 3]
    red, green, blue = (emoji[..., channel] * alpha // 255 for channel in range(3))
    colored = red | green << 8 | blue << 16 | alpha << 24
    masks = bank.masks.astype(np.uint32) << 24
    words = np.concatenate([masks[:shapes], colored, masks[shapes:]])
    return torch.from_numpy(words.view(np.int32).copy()).flatten()


def _texture(pixels: Pixels) -> Tensor:
    square = Image.fromarray(pixels).resize((TEXTURE_SIDE, TEXTURE_SIDE), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(square).copy())


def _noises(seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    made = []
    for number in range(NOISE_TEXTURES):
        grid = NOISE_GRIDS[number % len(NOISE_GRIDS)]
        noise = torch.rand(1, 3, grid, grid, generator=random)
        if number % 2:
            noise = noise.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        large = functional.interpolate(noise, size=TEXTURE_SIDE, mode="bilinear", align_corners=False)
        made.append((large[0].permute(1, 2, 0) * 255).to(torch.uint8))
    return torch.stack(made)


def _points(side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    line = (torch.arange(side, device=device) + 0.5) / side
    return line[None, None, :], line[None, :, None]


def load_parts(folder: Path) -> tuple[Bank, Photographs]:
    """The sprites and photographs that `sprites` and `photographs` wrote."""
    return Bank.load(folder / "bank.npz"), Photographs.load(folder / "photos.npz")

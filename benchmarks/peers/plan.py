"""How much is measured: the whole, or as much as two minutes hold."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """Attributes:
    rounds: of every target, in turn.
    crowds: so many clients ask at once.
    tokens: of a reply, where speed is measured.
    picture_tokens: likewise, where each question has a picture.
    long_prompt: tokens of the prompt that disturbs a running reply.
    calm_seconds: a running reply is watched so long before that.
    picture_pairs: pictures that are asked about twice.
    turns: of a conversation.
    frame_seconds, lag_seconds: how long frames and pictures are sent.
    still_frames: of a camera that sees nothing new.
    cancels: replies that are given up one by one.
    installed_prompt, installed_tokens: of the comparison as installed.
    """

    rounds: int = 5
    crowds: tuple[int, ...] = (1, 4, 8, 16, 32)
    tokens: int = 64
    picture_crowds: tuple[int, ...] = (1, 16)
    picture_tokens: int = 64
    long_prompt: int = 2000
    calm_seconds: float = 4.0
    picture_pairs: int = 16
    turns: int = 10
    frame_seconds: float = 20.0
    lag_seconds: float = 20.0
    still_frames: int = 60
    cancels: int = 16
    installed_prompt: int = 500
    installed_tokens: int = 32


FULL = Plan()
QUICK = Plan(
    rounds=1,
    crowds=(1, 16),
    tokens=8,
    picture_tokens=8,
    long_prompt=200,
    calm_seconds=1.0,
    picture_pairs=1,
    turns=3,
    frame_seconds=4.0,
    lag_seconds=3.0,
    still_frames=10,
    cancels=4,
    installed_prompt=40,
    installed_tokens=8,
)

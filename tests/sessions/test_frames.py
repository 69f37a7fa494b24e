"""Of each source the newest waiting frame is kept, and nobody loses their place."""

from mlx_websockets.events import Ask, TurnLabel
from mlx_websockets.sampling import Sampling
from mlx_websockets.sessions.frames import FrameSlots
from mlx_websockets.sessions.turns import Turn


def frame(number: int, source: str | None = "webcam") -> Turn:
    label = TurnLabel(source=source, is_frame=True)
    return Turn(number=number, label=label, ask=Ask(text=""), sampling=Sampling(), arrived_at=0.0)


def test_a_newer_frame_takes_the_place_of_the_older_and_hands_it_back() -> None:
    slots, older, newer = FrameSlots(), frame(1), frame(2)

    assert slots.offer(older) is None
    assert slots.offer(newer) is older
    assert [newer] == list(slots)
    assert len(slots) == 1


def test_an_update_keeps_its_place_in_line_and_a_taken_source_joins_at_the_end() -> None:
    slots = FrameSlots()
    for number, source in enumerate(["webcam", "screen", "webcam"]):
        slots.offer(frame(number, source))
    assert [each.number for each in slots] == [2, 1]

    taken = slots.take("webcam")
    slots.offer(frame(3, "webcam"))

    assert taken is not None
    assert taken.number == 2
    assert [each.number for each in slots] == [1, 3]


def test_a_source_without_a_waiting_frame_has_nothing_to_take() -> None:
    slots = FrameSlots()
    slots.offer(frame(1, "webcam"))

    assert slots.take("screen") is None
    assert ("webcam" in slots, "screen" in slots, None in slots) == (True, False, False)


def test_a_frame_without_a_source_is_a_source_of_its_own() -> None:
    slots = FrameSlots()
    slots.offer(frame(1, None))

    assert slots.offer(frame(2, "")) is None
    assert len(slots) == 2


def test_frames_can_be_taken_while_going_through_them() -> None:
    slots = FrameSlots()
    for number in range(3):
        slots.offer(frame(number, str(number)))

    for each in slots:
        slots.take(each.label.source)

    assert not slots

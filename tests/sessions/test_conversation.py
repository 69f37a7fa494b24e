"""A conversation is bounded in every direction, and the newest is what stays."""

from hypothesis import given
from hypothesis import strategies as st

from mlx_websockets.events import EncodedImage
from mlx_websockets.sessions.conversation import MAX_CHARACTERS, MAX_PICTURES, MAX_TURNS, Conversation, Exchange


def exchange(text: str = "why", reply: str = "because", pictures: int = 0) -> Exchange:
    return Exchange(text, tuple(EncodedImage(f"{text} {number}") for number in range(pictures)), reply)


def conversation(*exchanges: Exchange) -> Conversation:
    talk = Conversation()
    for each in exchanges:
        talk.add(each)
    return talk


def pictures(exchanges: list[Exchange]) -> list[int]:
    return [len(each.images) for each in exchanges]


def test_exchanges_come_back_as_they_were_oldest_first() -> None:
    said = [exchange("first"), exchange("second", pictures=2), exchange("third")]

    assert said == conversation(*said).recall()


def test_the_oldest_turns_make_way() -> None:
    said = [exchange(str(number)) for number in range(MAX_TURNS + 3)]

    assert said[3:] == conversation(*said).recall()


def test_the_oldest_make_way_for_many_words_but_the_newest_stays_however_long() -> None:
    long, longer = "x" * (MAX_CHARACTERS // 2), "x" * (2 * MAX_CHARACTERS)

    assert ["b", long] == [each.text for each in conversation(exchange(long), exchange("b"), exchange(long)).recall()]
    assert [longer] == [each.text for each in conversation(exchange("a"), exchange(longer)).recall()]


def test_pictures_are_let_go_from_the_oldest_and_the_words_about_them_stay() -> None:
    talk = conversation(exchange("old", pictures=2), exchange("new", pictures=MAX_PICTURES - 1))

    assert pictures(talk.recall()) == [0, MAX_PICTURES - 1]
    assert [each.text for each in talk.recall()] == ["old", "new"]


def test_a_picture_that_was_let_go_is_not_kept_in_memory_either() -> None:
    talk = conversation(exchange(pictures=MAX_PICTURES), exchange(pictures=MAX_PICTURES), exchange())

    assert pictures(list(talk._exchanges)) == [0, MAX_PICTURES, 0]


def test_an_older_picture_never_outlives_a_newer_one() -> None:
    talk = conversation(exchange(pictures=1), exchange(pictures=4), exchange(pictures=2))

    assert pictures(talk.recall(max_pictures=3)) == [0, 0, 2]
    assert pictures(talk.recall(max_pictures=0)) == [0, 0, 0]


@given(st.lists(st.integers(0, MAX_PICTURES + 2), max_size=MAX_TURNS + 5), st.integers(0, MAX_PICTURES))
def test_whatever_was_said_it_stays_within_bounds_and_pictures_are_the_newest(counts: list[int], room: int) -> None:
    recalled = conversation(*(exchange(pictures=count) for count in counts)).recall(room)

    assert len(recalled) == min(len(counts), MAX_TURNS)
    kept, sent = pictures(recalled)[::-1], counts[::-1][:MAX_TURNS]
    assert sum(kept) <= room
    gone = next((place for place, (left, had) in enumerate(zip(kept, sent, strict=True)) if left != had), len(kept))
    assert not any(kept[gone:])
    assert gone == len(kept) or sum(sent[: gone + 1]) > room

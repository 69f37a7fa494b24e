"""Pieces are whole code points, stop strings never show, and nothing is lost."""

from hypothesis import given
from hypothesis import strategies as st

from mlx_websockets.engine.worker.reply.detokenizer import Detokenizer, decoder


class Bytes:
    """The simplest tokenizer: a token is a byte, as in byte-level and byte-fallback vocabularies."""

    def decode(self, token_ids: list[int], **options: bool) -> str:
        return bytes(token_ids).decode("utf-8", errors="replace")


def pieces(text: str, *stop: str) -> tuple[list[str], bool]:
    detokenizer = Detokenizer(decoder(Bytes()), stop)
    said: list[str] = []
    for byte in text.encode():
        said.append(detokenizer.add(byte))
        if detokenizer.stopped:
            break
    said.append(detokenizer.finish())
    return [piece for piece in said if piece], detokenizer.stopped


def test_each_token_is_told_as_soon_as_it_is_text():
    assert pieces("abc") == (["a", "b", "c"], False)


def test_a_code_point_is_told_when_its_last_byte_has_come():
    assert pieces("é🎉") == (["é", "🎉"], False)


def test_a_stop_string_ends_the_reply_before_itself():
    assert pieces("one two three", " two") == (["o", "n", "e"], True)


def test_what_only_looked_like_a_stop_string_is_told_after_all():
    assert "".join(pieces("a STO b STOP", "STOP")[0]) == "a STO b "


def test_the_earliest_of_several_stop_strings_counts():
    assert pieces("xyz", "yz", "y") == (["x"], True)


def test_what_was_held_back_at_the_end_is_told():
    assert "".join(pieces("ST", "STOP")[0]) == "ST"


def test_bytes_that_never_become_a_code_point_are_told_as_such():
    detokenizer = Detokenizer(decoder(Bytes()))

    said = "".join(detokenizer.add(0xF0) for _ in range(3)) + detokenizer.finish()

    assert set(said) == {"\ufffd"}


@given(st.text(max_size=60), st.lists(st.text(min_size=1, max_size=4), max_size=3))
def test_the_pieces_joined_are_the_text_up_to_the_first_stop_string(text: str, stop: list[str]):
    text = text.replace("\ufffd", "?")
    said, stopped = pieces(text, *stop)

    joined = "".join(said)
    assert text.startswith(joined)
    assert stopped == any(each in text for each in stop)
    if not stopped:
        assert joined == text
    for each in stop:
        assert each not in joined

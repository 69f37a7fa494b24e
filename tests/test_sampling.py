"""Settings are taken as a whole or not at all, and a refusal says what, why and what would do."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_websockets.errors import InvalidMessage
from mlx_websockets.sampling import NULLABLE, RANGES, Range, Sampling

LIMITED = ("max_tokens", "max_tokens_image")
LIMIT = 300
SETTINGS = Sampling(limit=LIMIT)


def allowed(key: str) -> Range:
    """What `SETTINGS` may be changed to."""
    return Range(int, 1, LIMIT) if key in LIMITED else RANGES[key]


def good_values(key: str) -> st.SearchStrategy[object]:
    if key == "response_modalities":
        return st.sampled_from([["TEXT"], ("TEXT",)])
    bounds = allowed(key)
    whole = st.integers(int(bounds.least), int(bounds.most))
    if key in NULLABLE:
        return st.none() | whole
    return whole if bounds.kind is int else whole | st.floats(bounds.least, bounds.most)


def bad_values(key: str) -> st.SearchStrategy[object]:
    never = st.sampled_from(
        [True, False, "1", "", [1], {}, math.nan, math.inf, -math.inf, 10**400, -(10**400), 10**5000]
    )
    if key == "response_modalities":
        return never | st.sampled_from([None, [], ["AUDIO"], ["TEXT", "TEXT"], "TEXT"])
    bounds = allowed(key)
    outside = st.integers(max_value=int(bounds.least) - 1) | st.integers(min_value=int(bounds.most) + 1)
    if key not in NULLABLE:
        never |= st.none()
    if bounds.kind is int:
        return never | outside | st.floats()
    return (
        never | outside | st.floats(max_value=bounds.least, exclude_max=True) | st.floats(bounds.most, exclude_min=True)
    )


KEYS = sorted([*RANGES, "response_modalities"])
good_changes = st.fixed_dictionaries({}, optional={key: good_values(key) for key in KEYS})
bad_change = st.sampled_from(KEYS).flatmap(lambda key: st.tuples(st.just(key), bad_values(key)))


@given(good_changes)
def test_every_value_in_range_is_taken_and_nothing_else_changes(changes: dict[str, object]) -> None:
    merged = SETTINGS.merged_with(changes)

    for key in KEYS:
        got = getattr(merged, key)
        if key not in changes:
            assert getattr(SETTINGS, key) == got
        elif key == "response_modalities":
            assert got == ("TEXT",)
        else:
            assert changes[key] == got
            assert got is None or type(got) is RANGES[key].kind
    assert merged.limit == LIMIT


@given(good_changes, bad_change)
def test_a_value_of_another_kind_or_out_of_range_is_refused_by_name(
    changes: dict[str, object], bad: tuple[str, object]
) -> None:
    key, value = bad

    with pytest.raises(InvalidMessage) as refusal:
        SETTINGS.merged_with({**changes, key: value}, {key: "theirName"})

    assert (refusal.value.code, refusal.value.path) == ("invalid_config", "$.theirName")
    assert refusal.value.reason.startswith("`theirName` must be ")
    assert len(refusal.value.reason) < 200


@given(bad_change)
def test_a_refusal_leaves_the_settings_as_they_were(bad: tuple[str, object]) -> None:
    settings = Sampling(limit=LIMIT)

    with pytest.raises(InvalidMessage):
        settings.merged_with({"temperature": 1.5, bad[0]: bad[1]} if bad[0] != "temperature" else dict([bad]))

    assert settings == SETTINGS


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"temperature": 3}, "`temperature` must be a number between 0 and 2, got 3"),
        ({"temperature": True}, "`temperature` must be a number between 0 and 2, got True"),
        ({"temperature": math.nan}, "`temperature` must be a number between 0 and 2, got nan"),
        ({"top_p": "1"}, "`top_p` must be a number between 0 and 1, got '1'"),
        ({"max_tokens": 0}, "`max_tokens` must be a whole number between 1 and 300, got 0"),
        ({"max_tokens": 1.0}, "`max_tokens` must be a whole number between 1 and 300, got 1.0"),
        ({"seed": -1}, "`seed` must be a whole number between 0 and 9223372036854775807, got -1"),
        ({"candidate_count": 9}, "`candidate_count` must be a whole number between 1 and 8, got 9"),
        ({"logprobs": 21}, "`logprobs` must be a whole number between 0 and 20, got 21"),
        ({"top_k": 10**5000}, "`top_k` must be a whole number between 0 and 2147483647, got a far larger number"),
        ({"response_modalities": ["AUDIO"]}, "`response_modalities` must be [\"TEXT\"], got ['AUDIO']"),
    ],
)
def test_a_refusal_says_field_range_and_value(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(InvalidMessage) as refusal:
        SETTINGS.merged_with(changes)

    assert sentence == refusal.value.reason


def test_a_refusal_stays_short_whatever_was_sent() -> None:
    nested: list[object] = []
    for _ in range(500):
        nested = [nested]

    for value in ("x" * 1_000_000, [[1] * 1000] * 1000, nested):
        with pytest.raises(InvalidMessage) as refusal:
            SETTINGS.merged_with({"top_p": value})
        assert len(refusal.value.reason) < 100


@given(st.integers(1, 1_000_000))
def test_the_limit_is_the_longest_reply_that_may_be_asked_for(limit: int) -> None:
    settings = Sampling(limit=limit)

    for key in LIMITED:
        assert limit == getattr(settings.merged_with({key: limit}), key)
        with pytest.raises(InvalidMessage):
            settings.merged_with({key: limit + 1})


@pytest.mark.parametrize(
    ("presence", "frequency", "penalty"), [(0, 0, 1.0), (2, 0, 1.5), (0, 1, 1.25), (0.4, 1.2, 1.3)]
)
def test_the_stronger_penalty_becomes_the_repetition_penalty(presence: float, frequency: float, penalty: float) -> None:
    settings = SETTINGS.merged_with({"presence_penalty": presence, "frequency_penalty": frequency})

    assert penalty == pytest.approx(settings.repetition_penalty)


def test_the_defaults_are_the_contracts_and_in_their_own_ranges() -> None:
    defaults = Sampling()

    assert (defaults.candidate_count, defaults.max_tokens, defaults.max_tokens_image) == (1, 200, 100)
    assert (defaults.temperature, defaults.top_p, defaults.top_k, defaults.seed) == (0.7, 1.0, 50, None)
    assert defaults.repetition_penalty == 1.0
    assert defaults == defaults.merged_with({key: getattr(defaults, key) for key in KEYS})

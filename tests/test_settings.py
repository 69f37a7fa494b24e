"""A wrong flag is refused before anything is loaded, by its name."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from mlx_websockets.errors import UsageError
from mlx_websockets.settings import Settings

BOUNDED = {
    field.name: (field.metadata["least"], field.metadata["most"])
    for field in dataclasses.fields(Settings)
    if field.metadata["least"] is not None
}


def settings(**given: Any) -> Settings:
    return Settings(**given)


def test_the_defaults_are_sound_and_every_setting_explains_itself() -> None:
    defaults = settings()

    assert (defaults.port, defaults.host) == (8765, "0.0.0.0")
    assert all(field.metadata["help"].endswith(".") for field in dataclasses.fields(Settings))


@pytest.mark.parametrize("name", BOUNDED)
def test_a_bound_itself_is_fine_and_one_past_it_is_refused_with_the_flags_name(name: str) -> None:
    least, most = BOUNDED[name]
    flag = "--" + name.replace("_", "-")

    for fine in (least, most):
        assert fine == getattr(settings(**{name: fine}), name)
    for wrong in (least - 1, most + 1):
        with pytest.raises(UsageError) as refusal:
            settings(**{name: wrong})
        assert f"{flag} must be between {least} and {most}, got {wrong}." == refusal.value.reason
        assert flag in refusal.value.hint
        assert "None" not in refusal.value.hint


def test_a_temperature_that_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="--temperature must be between 0 and 2, got nan"):
        settings(temperature=float("nan"))


@pytest.mark.parametrize("name", ["model", "host"])
def test_an_empty_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"--{name} is empty"):
        settings(**{name: "  "})


def test_a_tokenizer_config_must_be_a_file_that_is_there(tmp_path: Path) -> None:
    here = tmp_path / "tokenizer_config.json"
    here.write_text("{}")

    assert str(here) == settings(tokenizer_config=str(here)).tokenizer_config
    for missing in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(UsageError, match="--tokenizer-config: there is no file"):
            settings(tokenizer_config=str(missing))


def test_a_log_looks_one_of_two_ways() -> None:
    assert settings(log_format="json").log_format == "json"
    with pytest.raises(UsageError, match="--log-format is text or json, got 'xml'"):
        settings(log_format="xml")


@pytest.mark.parametrize(
    ("max_tokens", "text", "image", "limit"),
    [(None, 200, 100, 512), (1000, 1000, 100, 1000), (300, 300, 100, 300), (50, 50, 50, 50), (1, 1, 1, 1)],
)
def test_max_tokens_limits_every_reply_and_is_the_default_for_text_where_given(
    max_tokens: int | None, text: int, image: int, limit: int
) -> None:
    sampling = settings(max_tokens=max_tokens).sampling

    assert (text, image, limit) == (sampling.max_tokens, sampling.max_tokens_image, sampling.limit)


def test_a_new_connection_starts_with_the_servers_temperature_also_when_it_is_zero() -> None:
    temperature = settings(temperature=0).sampling.temperature

    assert (0.0, float) == (temperature, type(temperature))


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        ({"draft_model": "some/draft", "model": ("a", "b")}, "--draft-model"),
        ({"draft_model": "some/draft", "kv_bits": 8}, "--draft-model"),
        ({"kv_bits": 5.5}, "--kv-bits"),
        ({"kv_bits": 8, "kv_group_size": 50}, "--kv-group-size"),
        ({"kv_scheme": "magic"}, "--kv-scheme"),
        ({"adapter": "/nowhere/at/all"}, "--adapter"),
        ({"adapter": ".", "model": ("a", "b")}, "--adapter"),
        ({"model": ("a", "a")}, "--model"),
        ({"model": ()}, "--model"),
        ({"memory_budget": 0}, "--memory-budget"),
    ],
)
def test_what_can_t_be_computed_with_is_refused_by_its_flag(given, flag):
    with pytest.raises(UsageError) as refused:
        Settings(**given)

    assert refused.value.reason.startswith(flag)
    assert refused.value.hint


def test_several_models_are_taken_and_one_is_a_list_of_one():
    assert Settings(model=("a", "b")).model == ("a", "b")
    assert Settings(model="a").model == ("a",)
    assert Settings(kv_bits=3.5, kv_scheme="turboquant").kv_bits == 3.5

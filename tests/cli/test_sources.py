"""Where settings come from, and what a file from anybody may not do."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from mlx_websockets.cli.sources import FILE_NAME, Resolved, resolve, variable_of
from mlx_websockets.errors import UsageError
from mlx_websockets.settings import Settings

FIELDS = dataclasses.fields(Settings)
GUARDS = {
    "token", "token_file", "no_auth", "allow_origin", "allowed_host", "tls", "tls_cert", "tls_key",
    "allow_model_loading", "trust_remote_code",
}  # fmt: skip
TOKEN = "a-token-of-some-length"


class Place:
    """A current folder and a user's folder."""

    def __init__(self, root: Path) -> None:
        self.folder, self.user = root / "here", root / "user"
        self.folder.mkdir()
        self.user.mkdir()

    def resolve(self, environment: dict[str, str] | None = None, **given: Any) -> Resolved:
        return resolve(given, environment or {}, self.folder, self.user / FILE_NAME)

    def in_folder(self, text: str) -> None:
        (self.folder / FILE_NAME).write_text(text)

    def in_users(self, text: str) -> None:
        (self.user / FILE_NAME).write_text(text)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# --- precedence -----------------------------------------------------------------------


def test_where_nobody_says_anything_the_defaults_are_in_force(place):
    resolved = place.resolve()

    assert resolved.settings == Settings()
    assert {origin.kind for origin in resolved.origins.values()} == {"default"}
    assert resolved.flags() == []


def test_each_place_gives_way_to_the_one_before_it(place):
    place.in_users("port = 1\nrows = 1\nseed = 1\nmax_tokens = 1")
    place.in_folder("port = 2\nrows = 2\nseed = 2")
    environment = {"MLX_WS_PORT": "3", "MLX_WS_ROWS": "3"}

    resolved = place.resolve(environment, port=4)

    got = resolved.settings
    assert (got.port, got.rows, got.seed, got.max_tokens, got.temperature) == (4, 3, 2, 1, 0.7)
    kinds = [resolved.origins[name].kind for name in ("port", "rows", "seed", "max_tokens", "temperature")]
    assert kinds == ["flag", "environment", "folder", "user", "default"]


def test_a_value_that_is_the_default_still_counts_where_it_is_said(place):
    place.in_folder("port = 9000\ndebug = true")

    resolved = place.resolve(port=8765, debug=False)

    assert (resolved.settings.port, resolved.settings.debug) == (8765, False)
    assert resolved.flags() == ["--port=8765", "--no-debug"]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_setting_has_a_name_in_the_environment(place, field, tmp_path):
    for name in ("some.json", "adapter"):
        (tmp_path / name).touch()
    special = {
        "token": TOKEN, "tls": "auto", "log_format": "json", "kv_scheme": "turboquant", "kv_group_size": "128",
        "tokenizer_config": str(tmp_path / "some.json"), "adapter": str(tmp_path / "adapter"),
        "allow_origin": "https://one.example, https://two.example", "kv_bits": "8",
    }  # fmt: skip
    value = special.get(field.name, "1")
    environment = {variable_of(field.name): value}
    if field.name in ("tls_cert", "tls_key"):
        environment = {"MLX_WS_TLS_CERT": "one.pem", "MLX_WS_TLS_KEY": "two.pem"}

    resolved = place.resolve(environment)

    assert resolved.origins[field.name].kind == "environment"
    assert getattr(resolved.settings, field.name) != field.default or field.name == "local_weight"


def test_what_may_be_repeated_is_a_list_and_commas_separate_it_in_the_environment(place):
    place.in_users('allow_origin = ["https://one.example", "https://two.example"]\nmodel = "demo"')

    in_file = place.resolve().settings
    in_environment = place.resolve({"MLX_WS_MODEL": "demo, other"}).settings

    assert in_file.allow_origin == ("https://one.example", "https://two.example")
    assert (in_file.model, in_environment.model) == (("demo",), ("demo", "other"))


@pytest.mark.parametrize(("text", "value"), [("1", True), ("TRUE", True), ("on", True), ("0", False), ("no", False)])
def test_a_switch_in_the_environment_is_said_in_several_ways(place, text, value):
    assert place.resolve({"MLX_WS_DEBUG": text}).settings.debug is value


def test_a_variable_that_is_set_to_nothing_is_not_set(place):
    assert place.resolve({"MLX_WS_PORT": ""}).origins["port"].kind == "default"


def test_a_token_of_the_environment_is_worth_more_than_the_token_file_of_a_file(place):
    place.in_users('token_file = "some-file"')

    settings = place.resolve({"MLX_WS_TOKEN": TOKEN}).settings

    assert (settings.token, settings.token_file) == (TOKEN, None)


# --- what another process is told -----------------------------------------------------


def test_flags_say_what_flags_and_environment_said_and_never_a_secret(place):
    place.in_folder("rows = 4")
    environment = {"MLX_WS_TOKEN": TOKEN, "MLX_WS_HOST": "localhost"}

    flags = place.resolve(environment, model=("demo", "other"), auto_port=True, seed=-0).flags()

    assert flags == ["--model=demo", "--model=other", "--auto-port", "--host=localhost", "--seed=0"]


# --- files ----------------------------------------------------------------------------


def test_an_unknown_key_is_refused_with_the_closest_real_one(place):
    place.in_folder("prot = 8080")

    with pytest.raises(UsageError) as refusal:
        place.resolve()

    assert f"{place.folder / FILE_NAME}: there is no setting prot." == refusal.value.reason
    assert "Did you mean port?" in refusal.value.hint


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('port = "8080"', "port takes a whole number."),
        ("port = true", "port takes a whole number."),
        ("port = 80.5", "port takes a whole number."),
        ("debug = 1", "debug takes true or false."),
        ("host = 1", "host takes text."),
        ("temperature = 'warm'", "temperature takes a number."),
        ("model = [1]", "model takes text, or a list of it."),
        ("[server]\nport = 1", "there is no setting server."),
        ("port =", "is not TOML"),
        ("port = 1\nport = 2", "is not TOML"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_by_its_name(place, text, reason):
    place.in_folder(text)

    with pytest.raises(UsageError) as refusal:
        place.resolve()

    assert str(place.folder / FILE_NAME) in refusal.value.reason
    assert reason in refusal.value.reason


def test_a_file_that_is_not_text_is_refused(place):
    (place.user / FILE_NAME).write_bytes(b"\xff\xfe")

    with pytest.raises(UsageError, match="is not TOML"):
        place.resolve()


def test_a_value_out_of_bounds_is_told_with_the_place_that_said_it(place):
    place.in_folder("rows = 9999")

    with pytest.raises(UsageError) as refusal:
        place.resolve()

    assert refusal.value.reason == "--rows must be between 1 and 256, got 9999."
    assert f"--rows was said by {place.folder / FILE_NAME}." in refusal.value.hint


def test_a_wrong_variable_is_told_by_its_name_and_a_secret_is_not_repeated(place):
    with pytest.raises(UsageError, match="MLX_WS_PORT takes a whole number"):
        place.resolve({"MLX_WS_PORT": "many"})
    with pytest.raises(UsageError) as refusal:
        place.resolve({"MLX_WS_TOKEN": "too short"})
    assert "too short" not in refusal.value.reason + refusal.value.hint


# --- a file from anybody --------------------------------------------------------------


def test_what_guards_the_machine_is_marked_as_such():
    assert {field.name for field in FIELDS if not field.metadata["in_folder"]} == GUARDS


@pytest.mark.parametrize("name", sorted(GUARDS))
@pytest.mark.parametrize("value", ["true", "false", '"text"', "[]"])
def test_no_guard_can_be_set_in_the_folders_file_whatever_flags_say(place, name, value):
    place.in_folder(f"{name} = {value}")

    with pytest.raises(UsageError, match=f"{name} can't be set in a folder's file"):
        place.resolve()


def test_the_users_own_file_may_set_guards(place):
    place.in_users("no_auth = true\ntrust_remote_code = true")

    settings = place.resolve().settings

    assert settings.no_auth
    assert settings.trust_remote_code


def test_trust_that_the_user_keeps_in_a_file_is_not_for_a_model_that_a_folder_names(place):
    place.in_users("trust_remote_code = true")
    place.in_folder('model = "somebody/model"')

    with pytest.raises(UsageError, match="chooses the model"):
        place.resolve()
    assert place.resolve(trust_remote_code=True).settings.trust_remote_code
    assert not place.resolve(trust_remote_code=False).settings.trust_remote_code
    assert place.resolve(model=("demo",)).settings.trust_remote_code

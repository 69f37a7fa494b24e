"""The token and the certificate: made once, kept for their user alone."""

import datetime
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from mlx_websockets.daemon.certificate import LIFETIME, names_of_this_machine, own_certificate
from mlx_websockets.daemon.secret import TokenLine, keys_folder, own_token, renewed_token, token_in, tokens_in
from mlx_websockets.errors import StartError, UsageError

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"MLX_WS_STATE": str(tmp_path)}


# --- the token --------------------------------------------------------------------------


def test_the_token_is_made_once_and_stays(home):
    token = own_token(home)

    assert len(token) == 43
    assert own_token(home) == token
    assert [each.name for each in keys_folder(home).iterdir()] == ["token"]


def test_its_file_is_for_its_user_alone(home):
    own_token(home)

    assert stat.S_IMODE((keys_folder(home) / "token").stat().st_mode) == 0o600
    assert stat.S_IMODE(keys_folder(home).stat().st_mode) == 0o700


def test_another_one_is_made_on_demand(home):
    old = own_token(home)

    new = renewed_token(home)

    assert new != old
    assert own_token(home) == new


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_one_that_others_can_read_or_write_is_not_used(home, mode):
    own_token(home)
    (keys_folder(home) / "token").chmod(mode)

    with pytest.raises(StartError, match="not yours alone") as caught:
        own_token(home)
    assert "mlx token --new" in caught.value.hint


def test_a_link_in_its_place_is_not_followed(home, tmp_path):
    (tmp_path / "elsewhere").write_text("x" * 30)
    keys_folder(home).mkdir(mode=0o700)
    (keys_folder(home) / "token").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StartError):
        own_token(home)
    assert renewed_token(home) != "x" * 30
    assert (tmp_path / "elsewhere").read_text() == "x" * 30


@pytest.mark.parametrize("content", ["", "short", "with spaces in it, which no header takes", "x" * 400])
def test_what_is_no_token_is_not_used_and_not_said(home, content):
    own_token(home)
    (keys_folder(home) / "token").write_text(content)

    with pytest.raises(StartError) as caught:
        own_token(home)
    assert not content or content not in str(caught.value)


def test_a_file_of_the_users_choice_is_read_or_made(tmp_path):
    path = tmp_path / "chosen"

    made = token_in(path)

    assert token_in(path) == made
    path.write_text("  a-token-of-my-own\n")
    assert token_in(path) == "a-token-of-my-own"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_may_have_many_tokens_with_names_weights_and_rates(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(
        "# for everybody\n"
        "a-token-of-my-own\n"
        "\n"
        "the-token-of-the-cameras cameras weight=3 requests_per_minute=600\n"
        "the-token-of-the-guests\tguests\n"
    )

    assert tokens_in(path) == [
        TokenLine("a-token-of-my-own"),
        TokenLine("the-token-of-the-cameras", "cameras", 3, 600),
        TokenLine("the-token-of-the-guests", "guests"),
    ]
    assert token_in(path) == "a-token-of-my-own"
    assert "token-of" not in repr(tokens_in(path))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("the-token-of-the-cameras cam/eras", "line 2: a name has"),
        ("the-token-of-the-cameras cameras weight=0", "line 2: after the name stand weight (1 to 100)"),
        ("the-token-of-the-cameras cameras weight=many", "line 2: after the name stand"),
        ("the-token-of-the-cameras cameras height=3", "line 2: after the name stand"),
        ("short cameras", "line 2: a token has"),
        ("a-token-of-my-own cameras", "has a token twice"),
        ("the-token-of-the-cameras cameras\nthe-token-of-others cameras", "has a name twice"),
        ("\n".join(f"the-token-number-{number}" for number in range(300)), "has 301 tokens"),
    ],
)
def test_a_line_that_makes_no_sense_is_named_and_its_token_is_not(tmp_path, line, said):
    path = tmp_path / "tokens"
    path.write_text(f"a-token-of-my-own\n{line}\n")

    with pytest.raises(UsageError) as refused:
        tokens_in(path)

    assert said in str(refused.value)
    assert "the-token" not in str(refused.value) and "of-my-own" not in str(refused.value)


def test_a_file_that_is_of_no_use_is_a_mistake_of_the_flag(tmp_path):
    (tmp_path / "empty").touch()
    for path in (tmp_path / "empty", tmp_path / "no/such/folder", tmp_path):
        with pytest.raises(UsageError, match="--token-file"):
            token_in(path)


# --- the certificate --------------------------------------------------------------------


def test_a_certificate_is_for_the_names_and_addresses_of_its_machine(tmp_path):
    names = names_of_this_machine(["192.168.1.20"], hostname="Studio.fritz.box")

    made = own_certificate(tmp_path / "keys", names, now=NOW)
    found = x509.load_pem_x509_certificate(made.path.read_bytes())

    assert made.is_new
    assert made.names == ("localhost", "studio.fritz.box", "studio.local", "127.0.0.1", "::1", "192.168.1.20")
    assert found.not_valid_after_utc - found.not_valid_before_utc <= datetime.timedelta(days=825)
    assert found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert list(found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH
    ]
    assert stat.S_IMODE(made.key_path.stat().st_mode) == 0o600


def test_it_is_kept_while_it_will_do(tmp_path):
    first = own_certificate(tmp_path, ["localhost", "192.168.1.20"], now=NOW)

    again = own_certificate(tmp_path, ["192.168.1.20", "localhost"], now=NOW + LIFETIME - 31 * DAY)

    assert (again.fingerprint, again.is_new) == (first.fingerprint, False)


def test_it_is_renewed_before_it_expires_with_the_same_key(tmp_path):
    first = own_certificate(tmp_path, ["localhost"], now=NOW)
    key = first.key_path.read_bytes()

    again = own_certificate(tmp_path, ["localhost"], now=NOW + LIFETIME - 29 * DAY)

    assert again.fingerprint != first.fingerprint
    assert again.expires > first.expires
    assert again.key_path.read_bytes() == key


def test_a_new_address_makes_a_new_one_that_remembers_the_old(tmp_path):
    own_certificate(tmp_path, ["localhost", "192.168.1.20"], now=NOW)
    moved = own_certificate(tmp_path, ["localhost", "10.0.0.3"], now=NOW)

    back = own_certificate(tmp_path, ["localhost", "192.168.1.20"], now=NOW)

    assert moved.names == ("localhost", "10.0.0.3", "192.168.1.20")
    assert back.fingerprint == moved.fingerprint


def test_on_demand_there_is_another_one_with_another_key(tmp_path):
    first = own_certificate(tmp_path, ["localhost"], now=NOW)
    key = first.key_path.read_bytes()

    again = own_certificate(tmp_path, ["localhost"], now=NOW, anew=True)

    assert again.key_path.read_bytes() != key


@pytest.mark.parametrize("spoiled", ["cert.pem", "key.pem"])
@pytest.mark.parametrize("how", ["gone", "empty", "nonsense"])
def test_one_that_is_spoiled_is_replaced(tmp_path, spoiled, how):
    own_certificate(tmp_path, ["localhost"], now=NOW)
    if how == "gone":
        (tmp_path / spoiled).unlink()
    else:
        (tmp_path / spoiled).write_text("" if how == "empty" else "nonsense")

    assert own_certificate(tmp_path, ["localhost"], now=NOW).is_new


def test_a_host_whose_name_no_certificate_takes_has_one_all_the_same(tmp_path):
    names = names_of_this_machine([], hostname="gerät")

    assert names == ["localhost", "127.0.0.1", "::1"]
    assert own_certificate(tmp_path, names, now=NOW).names == tuple(names)


def test_where_nothing_can_be_written_it_says_what_else_to_do(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(StartError) as caught:
        own_certificate(tmp_path / "file", ["localhost"])
    assert "--tls-cert" in caught.value.hint


def test_this_machine_has_a_name_for_itself():
    assert {"localhost", "127.0.0.1", "::1"} <= set(names_of_this_machine([]))

"""Which handshake may pass: a table of Hosts and Origins."""

import pytest

from mlx_websockets.server.gate import Refusal, host_refusal, own_names, refusal

NAMES = own_names("gpu.lan", hostname="Studio.fritz.box")


def headers(*pairs: tuple[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in pairs]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8765", "127.0.0.1", "192.168.1.20:8765", "[::1]:8765", "[fe80::1]", "[2001:db8::7]:80", "localhost",
        "LOCALHOST:8765", "localhost.", "app.localhost:8765", "studio.fritz.box", "Studio.local:8765", "gpu.lan:1",
    ],
)  # fmt: skip
def test_hosts_that_are_this_server_pass(host):
    assert host_refusal(headers(("host", host)), NAMES) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8765", "localhost.evil.example", "notlocalhost", "127.0.0.1.evil.example", "",
        "user@127.0.0.1", "127.0.0.1/evil", "127.0.0.1:", "127.0.0.1:123456", "[::1", "[evil.example]", "2130706433",
        "0x7f.1", "studio.evil.example", "studio.fritz.box.evil", "127.0.0.1, evil.example", "l\u00f6calhost", "[::1]x",
    ],
)  # fmt: skip
def test_hosts_that_a_stranger_may_have_named_are_refused(host):
    assert host_refusal(headers(("host", host)), NAMES) is not None


def test_a_request_has_exactly_one_host():
    assert host_refusal(headers(), NAMES) is not None
    assert host_refusal(headers(("host", "localhost"), ("Host", "localhost")), NAMES) is not None


def test_what_is_no_browser_needs_no_origin():
    assert refusal(headers(("host", "192.168.1.20:8765")), NAMES) is None


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("192.168.1.20:8765", "http://192.168.1.20:8765"),
        ("192.168.1.20:8765", "HTTP://192.168.1.20:8765"),
        ("gpu.lan", "https://gpu.lan"),
        ("[::1]:8765", "http://[::1]:8765"),
        ("192.168.1.20:8765", "http://localhost:3000"),
        ("192.168.1.20:8765", "https://localhost"),
        ("localhost:8765", "http://127.0.0.1:5173"),
        ("localhost:8765", "http://[::1]:5173"),
    ],
)
def test_pages_of_this_server_and_of_this_machine_may_connect(host, origin):
    assert refusal(headers(("host", host), ("origin", origin)), NAMES) is None


@pytest.mark.parametrize(
    "origin",
    [
        "null", "", "https://evil.example", "http://192.168.1.20", "http://192.168.1.20:8766", "file://", "http://",
        "ws://localhost:8765", "http://localhost.evil.example", "http://evil.example#localhost", "http://127.0.0.1@evil.example",
        "http://localhost:8765/path", "chrome-extension://abc", "http://app.localhost:1", "http://127.0.0.2:8765",
    ],
)  # fmt: skip
def test_other_pages_may_not_and_are_told_as_browsers_are(origin):
    refused = refusal(headers(("host", "192.168.1.20:8765"), ("origin", origin)), NAMES)

    assert refused == Refusal("Pages of this origin may not connect.", is_for_browser=True)


def test_an_origin_that_matches_a_foreign_host_does_not_help():
    refused = refusal(headers(("host", "evil.example:8765"), ("origin", "http://evil.example:8765")), NAMES)

    assert refused is not None and refused.is_for_browser


def test_two_origins_are_refused():
    pairs = (("host", "localhost"), ("origin", "http://localhost"), ("origin", "http://localhost"))

    assert refusal(headers(*pairs), NAMES) is not None


def test_a_machine_without_a_name_has_none():
    assert own_names("127.0.0.1", hostname="") == {"127.0.0.1"}

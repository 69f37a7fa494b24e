"""Which handshake may pass: a table of Hosts and Origins."""

from typing import Any

import pytest

from mlx_websockets.server.gate import Gate, Refusal, address_of, host_refusal, is_local, own_names, party_of
from mlx_websockets.server.parties import Key, Party, holder
from mlx_websockets.server.tokens import Guesses, is_right, key_item, shown_token, with_token

NAMES = own_names("gpu.lan", hostname="Studio.fritz.box", allowed=["Chat.example.org"])
TOKEN = "a-token-that-is-good/+="
KEYS = (Key(TOKEN),)
HERE, ELSEWHERE = "192.168.1.20", "192.168.1.77"


def scope(*pairs: tuple[str, str], client: str = HERE, kind: str = "websocket", path: str = "/", **more: Any):
    """A request that reached the server at its address in the network; from its own machine unless said."""
    return {
        "type": kind, "path": path, "query_string": b"", "subprotocols": [],
        "headers": headers(*pairs), "client": (client, 50000), "server": (HERE, 8765), **more,
    }  # fmt: skip


def refusal(pairs: list[tuple[bytes, bytes]], names: frozenset[str], **rule: Any) -> Refusal | None:
    return Gate(names, **rule).refusal({**scope(), "headers": pairs}, 0.0)


def headers(*pairs: tuple[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in pairs]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8765", "127.0.0.1", "192.168.1.20:8765", "[::1]:8765", "[fe80::1]", "[2001:db8::7]:80", "localhost",
        "LOCALHOST:8765", "localhost.", "app.localhost:8765", "studio.fritz.box", "Studio.local:8765", "gpu.lan:1",
        "chat.example.org",
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


# --- pages that may, because the settings say so ----------------------------------------


@pytest.mark.parametrize("origin", ["https://app.example.org", "HTTPS://app.example.org", "tauri://localhost"])
def test_an_allowed_origin_may_connect(origin):
    allowed = ("https://App.example.org", "tauri://localhost")

    assert refusal(headers(("host", "localhost"), ("origin", origin)), NAMES, origins=allowed) is None


@pytest.mark.parametrize(
    "origin",
    [
        "http://app.example.org", "https://app.example.org:444", "https://app.example.org.evil.example",
        "https://evil.example", "https://app.example.org/", "null", "https://sub.app.example.org",
    ],
)  # fmt: skip
def test_an_allowed_origin_is_compared_whole(origin):
    pairs = headers(("host", "localhost"), ("origin", origin))

    assert refusal(pairs, NAMES, origins=("https://app.example.org",)) is not None


def test_an_allowed_origin_does_not_excuse_a_second_one():
    pairs = headers(("host", "localhost"), ("origin", "https://a.example"), ("origin", "https://a.example"))

    assert refusal(pairs, NAMES, origins=("https://a.example",)) is not None


# --- where a request comes from ---------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "server"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.8.8.8", "127.0.0.1"),
        ("::1", "::1"),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1"),
        ("192.168.1.20", "192.168.1.20"),
        ("2001:db8::7", "2001:db8:0::7"),
    ],
)
def test_a_request_from_a_loopback_or_from_the_address_it_reached_is_local(client, server):
    assert is_local(scope(client=client, server=(server, 8765)))


@pytest.mark.parametrize("client", ["192.168.1.77", "10.0.0.1", "fe80::1", "testclient", ""])
def test_any_other_address_is_elsewhere(client):
    assert not is_local(scope(client=client))
    assert not is_local({**scope(), "client": None})


@pytest.mark.parametrize("name", ["X-Forwarded-For", "forwarded", "x-real-ip", "Via", "x-forwarded-proto"])
def test_what_comes_through_a_proxy_on_this_machine_is_not_local(name):
    assert not is_local(scope((name, "anything"), client="127.0.0.1"))


@pytest.mark.parametrize(
    ("client", "told", "address"),
    [
        ("192.168.1.77", [], "192.168.1.77"),
        ("192.168.1.77", ["10.9.9.9"], "192.168.1.77"),
        ("::ffff:192.168.1.77", [], "192.168.1.77"),
        ("2001:db8:1:2:3:4:5:6", [], "2001:db8:1:2::/64"),
        ("127.0.0.1", ["10.1.1.1, 10.2.2.2"], "10.2.2.2"),
        ("127.0.0.1", ["10.1.1.1", "10.3.3.3"], "10.3.3.3"),
        ("127.0.0.1", ["x" * 1000], "x" * 64),
        ("127.0.0.1", [], "a proxy"),
    ],
)
def test_a_wrong_token_is_counted_where_it_came_from(client, told, address):
    assert address_of(scope(*(("x-forwarded-for", each) for each in told), client=client)) == address


# --- the token ----------------------------------------------------------------------------

SHOWN = {
    "header": {"pairs": [("Authorization", f"Bearer {TOKEN}")]},
    "header, another case": {"pairs": [("authorization", f"bearer  {TOKEN} ")]},
    "subprotocol": {"subprotocols": ["mlx-websockets.v2.json", key_item(TOKEN)]},
    "address": {"query_string": with_token("", TOKEN).removeprefix("/?").encode()},
}


def asks(client: str = ELSEWHERE, pairs: Any = (), **more: Any) -> dict[str, Any]:
    return scope(("host", "192.168.1.20:8765"), *pairs, client=client, **more)


@pytest.mark.parametrize(
    ("kind", "place"), [*(("websocket", each) for each in SHOWN), ("http", "header"), ("http", "address")]
)
def test_the_right_token_opens_from_elsewhere_wherever_it_stands(kind, place):
    gate = Gate(NAMES, keys=KEYS)

    assert gate.refusal(asks(kind=kind, **SHOWN[place]), 0.0) is None


@pytest.mark.parametrize(
    "path", ["/", "/ws", "/v1/status", "/readyz", "/metrics", "/elsewhere", "/healthz/x", "//healthz"]
)
@pytest.mark.parametrize("kind", ["websocket", "http"])
def test_every_path_wants_it_from_elsewhere(path, kind):
    gate = Gate(NAMES, keys=KEYS)
    wrong = [("authorization", "Bearer wrong-wrong-wrong")]

    outcomes = [gate.refusal(asks(kind=kind, path=path, pairs=pairs), 0.0) for pairs in ([], wrong)]

    assert [each and each.status for each in outcomes] == [401, 401]
    assert [each and each.headers["www-authenticate"][:6] for each in outcomes] == ["Bearer", "Bearer"]
    assert gate.refusal(asks(HERE, kind=kind, path=path), 0.0) is None


def test_whether_it_lives_anybody_may_ask_and_whoever_has_a_browser_sees_the_page():
    gate = Gate(NAMES, keys=KEYS)
    browser = [("accept", "text/html,*/*;q=0.8")]

    assert gate.refusal(asks(kind="http", path="/healthz"), 0.0) is None
    assert gate.refusal(asks(kind="http", path="/", pairs=browser), 0.0) is None
    assert gate.refusal(asks(kind="http", path="/metrics", pairs=browser), 0.0) is not None
    assert gate.refusal(asks(kind="websocket", path="/", pairs=browser), 0.0) is not None
    assert gate.refusal(asks(kind="websocket", path="/healthz"), 0.0) is not None


@pytest.mark.parametrize(
    "shown",
    [
        {"pairs": [("authorization", "Bearer \xe9\xff")]},
        {"pairs": [("authorization", "Bearer")]},
        {"pairs": [("authorization", f"Bearer {TOKEN}x")]},
        {"pairs": [("authorization", f"Bearer {TOKEN[:-1]}")]},
        {"pairs": [("authorization", f"Bearer {TOKEN.upper()}")]},
        {"pairs": [("authorization", f"Basic {TOKEN}")]},
        {"subprotocols": ["mlx-key."]},
        {"subprotocols": ["mlx-key.!!!!"]},
        {"subprotocols": ["mlx-key.A"]},
        {"subprotocols": [key_item("another-token-altogether")]},
        {"subprotocols": [f"mlx-key.{TOKEN}"]},
        {"query_string": b"token="},
        {"query_string": b"token=%ff%fe"},
        {"query_string": b"token=%ED%A0%80"},
        {"query_string": b"Token=" + TOKEN.encode()},
        {"query_string": b"a=1&" * 200 + b"token=" + TOKEN.encode()},
    ],
)
def test_anything_else_is_wrong_and_no_mistake_of_ours(shown):
    refused = Gate(NAMES, keys=KEYS).refusal(asks(**shown), 0.0)

    assert refused is not None and refused.status == 401


def test_one_request_is_one_guess():
    both = asks(pairs=[("authorization", "Bearer wrong")], query_string=b"token=" + TOKEN.encode())

    assert shown_token(both) == b"wrong"


def test_without_a_token_of_its_own_a_server_lets_nobody_else_in():
    gate = Gate(NAMES)

    assert gate.refusal(asks(), 0.0) is not None
    assert gate.refusal(asks(query_string=b"token="), 0.0) is not None
    assert gate.refusal(asks(HERE), 0.0) is None


def test_an_open_server_wants_none_and_checks_hosts_and_pages_all_the_same():
    gate = Gate(NAMES, is_open=True)

    assert gate.refusal(asks(), 0.0) is None
    assert gate.refusal(asks(pairs=[("origin", "https://evil.example")]), 0.0) is not None
    assert gate.refusal(scope(("host", "evil.example"), client=ELSEWHERE), 0.0) is not None


def test_a_page_is_turned_away_for_its_token_as_browsers_are():
    refused = Gate(NAMES, keys=KEYS).refusal(asks(pairs=[("origin", "http://192.168.1.20:8765")]), 0.0)

    assert refused is not None and refused.is_for_browser
    assert len(refused.reason.encode()) <= 123


def test_nothing_behind_the_gate_sees_a_token():
    seen = Gate(NAMES, keys=KEYS).passed(
        asks(
            pairs=[
                ("authorization", f"Bearer {TOKEN}"),
                ("sec-websocket-protocol", f"mlx-websockets.v2.json, {key_item(TOKEN)}"),
                ("referer", f"http://192.168.1.20:8765/?token={TOKEN}"),
                ("cookie", "a=b"),
            ],
            subprotocols=["mlx-websockets.v2.json", key_item(TOKEN)],
            query_string=b"token=" + TOKEN.encode() + b"&a=1",
        )
    )

    assert seen["subprotocols"] == ["mlx-websockets.v2.json"]
    assert seen["query_string"] == b"a=1"
    assert seen["headers"] == headers(
        ("host", "192.168.1.20:8765"), ("sec-websocket-protocol", "mlx-websockets.v2.json"), ("cookie", "a=b")
    )
    assert TOKEN not in repr(seen)


def test_tokens_are_compared_as_bytes():
    assert is_right(b"abc", "abc")
    assert not is_right(b"\xe9", "\xe9")
    assert not is_right(b"", "abc")


def test_who_asks_is_told_behind_the_gate():
    keys = (Key(TOKEN), Key("the-token-of-the-cameras", holder("cameras", weight=3)), Key("another-for-everybody"))
    gate = Gate(NAMES, keys=keys)

    def party(token: str, client: str = ELSEWHERE) -> Party | None:
        return party_of(gate.passed(asks(client, pairs=[("authorization", f"Bearer {token}")])))

    assert party(TOKEN) == party("another-for-everybody") == Party(ELSEWHERE)
    assert party("the-token-of-the-cameras") == Party("token cameras", weight=3)
    assert party("the-token-of-the-cameras", HERE) == Party("token cameras", weight=3)
    assert party(TOKEN, HERE) is party("wrong-wrong-wrong", HERE) is None


def test_each_of_several_tokens_opens():
    keys = (Key(TOKEN), Key("the-token-of-the-cameras", holder("cameras")))
    gate = Gate(NAMES, keys=keys)

    assert guess(gate, ELSEWHERE, 0.0, TOKEN) is guess(gate, ELSEWHERE, 0.0, "the-token-of-the-cameras") is None
    assert guess(gate, ELSEWHERE, 0.0, "the-token-of-the-camera") == 401


# --- guessing -----------------------------------------------------------------------------


def guess(gate: Gate, client: str, now: float, token: str = "wrong-wrong-wrong") -> int | None:
    refused = gate.refusal(asks(client, pairs=[("authorization", f"Bearer {token}")]), now)
    return refused and refused.status


def test_ten_wrong_tokens_close_the_door_for_a_minute_to_right_ones_too():
    gate = Gate(NAMES, keys=KEYS)

    assert [guess(gate, ELSEWHERE, now) for now in range(10)] == [401] * 10
    assert guess(gate, ELSEWHERE, 10) == 429
    assert guess(gate, ELSEWHERE, 68.9, TOKEN) == 429
    assert guess(gate, ELSEWHERE, 69.1, TOKEN) is None


def test_it_says_when_to_try_again():
    gate = Gate(NAMES, keys=KEYS)
    for _ in range(10):
        guess(gate, ELSEWHERE, 100.0)

    refused = gate.refusal(asks(pairs=[("authorization", "Bearer x")]), 130.0)

    assert refused is not None and refused.headers == {"retry-after": "31"}


def test_nobody_else_has_to_wait_for_who_guesses():
    gate = Gate(NAMES, keys=KEYS)
    for _ in range(20):
        guess(gate, ELSEWHERE, 0.0)
        guess(gate, "127.0.0.1", 0.0)

    assert guess(gate, "192.168.1.78", 0.0, TOKEN) is None
    assert guess(gate, "127.0.0.1", 0.0) is None
    assert gate.refusal(asks(), 0.0).status == 401  # who shows none, does not guess


def test_a_few_wrong_ones_now_and_then_are_forgiven():
    gate = Gate(NAMES, keys=KEYS)

    assert {guess(gate, ELSEWHERE, 7.0 * each) for each in range(100)} == {401}


def test_a_crowd_of_guessers_takes_no_more_room_than_there_is():
    guesses = Guesses()
    for each in range(10_000):
        guesses.note_wrong(str(each), float(each))

    assert len(guesses._wrong) == 4096

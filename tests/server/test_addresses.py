"""Under which addresses a server is told to be."""

import pytest

from mlx_websockets.server.addresses import Addresses, addresses_of, is_loopback, network_addresses, reachable


def test_bound_to_this_machine_it_has_no_network_addresses():
    assert addresses_of("localhost", 8765) == Addresses(8765, "ws://localhost:8765")
    assert addresses_of("127.0.0.1", 1) == Addresses(1, "ws://127.0.0.1:1")
    assert addresses_of("::1", 1) == Addresses(1, "ws://[::1]:1")


def test_bound_to_every_address_it_names_each_network():
    addresses = addresses_of("0.0.0.0", 8765)

    assert addresses.local == "ws://localhost:8765"
    assert addresses.network == tuple(f"ws://{each}:8765" for each in network_addresses())


def test_bound_to_one_address_it_names_that_one():
    assert addresses_of("192.168.1.20", 8765).network == ("ws://192.168.1.20:8765",)


def test_addresses_that_nobody_else_can_use_are_left_out():
    found = ["127.0.0.1", "192.168.1.20", "169.254.7.7", "10.0.0.3", "0.0.0.0", "192.168.1.20", "203.0.113.9"]

    assert reachable(found) == ["192.168.1.20", "10.0.0.3", "203.0.113.9"]


@pytest.mark.parametrize(("host", "answer"), [("127.8.8.8", True), ("app.localhost", True), ("gpu.lan", False)])
def test_loopback_is_known_by_address_and_by_name(host, answer):
    assert is_loopback(host) is answer

import io

from mlx_websockets.cli.console import Console
from mlx_websockets.cli.serve import ServerView, model_rows
from mlx_websockets.server.addresses import Addresses
from mlx_websockets.settings import Settings


def status(*, sees: bool = True, max_images: int = 8, backend: str = "metal", blas: str | None = None):
    info = {"id": "some/model", "sees": sees, "max_images": max_images, "backend": backend}
    return {"model_info": info, "memory": {"active": 2_610_000_000}, "blas": blas}


def said(settings: Settings, addresses: Addresses) -> list[str]:
    stream = io.StringIO()
    ServerView(Console(stream, {}), settings, status).serving(addresses)
    return stream.getvalue().splitlines()


def test_every_network_address_has_its_line():
    lines = said(Settings(), Addresses(8765, "ws://localhost:8765", ("ws://10.0.0.2:8765", "ws://192.168.1.2:8765")))

    assert "  Page:             http://localhost:8765" in lines
    assert "  Local:            ws://localhost:8765" in lines
    assert "  On Your Network:  ws://10.0.0.2:8765" in lines
    assert "  On Your Network:  ws://192.168.1.2:8765" in lines
    assert not [line for line in lines if line.startswith("!")]


def test_a_server_for_this_machine_only_gives_no_warning():
    assert not [line for line in said(Settings(), Addresses(8765, "ws://localhost:8765")) if line.startswith("!")]


def test_another_port_than_the_one_asked_for_is_pointed_out():
    lines = said(Settings(auto_port=True), Addresses(8767, "ws://localhost:8767"))

    assert "! Port 8765 was taken, so it is 8767." in lines


def test_a_port_that_the_system_was_to_choose_is_no_surprise():
    assert not [line for line in said(Settings(port=0), Addresses(4242, "ws://localhost:4242")) if "taken" in line]


def test_the_model_is_described_by_what_it_takes_and_what_it_runs_on():
    assert model_rows(status()) == [
        ("Model", "some/model (text, and up to 8 pictures at once)"),
        ("Memory", "2.61 GB in use"),
        ("Backend", "metal"),
    ]
    assert ("Model", "some/model (text only)") in model_rows(status(sees=False, max_images=0))
    assert ("Backend", "cpu, OpenBLAS of opencv") in model_rows(status(backend="cpu", blas="OpenBLAS of opencv"))

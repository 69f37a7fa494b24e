"""Who may connect, as people say it and see it; and that a token is seen nowhere else."""

import asyncio
import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_websockets.cli.access import WayIn, given_token, way_in, without_token
from mlx_websockets.cli.announcement import address_rows, announce, code_of, page_of
from mlx_websockets.cli.console import Console
from mlx_websockets.client import connect
from mlx_websockets.errors import UsageError
from mlx_websockets.server.access import Access
from mlx_websockets.server.addresses import Addresses
from mlx_websockets.settings import Settings

TOKEN = "CANARY/canary+CANARY"
SECURE = Addresses(8766, "wss://localhost:8766", ("wss://10.0.0.2:8766",))
ADDRESSES = Addresses(8765, "ws://localhost:8765", ("ws://10.0.0.2:8765",), SECURE)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def announced(stream: io.StringIO, entrance: WayIn, *, is_open: bool = False, addresses: Addresses = ADDRESSES) -> str:
    announce(Console(stream, {}), addresses, entrance, is_open=is_open)
    return stream.getvalue()


# --- what is said -----------------------------------------------------------------------


def test_on_a_terminal_the_addresses_for_others_carry_the_token():
    said = announced(Terminal(), WayIn(Access(TOKEN)))

    assert "ws://10.0.0.2:8765/?token=CANARY%2Fcanary%2BCANARY\n" in said
    assert "wss://10.0.0.2:8766/?token=CANARY%2Fcanary%2BCANARY\n" in said
    assert "ws://localhost:8765\n" in said
    assert "█" in said


def test_where_it_is_kept_there_is_no_token_but_where_to_find_it():
    said = announced(io.StringIO(), WayIn(Access(TOKEN), "`mlx token` shows it."))

    assert "CANARY" not in said
    assert "ws://10.0.0.2:8765\n" in said
    assert "→ Other machines need the token. `mlx token` shows it.\n" in said
    assert "█" not in said


def test_no_auth_is_loud():
    said = announced(io.StringIO(), WayIn(Access()), is_open=True)

    assert "! --no-auth: EVERYBODY on your network can use this server, without a token.\n" in said


def test_a_server_that_has_no_token_says_why_nobody_else_gets_in():
    said = announced(io.StringIO(), WayIn(Access(), trouble="The disk is full. Other machines are not let in."))

    assert "! The disk is full. Other machines are not let in.\n" in said


def test_a_server_for_this_machine_only_says_nothing_of_tokens():
    here = Addresses(8765, "ws://localhost:8765")

    assert announced(Terminal(), WayIn(Access(TOKEN)), addresses=here) == (
        "  Page:   http://localhost:8765\n  Local:  ws://localhost:8765\n"
    )


def test_every_address_has_a_row():
    assert [name for name, _ in address_rows(ADDRESSES)] == [
        "Page", "Local", "On Your Network", "Encrypted, Local", "Encrypted, On Your Network",
    ]  # fmt: skip


def test_a_phone_opens_the_encrypted_page_if_there_is_one():
    assert page_of(ADDRESSES, "abc") == "https://10.0.0.2:8766/?token=abc"
    assert page_of(Addresses(1, "", ("ws://10.0.0.2:1",)), None) == "http://10.0.0.2:1"


def test_the_code_is_square_and_has_a_quiet_border():
    code = code_of("http://10.0.0.2:8765/?token=" + 43 * "x")

    assert {len(line) for line in code} == {len(code[0])}
    assert abs(2 * len(code) - len(code[0])) <= 1
    assert set(code[0]) == {"█"}


# --- what is given ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "kept", "token"),
    [
        (["mlx", "serve", "--token", "secret"], ["mlx", "serve"], "secret"),
        (["mlx", "serve", "--token=secret", "--debug"], ["mlx", "serve", "--debug"], "secret"),
        (["mlx", "serve", "--token", "one", "--token=two"], ["mlx", "serve"], "two"),
        (["mlx", "serve", "--token", "-"], ["mlx", "serve", "--token=-"], None),
        (["mlx", "serve", "--token"], ["mlx", "serve", "--token=-"], None),
        (["mlx", "serve", "--token-file", "f"], ["mlx", "serve", "--token-file", "f"], None),
    ],
)
def test_a_command_line_is_rid_of_its_token(words, kept, token):
    assert without_token(words) == (kept, token)


def test_a_token_comes_from_a_file_or_a_flag_or_the_environment_or_is_made(tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text("token-of-the-file")
    monkeypatch.setenv("MLX_WS_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("MLX_WS_TOKEN", "token-of-the-environment")

    assert given_token(Settings(token="token-of-the-flag", token_file=str(file))) == "token-of-the-file"
    assert given_token(Settings(token="token-of-the-flag")) == "token-of-the-flag"
    assert given_token(Settings()) == "token-of-the-environment"
    assert way_in(Settings()).access.token == "token-of-the-environment"
    assert "MLX_WS_TOKEN" not in os.environ
    made = way_in(Settings())
    assert made.access.token == (tmp_path / "state/keys/token").read_text().strip()
    assert "mlx token" in made.whereabouts


def test_a_state_folder_that_is_of_no_use_costs_the_others_and_not_the_server(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLX_WS_STATE", str(tmp_path / "file"))

    found = way_in(Settings())

    assert found.access.token is None
    assert "Other machines are not let in" in found.trouble


def test_a_token_that_is_none_is_refused_without_being_said(monkeypatch):
    monkeypatch.setenv("MLX_WS_TOKEN", "in secret")

    with pytest.raises(UsageError, match="MLX_WS_TOKEN") as caught:
        given_token(Settings())
    assert "in secret" not in str(caught.value)


def test_settings_do_not_show_a_token():
    assert TOKEN not in repr(Settings(token=TOKEN))


# --- the canary -------------------------------------------------------------------------


def processes_that_show(secret: str) -> list[str]:
    """Command lines that have it; `ps` reads the same."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if secret.encode() in line:
            found.append(str(path))
    return found


def files_that_have(secret: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def answer_of(port: int, path: str, headers: dict[str, str]) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path, headers={"X-Forwarded-For": "192.0.2.7", **headers})
    answer = connection.getresponse()
    return f"{answer.status} {answer.getheaders()} {answer.read()!r}"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_token_is_seen_nowhere_during_a_whole_session(tiny_gemma3: Path, tmp_path: Path):
    """Given on the command line, the worst place there is, and used in each place where it may be."""
    command = [sys.executable, "-m", "mlx_websockets", "serve", "--model", str(tiny_gemma3), "--port", "0", "--debug"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "MLX_WS_STATE": str(tmp_path)}
    with subprocess.Popen(
        [*command, "--token", TOKEN], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        said = []
        for line in server.stdout:
            said.append(line)
            if "Press Ctrl+C" in line:
                break
        port = int(re.search(r"ws://localhost:(\d+)", "".join(said))[1])  # type: ignore[index]
        answers = [
            answer_of(port, "/v1/status", {"Authorization": f"Bearer {TOKEN}"}),
            answer_of(port, "/?token=CANARY%2Fcanary%2BCANARY", {}),
            answer_of(port, "/?token=CANARY/canary%2BCANARY", {}),
            answer_of(port, "/nowhere?token=CANARY/canary%2BCANARY", {}),
            answer_of(port, "/v1/status", {"Authorization": f"Bearer {TOKEN}x"}),
            answer_of(port, "/v1/status?token=" + 17 * "CANARY", {"Upgrade": "websocket", "Connection": "Upgrade"}),
        ]

        async def talk() -> str:
            async with connect(f"ws://127.0.0.1:{port}", token=TOKEN) as mlx:
                await mlx.ask("Hello", max_tokens=3).result()
                return json.dumps(await mlx.status())

        answers.append(asyncio.run(talk()))
        shown = processes_that_show(TOKEN)
        kept = files_that_have("CANARY", tmp_path)
        server.send_signal(signal.SIGINT)
        said.append(server.communicate(timeout=30)[0])

    assert [answer[:3] for answer in answers[:5]] == ["200", "200", "200", "404", "401"]
    assert "CANARY" not in "".join(answers)
    assert "CANARY" not in "".join(said)
    assert (shown, kept) == ([], [])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_background_server_gets_its_token_unseen(tiny_gemma3: Path, tmp_path: Path):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "MLX_WS_STATE": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    mlx = [sys.executable, "-m", "mlx_websockets"]

    def run(*words: str, said: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run([*mlx, *words], input=said, capture_output=True, text=True, env=environment, timeout=90)

    started = run(
        "background", "serve", "--model", str(tiny_gemma3), "--port", "0", "--token", "-", "--json", said=TOKEN + "\n"
    )
    try:
        assert started.returncode == 0, started.stderr
        port = json.loads(started.stdout)["port"]

        assert answer_of(port, "/v1/status", {"Authorization": f"Bearer {TOKEN}"}).startswith("200")
        assert answer_of(port, "/v1/status", {}).startswith("401")
        assert processes_that_show(TOKEN) == []
        assert files_that_have("CANARY", tmp_path) == []
        assert "CANARY" not in started.stdout + started.stderr
    finally:
        run("background", "stop", "--all")


def test_the_commands_show_token_and_certificate(tmp_path: Path):
    environment = {**os.environ, "MLX_WS_STATE": str(tmp_path)}
    mlx = [sys.executable, "-m", "mlx_websockets"]

    def said(*words: str) -> str:
        return subprocess.run([*mlx, *words], capture_output=True, text=True, env=environment, check=True).stdout

    first = said("token")
    assert len(first.strip()) == 43
    assert said("token") == first
    assert said("token", "--new") != first
    made = json.loads(said("cert", "--json"))
    assert (made["is_new"], Path(made["certificate"]).is_file()) == (True, True)
    again = said("cert")
    assert made["sha256"] in again
    assert "There is a certificate" in again
    assert "localhost" in again


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_a_service_is_not_given_a_token_that_its_file_would_show(tmp_path: Path, how: str):
    environment = {**os.environ, "MLX_WS_STATE": str(tmp_path)} | ({} if how == "flag" else {"MLX_WS_TOKEN": TOKEN})
    words = ["service", "install", "--print"] + (["--token", TOKEN] if how == "flag" else [])

    done = subprocess.run(
        [sys.executable, "-m", "mlx_websockets", *words], capture_output=True, text=True, env=environment
    )

    assert done.returncode == 2
    assert "--token-file" in done.stderr
    assert "CANARY" not in done.stdout + done.stderr

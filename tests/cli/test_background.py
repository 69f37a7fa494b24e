"""`mlx background`, `mlx status` and the like: the real programs, with a small real model."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Told = subprocess.CompletedProcess[str]
PATIENCE_SECONDS = 60.0


class Mlx:
    """The program, with a state folder of its own."""

    def __init__(self, home: Path) -> None:
        self.environment = {**os.environ, "HOME": str(home), "MLX_WS_STATE": str(home / "state"), "COLUMNS": "100"}

    def __call__(self, *arguments: str, **environment: str) -> Told:
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            env={**self.environment, **environment},
        )

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**self.environment, **environment},
        )

    def servers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self("status", "--json").stdout)
        return found

    @staticmethod
    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "mlx_websockets", *arguments]


@pytest.fixture
def mlx(tmp_path: Path) -> Iterator[Mlx]:
    program = Mlx(tmp_path)
    yield program
    if (tmp_path / "state").exists():  # else it started nothing
        program("stop", "--all")


@pytest.fixture
def flags(tiny_gemma3: Path) -> list[str]:
    return ["--model", str(tiny_gemma3), "--host", "localhost"]


def until(holds: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


# --- a server's life ------------------------------------------------------------------


def test_a_background_server_is_started_shown_restarted_and_stopped(mlx, flags):
    started = mlx("background", "serve", *flags, "--port", "0", "--max-tokens", "7")
    assert (started.returncode, started.stderr) == (0, "")
    assert "→ Loading" in started.stdout
    assert "✓ Server running in the background" in started.stdout

    (server,) = mlx.servers()
    assert (server["state"], server["is_background"]) == ("ready", True)
    assert server["connections"] == 0
    assert server["tokens_per_second"] == 0
    assert server["memory_bytes"] > 10_000_000
    assert server["model_memory_bytes"].keys() == {"active", "cached", "peak", "resident", "kept"}
    assert re.search(r"Of the model: .* active, .* kept, ", mlx("status").stdout)
    assert f"ws://localhost:{server['port']}" in mlx("status").stdout
    assert str(server["pid"]) in mlx("ps").stdout.splitlines()[1]
    assert "✓ Model loaded" in mlx("background", "logs").stdout
    assert f"ws://localhost:{server['port']}" in mlx("bg", "logs").stdout

    restarted = mlx("background", "restart", "--json")
    assert restarted.returncode == 0
    (again,) = mlx.servers()
    assert again["port"] == server["port"]
    assert again["pid"] != server["pid"]
    assert "--max-tokens=7" in again["arguments"]
    assert {*server["arguments"]} - {"--port=0"} == {*again["arguments"]} - {f"--port={server['port']}"}

    stopped = mlx("background", "stop")
    assert (stopped.returncode, stopped.stdout.splitlines()[-1]) == (0, "✓ Stopped")
    assert "✓ Server stopped" in mlx("background", "logs", again["id"][:6], "-n", "1").stdout
    logged = json.loads(mlx("background", "logs", again["id"][:6], "--json").stdout)
    assert (logged["file"], "✓ Server stopped" in logged["lines"][-1]) == (again["log"], True)
    assert mlx.servers() == []


class Caller:
    """Connects to a port again and again, and counts how that went."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answered = 0
        self.failures: list[str] = []
        self.is_done = threading.Event()
        self.thread = threading.Thread(target=self._call)

    def _call(self) -> None:
        while not self.is_done.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=10) as peer:
                    peer.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    assert peer.recv(64).startswith(b"HTTP/1.1 200")
                    self.answered += 1
            except (OSError, AssertionError) as error:
                self.failures.append(repr(error))

    def __enter__(self) -> "Caller":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_done.set()
        self.thread.join()


def test_nobody_who_connects_during_a_restart_is_refused(mlx, flags):
    mlx("background", "serve", *flags, "--port", "0")
    (server,) = mlx.servers()

    with Caller(server["port"]) as caller:
        restarted = mlx("background", "restart")

    assert (restarted.returncode, caller.failures) == (0, [])
    assert caller.answered > 10
    (again,) = mlx.servers()
    assert (again["port"], again["pid"] != server["pid"]) == (server["port"], True)


def test_an_heir_that_cannot_start_leaves_the_old_server_serving(mlx, tiny_gemma3, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_gemma3, model)
    mlx("background", "serve", "--model", str(model), "--host", "localhost", "--port", "0")
    (server,) = mlx.servers()
    shutil.rmtree(model)

    restarted = mlx("background", "restart")

    assert restarted.returncode == 5
    assert [each["pid"] for each in mlx.servers() if each["state"] == "ready"] == [server["pid"]]
    with Caller(server["port"]) as caller:
        until(lambda: caller.answered)
    assert caller.failures == []


def test_two_started_at_once_run_side_by_side_and_a_bystander_survives_stop_all(mlx, flags):
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "mlx_websockets", "mlx serve"])
    pair = [mlx.start("background", "serve", *flags) for _ in range(2)]
    for each in pair:
        assert (each.communicate()[1], each.returncode) == (None, 0)
    servers = mlx.servers()
    assert len({server["port"] for server in servers}) == 2

    unclear = mlx("background", "stop")
    one = mlx("stop", "--port", str(servers[0]["port"]), "--json")
    rest = mlx("stop", "--all")

    assert unclear.returncode == 2
    assert "There are 2 servers" in unclear.stderr
    assert [servers[0]["id"]] == [each["id"] for each in json.loads(one.stdout)]
    assert f"id {servers[1]['id']}" in rest.stdout
    assert mlx.servers() == []
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_a_server_in_a_terminal_is_on_record_and_tells_its_service_manager(mlx, flags, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE_SECONDS)
        server = mlx.start("serve", *flags, "--port", "0", NOTIFY_SOCKET=str(tmp_path / "notify"))

        assert manager.recv(100) == b"READY=1"
        (record,) = mlx.servers()
        spared = mlx("background", "stop")
        stopped = mlx("stop", record["id"])

        assert manager.recv(100) == b"STOPPING=1"
    assert (record["is_background"], record["pid"]) == (False, server.pid)
    assert (spared.returncode, stopped.returncode) == (3, 0)
    assert "No background server is running." in spared.stderr
    assert (server.wait(), mlx.servers()) == (0, [])
    assert server.stdout is not None
    server.stdout.close()


def test_every_address_of_a_background_server_is_told(mlx, flags):
    started = mlx("background", "serve", *flags, "--port", "0", "--tls", "auto", "--tls-port", "0")

    (server,) = mlx.servers()
    assert f"http://localhost:{server['port']}\n" in started.stdout
    assert f"ws://localhost:{server['port']}\n" in started.stdout
    assert f"wss://localhost:{server['tls_port']}\n" in started.stdout
    assert f"port {server['tls_port']}\n" in mlx("status").stdout


def test_ctrl_c_while_waiting_leaves_the_server_running_and_says_so(mlx, flags):
    waiting = mlx.start("background", "serve", *flags, "--port", "0")
    (record,) = until(mlx.servers)

    waiting.send_signal(signal.SIGINT)
    said, _ = waiting.communicate()

    assert waiting.returncode == 130
    assert f"It goes on in the background, with the id {record['id']}." in said
    until(lambda: [each["state"] for each in mlx.servers()] == ["ready"])


def test_following_a_log_ends_with_its_server(mlx, flags):
    mlx("background", "serve", *flags, "--port", "0")
    following = mlx.start("background", "logs", "-f")
    assert following.stdout is not None
    assert following.stdout.readline().startswith("→ Loading")

    mlx("background", "stop")
    said, _ = following.communicate(timeout=PATIENCE_SECONDS)

    assert following.returncode == 0
    assert "✓ Server stopped" in said
    assert said.endswith("→ The server has ended.\n")


# --- what goes wrong ------------------------------------------------------------------


def test_an_explicit_port_never_moves_and_whoever_has_it_is_not_touched(mlx, flags):
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        port = theirs.getsockname()[1]

        refused = mlx("background", "serve", *flags, "--port", str(port))
        stopped = mlx("stop", "--port", str(port))
        moved = mlx("background", "serve", *flags, "--port", str(port), "--auto-port", "--json")

        assert refused.returncode == 4
        assert f"Port {port}" in refused.stderr
        assert stopped.returncode == 3
        assert json.loads(moved.stdout)["port"] > port
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass


def test_a_server_that_can_not_start_is_told_with_its_own_status_and_last_lines(mlx):
    told = mlx("background", "serve", "--model", "/no/such/folder", "--port", "0")

    assert told.returncode == 5
    assert told.stderr.startswith("✗ There is no folder /no/such/folder")
    assert "→ Loading /no/such/folder" in told.stderr.partition("ends with:")[2]
    assert told.stderr.count("no such folder") <= 1
    assert "No MLX servers are running" in mlx("status").stdout
    assert "/no/such/folder" in mlx("background", "logs").stdout


def test_a_wrong_flag_is_told_before_anything_is_started(mlx):
    told = mlx("background", "serve", "--port", "70000")

    assert told.returncode == 2
    assert told.stderr.startswith("✗ --port must be between 0 and 65535")
    assert not Path(mlx.environment["MLX_WS_STATE"]).exists()


@pytest.mark.parametrize("command", [("background", "stop"), ("bg", "restart"), ("stop",), ("background", "logs")])
def test_with_nothing_running_there_is_nothing_to_stop_and_the_status_is_3(mlx, command):
    told = mlx(*command)

    assert (told.returncode, told.stdout) == (3, "")
    assert "is running." in told.stderr


@pytest.mark.parametrize(
    ("command", "said"), [(("status",), "→ No MLX servers are running\n"), (("ps", "--json"), "[]\n")]
)
def test_with_nothing_running_the_status_says_so_and_that_is_no_failure(mlx, command, said):
    told = mlx(*command)

    assert (told.returncode, told.stdout, told.stderr) == (0, said, "")


def test_without_a_place_for_its_record_a_server_in_a_terminal_still_starts(mlx):
    told = mlx("serve", "--model", "/no/such/folder", "--port", "0", MLX_WS_STATE="/dev/null/nowhere")

    assert told.returncode == 5
    assert "`mlx status` will not know this server" in told.stderr


def test_without_a_place_for_its_log_a_background_server_does_not(mlx):
    told = mlx("background", "serve", MLX_WS_STATE="/dev/null/nowhere")

    assert told.returncode == 1
    assert "✗ The server can't be started" in told.stderr


# --- the rest -------------------------------------------------------------------------


def test_cleaning_up_says_what_it_removed(mlx):
    mlx("background", "serve", "--model", "/no/such/folder", "--port", "0")

    removed = mlx("cleanup", "--force")
    again = mlx("cleanup", "--force", "--json")

    assert re.fullmatch(r"✓ Removed \S+/state/logs/[0-9a-f]{12}\.log\n", removed.stdout)
    assert (again.returncode, again.stdout) == (0, "[]\n")


def test_a_service_is_printed_without_being_installed(mlx, tmp_path):
    told = mlx("service", "install", "--print", "--model", "demo")

    assert told.returncode == 0
    assert "--model=demo" in told.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_service_that_can_not_be_started_here_says_what_to_run(mlx, tmp_path):
    told = mlx("service", "install", PATH=str(tmp_path))

    assert told.returncode == 1
    assert re.search(r"→ Where there is, run: (systemctl|launchctl) ", told.stderr)
    assert mlx("service", "uninstall", PATH=str(tmp_path)).returncode == 1


@pytest.mark.parametrize("arguments", [("background",), ("bg",), ("background", "--help"), ("help", "background")])
def test_a_family_of_commands_has_a_help_that_names_them(mlx, arguments):
    told = mlx(*arguments)

    assert (told.returncode, told.stderr) == (0, "")
    for action in ("serve", "stop", "status", "logs", "restart"):
        assert f"  {action} " in told.stdout


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("background", "strat"), "mlx background --help"),
        (("background", "serve", "--prot", "1"), "mlx background serve --help"),
        (("background", "--port", "1"), "mlx background --help"),
        (("stop", "--port", "many"), "mlx stop --help"),
    ],
)
def test_a_mistake_is_told_with_what_to_do_next(mlx, arguments, hint):
    told = mlx(*arguments)

    assert told.returncode == 2
    assert hint in told.stderr


@pytest.mark.parametrize("arguments", [["status"], ["ps"], ["background", "stop"]])
def test_looking_and_stopping_import_nothing_heavy(mlx, arguments):
    heavy = ["mlx", "uvicorn", "starlette", "PIL", "huggingface_hub", "rich", "asyncio", "numpy", "websockets"]
    program = (
        "import sys\nfrom mlx_websockets.cli import main\nmain(sys.argv[1:])\n"
        f"print('loaded:', [name for name in {heavy} if name in sys.modules])"
    )

    told = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60, env=mlx.environment
    )

    assert told.stdout.splitlines()[-1] == "loaded: []"

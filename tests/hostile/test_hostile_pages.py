"""A real browser, and pages that should not get through to the server."""

import asyncio
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.server.serving import holds, running

CHROMIUM = shutil.which("chromium")

PAGE = """<!doctype html><script>
const urls = %s, asked = '{"type": "text_input", "content": "hello", "id": "x"}';
for (const [name, url] of Object.entries(urls)) {
  const told = {heard: [], name, page: location.hostname};
  const socket = new WebSocket(url);
  const tell = () => fetch("/told", {method: "POST", body: JSON.stringify(told)});
  socket.onopen = () => socket.send(asked);
  socket.onmessage = event => { told.heard.push(JSON.parse(event.data).type); tell(); };
  socket.onclose = event => { told.code = event.code; told.reason = event.reason; tell(); };
}
</script>%s"""


@contextmanager
def website(page: str) -> Iterator[tuple[int, list[dict[str, object]]]]:
    """Serves one page under every name; gathers what it tells."""
    told: list[dict[str, object]] = []

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(page.replace("PORT", str(self.server.server_port)).encode())

        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield site.server_port, told
        site.shutdown()


@contextmanager
def browser(url: str, profile: object) -> Iterator[None]:
    command = [
        str(CHROMIUM),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
        "--host-resolver-rules=MAP *.example 127.0.0.1",
        url,
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt install chromium)")
@pytest.mark.parametrize(
    ("page_host", "server_host"),
    [("evil.example", "127.0.0.1"), ("evil.example", "evil.example"), ("localhost", "localhost")],
    ids=["cross-site", "rebinding", "own page"],
)
def test_a_browser_s_page_gets_through_only_from_this_machine(page_host, server_host, tmp_path):
    is_own = page_host == "localhost"

    async def story():
        async with running() as server:
            page = PAGE % (json.dumps({"it": f"ws://{server_host}:{server.port}"}), "")
            with website(page) as (port, told), browser(f"http://{page_host}:{port}/", tmp_path):
                wanted = (
                    (lambda: server.engine.requests) if is_own else (lambda: [each for each in told if "code" in each])
                )
                for _ in range(4):  # a browser may take its time to start
                    try:
                        await holds(wanted)
                        break
                    except AssertionError:
                        continue
                return list(told), len(server.engine.requests)

    told, asked = asyncio.run(story())

    if is_own:
        assert asked == 1
    else:
        assert asked == 0
        assert told[-1]["code"] in (1006, 1008)
        assert told[-1]["heard"] == []

"""A real browser, and pages that should not get through to the server."""

import asyncio
import http.server
import json
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.server.serving import PATIENCE, holds, running
from websockets.asyncio.client import ClientConnection, connect

from mlx_websockets.testing import whole_reply

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
def browser(url: str, profile: Path) -> Iterator[None]:
    command = [
        str(CHROMIUM),
        "--remote-debugging-port=0",
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


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt install chromium)")


@needs_chromium
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


# --- the server's own page --------------------------------------------------------------

HOSTILE = """<script>window.hacked = 1</script><img src="http://TRAP/a" onerror="window.hacked = 2">
<svg onload="window.hacked = 3"></svg><iframe src="http://TRAP/b"></iframe><style>@import "http://TRAP/c";</style>
<link rel="stylesheet" href="http://TRAP/d"><object data="http://TRAP/e"></object>
![a picture](http://TRAP/f) [a link](javascript:window.hacked=4) <a href="http://TRAP/g" ping="http://TRAP/h">here</a>
</p></textarea></script><form action="http://TRAP/i"><button autofocus onfocus="window.hacked = 5"></form>
"""
REDIRECT = '<meta http-equiv="refresh" content="0; url=http://TRAP/j">'

LOOK = """({
  hacked: String(window.hacked),
  said: [...document.querySelectorAll(".reply p")].map((each) => each.textContent),
  made: document.querySelectorAll("#entries, #log, #speaker").values().flatMap(
    (each) => each.querySelectorAll("script, img, svg, iframe, style, link, meta, a, form")).toArray().length,
})"""

ASK = """document.querySelector("#question").value = "hello"; document.querySelector("#composer").requestSubmit()"""


@needs_chromium
def test_whatever_a_model_says_runs_nothing_and_fetches_nothing_on_the_page(tmp_path: Path):
    async def story():
        async with running() as server, trap() as (trap_port, knocks):
            html, redirect = (each.replace("TRAP", f"127.0.0.1:{trap_port}") for each in (HOSTILE, REDIRECT))
            words = [*html.splitlines(keepends=True), redirect]
            server.engine.script = lambda request: whole_reply(request.id, *words)
            with browser(f"http://127.0.0.1:{server.port}/", tmp_path):
                async with devtools(tmp_path) as tab:
                    await tab.holds("document.querySelector('#send')?.disabled === false")
                    await tab.evaluate(ASK)
                    await tab.holds("document.querySelector('.reply:not(.busy)') !== null")
                    looked = await tab.evaluate(LOOK)
                    # Nor would it, a redirection excepted, if it were written as HTML: the page's policy says so.
                    await tab.evaluate(f"document.querySelector('#entries').innerHTML += {json.dumps(html)}")
                    await tab.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 200)))")
                    hacked = await tab.evaluate("String(window.hacked)")

            assert looked == {"hacked": "undefined", "said": [html + redirect], "made": 0}
            assert hacked == "undefined"
            assert knocks == []

    asyncio.run(story())


@asynccontextmanager
async def trap() -> AsyncIterator[tuple[int, list[bytes]]]:
    """A port that nobody should come to, and what they said who did."""
    knocks: list[bytes] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        knocks.append(await reader.readline())
        writer.close()

    async with await asyncio.start_server(note, "127.0.0.1", 0) as listener:
        yield listener.sockets[0].getsockname()[1], knocks


class NoPage(Exception):
    """The tab has none yet."""


class Tab:
    """A page in the browser, as its developer's tools see it."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._calls = 0

    async def evaluate(self, script: str) -> Any:
        self._calls += 1
        parameters = {"expression": script, "returnByValue": True, "awaitPromise": True}
        await self._socket.send(json.dumps({"id": self._calls, "method": "Runtime.evaluate", "params": parameters}))
        async with asyncio.timeout(PATIENCE):
            while (answer := json.loads(await self._socket.recv())).get("id") != self._calls:
                pass
        if "error" in answer:
            raise NoPage(answer["error"])
        assert "exceptionDetails" not in answer["result"], answer
        return answer["result"]["result"].get("value")

    async def holds(self, claim: str) -> None:
        async with asyncio.timeout(4 * PATIENCE):
            while not await self._is_so(claim):
                await asyncio.sleep(0.02)

    async def _is_so(self, claim: str) -> bool:
        try:
            return bool(await self.evaluate(claim))
        except NoPage:
            return False


@asynccontextmanager
async def devtools(profile: Path) -> AsyncIterator[Tab]:
    """The tab of a browser that has just been started with this profile."""
    told = profile / "DevToolsActivePort"
    async with asyncio.timeout(4 * PATIENCE):
        while not told.exists() or not (pages := await asyncio.to_thread(_pages, told.read_text().split()[0])):
            await asyncio.sleep(0.05)
    async with connect(pages[0], max_size=None, proxy=None) as socket:
        yield Tab(socket)


def _pages(port: str) -> list[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE) as answer:
        return [each["webSocketDebuggerUrl"] for each in json.load(answer) if each["type"] == "page"]

"""The page over plain HTTP: who gets it, and what it may do."""

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from mlx_websockets.protocols.native_schema import SETTING_NAMES
from mlx_websockets.server import page
from mlx_websockets.server.app import create_app
from mlx_websockets.server.parties import Key
from mlx_websockets.settings import Settings
from mlx_websockets.testing import ScriptedEngine

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8", "host": "localhost:8765"}
FOLDER = Path(page.__file__).with_name("playground")


@pytest.fixture
def browser() -> TestClient:
    app = create_app(Settings(host="127.0.0.1"), ScriptedEngine())
    return TestClient(app, headers=BROWSER, client=("127.0.0.1", 50000))


def test_a_browser_gets_the_page_and_curl_a_few_words(browser):
    assert browser.get("/").headers["content-type"] == "text/html; charset=utf-8"

    plain = browser.get("/", headers={"accept": "*/*"})

    assert plain.headers["content-type"].startswith("text/plain")
    assert "Connect to ws://localhost:8765" in plain.text


@pytest.mark.parametrize("path", ["/", *sorted(page.PATHS)])
def test_every_file_comes_with_its_kind_and_the_policy(browser, path):
    answer = browser.get(path)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == page.KINDS[path.removeprefix("/") or "index.html"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith(
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ws://localhost:8765;"
    )
    assert "unsafe" not in policy


def test_a_file_that_a_browser_has_is_not_sent_again(browser):
    tag = browser.get("/app.js").headers["etag"]

    again = browser.get("/app.js", headers={"if-none-match": tag})

    assert (again.status_code, again.content) == (304, b"")


def test_the_files_are_those_of_the_folder_and_nothing_else(browser):
    assert {path.name for path in FOLDER.iterdir()} == set(page.KINDS) - {page.SETTINGS}
    assert browser.get("/index.html").status_code == 404
    assert browser.get("/../page.py").status_code == 404


def test_the_settings_panel_is_told_every_setting_of_the_wire_with_its_range(browser):
    described = {each["name"]: each for each in browser.get("/settings.json").json()}

    assert set(described) == set(SETTING_NAMES.values())
    assert all(each["meaning"] for each in described.values())
    assert described["temperature"] == {
        "name": "temperature",
        "meaning": "0 always takes the likeliest token.",
        "isNullable": False,
        "kind": "number",
        "least": 0,
        "most": 2,
    }
    assert described["seed"]["isNullable"]
    assert described["responseModalities"]["kind"] == "words"


def test_the_page_needs_no_token_for_it_asks_for_one_and_all_else_does():
    elsewhere = TestClient(
        create_app(Settings(), ScriptedEngine(), keys=[Key("open-sesame")]),
        headers={**BROWSER, "host": "192.168.1.2:8765"},
        client=("192.168.1.9", 50000),
    )

    assert all(elsewhere.get(path).status_code == 200 for path in ("/", *page.PATHS))
    assert elsewhere.get("/", headers={"accept": "*/*"}).status_code == 401
    assert elsewhere.get("/?token=open-sesame", headers={"accept": "*/*"}).status_code == 200
    assert elsewhere.get("/v1/status").status_code == 401


def test_the_page_takes_nothing_from_elsewhere_and_has_nothing_inline():
    html = (FOLDER / "index.html").read_text("utf-8")

    assert re.findall(r'(?:src|href)="(?!/[a-z]|#)', html) == []
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?! type=\"module\" src=)", html)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.js")), ids=lambda path: path.name)
def test_what_the_model_says_is_never_read_as_html(path):
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", path.read_text("utf-8"))

"""What people do on the page, done in Chromium with a made-up camera, against real models.

`MLX_WS_PICTURES=docs/images` keeps pictures of the page; `make pictures` does so.
"""

import base64
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.page.browsing import STORY_MS, TOKEN, Cable, Server, chromium, network_address, serving, violations

ROOT = Path(__file__).parents[2]
CIRCLE = ROOT / "examples/circle.png"
DESK = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 844}
PANELS = ("settings", "log", "export", "keys")
SOME = re.compile(r"[1-9]\d*")

OpenPage = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def server(browser: Any, demo_model: Path, tiny_gemma3: Path) -> Iterator[Server]:
    with serving("demo", tiny_gemma3) as started:
        yield started


@pytest.fixture
def opened(browser: Any, server: Server) -> Iterator[OpenPage]:
    """Opens the page and waits until it is connected. At the end, no script may have failed."""
    contexts, troubles = [], []

    def note(message: Any) -> None:
        if message.type == "error" and "WebSocket connection" not in message.text:
            troubles.append(message.text)

    def open_page(path: str = "", *, address: str = "", state: str = "Connected", **options: Any) -> Any:
        context = browser.new_context(**{"viewport": DESK, "reduced_motion": "reduce", **options})
        context.set_default_timeout(STORY_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: troubles.append(error.message))
        page.on("console", note)
        page.goto((address or server.address) + path)
        page.locator("#state").get_by_text(state, exact=True).wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture
def page(opened: OpenPage) -> Any:
    return opened()


# --- what the stories are made of -----------------------------------------------------


def expect(what: Any) -> Any:
    from playwright.sync_api import expect

    expect.set_options(timeout=STORY_MS)
    return expect(what)


def analysed(page: Any, least: int = 1) -> None:
    page.wait_for_function(
        "(least) => Number(document.querySelector('#count-analysed').textContent) >= least", arg=least
    )


def count(page: Any, what: str) -> int:
    return int(page.locator(f"#count-{what}").text_content())


def ask(page: Any, question: str) -> Any:
    """The whole text of the reply, once it has ended."""
    before = page.locator(".entry.reply").count()
    page.locator("#question").fill(question)
    page.keyboard.press("Enter")
    reply = page.locator(".entry.reply").nth(before)
    reply.locator(".figures").wait_for()
    return reply.locator("p").first.text_content()


def set_(page: Any, **fields: str) -> None:
    """Change what stands in the settings panel, and apply it."""
    with panel(page, "settings") as settings:
        for name, value in fields.items():
            settings.locator(f"[name={name}], textarea#{name}").fill(value)
        page.locator("#apply").click()
        settings.wait_for(state="hidden")


def messages(page: Any, kind: str) -> list[dict[str, Any]]:
    """Those of the open log that are of a kind."""
    lines = page.locator("#messages li span:last-child").all_text_contents()
    return [json.loads(line) for line in lines if f'"type":"{kind}"' in line]


def be_brief(page: Any, tokens: int = 8) -> None:
    """Let replies be likely ones of so many tokens at most: how long one takes is no part of the story."""
    set_(page, maxOutputTokens=str(tokens), temperature="0")


def keep(page: Any, name: str, *, whole: bool = False) -> None:
    if folder := os.environ.get("MLX_WS_PICTURES"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=whole)


@contextmanager
def panel(page: Any, name: str) -> Iterator[Any]:
    page.locator(f"[data-opens={name}]").click()
    page.evaluate("() => new Promise(requestAnimationFrame)")  # by then the log is drawn
    yield page.locator(f"#{name}")
    if page.locator(f"#{name}").is_visible():
        page.locator(f"#{name} [data-closes]").click()
    page.locator(f"#{name}").wait_for(state="hidden")


def film(page: Any) -> dict[str, Any]:
    """A video file of a red circle, recorded by the browser itself."""
    recorded = page.evaluate(
        """async () => {
          const canvas = Object.assign(document.createElement("canvas"), { width: 320, height: 320 });
          const pen = canvas.getContext("2d");
          const recorder = new MediaRecorder(canvas.captureStream(20), { mimeType: "video/webm" });
          const parts = [];
          recorder.ondataavailable = ({ data }) => parts.push(data);
          recorder.start();
          for (let at = 0; at < 15; at++) {
            pen.fillStyle = "white";
            pen.fillRect(0, 0, 320, 320);
            pen.fillStyle = "red";
            pen.beginPath();
            pen.arc(150 + at, 160, 90, 0, 7);
            pen.fill();
            await new Promise((resolve) => setTimeout(resolve, 50));
          }
          const ended = new Promise((resolve) => (recorder.onstop = resolve));
          recorder.stop();
          await ended;
          const bytes = new Uint8Array(await new Blob(parts).arrayBuffer());
          return btoa(bytes.reduce((text, byte) => text + String.fromCharCode(byte), ""));
        }"""
    )
    return {"name": "circle.webm", "mimeType": "video/webm", "buffer": base64.b64decode(recorded)}


def is_red_in_the_middle(image: Any) -> bool:
    red, green, blue = image.evaluate(
        """(image) => {
          const { naturalWidth: width, naturalHeight: height } = image;
          const pen = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
          pen.drawImage(image, 0, 0);
          return [...pen.getImageData(width / 2, height / 2, 1, 1).data.slice(0, 3)];
        }"""
    )
    return bool(red > 150 and green < 90 and blue < 90)


def drop(page: Any, file: Path, mime: str = "image/png") -> None:
    page.evaluate(
        """([data, name, type]) => {
          const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([bytes], name, { type }));
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
        }""",
        [base64.b64encode(file.read_bytes()).decode(), file.name, mime],
    )


# --- streams --------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_drawn_scene_is_described_on_a_page_that_axe_has_nothing_against(opened, scheme):
    page = opened(color_scheme=scheme)
    be_brief(page, 12)

    ask(page, "What is the capital of France?")
    page.keyboard.press("Escape")
    page.keyboard.press("d")
    analysed(page, 3)

    expect(page.locator("#caption")).to_have_text(re.compile("picture shows"))
    keep(page, f"page-{scheme}", whole=True)
    page.keyboard.press("x")
    assert violations(page) == []
    for name in PANELS:
        with panel(page, name):
            assert violations(page) == [], name


def test_a_camera_is_described_and_stopped(page):
    page.locator("#source-camera").click()
    analysed(page)

    expect(page.locator("#source-camera")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#camera option").first).to_have_text(re.compile("fake"))
    page.locator("#source-stop").click()
    expect(page.locator("#invitation")).to_be_visible()
    expect(page.locator("#source-camera")).to_have_attribute("aria-pressed", "false")


def test_a_shared_screen_is_described(page):
    page.locator("#source-screen").click()

    analysed(page)

    expect(page.locator("#source-screen")).to_have_attribute("aria-pressed", "true")


def test_sharing_that_ends_in_the_browser_ends_here_too(page):
    page.locator("#source-screen").click()
    expect(page.locator("#source-screen")).to_have_attribute("aria-pressed", "true")

    page.locator("#video").evaluate("(video) => video.srcObject.getTracks()[0].dispatchEvent(new Event('ended'))")

    expect(page.locator("#source-screen")).to_have_attribute("aria-pressed", "false")
    expect(page.locator("#invitation")).to_be_visible()


def test_a_video_file_is_described(page):
    page.locator("#film").set_input_files(film(page))

    analysed(page)

    expect(page.locator(".entry.seen p").first).to_have_text(re.compile("circle", re.IGNORECASE))


def test_a_file_that_is_no_video_is_explained(page):
    page.locator("#film").set_input_files({"name": "a.mp4", "mimeType": "video/mp4", "buffer": b"not a video"})

    expect(page.locator("#notice")).to_have_text("This browser can't play that file.")
    expect(page.locator("#invitation")).to_be_visible()


def test_of_a_fast_stream_the_newest_frame_counts_and_the_numbers_add_up(page):
    page.locator("#rate").fill("5")
    page.locator("#source-scene").click()
    analysed(page, 2)
    expect(page.locator("#count-superseded")).to_have_text(SOME)
    page.locator("#source-stop").click()
    page.wait_for_function(
        """() => {
          const [sent, ...ends] = [...document.querySelectorAll(".counts dd")].map((each) => Number(each.textContent));
          return sent === ends.reduce((sum, each) => sum + each);
        }"""
    )

    assert float(page.locator("#meter-age").text_content()) > 0
    assert page.locator("#meter-speed").text_content() != "\N{EN DASH}"


def test_a_description_stands_beside_the_picture_that_it_is_about(page):
    page.locator("#film").set_input_files(film(page))
    analysed(page)

    for picture in ("#caption-picture", ".entry.seen img"):
        shown = page.locator(picture).first
        page.wait_for_function("(image) => image.complete && image.naturalWidth", arg=shown.element_handle())
        assert is_red_in_the_middle(shown)


def test_each_number_has_a_trace(page):
    page.locator("#source-scene").click()
    analysed(page, 2)
    page.locator("#source-stop").click()

    for name in ("ttft", "age", "queue", "speed"):
        expect(page.locator(f"#meter-{name}")).to_have_text(re.compile(r"^\d"))
        expect(page.locator(f"#top-{name}")).to_have_text(re.compile("^up to "))
        assert page.locator(f"#trace-{name}").evaluate(
            "(canvas) => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean)"
        )


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ("NotAllowedError", "The browser did not allow it."),
        ("NotFoundError", "This machine has no camera."),
        ("NotReadableError", "The camera is in use by another program."),
    ],
)
def test_a_camera_that_is_not_to_be_had_is_explained(page, refusal, said):
    page.evaluate(
        """(name) => {
          navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("", name));
        }""",
        refusal,
    )

    page.locator("#source-camera").click()

    expect(page.locator("#notice")).to_contain_text(said)
    expect(page.locator("#invitation")).to_be_visible()


def test_a_question_is_about_what_the_stream_shows_now(page):
    page.locator("#film").set_input_files(film(page))
    analysed(page)
    page.locator("#look").check()

    answer = ask(page, "Which shape is it?")

    assert "circle" in answer.lower()
    expect(page.locator(".entry.you img")).to_have_count(1)


def test_the_demo_begins_by_itself(opened):
    page = opened("?demo")

    analysed(page)

    expect(page.locator("#source-scene")).to_have_attribute("aria-pressed", "true")


# --- pictures -------------------------------------------------------------------------


def test_a_dropped_picture_is_asked_about(page):
    drop(page, CIRCLE)
    page.locator(".attached img").wait_for()

    assert "circle" in ask(page, "Which shape is this?").lower()
    expect(page.locator(".attached img")).to_have_count(0)


def test_a_pasted_picture_is_asked_about(opened):
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    page.evaluate(
        """async (data) => {
          const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
          const picture = new Blob([bytes], { type: "image/png" });
          await navigator.clipboard.write([new ClipboardItem({ "image/png": picture })]);
        }""",
        base64.b64encode(CIRCLE.read_bytes()).decode(),
    )

    page.locator("#question").focus()
    page.keyboard.press("ControlOrMeta+v")
    page.locator(".attached img").wait_for()

    assert "circle" in ask(page, "Which shape is this?").lower()


def test_pictures_that_were_chosen_can_be_taken_back(page):
    page.locator("#pictures").set_input_files([CIRCLE, CIRCLE])
    expect(page.locator(".attached img")).to_have_count(2)

    page.get_by_role("button", name="Remove picture 1").click()

    expect(page.locator(".attached img")).to_have_count(1)


def test_what_is_no_picture_is_explained(page):
    page.locator("#pictures").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"not a picture"})

    expect(page.locator("#notice")).to_have_text("This browser can't open that picture.")


# --- talk -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["with Esc", "with the button"])
def test_a_reply_is_stopped(page, how):
    page.locator("#question").fill("Tell me a very long story about the sea.")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('.entry.reply p')?.textContent")

    page.keyboard.press("Escape") if how == "with Esc" else page.locator("#stop").click()

    expect(page.locator(".figures")).to_have_text(re.compile("stopped"))


def test_a_reply_is_read_aloud_by_sentence(page):
    page.evaluate(
        """() => {
          globalThis.spoken = [];
          const region = document.querySelector("[aria-live=polite]");
          new MutationObserver(() => spoken.push(region.textContent)).observe(region, { childList: true });
        }"""
    )

    be_brief(page, 40)
    reply = ask(page, "Name three colours. Say each in a sentence of its own.")
    page.wait_for_function("(end) => spoken.join(' ').endsWith(end)", arg=reply.strip()[-12:])

    spoken = page.evaluate("spoken")
    assert all(re.search(r"[.!?…:\w]\W*$", each) for each in spoken)
    assert all(each.rstrip()[-1] in ".!?…\"'" for each in spoken[:-1])


def test_the_chosen_model_answers(page, tiny_gemma3):
    be_brief(page)
    picker = page.locator("#model")
    expect(picker.locator("option")).to_have_count(2)
    picker.select_option(index=1)

    ask(page, "Who are you?")
    picker.select_option(index=0)
    ask(page, "And who are you?")

    with panel(page, "log"):
        started = messages(page, "response_start")
    assert [each["model"] for each in started] == [str(tiny_gemma3), "demo"]


def test_all_candidates_are_shown(page):
    be_brief(page)
    set_(page, candidateCount="3")

    ask(page, "Name a colour.")

    expect(page.locator(".entry.reply .other")).to_have_count(2)


def test_a_frame_that_changed_nothing_is_counted_as_that(page):
    set_(page, unchangedThreshold="1")

    page.locator("#source-scene").click()

    analysed(page)
    expect(page.locator("#count-unchanged")).to_have_text(SOME)


def test_a_talk_can_begin_anew(page):
    be_brief(page)
    ask(page, "My name is Ada.")

    page.locator("#clear").click()
    page.get_by_text("Connected", exact=True).wait_for()

    expect(page.locator(".entry.reply")).to_have_count(0)
    assert ask(page, "Hello.")


# --- panels ---------------------------------------------------------------------------


def test_every_setting_of_the_wire_is_in_the_panel(page):
    from mlx_websockets.protocols.native_schema import SETTING_NAMES

    with panel(page, "settings") as settings:
        names = settings.locator("#fields [name]").evaluate_all("(fields) => fields.map(({ name }) => name)")

    assert set(names) == set(SETTING_NAMES.values())


def test_settings_are_applied_and_a_wrong_one_is_explained(page):
    set_(page, temperature="0")

    with panel(page, "settings"):
        expect(page.locator("input[name=temperature]")).to_have_value("0")
        page.locator("input[name=maxOutputTokens]").fill("99999")
        page.locator("#apply").click()
        expect(page.locator("#settings-trouble")).to_have_text(re.compile("maxOutputTokens.*must be"))


def test_the_panel_has_the_servers_ranges_and_its_own_values_to_go_back_to(page):
    set_(page, temperature="0", maxOutputTokens="30")

    with panel(page, "settings") as settings:
        expect(settings.get_by_label("Temperature")).to_have_value("0")
        expect(settings.locator("label", has=page.locator("[name=maxOutputTokens]"))).to_contain_text("1\N{EN DASH}512")
        page.locator("#restore").click()
        expect(settings.get_by_label("Temperature")).to_have_value("0.7")
        expect(settings.get_by_label("Max output tokens")).to_have_value("200")


def test_the_system_text_goes_with_questions_and_frames(page):
    set_(page, system="You are brief.", maxOutputTokens="8")

    ask(page, "Hello.")
    page.locator("#source-scene").click()
    analysed(page)

    with panel(page, "log"):
        asked = [*messages(page, "text_input"), *messages(page, "video_frame")]
    assert {each["system"] for each in asked} == {"You are brief."}


def test_a_talk_is_exported(page):
    page.locator("#source-scene").click()
    analysed(page, 2)
    page.locator("#source-stop").click()
    be_brief(page)
    ask(page, "What is your name?")

    files = {}
    for kind in ("srt", "md", "json"):
        with panel(page, "export"):
            with page.expect_download() as download:
                page.locator(f"[data-export={kind}]").click()
            files[kind] = Path(download.value.path()).read_text("utf-8")

    assert re.match(r"1\n00:00:00,000 --> 00:00:\d\d,\d{3}\n.+\n", files["srt"])
    assert re.match(r"# Talk.*\*\*You\*\*.*What is your name\?", files["md"], re.DOTALL)
    assert {each["role"] for each in json.loads(files["json"])} == {"frame", "user", "model"}


def test_subtitles_have_the_times_of_the_video_and_nothing_twice(page):
    page.locator("#film").set_input_files(film(page))
    analysed(page, 3)
    page.locator("#source-stop").click()

    with panel(page, "export"), page.expect_download() as download:
        page.locator("[data-export=srt]").click()

    parts = [part.split("\n") for part in Path(download.value.path()).read_text("utf-8").strip().split("\n\n")]
    assert all(
        re.match(r"00:00:00,\d{3} --> 00:00:0\d,\d{3}$", times) for _, times, _ in parts
    )  # the film has a second
    texts = [text for _, _, text in parts]
    assert all(before != after for before, after in itertools.pairwise(texts))


def test_the_log_is_filtered_and_cleared(page):
    be_brief(page)
    ask(page, "Hello.")

    with panel(page, "log") as shown:
        page.locator("#filter").fill("response_complete")
        expect(shown.locator("#messages li")).to_have_count(1)
        page.locator("#filter").fill("")
        page.locator("#log-clear").click()
        expect(shown.locator("#messages li")).to_have_count(0)


def test_messages_are_shown_without_pictures_and_without_secrets(page):
    page.locator("#source-scene").click()
    analysed(page)

    with panel(page, "log"):
        shown = page.locator("#messages").text_content()

    assert "video_frame" in shown
    assert '"resume_token":"(secret)"' in shown
    assert max(map(len, page.locator("#messages li").all_text_contents())) < 3000


def test_everything_is_done_with_the_keyboard_alone(page):
    be_brief(page)
    page.keyboard.press("Escape")

    page.keyboard.press("?")
    keys = page.locator("#keys")
    expect(keys).to_be_visible()
    assert keys.locator("dt").count() >= 15
    page.keyboard.press("Escape")
    expect(keys).to_be_hidden()
    page.keyboard.press("d")
    analysed(page)
    page.keyboard.press("x")
    expect(page.locator("#invitation")).to_be_visible()
    for key, name in ((",", "settings"), ("l", "log"), ("e", "export")):
        page.keyboard.press(key)
        expect(page.locator(f"#{name}")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator(f"#{name}")).to_be_hidden()
    page.keyboard.press("/")
    page.keyboard.type("Say hello.")
    page.keyboard.press("Enter")

    page.locator(".entry.reply .figures").wait_for()


def test_every_control_is_reached_with_tab(page):
    wanted = page.evaluate(
        """() => [...document.querySelectorAll("a, button, input, select, textarea, [tabindex='0']")]
          .filter((each) => !each.disabled && each.offsetParent && !each.closest("dialog")).length"""
    )
    page.locator("body").evaluate("(body) => { document.activeElement.blur(); body.focus(); }")

    reached = set()
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))

    assert len(reached - {-1}) >= wanted


# --- networks -------------------------------------------------------------------------


def test_a_phone_sees_through_its_camera_over_tls(opened, server):
    phone = {"viewport": PHONE, "device_scale_factor": 1, "is_mobile": True, "has_touch": True}
    address = f"https://{network_address()}:{server.tls_port}/"

    page = opened(f"?token={TOKEN}", address=address, ignore_https_errors=True, **phone)
    page.locator("#source-camera").tap()
    analysed(page)

    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    for name in PANELS:
        with panel(page, name):
            assert violations(page) == [], name
    page.locator("#source-stop").tap()
    page.locator("#source-scene").tap()
    analysed(page, 3)
    keep(page, "page-phone")


def test_from_another_machine_the_page_asks_for_the_token(opened, server):
    with Cable(server.port, network_address()) as cable:
        page = opened(address=f"http://localhost:{cable.port}/", state="Not connected")
        door = page.locator("#door")
        expect(door).to_contain_text("wants its token")
        assert violations(page) == []

        page.locator("#token").fill("not the token")
        page.keyboard.press("Enter")
        expect(door).to_contain_text("This is not the server's token.")
        page.keyboard.press("Escape")
        page.locator("#again").click()
        expect(door).to_be_visible()
        page.locator("#token").fill(TOKEN)
        page.keyboard.press("Enter")

        page.get_by_text("Connected", exact=True).wait_for()
        expect(door).to_be_hidden()
        expect(page.locator("#again")).to_be_hidden()
        page.reload()
        page.get_by_text("Connected", exact=True).wait_for()
        page.context.close()


def test_a_broken_network_loses_nothing(opened, server):
    with Cable(server.port) as cable:
        page = opened(address=f"http://localhost:{cable.port}/")
        be_brief(page, 40)
        page.locator("#question").fill("Tell me a long story about a lighthouse.")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.querySelector('.entry.reply p')?.textContent")

        cable.cut()

        page.get_by_text("Connected again; nothing was lost.").wait_for()
        page.locator(".entry.reply .figures").wait_for()
        said = page.locator(".entry.reply p").text_content()
        with panel(page, "log"):
            [whole] = messages(page, "response_complete")
        assert said == whole["full_text"]
        page.context.close()


def test_the_page_comes_back_after_the_server_was_restarted(page, server):
    page.locator("#source-scene").click()
    analysed(page)

    server.stop()
    expect(page.locator("#state")).to_have_attribute("data-state", "away")
    server.start()

    page.get_by_text("The server was restarted").wait_for()
    analysed(page, count(page, "analysed") + 1)

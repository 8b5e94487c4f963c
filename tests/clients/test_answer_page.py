"""The page on which anchors are answered, in a real browser: Chromium, by its own protocol.

`apt-get install chromium`, or any browser of its kind on the path. What the server does is tested with `make test`:
tests/ost/test_anchors_page.py.
"""

import itertools
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from websockets.sync.client import connect

from ost.anchors import question_of, write_sheet
from ost.anchors.answering import Sheet
from ost.anchors.page import Page
from ost.data import Sample, chat
from ost.worlds import handmath

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
SHIFT, ALT = 8, 1
KEYS = {"Enter": 13, "ArrowLeft": 37, "ArrowRight": 39, "Tab": 9}


class Tab:
    """A tab of the browser, driven by the DevTools protocol."""

    def __init__(self, address: str):
        self._socket, self._numbers, self.events = connect(address, max_size=None), itertools.count(1), []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params):
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while (got := json.loads(self._socket.recv(timeout=20))).get("id") != number:
            self.events.append(got)
        assert "error" not in got, got
        return got["result"]

    def open(self, address: str, ready: str = "questions.length"):
        self.call("Page.navigate", url=address)
        self.wait(ready)

    def value(self, expression: str):
        got = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in got, got
        return got["result"].get("value")

    def wait(self, expression: str, seconds: float = 10):
        end = time.monotonic() + seconds
        while True:
            try:
                if self.value(expression):
                    return
            except AssertionError:  # the page is on its way
                pass
            assert time.monotonic() < end, f"never: {expression}; {self.value('document.body.innerText')}"
            time.sleep(0.02)

    def type(self, text: str):
        self.call("Input.insertText", text=text)

    def press(self, key: str, modifiers: int = 0):
        known = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key], "modifiers": modifiers}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **known, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **known)

    @property
    def complaints(self) -> list[str]:
        """Errors on the console, such as of what the policy forbids, but for the icon that browsers look for."""
        self.value("0")
        logged = [e["params"]["entry"] for e in self.events if e["method"] == "Log.entryAdded"]
        thrown = [str(e) for e in self.events if e["method"] == "Runtime.exceptionThrown"]
        return thrown + [one["text"] for one in logged if "favicon" not in one.get("url", "")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """The address of a browser's protocol."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert found, "these tests need a browser: apt-get install chromium"
    profile = tmp_path_factory.mktemp("profile")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    command = [found, *options, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    port = profile / "DevToolsActivePort"
    end = time.monotonic() + 30
    while not (port.is_file() and port.read_text()):
        assert process.poll() is None and time.monotonic() < end, "the browser does not start"
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port.read_text().split()[0]}"
    process.terminate()
    process.wait(20)


@pytest.fixture
def tab(browser):
    request = urllib.request.Request(f"{browser}/json/new?about:blank", method="PUT")
    with urllib.request.urlopen(request) as response:
        return Tab(json.load(response)["webSocketDebuggerUrl"])


@pytest.fixture
def sheet(tmp_path):
    samples = [handmath.to_sample(problem) for problem in handmath.draw("pool", 3, 0)]
    evil = Sample(samples[0].images, chat(EVIL, "x"), EVIL)
    return write_sheet(tmp_path / "sheet.jsonl", list(map(question_of, [*samples, evil])))


@pytest.fixture
def address(sheet):
    with Page(Sheet(sheet)) as page:
        thread = threading.Thread(target=page.serve)
        thread.start()
        yield page.address
        page.end()
        thread.join(5)


def answers(sheet: Path) -> list:
    return [json.loads(line)["answer"] for line in sheet.read_text().splitlines()]


def test_a_sheet_is_answered_with_the_keyboard_alone_and_every_answer_is_saved_at_once(tab, address, sheet):
    tab.open(address)
    assert tab.value("document.activeElement.id") == "answer", "one can type at once"
    tab.type("one")
    tab.press("Enter", SHIFT)
    tab.type("more")
    assert answers(sheet) == [None] * 4
    tab.press("Enter")
    tab.wait("location.hash === '#2'")
    assert answers(sheet) == ["one\nmore", None, None, None]
    assert tab.value("document.getElementById('count').textContent") == "Question 2 of 4, 1 answered"
    tab.press("ArrowRight", ALT)  # skipped
    tab.wait("location.hash === '#3'")
    tab.type("three")
    tab.press("ArrowLeft", ALT)  # saves, too
    tab.wait("location.hash === '#2'")
    assert answers(sheet) == ["one\nmore", None, "three", None]
    tab.press("ArrowLeft", ALT)
    tab.wait("location.hash === '#1'")
    assert tab.value("answer.value") == "one\nmore"
    tab.press("Tab")
    assert tab.value("document.activeElement.id") == "save"
    assert tab.complaints == []


def test_a_reload_stays_where_it_was_and_a_new_start_begins_at_what_is_open(tab, address, sheet):
    tab.open(address)
    for text in ("1", "2"):
        tab.type(text)
        tab.press("Enter")
        tab.wait(f"location.hash === '#{int(text) + 1}'")
    tab.press("ArrowLeft", ALT)
    tab.wait("location.hash === '#2'")
    tab.value("window.old = true")
    tab.call("Page.reload")
    tab.wait("!window.old && questions.length && answer.value === '2'")
    assert tab.value("location.hash") == "#2"
    tab.open("about:blank", "location.href === 'about:blank'")
    tab.open(address)
    tab.wait("location.hash === '#3' && answer.value === ''")


def test_a_strangers_text_stays_text(tab, address):
    tab.open(address + "#4")
    tab.wait("location.hash === '#4' && document.querySelector('#question img').complete")
    assert EVIL in tab.value("document.getElementById('question').innerText")
    assert tab.value("document.getElementById('task').textContent") == EVIL
    assert tab.value("document.querySelectorAll('#question script, #question img[onerror]').length") == 0
    assert tab.value("document.title") == "sheet.jsonl" and tab.complaints == []


def test_an_image_is_shown_large_enough_and_the_page_fits_a_small_screen(tab, address):
    tab.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
    tab.open(address)
    tab.wait("document.querySelector('#question img').naturalWidth === 32")
    assert tab.value("document.documentElement.scrollWidth") <= 360
    assert tab.value("document.querySelector('#question img').clientWidth") >= 150
    assert tab.value("document.querySelector('#question img').alt") == "Image 1 of the question"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_and_dark(tab, address, scheme):
    """By WCAG's contrast of 4.5 for text."""
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    tab.open(address)
    for part in ("#question p", "#keys", "#count", "#answer", "#save", "#skip"):
        colours = tab.value(
            f"(() => {{ let one = document.querySelector('{part}'), own = getComputedStyle(one), back = one;"
            "while (getComputedStyle(back).backgroundColor === 'rgba(0, 0, 0, 0)') back = back.parentElement;"
            "return [own.color, getComputedStyle(back).backgroundColor]; })()"
        )
        lights = [luminance(colour) for colour in colours]
        assert (max(lights) + 0.05) / (min(lights) + 0.05) >= 4.5, (part, colours)
    assert (luminance(tab.value("getComputedStyle(document.body).backgroundColor")) < 0.5) == (scheme == "dark")


def luminance(colour: str) -> float:
    levels = [int(level) / 255 for level in re.findall(r"\d+", colour)[:3]]
    linear = [level / 12.92 if level <= 0.03928 else ((level + 0.055) / 1.055) ** 2.4 for level in levels]
    return sum(weight * level for weight, level in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_an_answer_that_is_not_saved_is_told_and_stays_in_the_field(tab, address, sheet):
    tab.open(address)
    sheet.write_text(sheet.read_text() + "\n")
    tab.type("lost?")
    tab.press("Enter")
    tab.wait("document.getElementById('saved').textContent.startsWith('NOT saved')")
    assert tab.value("answer.value") == "lost?" and tab.value("location.hash") == "#1"


def test_done_saves_what_stands_there_and_ends(tab, sheet):
    with Page(Sheet(sheet)) as page:
        thread = threading.Thread(target=page.serve)
        thread.start()
        tab.open(page.address)
        tab.type("last")
        tab.value("document.getElementById('done').click()")
        tab.wait("!document.getElementById('end').hidden")
        assert "1 of 4 answers are saved" in tab.value("document.body.innerText")
        thread.join(5)
        assert not thread.is_alive() and answers(sheet) == ["last", None, None, None]

"""The page on which anchors are answered, asked by an HTTP client: who may, what is saved when, what a stranger's text
can do. What it does in a browser: tests/clients/test_answer_page.py."""

import http.client
import json
import os
import re
import threading
from html.parser import HTMLParser
from importlib.resources import files
from urllib.parse import urlsplit

import pytest
from specimens import drawn, other_forms

from ost.anchors import question_of, read_answers, write_sheet
from ost.anchors.answering import Sheet
from ost.anchors.page import HEADERS, LOOPBACK, MOST, Page
from ost.data import Sample, chat
from ost.errors import DataError

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


class Client:
    """A client of a page that is being served."""

    def __init__(self, page: Page):
        self.address = urlsplit(page.address)

    def ask(self, path, value=None, method=None, headers=None, host=None, body=None):
        """Status, headers and content; `path` behind the token, or a whole one."""
        connection = http.client.HTTPConnection(LOOPBACK, self.address.port, timeout=10)
        target = path if path.startswith("/") else self.address.path + path
        body = body if value is None else json.dumps(value)
        sent = {"Host": host or self.address.netloc} | (headers or {})
        connection.request(method or ("GET" if body is None else "POST"), target, body, sent)
        response = connection.getresponse()
        return response.status, response.headers, response.read()

    def json(self, path, value=None):
        status, _, content = self.ask(path, value)
        assert status == 200, content
        return json.loads(content)


@pytest.fixture
def sheet(tmp_path):
    evil = Sample((), chat(EVIL, "x", images=0), EVIL)
    return write_sheet(
        tmp_path / "sheet.jsonl", [question_of(one) for one in [*drawn("pool", 2), *other_forms(), evil]]
    )


@pytest.fixture
def served(sheet):
    """A page that is served; it must end by itself."""
    with Page(Sheet(sheet)) as page:
        thread = threading.Thread(target=page.serve)
        thread.start()
        yield Client(page)
        page.end()
        thread.join(5)
        assert not thread.is_alive()


def answers(sheet):
    return [json.loads(line)["answer"] for line in sheet.read_text().splitlines()]


def test_every_answer_is_in_the_file_before_the_reply_and_can_be_changed_and_taken_out(served, sheet):
    assert served.json("answer", {"at": 1, "answer": " one\ntwo "}) == {"answered": 1}
    assert answers(sheet)[:3] == [None, "one\ntwo", None]
    assert served.json("answer", {"at": 0, "answer": "Ü"}) == {"answered": 2}
    assert served.json("answer", {"at": 1, "answer": " "}) == {"answered": 1}
    assert answers(sheet)[:3] == ["Ü", None, None]
    assert [one.answer for one in read_answers(sheet).samples] == ["Ü"]


def test_another_start_goes_on_where_the_last_one_ended(served, sheet):
    served.json("answer", {"at": 0, "answer": "7"})
    with Page(Sheet(sheet)) as page:
        assert page.sheet.answered == 1 and [one["answer"] for one in page.sheet.to_json()][:2] == ["7", ""]


def test_questions_come_as_json_with_their_images_in_place(served):
    asked = served.json("questions")["questions"]
    assert len(asked) == 7 and all(one["answer"] == "" for one in asked)
    parts = [part for turn in asked[4]["turns"] for part in turn["parts"]]
    assert [list(part) for part in parts] == [["image"], ["image"], ["text"]]
    assert [part["image"] for part in parts[:2]] == [0, 1]
    assert [turn["role"] for turn in asked[2]["turns"]] == ["user", "assistant", "user"]
    for number, original in enumerate(other_forms()[2].images):
        status, headers, content = served.ask(f"image/4/{number}")
        assert (status, headers["Content-Type"], content) == (200, "image/png", original)


def test_nobody_gets_in_without_the_token_by_another_name_or_from_another_site(served, sheet):
    token = served.address.path
    wrong = ["/", "/questions", "/favicon.ico", token[:-2] + "/", token[:-1], f"/x{token}", "/%2e%2e" + token]
    for path in wrong:
        assert served.ask(path)[0] in (403, 404), path
    for host in ("localhost.evil.example", "evil.example", f"evil.example:{served.address.port}", LOOPBACK):
        assert served.ask("questions", host=host)[0] == 403, "a name of a stranger's that leads here"
    said = {"at": 0, "answer": "forged"}
    for origin in ("https://evil.example", "null", f"http://{LOOPBACK}:1"):
        assert served.ask("answer", said, headers={"Origin": origin})[0] == 403
    assert served.ask("/answer", said)[0] == 403
    assert answers(sheet) == [None] * 7
    assert served.ask("questions", headers={"Origin": f"http://{served.address.netloc}"})[0] == 200


def test_it_listens_on_this_machine_alone_under_an_address_of_its_own(sheet):
    with Page(Sheet(sheet)) as one, Page(Sheet(sheet)) as other:
        assert one._server.server_address[0] == "127.0.0.1"
        tokens = {urlsplit(page.address).path for page in (one, other)}
        assert len(tokens) == 2 and all(len(token) >= 32 for token in tokens)


@pytest.mark.parametrize(
    "said",
    [
        {"at": 99, "answer": "x"},
        {"at": -1, "answer": "x"},
        {"at": "0", "answer": "x"},
        {"at": 0},
        [],
        None,
        True,
        {"at": 0, "answer": 3},
        {"at": True, "answer": "x"},
        {"at": 0, "answer": "\ud800"},
    ],
)
def test_what_is_no_answer_is_refused_and_changes_nothing(served, sheet, said):
    before = sheet.read_bytes()
    assert served.ask("answer", body=json.dumps(said))[0] == 400
    assert sheet.read_bytes() == before


def test_other_methods_paths_and_lengths_are_refused(served):
    for path in (
        "image/0/9",
        "image/99/0",
        "image/-1/0",
        "image/0/../../x",
        "image/4/0/1",
        "../sheet.jsonl",
        "sheet.jsonl",
    ):
        assert served.ask(path)[0] == 404, path
    assert served.ask("answer", method="PUT", body="{}")[0] == 501
    assert served.ask("answer", method="POST", body="", headers={"Content-Length": str(MOST + 1)})[0] == 400
    assert served.ask("nothing", {})[0] == 400
    assert served.ask("answer", body="{")[0] == 400


def test_images_are_those_of_the_sheets_own_folder_alone(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "secret.png"
    inside.mkdir()
    outside.write_bytes(drawn("pool", 1)[0].images[0])
    paths = ["../secret.png", str(outside), "/etc/passwd", "missing.png"]
    lines = [{"images": [path], "messages": [{"role": "user", "content": "?"}], "answer": None} for path in paths]
    sheet = inside / "sheet.jsonl"
    sheet.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with Page(Sheet(sheet)) as page:
        thread = threading.Thread(target=page.serve)
        thread.start()
        found = [Client(page).ask(f"image/{at}/0")[0] for at in range(len(paths))]
        page.end()
        thread.join()
    assert found == [404] * 4


def test_a_file_that_was_changed_meanwhile_is_not_written_over(served, sheet):
    own = sheet.read_text().replace('"answer": null', '"answer": "by hand"')
    sheet.write_text(own)
    status, _, content = served.ask("answer", {"at": 0, "answer": "x"})
    assert status == 409 and "changed by somebody else" in json.loads(content)["error"]
    assert sheet.read_text() == own


def test_a_killed_save_leaves_a_whole_file(sheet, monkeypatch):
    page = Sheet(sheet)
    page.answer(0, "kept")
    before = sheet.read_bytes()
    monkeypatch.setattr("ost.store.name_file", lambda *paths: os._exit(0))
    if not (child := os.fork()):
        page.answer(1, "lost")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 and sheet.read_bytes() == before


class Seen(HTMLParser):
    """Tags with their attributes, and the labels of fields."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_the_page_holds_no_text_of_the_sheet_and_runs_nothing_but_its_own_script(served):
    _, headers, content = served.ask("")
    text, policy = content.decode(), headers["Content-Security-Policy"]
    assert "alert" not in text and "two digits" not in text
    nonce = re.search(r"script-src 'nonce-([\w-]+)'", policy)[1]
    seen = Seen(text)
    scripts = [attrs for tag, attrs in seen.tags if tag == "script"]
    assert scripts == [{"nonce": nonce}] and "NONCE" not in text
    assert nonce not in served.ask("")[1]["Content-Security-Policy"], "a nonce is used once"
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert not [
        attrs for _, attrs in seen.tags if any(name.startswith("on") or name in ("src", "href") for name in attrs)
    ]
    for name, value in HEADERS.items():
        assert headers[name] == value


def test_a_strangers_text_is_put_in_as_text_and_in_no_other_way(served):
    (evil,) = served.json("questions")["questions"][-1]["turns"]
    assert evil["parts"] == [{"text": EVIL}]
    _, headers, _ = served.ask("questions")
    assert headers["Content-Type"] == "application/json" and headers["X-Content-Type-Options"] == "nosniff"
    script = files("ost.anchors").joinpath("page.html").read_text()
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval",
        "DOMParser",
        "http://",
        "https://",
    ):
        assert way not in script


def test_fields_have_labels(served):
    seen = Seen(served.ask("")[2].decode())
    labelled = {attrs["for"] for tag, attrs in seen.tags if tag == "label"}
    assert {attrs["id"] for tag, attrs in seen.tags if tag == "textarea"} <= labelled
    assert dict(seen.tags)["html"]["lang"] == "en"


def test_done_ends_the_server(sheet):
    with Page(Sheet(sheet)) as page:
        thread = threading.Thread(target=page.serve)
        thread.start()
        assert Client(page).json("done", {}) == {"answered": 0}
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 1: it is not JSON"),
        ("[]", "record 1: .*no `answer`"),
        ('{"answer": 3}', "must be text or null"),
        ('{"answer": null}', "without `messages`"),
        ('{"answer": null, "messages": []}', "record 1"),
    ],
)
def test_a_file_that_is_no_sheet_is_refused_with_its_line(tmp_path, line, told):
    (tmp_path / "no.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=told):
        Sheet(tmp_path / "no.jsonl")
    with pytest.raises(DataError, match="ost anchors suggest"):
        Sheet(tmp_path / "missing.jsonl")

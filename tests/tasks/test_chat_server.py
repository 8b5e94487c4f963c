"""The judge's client against `transformers serve` with a checkpoint of ours, and against a server that misbehaves."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from specimens import drawn, other_forms
from streamed import Streamed

from flows.parameters import set_params
from ost.data import Sample, chat, write_samples
from ost.errors import WorkspaceError
from ost.evaluation.generate import generate
from ost.models import Checkpoint, load_checkpoint
from ost.settings import Execution
from ost.store import read_table
from ost.training import Recipe, train
from ost.worlds.tiny import PROXY, build_llava
from stack.processes import BIN, free_ports, running
from tasks.stages.chat_server import AHEAD, REFUSALS, TROUBLES, ChatServer
from tasks.stages.run import execute

SECRET = "sk-a-key-that-nothing-may-hold"
LENGTH = 6


@pytest.fixture(autouse=True)
def key(monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)


# --- a real server ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(processor, tmp_path_factory) -> Path:
    """A LLaVA that has learned to answer in some words; a Qwen3-VL's processor asks for torchvision there."""
    checkpoint = build_llava(PROXY, processor.tokenizer, 0)
    train(checkpoint, drawn("pretrain", 400), Recipe(steps=60, batch_size=16, learning_rate=4e-3))
    folder = tmp_path_factory.mktemp("served") / "llava"
    checkpoint.save(folder)
    return folder


@pytest.fixture(scope="module")
def server(model, tmp_path_factory) -> Iterator[str]:
    (port,) = free_ports(1)
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    log = tmp_path_factory.mktemp("log") / "serve.log"
    command = [str(BIN / "transformers"), "serve", *options, str(model)]
    with running(command, f"http://127.0.0.1:{port}/health", log):
        yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture(scope="module")
def local(model) -> Checkpoint:
    return load_checkpoint(model)


def test_a_served_checkpoint_says_what_it_says_in_process(server, model, local, tmp_path):
    """With images as data URLs: a client that drops or swaps them gets other answers."""
    samples = drawn("benchmark", 12)
    served = ChatServer(str(model), server, tmp_path, max_tokens=LENGTH, concurrency=3)
    expected = generate(local, samples, max_new_tokens=LENGTH)
    assert len(set(expected.texts)) > 2, "the model says the same to everything, so this test says nothing"
    assert served.complete(samples) == expected.texts
    assert served.prompt_tokens == expected.prompt_tokens
    assert 0 < served.completion_tokens <= LENGTH * len(samples)


def test_several_turns_and_none_with_an_image_are_answered_too(server, model, local, tmp_path):
    samples = [sample for sample in other_forms() if len(sample.images) < 2]
    served = ChatServer(str(model), server, tmp_path, max_tokens=LENGTH)
    assert (
        served.complete(samples)
        == generate(local, samples, max_new_tokens=LENGTH, execution=Execution(batch_tokens=1)).texts
    )


def test_a_model_that_the_server_has_not_is_told(server, tmp_path):
    with pytest.raises(
        WorkspaceError, match=r"(?i)refused with \d+.*look at models.judge \('/no/such/model'\)"
    ) as told:
        ChatServer("/no/such/model", server, tmp_path, max_tokens=2).complete(drawn("pool", 1))
    assert server in str(told.value) and SECRET not in str(told.value)


# --- a server of any behaviour ----------------------------------------------------------------------------------------


class Scripted(ThreadingHTTPServer):
    """Answers with the next of its scripted codes, 200 when they are used up, and keeps what it was asked.

    A reply that is a number is a code, one of bytes the body itself.
    """

    def __init__(self, *codes: int, reply: Callable[[dict], str | int | bytes | None] = lambda asked: "yes"):
        self.codes, self.reply, self.asked, self.times, self.keys = list(codes), reply, [], [], []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.times.append(time.monotonic())
        self.server.asked.append(asked)
        self.server.keys.append(self.headers["Authorization"])
        code, said = self.server.codes.pop(0) if self.server.codes else 200, self.server.reply(asked)
        if isinstance(said, int):
            code = said
        message = {"role": "assistant", "content": None if isinstance(said, int | bytes) else said}
        usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
        answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "usage": usage}
        answer |= {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        body = json.dumps(answer if code == 200 else {"error": {"message": f"your key is {SECRET}"}}).encode()
        body = said if isinstance(said, bytes) else body
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    started = []

    def start(*codes: int, **options) -> Scripted:
        server = Scripted(*codes, **options)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def questions(count: int) -> list[Sample]:
    return [Sample((), chat(f"What is {number} + 1?", "secret answer", images=0)) for number in range(count)]


def refusing(code: int, *numbers: int) -> Callable[[dict], str | int]:
    """A server's reply that refuses what names one of these `questions`, and says yes to the others."""
    refused = [sample.question for sample in map(questions(max(numbers) + 1).__getitem__, numbers)]

    def reply(asked: dict) -> str | int:
        text = asked["messages"][0]["content"][0]["text"]
        return code if any(question in text for question in refused) else "yes"

    return reply


def test_the_samples_own_answer_is_never_sent(scripted, tmp_path):
    server, samples = scripted(), [*drawn("pool", 3), *other_forms(), *questions(2)]
    ChatServer("m", server.address, tmp_path, max_tokens=5).complete(samples)
    sent = json.dumps(server.asked)
    assert len(server.asked) == len(samples) and not [s.answer for s in samples if json.dumps(s.answer)[1:-1] in sent]
    assert {(one["temperature"], one["max_tokens"], one["model"]) for one in server.asked} == {(0.0, 5, "m")}
    assert set(server.keys) == {f"Bearer {SECRET}"}


def test_nothing_is_asked_twice(scripted, tmp_path):
    server = scripted(reply=lambda asked: asked["messages"][0]["content"][0]["text"])
    samples = questions(6)
    first = ChatServer("m", server.address, tmp_path, max_tokens=5, concurrency=3)
    expected = [sample.question for sample in samples]
    assert first.complete([*samples, *samples]) == [*expected, *expected]
    assert (len(server.asked), first.requests) == (6, 6), "equal questions are one"
    assert (first.prompt_tokens, first.completion_tokens) == (12 * 7, 12 * 2)
    server.shutdown()
    again = ChatServer("m", server.address, tmp_path, max_tokens=5)
    assert again.complete(samples[::-1]) == expected[::-1]
    assert (again.requests, again.prompt_tokens) == (0, 6 * 7)
    assert first.earlier == 0 < again.earlier, "what kept answers took"


def test_another_model_length_or_question_is_asked_anew(scripted, tmp_path):
    server, samples = scripted(), questions(2)
    for model, length, own in (
        ("m", 5, samples[:1]),
        ("n", 5, samples[:1]),
        ("m", 6, samples[:1]),
        ("m", 5, samples[1:]),
    ):
        ChatServer(model, server.address, tmp_path, max_tokens=length).complete(own)
    assert len(server.asked) == 4


def test_another_image_is_another_question(scripted, tmp_path):
    server, (one, other) = scripted(), drawn("pool", 2)
    samples = [Sample(images, one.messages) for images in (one.images, other.images, one.images)]
    judge = ChatServer("m", server.address, tmp_path, max_tokens=5)
    assert judge.complete(samples) == ["yes"] * 3 and judge.requests == len(server.asked) == 2


def test_another_server_is_asked_anew(scripted, tmp_path):
    """Both may serve a model of the same name; a slash behind the address makes no other server of one."""
    samples, servers = questions(2), [scripted(reply=lambda asked, word=word: word) for word in ("one", "two")]
    for server in [*servers, *servers]:
        said = ChatServer("m", server.address, tmp_path, max_tokens=5).complete(samples)
        assert said == [server.reply(None)] * 2
        assert ChatServer("m", f"{server.address}/", tmp_path, max_tokens=5).complete(samples) == said
    assert [len(server.asked) for server in servers] == [2, 2]


def test_few_samples_are_read_before_the_first_is_asked_about_and_few_are_held(scripted, tmp_path):
    streamed, read = Streamed(drawn("pool", 60)), []
    server = scripted(reply=lambda asked: read.append(streamed.made) or "yes")
    told = []
    judge = ChatServer("m", server.address, tmp_path, max_tokens=5, concurrency=2)
    assert judge.complete(streamed, lambda done, total, note="": told.append((done, total))) == ["yes"] * 60
    assert all(made <= place + 2 * AHEAD for place, made in enumerate(sorted(read), start=1))
    assert streamed.most <= 2 * AHEAD + 1 and streamed.held == 0
    assert told == [(done, 60) for done in range(1, 61)]


def test_a_broken_answer_on_disk_is_asked_anew(scripted, tmp_path):
    server, samples = scripted(), questions(1)
    ChatServer("m", server.address, tmp_path, max_tokens=5).complete(samples)
    (file,) = tmp_path.rglob("*.json")
    for text in ("", "{}", "[1]", '{"text": "no", "prompt_tokens": 1'):
        file.write_text(text)
        assert ChatServer("m", server.address, tmp_path, max_tokens=5).complete(samples) == ["yes"]
    assert len(server.asked) == 5


@pytest.mark.parametrize("code", [429, 500, 503])
def test_what_is_refused_for_the_moment_is_asked_again(code, scripted, tmp_path):
    server = scripted(code, code)
    assert ChatServer("m", server.address, tmp_path, max_tokens=5).complete(questions(1)) == ["yes"]
    assert len(server.asked) == 3


@pytest.mark.parametrize("code", [401, 403, 404])
def test_a_refusal_is_told_without_the_key_and_answers_so_far_are_kept(code, scripted, tmp_path):
    server = scripted(200, 200, code)
    judge = ChatServer("m", server.address, tmp_path, max_tokens=5, concurrency=1)
    with pytest.raises(WorkspaceError, match=rf"{server.address} refused with {code}.*OPENAI_API_KEY") as told:
        judge.complete(questions(4))
    assert SECRET not in str(told.value)
    files = list(tmp_path.rglob("*.json"))
    assert len(files) >= 2 and not [file for file in files if SECRET in file.read_text()]


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_sample_that_is_refused_has_no_answer_and_the_others_do(code, scripted, tmp_path):
    """It is asked about again in the next run, for the server may take it by then."""
    server, samples = scripted(reply=refusing(code, 1, 4)), questions(6)
    for asked in (6, 2):
        judge = ChatServer("m", server.address, tmp_path, max_tokens=5, concurrency=2)
        assert judge.complete([*samples, samples[1]]) == ["yes", None, "yes", "yes", None, "yes", None]
        assert (judge.requests, judge.prompt_tokens, judge.completion_tokens) == (asked, 4 * 7, 4 * 2)
        assert judge.refusal == f"refused with {code} (your key is …)"
    server.reply = lambda asked: "at last"
    assert ChatServer("m", server.address, tmp_path, max_tokens=5).complete(samples[1:2]) == ["at last"]


@pytest.mark.parametrize(("code", "limit"), [(400, REFUSALS), (503, TROUBLES)])
def test_refusals_in_a_row_end_a_run(code, limit, scripted, tmp_path, monkeypatch):
    """Not those that others' answers stand between, of which there may be any number."""
    monkeypatch.setattr("tasks.stages.chat_server.RETRIES", 0)
    samples, every = questions(2 * limit), range(0, 2 * limit, 2)
    server = scripted(reply=refusing(code, *every))
    said = ChatServer("m", server.address, tmp_path, max_tokens=5, concurrency=1).complete(samples)
    assert said == [None, "yes"] * limit
    row = [samples[place] for place in every]
    with pytest.raises(
        WorkspaceError, match=rf"no answer to {limit} sample\(s\) in a row.* refused with {code}"
    ) as told:
        ChatServer("m", server.address, tmp_path, max_tokens=5, concurrency=1).complete(row)
    assert "models.judge ('m')" in str(told.value) and SECRET not in str(told.value)
    kept = ChatServer("m", server.address, tmp_path, max_tokens=5, concurrency=1)
    with pytest.raises(WorkspaceError, match=f"no answer to {limit} sample"):
        kept.complete(samples)  # what is known from before is no sign that the server is well
    assert ChatServer("m", server.address, tmp_path, max_tokens=5).complete([*row[1:], samples[1]])[-1] == "yes"


def test_a_server_that_answers_nothing_is_told_of_in_a_small_pool_too(scripted, tmp_path):
    judge = ChatServer("m", scripted(reply=lambda asked: 400).address, tmp_path, max_tokens=5)
    with pytest.raises(WorkspaceError, match=r"no answer to 3 sample\(s\) in a row, the last time: refused with 400"):
        judge.complete(questions(3))


def test_a_rate_that_is_refused_to_the_end_is_no_samples_fault(scripted, tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.stages.chat_server.RETRIES", 0)
    judge = ChatServer("m", scripted(200, 429).address, tmp_path, max_tokens=5, concurrency=1)
    with pytest.raises(WorkspaceError, match=r"refused with 429: ask for less .* judge.requests_per_minute"):
        judge.complete(questions(3))


def test_a_sample_that_takes_for_ever_has_no_answer(scripted, tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.stages.chat_server.RETRIES", 0)
    monkeypatch.setattr("tasks.stages.chat_server.TIMEOUT", 0.5)
    slow = refusing(400, 1)
    server = scripted(reply=lambda asked: time.sleep(1.5) or "yes" if slow(asked) == 400 else "yes")
    judge = ChatServer("m", server.address, tmp_path, max_tokens=5)
    assert judge.complete(questions(3)) == ["yes", None, "yes"] and judge.refusal == "no answer within 0.5 s"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{}]}', b"null"])
def test_an_answer_without_a_message_is_none(body, scripted, tmp_path):
    broken = refusing(400, 1)
    server = scripted(reply=lambda asked: body if broken(asked) == 400 else "yes")
    judge = ChatServer("m", server.address, tmp_path, max_tokens=5)
    assert judge.complete(questions(3)) == ["yes", None, "yes"] and "no message" in judge.refusal


def test_the_stage_counts_and_tells_what_the_judge_gave_no_answer_to(scripted, folder):
    pool, anchors = questions(8), questions(10)[6:]
    write_samples(folder / "data/pool", pool)
    write_samples(folder / "data/anchors", anchors)
    server = scripted(reply=refusing(400, 2, 3, 9))
    set_params(folder / "params.yaml", [f"judge.server={server.address}", "models.judge=m", "judge.mode=grade"])
    manifest = execute("score-judge", folder)
    table = read_table(folder / "scores/judge.parquet")
    assert table["id"].to_pylist() == [sample.id for sample in pool]
    assert table["reply"].to_pylist() == ["yes", "yes", None, None, *["yes"] * 4]
    assert table["agrees"].to_pylist() == [number not in (2, 3) for number in range(8)]
    assert {name: manifest["metrics"][name] for name in ("kept", "unanswered", "agrees_with_anchors")} == {
        "kept": 0.75, "unanswered": 0.25, "agrees_with_anchors": 0.75,
    }  # fmt: skip
    first, second = manifest["warnings"]
    assert f"2 of 8 pool samples, such as {pool[2].id}" in first and "refused with 400" in first
    assert f"1 of 4 anchors, such as {anchors[3].id}" in second and SECRET not in first + second
    execute("select-judge", folder)
    reasons = read_table(folder / "selections/judge.parquet")["reason"].to_pylist()
    assert [reason == "kept" for reason in reasons] == table["agrees"].to_pylist()


def test_what_kept_answers_took_is_part_of_what_judging_costs(scripted, folder):
    """A run that was killed, or one with another metric, asks for little itself."""

    def slow(asked: dict) -> str:
        time.sleep(0.3)
        return "yes"

    for name, own in (("pool", questions(8)), ("anchors", questions(2))):
        write_samples(folder / f"data/{name}", own)
    changes = [f"judge.server={scripted(reply=slow).address}", "models.judge=m", "judge.mode=grade"]
    set_params(folder / "params.yaml", [*changes, "judge.concurrency=2"])
    first, second = execute("score-judge", folder), execute("score-judge", folder)
    assert first["seconds"] == first["metrics"]["spent_seconds"] > 1.1
    assert second["seconds"] > 1.1 > second["metrics"]["spent_seconds"]
    assert second["outputs"] == first["outputs"]


def test_a_server_that_is_not_there_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.stages.chat_server.RETRIES", 0)
    (port,) = free_ports(1)
    with pytest.raises(WorkspaceError, match=rf"no answer from the judge at http://127.0.0.1:{port}/v1"):
        ChatServer("m", f"http://127.0.0.1:{port}/v1", tmp_path, max_tokens=5).complete(questions(1))


def test_requests_keep_to_the_rate(scripted, tmp_path):
    server = scripted()
    ChatServer("m", server.address, tmp_path, max_tokens=5, requests_per_minute=600).complete(questions(6))
    times = sorted(server.times)
    assert times[-1] - times[0] > 0.4, "six requests at ten a second take half a second"


def test_progress_counts_what_is_asked(scripted, tmp_path):
    told = []
    judge = ChatServer("m", scripted().address, tmp_path, max_tokens=5)
    judge.complete(questions(3), lambda done, total, note="": told.append((done, total, note)))
    assert told == [(done, 3, "asking the judge") for done in (1, 2, 3)]


def test_no_words_are_an_empty_reply(scripted, tmp_path):
    judge = ChatServer("m", scripted(reply=lambda asked: None).address, tmp_path, max_tokens=5)
    assert judge.complete(questions(1)) == [""]

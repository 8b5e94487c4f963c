"""A judge behind an OpenAI-compatible server. Alone in importing openai."""

import base64
import contextlib
import hashlib
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from openai import APIConnectionError, APIStatusError, APITimeoutError, OpenAI

from ost.cost import Stopwatch
from ost.data import Sample, sample_id
from ost.data.picture import shown
from ost.errors import WorkspaceError
from ost.settings import without_userinfo
from ost.store import read_json, write_json
from ost.types import Progress, silent

KEY = "OPENAI_API_KEY"
"""Environment variable that holds the server's key; a server without keys takes any."""
RETRIES = 5
"""Of a request that was refused for the moment (408, 409, 429, 5xx) or did not get through, with growing waits."""
TIMEOUT = 120.0
"""Seconds that an answer may take."""
AHEAD = 3
"""Samples that are held for each request that may be under way, so that the server never waits for the disk."""
HOPELESS = (401, 402, 403, 404, 405, 429)
"""Refusals that no sample would escape; any other is taken for the sample's own fault, as of a prompt too long."""
REFUSALS, TROUBLES = 50, 10
"""Refusals in a row that end a run all the same, and how many of them may be a server's in trouble: 5xx, no answer in
time."""


@dataclass(frozen=True)
class Reply:
    """One answer, and what it took."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float = 0.0
    """Of wall clock: its share of them, beside all that is asked at the same time."""


class _Refusal(Exception):
    """The server gave no answer to one sample; its text says why."""

    def __init__(self, why: str, trouble: bool = False):
        super().__init__(why)
        self.trouble = trouble


class ChatServer:
    """Completes chat turns, greedily, on any OpenAI-compatible server; see `ost.baselines.judge.Chat`.

    Every answer is kept in the folder `cache` under the digest of who was asked what, so that a run that was stopped
    goes on where it stood and nothing is paid for twice. Counts of tokens include answers from there.
    """

    def __init__(
        self,
        model: str,
        server: str,
        cache: Path,
        *,
        max_tokens: int,
        concurrency: int = 8,
        requests_per_minute: int = 0,
    ):
        self.model, self.server, self.cache, self.max_tokens = model, server.rstrip("/"), cache, max_tokens
        self._shown = without_userinfo(self.server)
        self.prompt_tokens = self.completion_tokens = 0
        self.flops = 0.0  # a server does not tell
        self.earlier = 0.0
        """Seconds that answers took which came from the cache."""
        self.refusal = ""
        self._concurrency, self._pace = concurrency, _Pace(requests_per_minute)
        self._answered, self._in_a_row = False, list[bool]()
        key = os.environ.get(KEY) or "none"
        self._client = OpenAI(base_url=server, api_key=key, max_retries=RETRIES, timeout=TIMEOUT)

    @property
    def requests(self) -> int:
        """Answers that the server was asked for; the others came from the cache."""
        return self._pace.passed

    def complete(self, samples: Sequence[Sample], progress: Progress = silent) -> list[str | None]:
        """The model's own last message for each sample, whose own last message is not sent; None where it gave none.

        Samples are read as they are asked about, few at a time; equal questions are asked once. A refusal is the
        sample's own, and `refusal` tells the last. Raises WorkspaceError where the server cannot be reached, refuses
        whatever it is asked, or has answered nothing; answers so far are kept.
        """
        names: list[str] = []
        replies: dict[str, Reply | None] = {}

        def questions() -> Iterator[tuple[str, Callable[[], tuple[Reply, bool]]]]:
            for sample in samples:
                names.append(name := self._name(sample))
                if name not in replies:
                    replies[name] = None
                    yield name, partial(self._reply, name, sample)

        with contextlib.closing(_finished(questions(), self._concurrency)) as finished:
            for done, (name, future) in enumerate(finished, start=1):
                replies[name] = self._reply_of(future)
                progress(len(names) - (len(replies) - done), len(samples), "asking the judge")
        if self._in_a_row and not self._answered:
            raise self._useless()
        given = [reply for name in names if (reply := replies[name])]
        self.prompt_tokens += sum(reply.prompt_tokens for reply in given)
        self.completion_tokens += sum(reply.completion_tokens for reply in given)
        return [reply.text if (reply := replies[name]) else None for name in names]

    def _name(self, sample: Sample) -> str:
        """Digest of who is asked what; the images themselves are read, and not sent or held, for it."""
        asked = [self.server, self.model, self.max_tokens, sample_id(sample.images, sample.messages[:-1])]
        return hashlib.blake2b(json.dumps(asked).encode(), digest_size=16).hexdigest()

    def _reply_of(self, future: Future) -> Reply | None:
        """A request's reply, None for a refusal; raises WorkspaceError at the last of too many in a row."""
        try:
            reply, fresh = future.result()
        except _Refusal as refused:
            self.refusal = str(refused)
            self._in_a_row.append(refused.trouble)
            if len(self._in_a_row) >= REFUSALS or sum(self._in_a_row) >= TROUBLES:
                raise self._useless() from refused
            return None
        self._answered = True
        if fresh:
            self._in_a_row.clear()
        else:
            self.earlier += reply.seconds
        return reply

    def _useless(self) -> WorkspaceError:
        """The error of a run in which the server refuses one sample after the other."""
        return WorkspaceError(
            f"the judge at {self._shown} gave no answer to {len(self._in_a_row)} sample(s) in a row, the last time: "
            f"{self.refusal}. Look at models.judge ({self.model!r}), judge.server, and whether the model takes images "
            "and prompts as long as these; then run again, and it goes on where it stood"
        )

    def _reply(self, name: str, sample: Sample) -> tuple[Reply, bool]:
        """A sample's reply, and whether the server was asked for it just now."""
        file = self.cache / name[:2] / f"{name}.json"
        try:
            return Reply(**read_json(file)), False
        except (OSError, ValueError, TypeError):  # not asked yet, or no whole answer
            watch = Stopwatch()
            reply = replace(self._ask(_turns(sample)), seconds=watch.seconds / self._concurrency)
            write_json(file, vars(reply))
            return reply, True

    def _ask(self, turns: list[dict]) -> Reply:
        """The server's answer; raises _Refusal where this sample has none, WorkspaceError where no sample would."""
        self._pace.wait()
        try:
            answer = self._client.chat.completions.create(
                model=self.model, messages=turns, temperature=0.0, max_tokens=self.max_tokens
            )
            usage, text = answer.usage, answer.choices[0].message.content or ""
        except APITimeoutError as error:
            raise _Refusal(f"no answer within {TIMEOUT:g} s", trouble=True) from error
        except APIConnectionError as error:
            raise WorkspaceError(
                f"no answer from the judge at {self._shown} ({without_userinfo(str(error))}): is it running?"
            ) from error
        except APIStatusError as error:
            raise self._refused(error) from error
        except (ValueError, AttributeError, TypeError, IndexError) as error:
            raise _Refusal("an answer that holds no message", trouble=True) from error
        read, written = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        return Reply(text.strip(), read, written)

    def _refused(self, error: APIStatusError) -> Exception:
        code = error.status_code
        if code not in HOPELESS:
            return _Refusal(f"refused with {code}{_words(error)}", trouble=code in (408, 409) or code >= 500)
        remedy = f"look at models.judge ({self.model!r}), judge.server, and the key in {KEY}"
        if code == 429:
            remedy = "ask for less at a time, by judge.concurrency or judge.requests_per_minute, and run again"
        return WorkspaceError(f"the judge at {self._shown} refused with {code}: {remedy}")


def _words(error: APIStatusError) -> str:
    """What a server says of its refusal, without the key, should it repeat that."""
    said = error.body.get("message") if isinstance(error.body, dict) else None
    words, key = " ".join(str(said or "").split()), os.environ.get(KEY)
    return f" ({(words.replace(key, '…') if key else words)[:200]})" if words else ""


def _finished(calls: Iterator[tuple[str, Callable]], concurrency: int) -> Iterator[tuple[str, Future]]:
    """Names and futures of calls as they end; no more are taken from the iterator than AHEAD times those at work."""
    waiting: dict[Future, str] = {}
    with ThreadPoolExecutor(concurrency) as workers:
        try:
            while True:
                for name, call in itertools.islice(calls, AHEAD * concurrency - len(waiting)):
                    waiting[workers.submit(call)] = name
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future
        finally:
            workers.shutdown(cancel_futures=True)  # of use where the caller, or a call of theirs, ended in an error


class _Pace:
    """Lets at most so many requests a minute through, evenly; 0 for all."""

    def __init__(self, per_minute: int):
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next, self._lock = 0.0, threading.Lock()
        self.passed = 0

    def wait(self) -> None:
        """Return when the next request may go."""
        with self._lock:
            self.passed += 1
            start = max(self._next, time.monotonic())
            self._next = start + self._gap
        time.sleep(max(0.0, start - time.monotonic()))


def _turns(sample: Sample) -> list[dict]:
    """The sample's turns but the last, in the server's form; images as data URLs, in the order of their places."""
    images = iter(sample.images)

    def said(part: dict) -> dict:
        if part["type"] == "text":
            return {"type": "text", "text": part["text"]}
        data, kind = shown(next(images))
        return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{base64.b64encode(data).decode()}"}}

    return [{"role": turn["role"], "content": list(map(said, turn["content"]))} for turn in sample.messages[:-1]]

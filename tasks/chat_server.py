"""A judge behind an OpenAI-compatible server. Alone in importing openai."""

import base64
import hashlib
import json
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from openai import APIConnectionError, APIStatusError, OpenAI

from ost.data import Sample
from ost.errors import WorkspaceError
from ost.store import read_json, write_json
from ost.types import Progress, silent

KEY = "OPENAI_API_KEY"
"""Environment variable that holds the server's key; a server without keys takes any."""
RETRIES = 5
"""Of a request that was refused for the moment (408, 409, 429, 5xx) or did not get through, with growing waits."""
TIMEOUT = 120.0
"""Seconds that an answer may take."""
SIGNATURES = {b"\x89PNG": "png", b"\xff\xd8": "jpeg", b"RIFF": "webp", b"GIF8": "gif", b"BM": "bmp"}


@dataclass(frozen=True)
class Reply:
    """One answer, and what it took."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class ChatServer:
    """Completes chat turns, greedily, on any OpenAI-compatible server; see `ost.baselines.judge.Chat`.

    Every answer is kept in the folder `cache` under the digest of what was asked, so that a run that was stopped goes
    on where it stood and nothing is paid for twice. Counts of tokens include answers from there.
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
        self.model, self.server, self.cache, self.max_tokens = model, server, cache, max_tokens
        self.prompt_tokens = self.completion_tokens = 0
        self.flops = 0.0  # a server does not tell
        self.requests = 0
        """Answers that the server was asked for; the others came from the cache."""
        self._concurrency, self._pace = concurrency, _Pace(requests_per_minute)
        self._client = OpenAI(
            base_url=server, api_key=os.environ.get(KEY) or "none", max_retries=RETRIES, timeout=TIMEOUT
        )

    def complete(self, samples: Sequence[Sample], progress: Progress = silent) -> list[str]:
        """The model's own last message for each sample, whose own last message is not sent.

        Raises WorkspaceError where the server cannot be reached, or refuses; answers so far are kept.
        """
        asked = [_turns(sample) for sample in samples]
        names = [self._name(turns) for turns in asked]
        once = dict(zip(names, asked, strict=True))
        replies: dict[str, Reply] = {}
        with ThreadPoolExecutor(self._concurrency) as pool:
            waiting = {pool.submit(self._reply, name, turns): name for name, turns in once.items()}
            try:
                for done, future in enumerate(as_completed(waiting), start=1):
                    replies[waiting[future]] = future.result()
                    progress(done, len(once), "asking the judge")
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        self.prompt_tokens += sum(replies[name].prompt_tokens for name in names)
        self.completion_tokens += sum(replies[name].completion_tokens for name in names)
        return [replies[name].text for name in names]

    def _name(self, turns: list[dict]) -> str:
        asked = json.dumps([self.model, self.max_tokens, turns], sort_keys=True)
        return hashlib.blake2b(asked.encode(), digest_size=16).hexdigest()

    def _reply(self, name: str, turns: list[dict]) -> Reply:
        file = self.cache / name[:2] / f"{name}.json"
        try:
            return Reply(**read_json(file))
        except (OSError, ValueError, TypeError):  # not asked yet, or no whole answer
            reply = self._ask(turns)
            write_json(file, vars(reply))
            return reply

    def _ask(self, turns: list[dict]) -> Reply:
        self._pace.wait()
        self.requests += 1
        try:
            answer = self._client.chat.completions.create(
                model=self.model, messages=turns, temperature=0.0, max_tokens=self.max_tokens
            )
        except APIConnectionError as error:
            raise WorkspaceError(f"no answer from the judge at {self.server} ({error}): is it running?") from error
        except APIStatusError as error:
            raise WorkspaceError(
                f"the judge at {self.server} refused with {error.status_code}: look at models.judge "
                f"({self.model!r}), judge.server, and the key in {KEY}"
            ) from error
        usage = answer.usage
        read, written = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        return Reply((answer.choices[0].message.content or "").strip(), read, written)


class _Pace:
    """Lets at most so many requests a minute through, evenly; 0 for all."""

    def __init__(self, per_minute: int):
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next, self._lock = 0.0, threading.Lock()

    def wait(self) -> None:
        """Return when the next request may go."""
        with self._lock:
            start = max(self._next, time.monotonic())
            self._next = start + self._gap
        time.sleep(max(0.0, start - time.monotonic()))


def _turns(sample: Sample) -> list[dict]:
    """The sample's turns but the last, in the server's form; images as data URLs, in the order of their places."""
    images = iter(sample.images)
    return [
        {"role": turn["role"], "content": [_part(part, images) for part in turn["content"]]}
        for turn in sample.messages[:-1]
    ]


def _part(part: dict, images) -> dict:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    data = next(images)
    kind = next((kind for start, kind in SIGNATURES.items() if data.startswith(start)), "png")
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{base64.b64encode(data).decode()}"}}

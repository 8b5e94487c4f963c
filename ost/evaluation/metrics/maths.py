"""The metric `math`: whether two expressions are mathematically the same, by the library math-verify.

Computer algebra may take for ever, or all memory, on what a model writes, and math-verify's own time limit works in a
main thread alone; so it runs in a process of its own, which the kernel ends after TIMEOUT seconds.
"""

import atexit
import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading

from ost.evaluation.metrics.text import exact

TIMEOUT = 5
"""Seconds for one pair."""
MEMORY = 4 << 30
"""Address space of the process, in bytes."""
LONGEST = 8_000
"""Characters of a text, counted from its end, that are looked at."""

_NAMED = r"(?:(?:arc)?(?:sin|cos|tan)|(?:sin|cos|tan)h|cot|log|exp|sqrt|gcd|alpha|beta|gamma|theta|inf)(?![A-Za-z])"
"""Words that belong to an expression."""
_WRITTEN = re.compile(r"[A-Za-z]|(?=[^0-9\\^_+*/=<>(){}\[\]-]{0,300}[0-9\\^_+*/=<>(){}\[\]-])[^$\n]{1,300}")
_WORDS = re.compile(rf"\\boxed|\\\(|\\\[|(?<![\\A-Za-z])[A-Za-z]{{2,}}[ .:,]|[0-9] (?!{_NAMED})[A-Za-z]{{3,}}\s*\Z")
"""An expression without dollars around it, of which math-verify would read a part, such as 2 of 2^{10}; and words."""
_LATEX = re.compile(r"\\[A-Za-z]{2}|\\\(|\\\[|[\^_]\{|\$[^\s$](?:[^$]{0,300}[^\s$])?\$(?!\d)")
_PROSE = re.compile(rf"(?<![\\A-Za-z0-9_])(?!{_NAMED})[A-Za-z]{{3,}}|[^\W\d_A-Za-zΑ-Ωα-ω]")
"""A word, or a letter of a script in which no formula is written."""
_LEAD = re.compile(r".*(?:####|\banswer(?: is|:)|=)", re.DOTALL | re.IGNORECASE)
"""What a solution in words says before its result."""
_UNIT = (
    rf"(?!{_NAMED}|(?:and|or|to|of|half|dozen|hundred|thousand|million|billion)\b)"
    r"(?:[^\W\d_A-Z]+|[A-Za-z]{1,2}|[A-Za-z][A-Z][A-Za-z])(?![^\W\d_])"
)
"""A word that says what is counted: apples, cm, kWh; no more of the number, and no name, such as Park."""
_QUANTITY = re.compile(rf"\s*[-−+]?[$€£¥]?[0-9][0-9,./]*(?:[ -]|(?![A-Za-z]))({_UNIT}(?:[ /]{_UNIT}){{0,3}})[\s.]*")
_LAST_NUMBER = re.compile(r".*[0-9][\s}$\\,~]*(?:(?:text|mathrm|mbox)\s?\{\s*)?([^\W\d_]?)", re.DOTALL)
"""With the first letter of a word right behind it."""


def math(answer: str, reference: str) -> bool:
    """Whether the answer's last expression equals the reference's, as numbers, expressions, intervals or sets.

    Both may be LaTeX, in dollars or a box or bare, or plain text; see https://github.com/huggingface/Math-Verify. What
    is not decided within TIMEOUT seconds is wrong. A reference in words that leads up to no expression, such as an
    address, is compared by `exact`. Of one that is a number with a unit, the answer may leave out the unit, and not
    have another.
    """
    if exact(answer, reference):
        return True
    answer, value = answer[-LONGEST:], _value_of(reference[-LONGEST:])
    return value is not None and _fits_unit(answer, value) and _verifier.agree(answer, value)


def _value_of(reference: str) -> str | None:
    """What of a reference is an expression: all of it, or what its words lead up to; None where nothing is."""
    lead = _LEAD.match(reference)
    for text in (reference, reference[lead.end() :] if lead else ""):
        if text and (_LATEX.search(text) or not _PROSE.search(text) or _QUANTITY.fullmatch(text)):
            return text
    return None


def _fits_unit(answer: str, value: str) -> bool:
    """Whether an answer names the unit that a number has, or none; true of a value without a unit."""
    quantity = _QUANTITY.fullmatch(value)
    if not quantity:
        return True
    unit = re.escape(quantity[1].removesuffix("s"))
    last = _LAST_NUMBER.match(answer.rpartition("\\boxed")[2])
    return not (last and last[1]) or bool(re.search(rf"(?<![^\W\d_]){unit}s?(?![^\W\d_])", answer, re.IGNORECASE))


class Verifier:
    """A process that compares expressions, started at the first pair, and anew where one ended it."""

    def __init__(self, timeout: int = TIMEOUT) -> None:
        """`timeout`: seconds for one pair."""
        self.timeout = timeout
        self._process: subprocess.Popen | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def agree(self, answer: str, reference: str) -> bool:
        """Whether the expressions of both are the same; false where that was not decided in time."""
        with self._lock:
            process = self._running()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps([answer, reference]) + "\n")
                process.stdin.flush()
            if said := process.stdout.readline():
                return json.loads(said)
            self.close()
            return False

    def close(self) -> None:
        """End the process."""
        if self._process and self._owner == os.getpid():
            self._process.kill()
            self._process.communicate()
        self._process = None

    def _running(self) -> subprocess.Popen:
        if self._process is None or self._owner != os.getpid():  # a fork's pipes are its parent's
            command = [sys.executable, "-c", f"from {__name__} import serve; serve({self.timeout})"]
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self._process = subprocess.Popen(command, env=environment, text=True, **pipes)
            self._owner = os.getpid()
        return self._process


_verifier = Verifier()
atexit.register(_verifier.close)


def _equal(answer: str, reference: str) -> bool:
    """What math-verify says, without its own limits."""
    from math_verify import parse, verify

    def parsed(text: str) -> list:
        whole = _WRITTEN.fullmatch(text.strip()) and not _WORDS.search(text)
        return (parse(f"${text.strip()}$", parsing_timeout=None) if whole else []) or parse(text, parsing_timeout=None)

    return verify(parsed(reference), parsed(answer), timeout_seconds=None)


def serve(timeout: int) -> None:
    """Compare pairs from the standard input, a line each, until it ends."""
    import math_verify  # noqa: F401  its loading is not counted against the first pair

    with contextlib.suppress(ValueError, OSError):  # where the system knows no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin:
        signal.alarm(timeout)  # nothing handles it, so that it ends the process whatever that is doing
        try:
            found = bool(_equal(*json.loads(line)))
        except Exception:  # a library of parsers on whatever a model wrote
            found = False
        signal.alarm(0)
        print(json.dumps(found), flush=True)  # noqa: T201

"""The metric `math`: expressions that are the same, and a limit that holds wherever it runs."""

import os
import threading
import time

import pytest

from ost.evaluation.metrics.maths import Verifier, math


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("${1,2,3,4}$", "${1,3} \\cup {2,4}$", True),  # the first example of math-verify's README
        ("0.5", "\\frac{1}{2}", True),
        ("The answer is $\\frac12$.", "1/2", True),
        ("2^{10}", "1024", True),
        ("2^{10}", "2", False),
        ("x = 3", "3", True),
        ("$(1,2)$", "[1,2]", False),
        ("(1,2)", "$(1, 2)$", True),
        ("so it is 42", "42", True),
        ("\\boxed{42}", "We add 40 and 2, so that it is \\boxed{42}", True),
        ("41 or 43, thus \\boxed{41}", "\\boxed{42}", False),
        ("x^2 - 1", "(x-1)(x+1)", True),
        ("50%", "0.5", True),
        ("1,000", "1000", True),
        ("on", "no", False),  # as products of variables they would be the same
        ("", "7", False),
        ("\\frac{1}{0}", "7", False),
        ("\\(", "7", False),
    ],
)
def test_expressions_by_example(answer, reference, right):
    assert math(answer, reference) is right


def test_what_would_take_for_ever_is_wrong_and_the_next_pair_is_compared():
    verifier, began = Verifier(1), time.monotonic()
    assert not verifier.agree("$9^{9^{9^{9}}}$", "7")
    assert time.monotonic() - began < 30
    assert verifier.agree("$\\frac{2}{4}$", "0.5")
    verifier.close()


def test_it_works_in_threads_and_in_forks():
    found: list[bool] = []
    assert math("$\\frac{3}{6}$", "0.5")
    threads = [threading.Thread(target=lambda: found.append(math("$\\frac{2}{4}$", "0.5"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4
    child = os.fork()
    if child == 0:
        os._exit(0 if math("$\\frac{4}{8}$", "0.5") else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert math("$\\frac{5}{10}$", "0.5"), "the fork took its parent's process away"

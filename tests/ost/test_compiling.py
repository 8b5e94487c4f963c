"""Compiled blocks: kept where they are faster and give the same, taken back where not."""

import functools
import time

import numpy as np
import pytest
import torch

import ost
from ost.encoding import Encoder
from ost.execution.compiling import WORTH, compile_blocks, decided
from ost.execution.losses import sample_losses
from ost.models.parts import decoder_blocks
from ost.scoring.passes.weights import moved_copy
from ost.settings import Execution

REAL = torch.compile


@pytest.fixture
def model(proxy):
    return moved_copy(proxy.model, ())


@pytest.fixture
def run(model, proxy, anchors):
    """A pass that is slower while blocks are as they are."""
    batch = Encoder(proxy.processor).training(anchors[:4])

    def losses() -> torch.Tensor:
        if not is_compiled(model):
            time.sleep(0.3)
        return sample_losses(model, batch)[0]

    return losses


def is_compiled(model) -> bool:
    return all("forward" in vars(block) for block in decoder_blocks(model))


@pytest.fixture(autouse=True)
def no_code_is_generated(monkeypatch):
    """Blocks are traced, which is what tells whether they can be compiled, and run as they are."""
    monkeypatch.setattr(torch, "compile", functools.partial(REAL, backend="eager"))


def test_blocks_that_are_faster_and_give_the_same_are_kept(model, run):
    expected = run()
    assert compile_blocks([model], run) is None
    assert is_compiled(model)
    torch.testing.assert_close(run(), expected)


@pytest.mark.parametrize(
    ("compiled", "reason"),
    [
        (lambda forward, **_: lambda *args, **kwargs: 1 / 0, "ZeroDivisionError"),
        (lambda forward, **_: lambda states, *args, **kwargs: forward(2 * states, *args, **kwargs), "other losses"),
    ],
    ids=["fails", "differs"],
)
def test_blocks_that_fail_or_differ_are_as_they_were(compiled, reason, model, run, monkeypatch):
    monkeypatch.setattr(torch, "compile", compiled)
    expected = run()
    assert reason in compile_blocks([model], run)
    assert not is_compiled(model)
    assert torch.equal(run(), expected)


def test_blocks_that_are_no_faster_are_as_they_were(model, run, monkeypatch):
    def slow(forward, **_):
        def passed(*args, **kwargs):
            time.sleep(0.5)
            return forward(*args, **kwargs)

        return passed

    monkeypatch.setattr(torch, "compile", slow)
    assert "no faster" in compile_blocks([model], run)
    assert not is_compiled(model)


@pytest.mark.parametrize("method", ["lookahead", "transposed"])
def test_scores_are_the_same_and_the_proxy_is_left_as_it_was(method, proxy, pool, anchors):
    settings = {"method": method, "checks": 0, "layers": "language", "lookahead": {"steps": 2}}
    found = [
        ost.score(pool[:12], anchors[:8], proxy, execution=Execution(compile=how), **settings).table["utility"]
        for how in ("never", "always")
    ]
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)
    assert not is_compiled(proxy.model)


def test_a_compiler_that_is_not_there_is_told(proxy, pool, anchors, monkeypatch):
    def absent(forward, **_):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda forward, **_: absent)
    always = Execution(compile="always")
    scored = ost.score(pool[:4], anchors[:4], proxy, execution=always, method="transposed", checks=0)
    assert any("no compiler" in note for note in scored.notes)


@pytest.mark.parametrize(
    ("how", "device", "size", "expected"),
    [
        ("auto", "cuda", WORTH, "always"),
        ("auto", "cuda", WORTH - 1, "never"),
        ("auto", "cpu", WORTH, "never"),
        ("always", "cpu", 1, "always"),
        ("never", "cuda", WORTH, "never"),
    ],
)
def test_auto_is_for_accelerators_and_large_pools(how, device, size, expected):
    assert decided(Execution(compile=how), torch.device(device), size).compile == expected

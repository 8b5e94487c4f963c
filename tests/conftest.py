"""What the tests share: one thread, no network, tiny checkpoints and samples of the built-in world.

Session fixtures are shared: a test that changes a model takes a copy with `copy_of`.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import hypothesis
import pytest
import torch
from specimens import copy_of, drawn, other_forms

from ost.data import Sample
from ost.models import Checkpoint
from ost.training import Recipe, train
from ost.worlds import handmath
from ost.worlds.settings import World
from ost.worlds.teacher import wrong_answers
from ost.worlds.tiny import PROXY, build_model

torch.set_num_threads(1)
hypothesis.settings.register_profile("ost", deadline=None)  # a timing is no test
hypothesis.settings.load_profile("ost")


@pytest.fixture(scope="session")
def processor():
    return handmath.processor()


@pytest.fixture(scope="session")
def fresh(processor) -> Checkpoint:
    """A proxy with random weights."""
    return Checkpoint(build_model(PROXY, processor, 0), processor)


@pytest.fixture(scope="session")
def proxy(fresh) -> Checkpoint:
    """A proxy that has begun to learn, so that its gradients say something about the samples."""
    trained = copy_of(fresh)
    train(trained, drawn("pretrain", 400), Recipe(steps=40, batch_size=16, learning_rate=4e-3))
    return trained


@pytest.fixture(scope="session")
def proxy64(proxy) -> Checkpoint:
    """The same proxy in float64, where rounding is no excuse."""
    return copy_of(proxy, torch.float64)


@pytest.fixture(scope="session")
def anchors() -> list[Sample]:
    return drawn("anchors", 20)


@pytest.fixture(scope="session")
def pool() -> list[Sample]:
    """60 samples of every task: right ones, wrong ones, and the forms that a user's pool has besides."""
    problems = handmath.draw("pool", 56, 0)
    right = [handmath.to_sample(problem) for problem in problems[:32]]
    texts = wrong_answers(handmath, problems[32:], World(misread=1.0, wrong_operation=1.0), 0)
    wrong = [handmath.to_sample(problem, text) for problem, text in zip(problems[32:], texts, strict=True)]
    return [*right[:16], *other_forms(), *right[16:], *wrong]

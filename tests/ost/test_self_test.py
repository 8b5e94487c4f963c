"""The self-test of a proxy: how many rows of logits it makes, and the faults that few rows have to show."""

import pytest
import torch
from families import Family, build

from ost.data import Sample, chat
from ost.encoding import IGNORE
from ost.errors import ModelError
from ost.execution import losses
from ost.models import Checkpoint
from ost.scoring.self_test import SelfTest, try_proxy
from ost.scoring.trial import ROWS, Trial

CHUNK = 16
"""Rows of logits that losses are made of at a time."""


def asked(question: int, answer: int, letters: str, images: tuple[bytes, ...] = ()) -> Sample:
    """A sample of so many characters, a token each."""
    return Sample(images, chat((letters * question)[:question], (letters * answer)[:answer], len(images)))


LONG = (asked(90, 100, "once "), asked(85, 90, "upon a "), asked(95, 110, "time there "))
"""Answers longer than ROWS; the second is the shortest sample."""
PICTURED = (asked(90, 100, "once ", (b"1",)), asked(85, 90, "upon a ", (b"2", b"1")), asked(95, 110, "time there "))


def tried(own: Family, samples=LONG, layers: str = "last:1") -> SelfTest:
    return try_proxy(Checkpoint(own.model, None), own.encode, samples, layers)


@pytest.mark.parametrize(("name", "samples"), [("llama", LONG), ("llava", PICTURED)])
@pytest.mark.parametrize("layers", ["last:1", "all"])
def test_whole_logits_are_made_of_the_shortest_sample_alone(name, samples, layers, monkeypatch):
    """Once as they are, once with the model's own loss; every other pass has few rows, or a chunk of them at a time."""
    own, rows = build(name), []
    head = own.model.get_output_embeddings()
    monkeypatch.setitem(losses.LOGITS, "cpu", 4 * CHUNK * len(head.weight))
    head.register_forward_hook(lambda module, args, logits: rows.append(logits.shape[:-1].numel()))
    tried(own, samples, layers)
    shortest = min(own.encode([sample])["input_ids"].shape[1] for sample in samples)
    few = ROWS * (len(samples) + 1)
    assert shortest > few, "else the rows of a whole sample could not be told from few"
    assert [count for count in rows if count > few] == [shortest] * 2


def test_a_trial_is_made_without_a_pass_or_a_batch():
    def never(samples):
        raise AssertionError("it encodes")

    assert Trial(build("llama").model, never, LONG).noise > 0


def test_weights_in_half_precision_are_tried():
    own = build("llama")
    own.model.to(torch.bfloat16)
    assert not tried(own).one_at_a_time


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [(1,), (3,), range(80, 96)])
def test_answers_are_not_seen_ahead_near_their_end_nor_far_from_it(steps):
    """States that know the tokens so many places on: the changed one is seen by one row, or by sixteen in a row."""
    own = build("llama")
    own.model.get_output_embeddings().register_forward_pre_hook(
        lambda module, args: (args[0] + 0.1 * sum(args[0].roll(-step, dims=1) for step in steps),)
    )
    with pytest.raises(ModelError, match="answer tokens that come later"):
        tried(own, LONG[:1])


def placed(own: Family) -> None:
    """What it gives hangs on where in the logits a row stands."""

    def scale(module, args, found):
        found.logits = found.logits * torch.linspace(1, 2, found.logits.shape[1])[:, None]
        return found

    own.model.register_forward_hook(scale)


def short(own: Family) -> None:
    """It leaves out the first row."""

    def cut(module, args, found):
        found.logits = found.logits[:, 1:]
        return found

    own.model.register_forward_hook(cut)


def flat(own: Family) -> None:
    """Its head takes all tokens in one row."""
    own.model.base_model.register_forward_hook(_flatten)


def _flatten(module, args, found):
    found.last_hidden_state = found.last_hidden_state.flatten(0, 1)[None]
    return found


def unshifted(own: Family) -> None:
    """Its own loss is that of the token it has just read."""
    own.model.loss_function = lambda logits, labels, **rest: torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE
    )


def lossless(own: Family) -> None:
    """It has no loss of its own."""
    own.model.loss_function = lambda **rest: None


def broken(own: Family) -> None:
    """A token that the longest sample alone has is not a number."""
    token = set(own.encode(LONG[2:])["input_ids"].flatten().tolist())
    token -= set(own.encode(LONG[:2])["input_ids"].flatten().tolist())
    with torch.no_grad():
        own.model.get_input_embeddings().weight[token.pop()] = torch.nan


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (placed, "differ from those of its whole logits"),
        (short, "rows of logits for"),
        (flat, "states of another form"),
        (unshifted, "its own loss, which trainers use, is [0-9.]+ where"),
        (lossless, "its own loss, which trainers use, is None"),
        (broken, "losses of some samples are not finite; check its weights"),
    ],
)
def test_a_fault_is_refused_with_its_reason(fault, reason):
    own = build("llama")
    fault(own)
    with pytest.raises(ModelError, match=rf"family 'llama'.* cannot be scored with: .*{reason}"):
        tried(own)
    assert tried(build("llama")) == SelfTest()

"""Questions to a model, asked on one batch of a user's samples: what scoring takes for granted of its logits."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ost.data import Sample
from ost.encoding import IGNORE, Batch
from ost.errors import ModelError
from ost.execution.losses import sample_losses
from ost.models import family

NOISE = 2e-4
"""Largest difference, as a share of the logits' spread, that is rounding: right families stay below 2e-5 in fp32."""
ROUNDINGS = 64
"""The same in roundings of the weights' precision, where that is coarser than fp32."""


class Trial:
    """A batch of samples, its logits, and those of each sample alone; the last sample is one of the others again.

    Each question raises ModelError, naming family, reason and remedy, where the answer makes utilities meaningless.
    """

    def __init__(self, model: PreTrainedModel, encode: Callable[[Sequence[Sample]], Batch], samples: Sequence[Sample]):
        self._model, self._encode, self._samples = model, encode, samples
        self.batch = encode(samples)
        self.noise = max(NOISE, ROUNDINGS * torch.finfo(model.dtype).eps)
        self._logits = self._pass(self.batch).logits
        if self._logits.shape[:2] != self.batch["input_ids"].shape:
            raise self._refusal(
                f"it has {self._logits.shape[1]} rows of logits for {self.batch['input_ids'].shape[1]} tokens"
            )
        self._spread = _spread(self._logits[self.batch["attention_mask"].bool()])
        self._alone = [self._one_by_one(sample) for sample in samples[:-1]]

    def rows_are_chosen(self) -> None:
        """Losses from the rows of answers alone are those of the whole logits."""
        try:
            found = sample_losses(self._model, self.batch)[0]
        except (IndexError, RuntimeError) as error:
            raise self._refusal(f"its output head takes states of another form: {error}") from error
        expected = torch.stack(
            [_loss(row, labels) for row, labels in zip(self._logits, self.batch["labels"], strict=True)]
        )
        if not torch.isfinite(expected).all():
            raise self._refusal("losses of some samples are not finite", "check its weights")
        if (worst := (found - expected).abs().max().item()) > self.noise * max(self._spread, expected.max().item()):
            raise self._refusal(f"losses by its output head differ from those of its whole logits by {worst:.1e} nats")

    def answers_are_unseen(self) -> None:
        """With the last answer token changed, all logits before it stay; in the batch and alone."""
        for batch, logits in ((self.batch, self._logits), (self._alone[-1][0], self._alone[-1][1])):
            ends = [int((labels != IGNORE).nonzero()[-1]) for labels in batch["labels"]]
            changed = self._pass(batch | {"input_ids": self._with_other_ends(batch["input_ids"], ends)}).logits
            worst = max(self._difference(changed[row, :end], logits[row, :end]) for row, end in enumerate(ends))
            if worst > self.noise:
                raise self._refusal(
                    f"its logits depend on answer tokens that come later (by {worst:.1e} of their spread), so it reads "
                    "answers before it predicts them"
                )

    def training_shifts_labels(self) -> None:
        """The model's own loss, which the Trainer trains with, is that of the next token."""
        batch, logits, loss = self._alone[0]
        expected = _loss(logits[0], batch["labels"][0]).item()
        if loss is None or abs(loss - expected) > self.noise * max(self._spread, abs(expected)):
            raise self._refusal(
                f"its own loss, which training uses, is {loss} where the loss of the next token is {expected:.4f}"
            )

    def images_are_seen(self) -> None:
        """Other pixels give other logits."""
        if not any(sample.images for sample in self._samples):
            return
        pixels = [name for name, values in self.batch.items() if values.is_floating_point()]
        noise = {name: torch.where(self.batch[name] == 0, 0, torch.randn_like(self.batch[name])) for name in pixels}
        least = 8 * torch.finfo(self._model.dtype).eps  # an untouched pass would be the very same one
        if not noise or self._difference(self._pass(self.batch | noise).logits, self._logits) < least:
            raise self._refusal("its logits are the same whatever the images: they do not reach it")

    def largest_difference_alone(self) -> float:
        """By how much a sample's logits in the batch differ from its logits alone, as a share of their spread."""
        found = []
        for row, (batch, logits, _) in enumerate(self._alone):
            inside = self._logits[row][self.batch["attention_mask"][row].bool()]
            found.append(self._difference(inside, logits[0][batch["attention_mask"][0].bool()]))
        return max(found)

    def _one_by_one(self, sample: Sample) -> tuple[Batch, Tensor, float | None]:
        batch = self._encode([sample])
        found = self._pass(batch, labels=batch["labels"])
        return batch, found.logits, None if found.loss is None else found.loss.item()

    def _pass(self, batch: Batch, **labels: Tensor):
        dtype = self._model.dtype
        inputs = {name: x.to(dtype) if x.is_floating_point() else x for name, x in batch.items() if name != "labels"}
        try:
            return self._model(**inputs, **labels)
        except (torch.OutOfMemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # models of any family; what they raise is theirs to say
            raise self._refusal(f"a pass fails: {type(error).__name__}: {error}") from error

    def _with_other_ends(self, ids: Tensor, ends: Sequence[int]) -> Tensor:
        """Tokens with each row's last answer token replaced by another token of an answer."""
        known, changed = self.batch["labels"][self.batch["labels"] != IGNORE].unique().tolist(), ids.clone()
        for row, end in enumerate(ends):
            own = int(ids[row, end])
            changed[row, end] = next((token for token in known if token != own), own - 1)
        return changed

    def _difference(self, one: Tensor, other: Tensor) -> float:
        """NaN, where there is one, counts as no difference that could be rounding."""
        worst = (one - other).abs().max().item() / max(self._spread, 1e-12)
        return worst if worst == worst else float("inf")

    def _refusal(self, reason: str, remedy: str = "") -> ModelError:
        remedy = remedy or "choose a proxy of another family, and a target like it (models.proxy, models.target)"
        name = f"{type(self._model).__name__} (family {family(self._model.config)!r})"
        return ModelError(f"{name} cannot be scored with: {reason}; {remedy}")


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean loss in nats of one sample's answer tokens."""
    learned = labels[1:] != IGNORE
    return torch.nn.functional.cross_entropy(logits[:-1][learned].float(), labels[1:][learned]).double()


def _spread(logits: Tensor) -> float:
    """Standard deviation, without tokens that a family never writes: they stand at the lowest number."""
    return logits[logits > torch.finfo(logits.dtype).min / 2].float().std().item()

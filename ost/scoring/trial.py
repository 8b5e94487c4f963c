"""Questions to a model, asked on one batch of a user's samples: what scoring takes for granted of its logits.

Logits of whole samples are large, (T, V) each, so but for one sample the head is given the states of few answer tokens.
"""

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ost.data import Sample
from ost.encoding import IGNORE, Batch
from ost.errors import ModelError
from ost.execution.losses import model_inputs, sample_losses
from ost.models import family
from ost.models.parts import output_head

NOISE = 2e-4
"""Largest difference, as a share of the logits' spread, that is rounding: right families stay below 2e-5 in fp32."""
ROUNDINGS = 64
"""The same in roundings of the weights' precision, where that is coarser than fp32."""
ROWS = 32
"""Most rows of logits that are looked at of a sample: 20 MB of them in fp32, with 151,936 tokens."""


class Trial:
    """A batch of samples, and each sample alone; the batch's last sample is one of the others again.

    Each question raises ModelError, naming family, reason and remedy, where the answer makes utilities meaningless.
    """

    def __init__(self, model: PreTrainedModel, encode: Callable[[Sequence[Sample]], Batch], samples: Sequence[Sample]):
        self._model, self._encode, self._samples = model, encode, samples
        self.noise = max(NOISE, ROUNDINGS * torch.finfo(model.dtype).eps)

    @functools.cached_property
    def batch(self) -> Batch:
        """All samples."""
        return self._encode(self._samples)

    def rows_are_chosen(self) -> None:
        """Losses from the rows of answers alone are those of whole logits, of the shortest sample; all are finite."""
        expected, spread = self._loss_of_whole_logits, self._spread
        try:
            found = sample_losses(self._model, self._shortest)[0].item()
            every = sample_losses(self._model, self.batch)[0]
        except torch.OutOfMemoryError:
            raise
        except (IndexError, RuntimeError) as error:
            raise self._refusal(f"its output head takes states of another form: {error}") from error
        if not (math.isfinite(expected) and math.isfinite(found) and torch.isfinite(every).all()):
            raise self._refusal("losses of some samples are not finite", "check its weights")
        if (worst := abs(found - expected)) > self.noise * max(spread, expected):
            raise self._refusal(f"losses by its output head differ from those of its whole logits by {worst:.1e} nats")

    def answers_are_unseen(self) -> None:
        """With the last answer token changed, logits of answers before it stay; in the batch and alone."""
        alone = self._singles[-1]
        for batch, rows in ((self.batch, self._rows_in_batch), (alone, self._rows(alone))):
            worst = self._difference(self._rows(batch | {"input_ids": self._with_other_ends(batch)}), rows)
            if worst > self.noise:
                raise self._refusal(
                    f"its logits depend on answer tokens that come later (by {worst:.1e} of their spread), so it reads "
                    "answers before it predicts them"
                )

    def training_shifts_labels(self) -> None:
        """The model's own loss, which trainers use, is that of the next token; on the shortest sample."""
        found, expected = self._pass(self._shortest, labels=self._shortest["labels"]).loss, self._loss_of_whole_logits
        loss = None if found is None else found.item()
        if loss is None or abs(loss - expected) > self.noise * max(self._spread, abs(expected)):
            raise self._refusal(
                f"its own loss, which trainers use, is {loss} where the loss of the next token is {expected:.4f}"
            )

    def images_are_seen(self) -> None:
        """Other pixels give other logits of answers."""
        if not any(sample.images for sample in self._samples):
            return
        pixels = [name for name, values in self.batch.items() if values.is_floating_point()]
        noise = {name: torch.where(self.batch[name] == 0, 0, torch.randn_like(self.batch[name])) for name in pixels}
        least = 8 * torch.finfo(self._model.dtype).eps  # an untouched pass would be the very same one
        if not noise or self._difference(self._rows(self.batch | noise), self._rows_in_batch) < least:
            raise self._refusal("its logits are the same whatever the images: they do not reach it")

    def largest_difference_alone(self) -> float:
        """By how much logits of a sample's answer in the batch differ from those alone, as a share of their spread."""
        inside = self._rows_in_batch.split(_places(self.batch["labels"]).sum(dim=1).tolist())
        pairs = zip(inside, self._singles, strict=False)  # the last sample of the batch is there twice
        return max(self._difference(rows, self._rows(batch)) for rows, batch in pairs)

    @functools.cached_property
    def _singles(self) -> list[Batch]:
        """Each sample as a batch of its own."""
        return [self._encode([sample]) for sample in self._samples[:-1]]

    @functools.cached_property
    def _shortest(self) -> Batch:
        """The sample of the fewest tokens: the only one whose whole logits are made."""
        return min(self._singles, key=lambda batch: batch["input_ids"].shape[1])

    @functools.cached_property
    def _loss_of_whole_logits(self) -> float:
        """Mean loss of the shortest sample's answer tokens, in nats, by a pass (1, T, V) that no hook of ours is in."""
        tokens, labels = self._shortest["input_ids"], self._shortest["labels"][0, 1:]
        logits = self._pass(self._shortest).logits
        if logits.shape[:2] != tokens.shape:
            raise self._refusal(f"it has {logits.shape[1]} rows of logits for {tokens.shape[1]} tokens")
        rows = logits[0, :-1][labels != IGNORE]
        del logits
        return nn.functional.cross_entropy(rows.float(), labels[labels != IGNORE]).item()

    @functools.cached_property
    def _rows_in_batch(self) -> Tensor:
        return self._rows(self.batch)

    @functools.cached_property
    def _spread(self) -> float:
        """Standard deviation of logits, without tokens that a family never writes: they stand at the lowest number."""
        rows = self._rows_in_batch
        return rows[rows > torch.finfo(rows.dtype).min / 2].float().std().item()

    def _rows(self, batch: Batch) -> Tensor:
        """Logits (R, V) at `_places` of the batch, sample by sample: the model's own head is given no other states."""
        places = _places(batch["labels"])

        def select(module: nn.Module, args: tuple) -> tuple:
            form, tokens = tuple(args[0].shape), tuple(places.shape)
            if form[:2] != tokens:
                raise self._refusal(f"its output head takes states of another form: {form} for {tokens} tokens")
            return (args[0][places][None], *args[1:])

        handle = output_head(self._model).register_forward_pre_hook(select)
        try:
            return self._pass(batch).logits.flatten(0, -2)
        finally:
            handle.remove()

    def _pass(self, batch: Batch, **labels: Tensor):
        try:
            return self._model(**model_inputs(self._model, batch), **labels)
        except (ModelError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # models of any family; what they raise is theirs to say
            raise self._refusal(f"a pass fails: {type(error).__name__}: {error}") from error

    def _with_other_ends(self, batch: Batch) -> Tensor:
        """Tokens (B, T) with each row's last answer token replaced by another token of an answer."""
        known = self.batch["labels"][self.batch["labels"] != IGNORE].unique().tolist()
        changed = batch["input_ids"].clone()
        for row, labels in enumerate(batch["labels"]):
            end = int((labels != IGNORE).nonzero()[-1])
            own = int(changed[row, end])
            changed[row, end] = next((token for token in known if token != own), own - 1)
        return changed

    def _difference(self, one: Tensor, other: Tensor) -> float:
        """NaN, where there is one, counts as no difference that could be rounding."""
        worst = (one - other).abs_().max().item() / max(self._spread, 1e-12)
        return worst if worst == worst else float("inf")

    def _refusal(self, reason: str, remedy: str = "") -> ModelError:
        remedy = remedy or "choose a proxy of another family, and a target like it (models.proxy, models.target)"
        name = f"{type(self._model).__name__} (family {family(self._model.config)!r})"
        return ModelError(f"{name} cannot be scored with: {reason}; {remedy}")


def _places(labels: Tensor) -> Tensor:
    """Where (B, T) answer tokens are predicted: at most ROWS a sample, half of them the last, half spread over all."""
    chosen = torch.zeros_like(labels, dtype=torch.bool)
    for row, own in enumerate(labels[:, 1:] != IGNORE):
        places = own.nonzero()[:, 0]
        spread = torch.linspace(0, len(places) - 1, ROWS // 2, device=labels.device).long()
        chosen[row, places[-(ROWS // 2) :]] = True
        chosen[row, places[spread]] = True
    return chosen

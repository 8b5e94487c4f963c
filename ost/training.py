"""Supervised fine-tuning with the transformers Trainer."""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from ost.cost import BACKWARD, Cost, Stopwatch
from ost.data import Sample
from ost.encoding import Encoder
from ost.errors import TrainingError
from ost.execution.forward import forward_flops
from ost.models import Checkpoint
from ost.types import Progress, silent


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained: AdamW, linear warm-up, cosine decay to zero."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup_ratio: float = 0.05
    weight_decay: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Moments:
    """What AdamW remembers at the end: its running means of the gradient (m) and of its square (v), not bias-corrected.

    By the weights' names in `model.named_parameters()`, on the weights' device; the optimizer's own tensors.
    """

    first: dict[str, torch.Tensor]
    second: dict[str, torch.Tensor]
    betas: tuple[float, float]
    steps: int

    def corrected_second(self) -> dict[str, torch.Tensor]:
        """v̂ = v / (1 − β₂ᵗ) of each weight."""
        return {name: moment / (1 - self.betas[1] ** self.steps) for name, moment in self.second.items()}


@dataclass(frozen=True)
class Trained:
    """What a training run did and cost."""

    steps: int
    samples: int
    """Distinct samples that it could draw from."""
    loss: float
    """Mean training loss over the last tenth of the steps."""
    cost: Cost
    moments: Moments = field(repr=False)


def train(checkpoint: Checkpoint, samples: Sequence[Sample], recipe: Recipe, progress: Progress = silent) -> Trained:
    """Fine-tune the checkpoint's model in place on the samples' answers; the same inputs give the same weights.

    Raises TrainingError where there is nothing to train on or a loss is not finite.
    """
    if not samples:
        raise TrainingError("the subset is empty, so there is nothing to train on")
    watch = Stopwatch()
    watcher = _Watcher(progress)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = _FiniteTrainer(
            model=checkpoint.model,
            args=_arguments(recipe, scratch, checkpoint.model.device),
            train_dataset=samples,
            data_collator=Encoder(checkpoint.processor).training,
            callbacks=[watcher],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    checkpoint.model.eval()
    tail = trainer.losses[-max(1, recipe.steps // 10) :]
    flops = forward_flops(checkpoint, samples) * (1 + BACKWARD) * recipe.steps * recipe.batch_size
    cost = Cost(watch.seconds, flops)
    return Trained(recipe.steps, len(samples), sum(tail) / len(tail), cost, _moments(trainer))


def _moments(trainer: Trainer) -> Moments:
    """Zeros of a weight that no sample has reached, such as those of a vision tower in a training on text alone."""
    state = trainer.optimizer.state
    trained = {name: weight for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    first, second = (
        {name: state[weight][kind] if weight in state else torch.zeros_like(weight) for name, weight in trained.items()}
        for kind in ("exp_avg", "exp_avg_sq")
    )
    steps = next(state[weight]["step"] for weight in trained.values() if weight in state)
    return Moments(first, second, trainer.optimizer.param_groups[0]["betas"], round(float(steps)))


def _arguments(recipe: Recipe, scratch: str, device: torch.device) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=scratch,
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, round(recipe.warmup_ratio * recipe.steps)),
        weight_decay=recipe.weight_decay,
        seed=recipe.seed,
        data_seed=recipe.seed,
        use_cpu=device.type == "cpu",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    _keep_to_one_device(arguments)
    return arguments


def _keep_to_one_device(arguments: TrainingArguments) -> None:
    """Let a process that sees several accelerators use one: Trainer would split batches among them, images apart."""
    arguments._n_gpu = min(1, arguments.n_gpu)


class _FiniteTrainer(Trainer):
    """A Trainer that stops at the first loss that is not finite, before the step that it would poison."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.losses: list[float] = []

    def compute_loss(self, model, inputs, *args, **kwargs):
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        value = loss.detach().item()
        if not math.isfinite(value):
            raise TrainingError(
                f"the training loss is {value} at step {self.state.global_step + 1}; lower the learning rate, "
                "or look for samples that the scoring quarantined"
            )
        self.losses.append(value)
        return loss


class _Watcher(TrainerCallback):
    def __init__(self, progress: Progress):
        self.progress = progress

    def on_step_end(self, args, state, control, **kwargs):
        self.progress(state.global_step, state.max_steps, "training")

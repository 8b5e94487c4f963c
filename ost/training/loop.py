"""Supervised fine-tuning by steps of any size, of which as much goes through the model at once as memory holds."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor, nn
from transformers import PreTrainedModel, set_seed

from ost.cost import Cost, Stopwatch
from ost.data import Sample, Samples
from ost.encoding import Batch
from ost.errors import TrainingError
from ost.execution.arithmetic import computing
from ost.execution.batches import Batches, approximate_tokens, batches_for
from ost.execution.forward import forward_flops, usual_arithmetic
from ost.execution.losses import AnswerLosses
from ost.models import Checkpoint
from ost.models.adapter import has_adapter
from ost.settings import Execution
from ost.training.recipe import Recipe
from ost.training.saved import Saved
from ost.types import Progress, silent

RECOMPUTED = 4
"""How many times the tokens go through a model at once where its blocks' activations are computed anew."""
POINTS = 1000
"""Of a curve that is kept."""
CLIP = 1.0
"""Largest norm of a step's gradient."""


@dataclass(frozen=True)
class Moments:
    """What AdamW remembers at the end: its running means of the gradient (m) and of its square (v), not bias-corrected.

    By the weights' names in `model.named_parameters()`, on the weights' device; the optimizer's own tensors.
    """

    first: dict[str, Tensor]
    second: dict[str, Tensor]
    betas: tuple[float, float]
    steps: int

    def corrected_second(self) -> dict[str, Tensor]:
        """v̂ = v / (1 − β₂ᵗ) of each weight."""
        return {name: moment / (1 - self.betas[1] ** self.steps) for name, moment in self.second.items()}


@dataclass(frozen=True)
class Trained:
    """What a training run did and cost."""

    steps: int
    samples: int
    """Distinct samples that it could draw from."""
    losses: tuple[float, ...]
    """Each step's mean loss of an answer token, in nats."""
    cost: Cost
    moments: Moments = field(repr=False)

    @property
    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """`training_loss`: (step, loss) in order; of more than POINTS steps the means of so many stretches."""
        parts = np.array_split(np.array(self.losses), min(POINTS, len(self.losses)))
        ends = np.cumsum([len(part) for part in parts])
        return {"training_loss": [(int(end), float(part.mean())) for end, part in zip(ends, parts, strict=True)]}

    @property
    def loss(self) -> float:
        """Mean training loss over the last tenth of the steps."""
        tail = self.losses[-max(1, len(self.losses) // 10) :]
        return sum(tail) / len(tail)


def train(
    checkpoint: Checkpoint,
    samples: Sequence[Sample],
    recipe: Recipe,
    progress: Progress = silent,
    *,
    execution: Execution | None = None,
    saved: Saved | None = None,
) -> Trained:
    """Fine-tune the checkpoint's model in place on the samples' answers; the same inputs give the same weights.

    A step's loss is the mean over all answer tokens of its batch, and its gradient is that of the whole batch, in
    however many parts it goes through the model. On an accelerator passes compute in bf16; weights that move and
    their moments are fp32, and the frozen weights under an adapter are held in bf16 from then on. `saved`: where a
    training goes on that was killed, to the same weights. Where `torchrun` has started several processes, they share
    each step's batch, and come to the same weights.

    Raises TrainingError where there is nothing to train on or a loss is not finite.
    """
    if not samples:
        raise TrainingError("the subset is empty, so there is nothing to train on")
    watch, before = Stopwatch(), 0.0
    loop = _Loop(checkpoint, samples, recipe, execution)
    if saved:
        before = loop.restore(saved)
    for _ in loop.steps():
        progress(loop.done, recipe.steps, "training")
        if saved and loop.done < recipe.steps and loop.is_first and saved.is_due:
            saved.write(*loop.state(before + watch.seconds))
    loop.close()
    flops = forward_flops(checkpoint, samples, execution) * (2 + loop.moved_share) * sum(loop.sizes)
    return Trained(recipe.steps, len(samples), tuple(loop.losses), Cost(before + watch.seconds, flops), loop.moments())


class _Loop:
    """A training under way."""

    def __init__(self, checkpoint: Checkpoint, samples: Sequence[Sample], recipe: Recipe, execution: Execution | None):
        self.model, self.samples, self.recipe = checkpoint.model, samples, recipe
        self.done, self.losses, self.sizes = 0, list[float](), list[int]()
        self._processes = PartialState(cpu=self.model.device.type == "cpu")
        self.is_first = self._processes.is_main_process
        self._arithmetic = usual_arithmetic(checkpoint, samples[0])
        self._batches: Batches = batches_for(checkpoint, execution, gradients=True)
        self._answer_losses = AnswerLosses()
        self._shares: deque[bool] = deque()
        set_seed(recipe.seed)
        self.weights = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        if has_adapter(self.model) and self._arithmetic == "bf16":
            _hold_frozen_in_bf16(self.model)
        decayed = [weight for weight in self.weights.values() if weight.ndim > 1]
        plain = [weight for weight in self.weights.values() if weight.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=recipe.learning_rate, fused=True
        )
        self._recomputes = recipe.gradient_checkpointing and self.model.supports_gradient_checkpointing
        if self._recomputes:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            self._batches.budget.tokens *= RECOMPUTED
        self.model.train()

    def close(self) -> None:
        """Leave the model as one that answers."""
        if self._recomputes:
            self.model.gradient_checkpointing_disable()
        self.model.eval()

    @property
    def moved_share(self) -> float:
        """Share of the weights that are trained: what a backward pass computes beside the states' gradients."""
        return sum(map(torch.numel, self.weights.values())) / self.model.num_parameters()

    def steps(self) -> Iterator[None]:
        """Take the steps that are left, one after the other; a step that runs out of memory is taken in halves."""
        while self.done < self.recipe.steps:
            try:
                for parts in self._batches.stream(self._groups(), self._gradient):
                    self._step(parts)
                    yield
            except _OutOfMemory as error:
                self.optimizer.zero_grad()
                self._batches.budget.halve(error.samples)

    def _groups(self) -> Iterator[list[Sample]]:
        """The samples of each step that is left, those of like length beside each other; this process's own of them."""
        state = self._processes
        self._shares.clear()
        for places in self.recipe.order(len(self.samples), self.done):
            own = places[state.process_index :: state.num_processes]
            self._shares.append(bool(own))
            own = own or places[:1]  # a pass of which nothing counts
            found = (
                self.samples.at(own) if isinstance(self.samples, Samples) else [self.samples[place] for place in own]
            )
            yield sorted(found, key=approximate_tokens)

    def _gradient(self, samples: list[Sample], batch: Batch) -> tuple[float, int, int]:
        """Add the gradient of some samples' summed token losses; returns that sum, its tokens and how many they are."""
        try:
            with computing(self.model.device, self._arithmetic):
                losses = self._answer_losses(self.model, batch).values
            counts = self._shares[0]
            total = losses.sum() * counts
            total.backward()
        except torch.OutOfMemoryError:
            raise _OutOfMemory(samples) from None
        return total.item(), counts * len(losses), counts * len(samples)

    def _step(self, parts: Sequence[tuple[float, int, int]]) -> None:
        """Step along the mean over all the parts' tokens, of all processes."""
        total, tokens, count = self._summed(torch.tensor(parts, dtype=torch.float64).sum(dim=0)).tolist()
        if not math.isfinite(total):  # of all processes, so that all of them end
            raise TrainingError(
                f"the training loss is {total} at step {self.done + 1}; lower the learning rate, "
                "or look for samples that the scoring quarantined"
            )
        moved = [weight for weight in self.weights.values() if weight.grad is not None]
        if self._processes.num_processes > 1:
            moved = list(self.weights.values())
            for weight in moved:
                weight.grad = self._summed(torch.zeros_like(weight) if weight.grad is None else weight.grad)
        for weight in moved:
            weight.grad.div_(tokens)
        nn.utils.clip_grad_norm_(moved, CLIP)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(self.done)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._shares.popleft()
        self.done += 1
        self.losses.append(total / tokens)
        self.sizes.append(round(count))

    def _summed(self, own: Tensor) -> Tensor:
        """The sum over all processes."""
        return own if self._processes.num_processes == 1 else reduce(own.to(self.model.device), "sum")

    def state(self, seconds: float) -> tuple[dict[str, Tensor], dict]:
        """All that it takes to go on: weights, moments and random numbers; and what is told beside them."""
        tensors = {f"weight.{name}": weight for name, weight in self.weights.items()}
        for name, weight in self.weights.items():
            for kind, tensor in self.optimizer.state.get(weight, {}).items():
                tensors[f"{kind}.{name}"] = tensor
        tensors |= {f"random.{number}": drawn for number, drawn in enumerate(_random_states(self.model.device))}
        return tensors, {"done": self.done, "losses": self.losses, "sizes": self.sizes, "seconds": seconds}

    @torch.no_grad()
    def restore(self, saved: Saved) -> float:
        """Go on where a training was saved; returns the seconds that it had taken, 0 where none is saved."""
        if (found := saved.read()) is None:
            return 0.0
        tensors, told = found
        for name, weight in self.weights.items():
            weight.copy_(tensors[f"weight.{name}"])
            kinds = [kind for kind in ("step", "exp_avg", "exp_avg_sq") if f"{kind}.{name}" in tensors]
            if kinds:
                self.optimizer.state[weight] = {kind: tensors[f"{kind}.{name}"].to(weight.device) for kind in kinds}
        self.done, self.losses, self.sizes = told["done"], told["losses"], told["sizes"]
        _set_random_states(self.model.device, [tensors[name] for name in sorted(tensors) if name.startswith("random.")])
        return told["seconds"]

    def moments(self) -> Moments:
        """Zeros of a weight that no sample has reached, such as those of a tower in a training on text alone."""
        state = self.optimizer.state
        first, second = (
            {
                name: state[weight][kind] if weight in state else torch.zeros_like(weight)
                for name, weight in self.weights.items()
            }
            for kind in ("exp_avg", "exp_avg_sq")
        )
        return Moments(first, second, self.optimizer.param_groups[0]["betas"], self.recipe.steps)


class _OutOfMemory(Exception):
    """A batch did not fit; what it left of gradients is half of one."""

    def __init__(self, samples: list[Sample]):
        self.samples = samples


def _hold_frozen_in_bf16(model: PreTrainedModel) -> None:
    for weight in model.parameters():
        if not weight.requires_grad and weight.is_floating_point():
            weight.data = weight.data.bfloat16()


def _random_states(device: torch.device) -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_states(device: torch.device, states: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)

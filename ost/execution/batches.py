"""Batches within memory: as many samples as hold so many tokens, padding counted, halved where memory runs out."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

from ost.data import Sample
from ost.data.picture import size_of
from ost.encoding import Batch, to_device
from ost.errors import ModelError
from ost.execution.loader import Form, Loader, processes_for
from ost.models import Checkpoint
from ost.settings import Execution

Result = TypeVar("Result")

FORWARD = {"cpu": 1024, "cuda": 16384}
"""Tokens of one pass without gradients, by the type of device, where nobody says otherwise."""
BACKWARD = {"cpu": 1024, "cuda": 2048}
"""Of one with gradients, whose activations are all kept."""
WINDOW = 512
"""Samples that are held at once, to be put into batches of like size."""
KNOWN = 8 * WINDOW
"""Samples whose approximate length is kept."""

_known: dict[str, float] = {}


@dataclass
class Budget:
    """How many tokens, padding counted, go through a model at once; halved for good where memory runs out."""

    tokens: int
    most: int | None = None
    """Samples at once, whatever their size; None for any number."""

    def batches(self, samples: Sequence[Sample]) -> Iterator[list[Sample]]:
        """The samples in order, in batches within the budget; a sample that is larger than it is a batch alone."""
        start, sizes = 0, [approximate_tokens(sample) for sample in samples]
        while start < len(samples):
            count = self._count(sizes, start)
            yield list(samples[start : start + count])
            start += count

    def halve(self, samples: Sequence[Sample]) -> None:
        """Take half of what these samples are from now on; raises ModelError where they are one."""
        if len(samples) == 1:
            raise ModelError(
                f"sample {samples[0].id} alone does not fit the device's memory: lower data.max_tokens or "
                "data.max_image_tokens, choose fewer score.layers, or a smaller proxy"
            )
        self.tokens = padded_tokens(samples) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _count(self, sizes: Sequence[float], start: int) -> int:
        """How many samples from here on are the next batch."""
        longest = 0.0
        end = len(sizes) if self.most is None else min(len(sizes), start + self.most)
        for at in range(start, end):
            longest = max(longest, sizes[at])
            if at > start and longest * (at - start + 1) > self.tokens:
                return at - start
        return end - start


class Batches:
    """Puts samples through a function, batch by batch, encoded ahead by a loader."""

    def __init__(self, loader: Loader, device: torch.device, budget: Budget):
        self.loader, self.device, self.budget = loader, device, budget

    def run(
        self,
        samples: Sequence[Sample],
        work: Callable[[list[Sample], Batch], Result],
        advance: Callable[[int], None] = lambda done: None,
    ) -> list[Result]:
        """What `work` gives for each batch, in order; see `stream`."""
        return next(self.stream([samples], work, advance)) if samples else []

    def stream(
        self,
        groups: Iterable[Sequence[Sample]],
        work: Callable[[list[Sample], Batch], Result],
        advance: Callable[[int], None] = lambda done: None,
    ) -> Iterator[list[Result]]:
        """For each group of samples, none of which is empty, what `work` gives for its batches, in order.

        The next group's samples are encoded while a group's last ones are worked on. No sample is cut; `advance` is
        told how many of the group are done. A batch that runs out of an accelerator's memory is halved, and all that
        follow. Raises ModelError where a sample alone does not fit.
        """
        coming, begun = iter(groups), deque[Sequence[Sample]]()
        found: list[Result] = []
        done = 0

        def parts() -> Iterator[list[Sample]]:
            left = [group[done:] if at == 0 else group for at, group in enumerate(begun)]
            for group in itertools.chain(left, self._begun(coming, begun)):
                yield from self.budget.batches(group)

        while True:
            try:
                for own, batch in _copied_ahead(self.loader.ahead(parts()), self.device):
                    found.append(work(own, to_device(batch, self.device)))
                    done += len(own)
                    advance(done)
                    if done == len(begun[0]):
                        begun.popleft()
                        yield found
                        found, done = [], 0
                return
            except torch.OutOfMemoryError:
                self.budget.halve(own)

    @staticmethod
    def _begun(coming: Iterator[Sequence[Sample]], begun: deque[Sequence[Sample]]) -> Iterator[Sequence[Sample]]:
        for group in coming:
            begun.append(group)
            yield group

    def run_sorted(
        self,
        samples: Sequence[Sample],
        work: Callable[[list[Sample], Batch], Sequence[Result]],
        advance: Callable[[int], None] = lambda done: None,
    ) -> list[Result]:
        """What `work` gives for each sample, in the samples' order, by batches of like size, a window at a time."""
        found: list[Result] = []
        orders: deque[list[int]] = deque()

        def windows() -> Iterator[list[Sample]]:
            for start in range(0, len(samples), WINDOW):
                own = samples[start : start + WINDOW]
                orders.append(sorted(range(len(own)), key=lambda at: approximate_tokens(own[at])))
                yield [own[at] for at in orders[-1]]

        for parts in self.stream(windows(), work, lambda done: advance(len(found) + done)):
            by_place = dict(zip(orders.popleft(), itertools.chain.from_iterable(parts), strict=True))
            found.extend(by_place[at] for at in range(len(by_place)))
        return found


def _copied_ahead(
    encoded: Iterator[tuple[list[Sample], Batch]], device: torch.device
) -> Iterator[tuple[list[Sample], Batch]]:
    """The batches, each copied to an accelerator while the one before it is worked on; one for which there is no memory
    yet as it is."""
    if device.type != "cuda":
        yield from encoded
        return
    stream = torch.cuda.Stream(device)

    def copied() -> tuple[list[Sample], Batch] | None:
        if (found := next(encoded, None)) is None:
            return None
        samples, batch = found
        try:
            with torch.cuda.stream(stream):
                batch = to_device(batch, device)
            stream.synchronize()
        except torch.OutOfMemoryError:
            pass  # what is worked on goes first
        return samples, batch

    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(copied)
        while (ready := coming.result()) is not None:
            coming = thread.submit(copied)
            for tensor in ready[1].values():
                if tensor.is_cuda:
                    tensor.record_stream(torch.cuda.current_stream(device))
            yield ready


def batches_for(
    checkpoint: Checkpoint, execution: Execution | None = None, *, gradients: bool = False, form: Form = "training"
) -> Batches:
    """Batches for a checkpoint's model, on its device, as a machine's settings have it."""
    execution, device = execution or Execution(), checkpoint.model.device
    encoders = processes_for(device) if execution.encoders is None else execution.encoders
    budget = budget_for(checkpoint, execution, gradients=gradients)
    return Batches(Loader(checkpoint.processor, encoders, form), device, budget)


def budget_for(checkpoint: Checkpoint, execution: Execution, *, gradients: bool = False) -> Budget:
    """What suits the device, or as many tokens as the settings say: those for passes with gradients in proportion."""
    device = checkpoint.model.device
    forward, backward = (usual.get(device.type, usual["cuda"]) for usual in (FORWARD, BACKWARD))
    tokens = execution.batch_tokens or forward
    most = 1 if checkpoint.one_at_a_time else None
    return Budget(max(1, tokens * backward // forward) if gradients else tokens, most)


def approximate_tokens(sample: Sample) -> float:
    """About how many tokens a sample has: a token for 4 characters, and for each 28 × 28 pixels.

    Kept for the samples asked about last, by their ids: one is asked about for its order, and again for its batch.
    """
    if sample.id not in _known:
        if len(_known) >= KNOWN:
            _known.clear()
        _known[sample.id] = _tokens_of(sample)
    return _known[sample.id]


def _tokens_of(sample: Sample) -> float:
    pixels = sum(width * height for width, height in map(size_of, sample.images))
    return len(sample.question) / 4 + len(sample.answer) / 4 + pixels / 784


def padded_tokens(samples: Sequence[Sample]) -> int:
    """About how many tokens the samples have as one batch."""
    return round(len(samples) * max(map(approximate_tokens, samples)))

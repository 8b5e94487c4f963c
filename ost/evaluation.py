"""Benchmark evaluation: greedy generation, then exact match."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ost.data import Sample
from ost.encoding import Batch
from ost.execution.batches import batches_for
from ost.metrics import metric_of
from ost.models import Checkpoint
from ost.settings import Execution
from ost.types import Progress, silent

GENERATION = 4
"""Tokens that are read at once in writing answers, where a pass over whole samples takes one."""
MOST = 250
"""Answers that are written at once, at most."""


@dataclass(frozen=True)
class Evaluation:
    """Accuracy on a benchmark, whole and by task, with what the model said."""

    accuracy: float
    by_task: dict[str, float]
    predictions: list[str]
    """One text a sample, in the benchmark's order."""


def evaluate(
    checkpoint: Checkpoint,
    benchmark: Sequence[Sample],
    *,
    match: str = "final",
    max_new_tokens: int = 16,
    execution: Execution | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Answer every benchmark sample greedily and compare with its last message, by the metric `match`."""
    matches = metric_of(match)
    predictions = generate(
        checkpoint, benchmark, max_new_tokens=max_new_tokens, execution=execution, progress=progress
    ).texts
    hits: dict[str, list[bool]] = defaultdict(list)
    for sample, text in zip(benchmark, predictions, strict=True):
        hits[sample.task].append(matches(text, sample.answer))
    total = [hit for task in hits.values() for hit in task]
    by_task = {task: sum(own) / len(own) for task, own in sorted(hits.items())}
    return Evaluation(sum(total) / len(total), by_task, predictions)


@dataclass(frozen=True)
class Generated:
    """What a model said, and how much was read and written."""

    texts: list[str]
    prompt_tokens: int
    completion_tokens: int


@torch.no_grad()
def generate(
    checkpoint: Checkpoint,
    samples: Sequence[Sample],
    *,
    max_new_tokens: int = 16,
    temperature: float | None = None,
    seed: int = 0,
    execution: Execution | None = None,
    progress: Progress = silent,
) -> Generated:
    """The model's answer to each sample's prompt, without its reasoning: greedy, or sampled at a temperature."""
    batches, model = batches_for(checkpoint, execution, form="prompts"), checkpoint.model
    batches.budget.tokens, batches.budget.most = GENERATION * batches.budget.tokens, batches.budget.most or MOST
    encoder = batches.loader.encoder
    config = model.config
    special = (getattr(config, f"{name}_token_id", None) for name in ("image", "video"))
    settings = {
        "max_new_tokens": max_new_tokens,
        "pad_token_id": encoder.pad_token_id,
        "eos_token_id": sorted({*encoder.end_token_ids, *_listed(model.generation_config.eos_token_id)}),
        # A placeholder among the generated tokens would ask the next forward pass for an image that isn't there.
        "suppress_tokens": [token for token in special if token is not None] or None,
    }
    sampling = (
        {"do_sample": False} if temperature is None else {"do_sample": True, "temperature": temperature, "top_k": 0}
    )

    def answer(_: list[Sample], batch: Batch) -> list[tuple[str, int, int]]:
        tokens = model.generate(**batch, **settings, **sampling)
        fresh = tokens[:, batch["input_ids"].shape[1] :]
        read, written = batch["attention_mask"].sum(dim=1), (fresh != encoder.pad_token_id).sum(dim=1)
        return list(zip(encoder.answers(fresh.tolist()), read.tolist(), written.tolist(), strict=True))

    torch.manual_seed(seed)
    run = batches.run_sorted if temperature is None else batches.run  # what is drawn hangs on the samples' order
    found = run(samples, answer, lambda done: progress(done, len(samples), "generating"))
    texts, read, written = zip(*(found if temperature is None else itertools.chain.from_iterable(found)), strict=True)
    return Generated(list(texts), sum(read), sum(written))


def _listed(tokens: int | list[int] | None) -> list[int]:
    return [] if tokens is None else [tokens] if isinstance(tokens, int) else tokens

"""In-context approximation (Zhang et al., ICLR 2026, arXiv:2510.14459): what trusted examples in sight take off a loss.

The loss of a model that had learned the holdout set, here the anchors, is approximated by the model as it is with some
of them in its context: no training, and no second model. A sample's score (there the ICA score) is its loss alone less
its loss behind these demonstrations. The paper scores anew as the training goes on; here the warm proxy does, once.

The k demonstrations are the same for all samples, drawn once by the seed, task by task in turn. They stand as earlier
turns of the sample's conversation, each image in its own turn, and only the sample's own answers are scored. What the
demonstrations give a model is computed anew behind each sample: no keys and values are kept.
"""

import contextlib
import itertools
from collections.abc import Sequence

import numpy as np

from ost.baselines.changed import Changed
from ost.cost import Cost, Stopwatch
from ost.data import Dataset, Sample
from ost.data.sample import as_context
from ost.encoding import Encoder
from ost.errors import DataError, ModelError
from ost.execution.batches import approximate_tokens
from ost.execution.forward import forward_flops, losses_of
from ost.models import Checkpoint, family
from ost.selection import shuffled
from ost.settings import Execution
from ost.types import Progress, silent

REMEDY = "lower in_context.demonstrations, or leave the arm `in-context` out"


def in_context(
    pool: Sequence[Sample],
    anchors: Sequence[Sample],
    proxy: Checkpoint,
    *,
    demonstrations: int = 4,
    seed: int = 0,
    execution: Execution | None = None,
    progress: Progress = silent,
) -> tuple[np.ndarray, Cost]:
    """Scores (N,) in nats, higher being better, and the cost: two forward passes, the second over the longer sample.

    Raises ModelError before any sample is scored where the proxy cannot read the longest one behind the
    demonstrations, be it for its length or for several images, and DataError where there are no anchors.
    """
    if not anchors:
        raise DataError("there are no anchors, so there is nothing to show the proxy before a sample")
    watch, shown = Stopwatch(), drawn(anchors, demonstrations, seed)
    behind = Changed(pool, lambda sample: after(shown, sample))
    _try_out(behind.change(_longest(pool)), proxy, len(shown), execution)
    alone, told = (losses_of(samples, proxy, execution, progress) for samples in (pool, behind))
    passes = (forward_flops(proxy, pool, execution) + forward_flops(proxy, behind, execution)) * len(pool)
    return alone - told, Cost(watch.seconds, passes)


def drawn(anchors: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """So many anchors, or all: one of each task in turn, those with the most anchors first; by the seed alone."""
    known = {anchor.id: anchor for anchor in anchors}
    tasks: dict[str, list[Sample]] = {}
    for name in shuffled(known, seed):
        tasks.setdefault(known[name].task, []).append(known[name])
    largest = sorted(tasks, key=lambda task: (-len(tasks[task]), task))
    rounds = itertools.zip_longest(*(tasks[task] for task in largest))
    return [one for one in itertools.chain.from_iterable(rounds) if one][:count]


def after(shown: Sequence[Sample], sample: Sample) -> Sample:
    """A sample behind the turns of others, which are context alone; a system turn of its own stays in front."""
    turns = list(sample.messages)
    own = list(itertools.takewhile(lambda turn: turn["role"] == "system", turns))
    first = sum(part["type"] == "image" for turn in own for part in turn["content"])
    context = as_context([turn for one in shown for turn in one.messages if turn["role"] != "system"])
    images = [image for one in shown for image in one.images]
    return Sample(
        (*sample.images[:first], *images, *sample.images[first:]),
        (*own, *context, *turns[len(own) :]),
        sample.task,
        f"{sample.id} behind {len(shown)} demonstrations",
    )


def _longest(pool: Sequence[Sample]) -> Sample:
    """The sample of the most tokens, by what ingestion counted where that is known, else about."""
    if isinstance(pool, Dataset):
        with contextlib.suppress(DataError):  # a file that ingestion did not make
            return pool[int(np.argmax(pool.table(["tokens"])["tokens"].to_numpy()))]
    return max(pool, key=approximate_tokens)


def _try_out(sample: Sample, proxy: Checkpoint, shown: int, execution: Execution | None) -> None:
    """Raise ModelError where the proxy cannot read this sample, the longest one behind so many demonstrations."""
    named = f"{type(proxy.model).__name__} (family {family(proxy.model.config)!r})"
    limit = getattr(proxy.model.config.get_text_config(), "max_position_embeddings", None)
    try:
        tokens = Encoder(proxy.processor).training([sample])["input_ids"].shape[1]
        losses = losses_of([sample], proxy, execution) if not limit or tokens <= limit else None
    except Exception as error:  # processors and models of any family; what they refuse is theirs to say
        raise ModelError(f"{named} does not read a sample behind {shown} others: {error}; {REMEDY}") from error
    if losses is None:
        raise ModelError(
            f"sample {sample.id} has {tokens} tokens, and {named} reads {limit}: {REMEDY}, or lower data.max_tokens"
        )
    if not np.isfinite(losses).all():
        raise ModelError(f"{named} gives sample {sample.id} a loss of {losses[0]}: {REMEDY}")

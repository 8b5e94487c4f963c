"""A model's answers to samples: greedy, or sampled, whatever the checkpoint's own generation settings ask for."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, PreTrainedModel

from ost.data import Sample
from ost.encoding import Batch, Encoder
from ost.execution.batches import batches_for
from ost.models import Checkpoint
from ost.settings import Execution
from ost.types import Progress, silent

GENERATION = 4
"""Tokens that are read at once in writing answers, where a pass over whole samples takes one."""
MOST = 250
"""Answers that are written at once, at most."""

LEAST_TOKENS, MOST_TOKENS = 16, 1024
"""Bounds of an answer's length that follows from references."""
MARGIN = 2
"""Times the longest reference that an answer may take."""
REASONING_TOKENS = 1024
"""What a model may write besides that reasons before it answers."""
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
"""What a checkpoint's generation settings say of its vocabulary, and not of how it should be searched."""


@dataclass(frozen=True)
class Generated:
    """What a model said, and how much was read and written."""

    texts: list[str]
    prompt_tokens: int
    completion_tokens: int
    cut: list[bool]
    """Of each text, whether the limit ended it and not the model."""
    special: list[bool]
    """Of each text, whether it is empty because all that the model wrote are special tokens, which are no text."""


@torch.no_grad()
def generate(
    checkpoint: Checkpoint,
    samples: Sequence[Sample],
    *,
    max_new_tokens: int = LEAST_TOKENS,
    temperature: float | None = None,
    seed: int = 0,
    execution: Execution | None = None,
    progress: Progress = silent,
) -> Generated:
    """The model's answer to each sample's prompt, without its reasoning: greedy, or sampled at a temperature."""
    batches, model = batches_for(checkpoint, execution, form="prompts"), checkpoint.model
    batches.budget.tokens, batches.budget.most = GENERATION * batches.budget.tokens, batches.budget.most or MOST
    encoder = batches.loader.encoder
    special = (getattr(model.config, f"{name}_token_id", None) for name in ("image", "video"))
    ends = sorted({*encoder.end_token_ids, *_listed(model.generation_config.eos_token_id)})
    sampling = {} if temperature is None else {"do_sample": True, "temperature": temperature, "top_k": 0}
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        pad_token_id=encoder.pad_token_id,
        eos_token_id=ends,
        # A placeholder among the generated tokens would ask the next forward pass for an image that isn't there.
        suppress_tokens=[token for token in special if token is not None] or None,
        **sampling,
    )

    unspoken = {token for token, own in encoder.tokenizer.added_tokens_decoder.items() if own.special}

    def answer(_: list[Sample], batch: Batch) -> list[tuple[str, int, int, bool, bool]]:
        tokens = model.generate(**batch, generation_config=settings)
        fresh = tokens[:, batch["input_ids"].shape[1] :]
        read, written = batch["attention_mask"].sum(dim=1), (fresh != encoder.pad_token_id).sum(dim=1)
        cut = ~torch.isin(fresh, torch.tensor(ends, device=fresh.device)).any(dim=1)
        rows = fresh.tolist()
        said = (list(itertools.takewhile(lambda token: token not in ends, row)) for row in rows)
        special = [bool(own) and unspoken.issuperset(own) for own in said]
        return list(zip(encoder.answers(rows), read.tolist(), written.tolist(), cut.tolist(), special, strict=True))

    torch.manual_seed(seed)
    run = batches.run_sorted if temperature is None else batches.run  # what is drawn hangs on the samples' order
    with searched_as_told(model):
        found = run(samples, answer, lambda done: progress(done, len(samples), "generating"))
    rows = found if temperature is None else itertools.chain.from_iterable(found)
    texts, read, written, cut, special = zip(*rows, strict=True)
    return Generated(list(texts), sum(read), sum(written), list(cut), list(special))


@contextlib.contextmanager
def searched_as_told(model: PreTrainedModel) -> Iterator[None]:
    """Within it, the model's own generation settings say nothing but what its special tokens are.

    `generate` fills in from them whatever it is not told: beams, penalties, temperatures, a least length, a time limit.
    """
    owners = [one for one in model.modules() if isinstance(getattr(one, "generation_config", None), GenerationConfig)]
    own = [one.generation_config for one in owners]
    for one in owners:
        tokens = {name: getattr(one.generation_config, name, None) for name in TOKENS}
        one.generation_config = GenerationConfig(**tokens)
    try:
        yield
    finally:
        for one, settings in zip(owners, own, strict=True):
            one.generation_config = settings


def answer_limit(checkpoint: Checkpoint, references: Iterable[str], least: int = LEAST_TOKENS) -> int:
    """Tokens that an answer may take: MARGIN times the longest reference, at least `least`, at most MOST_TOKENS.

    A model whose chat template leaves it to reason first may take REASONING_TOKENS more.
    """
    return limit_for(checkpoint, token_counts(checkpoint, references), least)


def limit_for(checkpoint: Checkpoint, lengths: Iterable[int], least: int = LEAST_TOKENS) -> int:
    """`answer_limit`, from the references' lengths in tokens."""
    answer = min(MOST_TOKENS, max(least, MARGIN * max(lengths, default=0)))
    return answer + (REASONING_TOKENS if Encoder(checkpoint.processor).reasons else 0)


def token_counts(checkpoint: Checkpoint, texts: Iterable[str]) -> list[int]:
    """Length of each text in the model's own tokens."""
    listed = list(texts)
    return list(map(len, checkpoint.tokenizer(listed, add_special_tokens=False)["input_ids"])) if listed else []


def _listed(tokens: int | list[int] | None) -> list[int]:
    return [] if tokens is None else [tokens] if isinstance(tokens, int) else tokens

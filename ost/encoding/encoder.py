"""Samples as model inputs: chat template, processor, padding, and labels on the answer alone."""

import io
from collections.abc import Sequence

import torch
from PIL import Image

from ost.data import Sample
from ost.errors import DataError
from ost.models import Checkpoint

IGNORE = -100
"""Label of a position that no loss is taken on."""

Batch = dict[str, torch.Tensor]


class Encoder:
    """Turns samples into batches for one checkpoint's processor."""

    def __init__(self, checkpoint: Checkpoint):
        self.processor = checkpoint.processor
        self.tokenizer = checkpoint.tokenizer
        if self.tokenizer.chat_template is None and getattr(self.processor, "chat_template", None) is None:
            raise DataError("the checkpoint's tokenizer has no chat template, so messages cannot be rendered")

    def training(self, samples: Sequence[Sample]) -> Batch:
        """Whole samples, padded on the right, with `labels` (B, T) that are IGNORE outside the last answer.

        Raises DataError where the tokens of an answer cannot be told from those of its prompt.
        """
        texts = [self._render(sample.messages).rstrip() for sample in samples]
        prompts = [self._render(sample.messages[:-1], answer_next=True) for sample in samples]
        batch = self._process(samples, texts, "right")
        answers = self.tokenizer([t[len(p) :] for t, p in zip(texts, prompts, strict=True)], add_special_tokens=False)
        labels = torch.full_like(batch["input_ids"], IGNORE)
        lengths = batch["attention_mask"].sum(dim=1).tolist()
        for row, (length, answer) in enumerate(zip(lengths, answers["input_ids"], strict=True)):
            labels[row, length - len(answer) : length] = torch.tensor(answer)
        agrees = (labels == batch["input_ids"]) | (labels == IGNORE)
        if not bool(agrees.all()):
            broken = [samples[row].id for row in range(len(samples)) if not bool(agrees[row].all())]
            raise DataError(f"the tokenizer merges prompt and answer of {len(broken)} sample(s), such as {broken[0]}")
        return batch | {"labels": labels}

    def prompts(self, samples: Sequence[Sample]) -> Batch:
        """The samples without their last answer, padded on the left, for generation."""
        texts = [self._render(sample.messages[:-1], answer_next=True) for sample in samples]
        return self._process(samples, texts, "left")

    def lengths(self, samples: Sequence[Sample]) -> list[int]:
        """Tokens of each whole sample, image tokens included."""
        texts = [self._render(sample.messages).rstrip() for sample in samples]
        return self._process(samples, texts, "right")["attention_mask"].sum(dim=1).tolist()

    def _render(self, messages: Sequence[dict], answer_next: bool = False) -> str:
        # The tokenizer alone renders: a processor's own method would tokenize and load images again.
        template = self.tokenizer.chat_template or self.processor.chat_template
        return self.tokenizer.apply_chat_template(
            [self._plain(message) for message in messages],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=answer_next,
        )

    def _plain(self, message: dict) -> dict:
        """A turn for the template: a text-only model's template takes strings, not parts."""
        if self.processor is not self.tokenizer:
            return message
        return {"role": message["role"], "content": "".join(part.get("text") or "" for part in message["content"])}

    def _process(self, samples: Sequence[Sample], texts: list[str], side: str) -> Batch:
        shared = {"padding": True, "padding_side": side, "return_tensors": "pt", "add_special_tokens": False}
        images = [[decode(image) for image in sample.images] for sample in samples]
        if any(images) and self.processor is not self.tokenizer:
            return dict(self.processor(text=texts, images=[own for own in images if own], **shared))
        return dict(self.tokenizer(texts, **shared))


def decode(image: bytes) -> Image.Image:
    """An encoded image as RGB pixels; ingestion has checked that it can be decoded, and its size."""
    return Image.open(io.BytesIO(image)).convert("RGB")


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch's tensors on a device."""
    return {name: tensor.to(device) for name, tensor in batch.items()}

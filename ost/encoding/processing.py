"""A processor at work: texts and images in, tensors out, with the learned spans followed through all that it does."""

import copy
from collections.abc import Sequence

import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin

from ost.encoding.marks import Marks
from ost.encoding.tokens import StandIn
from ost.errors import DataError

IGNORE = -100
"""Label of a position that no loss is taken on."""

Batch = dict[str, torch.Tensor]


class Processing:
    """A processor, or the tokenizer of a text-only model, that is asked as its own `apply_chat_template` asks it."""

    def __init__(self, processor: ProcessorMixin | PreTrainedTokenizerBase, control: Sequence[str]):
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.tokens = StandIn(self.tokenizer, control)
        self.sees = hasattr(processor, "image_processor")
        self._name, self._multimodal = type(processor).__name__, processor is not self.tokenizer
        self._call = self.tokens
        if self._multimodal:
            self._call = copy.copy(processor)
            self._call.tokenizer = self.tokens
        self._is_prefix_model = self._multimodal and "labels" in processor.model_input_names
        self._takes_text_alone: bool | None = None

    def with_images_by(self, image_processor: object) -> "Processing":
        """The same with another image processor."""
        other = copy.copy(self)
        other._call = copy.copy(self._call)
        other._call.image_processor = image_processor
        return other

    def run(self, texts: Sequence[str], images: Sequence[Sequence[Image.Image]], side: str, marks: Marks) -> Batch:
        """Tensors (B, T, …) padded on a side, with `labels` that are IGNORE outside the spans marked in the texts.

        Images are those of each text, in the order of their places. Raises DataError for what the processor refuses.
        """
        batch = self._asked(texts, images, marks, {"padding": True, "padding_side": side, "return_tensors": "pt"})
        if batch["attention_mask"].sum(dim=1).tolist() != [len(row) for row in self.tokens.rows]:
            raise DataError(f"{self._name} tokenizes texts in pieces, so nobody can tell which tokens are the answer's")
        return self._labelled(batch, side)

    def count(self, text: str, images: Sequence[Image.Image] | None, marks: Marks) -> tuple[int, int]:
        """Tokens of a marked text, and how many of them are learned; of None for images, of the text as it stands."""
        self._asked([text], None if images is None else [images], marks, {})
        return len(self.tokens.rows[0]), len(self.tokens.learned[0])

    def _asked(
        self, texts: Sequence[str], images: Sequence[Sequence[Image.Image]] | None, marks: Marks, options: dict
    ) -> Batch:
        self.tokens.marks, self.tokens.instead = marks, {}
        options = options | self._first_tokens(texts)
        try:
            return dict(self._run(list(texts), images, options) if images else self.tokens(list(texts), **options))
        except DataError:
            raise
        except Exception as error:  # processors of any family; what they refuse is theirs to say
            raise DataError(f"the processor refuses it: {type(error).__name__}: {error}") from error

    def _first_tokens(self, texts: Sequence[str]) -> dict[str, bool]:
        """Whether the tokenizer puts its own first token before texts: never where the template has written it."""
        bos = self.tokenizer.bos_token
        written = not self._multimodal or (bos and any(text.startswith(bos) for text in texts))
        return {"add_special_tokens": False} if written else {}

    def _run(self, texts: list[str], images: Sequence[Sequence[Image.Image]], options: dict) -> Batch:
        if not self._multimodal:
            return self.tokens(texts, **options)
        bare = [at for at, own in enumerate(images) if not own]
        if bare and not self._passes_text_alone(texts[bare[0]], options):
            if len(bare) == len(texts):
                return self.tokens(texts, return_token_type_ids=self._is_prefix_model, **options)
            self.tokens.instead = {at: texts[at] for at in bare}
        if len(bare) == len(texts):
            return self._call(text=texts, **options)
        return self._call(text=texts, images=[list(own) for own in images], **options)

    def _passes_text_alone(self, text: str, options: dict) -> bool:
        """Whether the processor takes a text without images; of one that does not, the tokenizer alone is asked."""
        if self._takes_text_alone is None:
            try:
                self._call(text=[text], **options)
                self._takes_text_alone = True
            except Exception:  # whatever it raises
                self._takes_text_alone = False
        return self._takes_text_alone

    def _labelled(self, batch: Batch, side: str) -> Batch:
        learned = self.tokens.learned_mask(batch["input_ids"], side)
        if self._is_prefix_model:  # what is of type 0 sees what stands behind it, so no answer may be
            batch["token_type_ids"] = (learned.cumsum(dim=1) > 0).long() * batch["attention_mask"]
        return batch | {"labels": torch.where(learned, batch["input_ids"], IGNORE)}

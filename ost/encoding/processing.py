"""A processor at work: texts and images in, tensors out, with the learned spans followed through all that it does."""

import copy
import functools
from collections.abc import Sequence

import torch
from PIL import Image
from tokenizers import Encoding
from transformers import BatchEncoding, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin

from ost.encoding.control import Marks, PlainText
from ost.errors import DataError

IGNORE = -100
"""Label of a position that no loss is taken on."""

Batch = dict[str, torch.Tensor]

FILL = {"attention_mask": 0, "special_tokens_mask": 1}
"""What a row is padded with; other names but `input_ids` with zero, too."""


class Processing:
    """A processor, or the tokenizer of a text-only model, that is asked as its own `apply_chat_template` asks it."""

    def __init__(self, processor: ProcessorMixin | PreTrainedTokenizerBase, control: Sequence[str]):
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.tokens = MarkedTokenizer(self.tokenizer, control)
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
        learned = self.tokens.learned_mask(batch["input_ids"], side)
        if self._is_prefix_model:  # what is of type 0 sees what stands behind it, so no answer may be
            batch["token_type_ids"] = (learned.cumsum(dim=1) > 0).long() * batch["attention_mask"]
        return batch | {"labels": torch.where(learned, batch["input_ids"], IGNORE)}

    def count(self, text: str, images: Sequence[Image.Image] | None, marks: Marks) -> tuple[int, int]:
        """Tokens of a marked text, and how many of them are learned; of None for images, of the text as it stands."""
        self._asked([text], None if images is None else [images], marks, {})
        return len(self.tokens.rows[0]), len(self.tokens.learned[0])

    def _asked(
        self, texts: Sequence[str], images: Sequence[Sequence[Image.Image]] | None, marks: Marks, options: dict
    ) -> Batch:
        self.tokens.marks, self.tokens.instead = marks, {}
        bos = self.tokenizer.bos_token
        if not self._multimodal or (bos and any(text.startswith(bos) for text in texts)):
            options = options | {
                "add_special_tokens": False
            }  # the template has written the first token, or none is due
        try:
            return dict(self._run(list(texts), images, options) if images else self.tokens(list(texts), **options))
        except DataError:
            raise
        except Exception as error:  # processors of any family; what they refuse is theirs to say
            raise DataError(f"the processor refuses it: {type(error).__name__}: {error}") from error

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


class MarkedTokenizer:
    """Tokenizes for a processor, whatever that does to the text before; all else is the tokenizer's own.

    Texts come with marks: those around learned spans are taken out and become `learned`, hidden control tokens are
    shown again and encoded as text. Where the tokenizer has no token to pad with, its end token pads.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, control: Sequence[str]):
        self._tokenizer, self._control = tokenizer, control
        self.marks: Marks | None = None
        self.instead: dict[int, str] = {}
        """Texts that are tokenized whatever the processor makes of them, by row."""
        self.texts: list[str] = []
        """What was tokenized last, without marks."""
        self.rows: list[list[int]] = []
        """Its tokens, without padding."""
        self.learned: list[list[int]] = []
        """For each row, the positions of the tokens that hold at least one character of a learned span."""
        pad = tokenizer.pad_token_id
        self.pad = next((token for token in (pad, tokenizer.eos_token_id) if token is not None), 0)

    def __getattr__(self, name: str):
        if name == "_tokenizer":  # not there yet, while a copy is made
            raise AttributeError(name)
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __call__(self, text=None, padding=False, padding_side=None, return_tensors=None, **options) -> BatchEncoding:
        """What the tokenizer would give for the texts without marks."""
        marked = [text] if isinstance(text, str) else list(text)
        marked = [self.instead.get(at, one) for at, one in enumerate(marked)]
        pairs = [self.marks.spans(one) for one in marked]
        self.texts = [self.marks.show(one) for one, _ in pairs]
        found = self._tokenizer(self.texts, **{"verbose": False, **options})  # of lengths, ingestion tells
        rows = {name: list(values) for name, values in found.items()}
        encodings: list[Encoding] = list(found.encodings)
        for at, (one, _) in enumerate(pairs):
            if not self.marks.hides(one):
                continue
            ids, encodings[at] = self._plain.encode(one, self.marks.show, options.get("add_special_tokens", True))
            own = {"input_ids": ids, "token_type_ids": encodings[at].type_ids}
            for name in rows:
                rows[name][at] = own[name] if name in own else getattr(encodings[at], name)
        self.rows = rows["input_ids"]
        self.learned = [_held(encoding, spans) for encoding, (_, spans) in zip(encodings, pairs, strict=True)]
        if padding:
            longest = max(map(len, self.rows))
            side = padding_side or self._tokenizer.padding_side
            fill = FILL | {"input_ids": self.pad}
            rows = {name: [_padded(row, longest, fill.get(name, 0), side) for row in own] for name, own in rows.items()}
        return _Encoded(rows, encodings, tensor_type=return_tensors, marked=marked, marks=self.marks)

    @functools.cached_property
    def _plain(self) -> PlainText:
        return PlainText(self._tokenizer.backend_tokenizer, self._control)

    def learned_mask(self, batch_ids: torch.Tensor, side: str) -> torch.Tensor:
        """(B, T) bool: the learned tokens of the rows that were tokenized last, padded on a side."""
        mask = torch.zeros_like(batch_ids, dtype=torch.bool)
        for at, (row, held) in enumerate(zip(self.rows, self.learned, strict=True)):
            start = 0 if side == "right" else batch_ids.shape[1] - len(row)
            mask[at, [start + place for place in held]] = True
        return mask


class _Encoded(BatchEncoding):
    """A batch in which characters are found by their places in the marked texts, which is what the processor knows."""

    def __init__(self, *args, marked: list[str], marks: Marks, **options):
        super().__init__(*args, **options)
        self._marked, self._marks = marked, marks

    def char_to_token(self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0):
        row, place = (0, batch_or_char_index) if char_index is None else (batch_or_char_index, char_index)
        before = self._marked[row][:place]
        return super().char_to_token(row, len(self._marks.spans(before)[0]), sequence_index)


def _held(encoding: Encoding, spans: Sequence[tuple[int, int]]) -> list[int]:
    offsets = encoding.offsets if spans else []
    held = [[at for at, (start, end) in enumerate(offsets) if start < last and end > first] for first, last in spans]
    return held[0] if len(held) == 1 else sorted({at for own in held for at in own})


def _padded(row: list[int], length: int, fill: int, side: str) -> list[int]:
    padding = [fill] * (length - len(row))
    return row + padding if side == "right" else padding + row

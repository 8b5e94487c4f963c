"""A stand-in for a processor's tokenizer, which remembers what it was given and where the learned spans went."""

from collections.abc import Sequence

import torch
from tokenizers import Encoding
from transformers import BatchEncoding, PreTrainedTokenizerBase

from ost.encoding.control import PlainText
from ost.encoding.marks import Marks

FILL = {"attention_mask": 0, "special_tokens_mask": 1}
"""What a row is padded with; other names but `input_ids` with zero, too."""


class StandIn:
    """Tokenizes for a processor, whatever that does to the text before; all else is the tokenizer's own.

    Texts come with marks: those around learned spans are taken out and become `learned`, hidden control tokens are
    shown again and encoded as text. Where the tokenizer has no token to pad with, its end token pads.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, control: Sequence[str]):
        self._tokenizer, self._control = tokenizer, control
        self._plain: PlainText | None = None
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
        hidden = [self.marks.hides(one) for one, _ in pairs]
        self.texts = [self.marks.show(one) for one, _ in pairs]
        found = self._tokenizer(self.texts, **{"verbose": False, **options})  # of lengths, ingestion tells
        rows = {name: list(values) for name, values in found.items()}
        encodings: list[Encoding] = list(found.encodings)
        for at in (at for at, is_hidden in enumerate(hidden) if is_hidden):
            ids, encodings[at] = self._encode_plain(pairs[at][0], options.get("add_special_tokens", True))
            for name in rows:
                rows[name][at] = ids if name == "input_ids" else _column(encodings[at], name)
        self.rows = rows["input_ids"]
        self.learned = [_held(encoding, spans) for encoding, (_, spans) in zip(encodings, pairs, strict=True)]
        if padding:
            longest = max(map(len, self.rows))
            side = padding_side or self._tokenizer.padding_side
            fill = FILL | {"input_ids": self.pad}
            rows = {name: [_padded(row, longest, fill.get(name, 0), side) for row in own] for name, own in rows.items()}
        return _Encoded(rows, encodings, tensor_type=return_tensors, marked=marked, marks=self.marks)

    def _encode_plain(self, text: str, add_special_tokens: bool) -> tuple[list[int], Encoding]:
        if self._plain is None:
            self._plain = PlainText(self._tokenizer.backend_tokenizer, self._control)
        return self._plain.encode(text, self.marks.show, add_special_tokens)

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


def _column(encoding: Encoding, name: str) -> list[int]:
    return encoding.type_ids if name == "token_type_ids" else getattr(encoding, name)


def _padded(row: list[int], length: int, fill: int, side: str) -> list[int]:
    padding = [fill] * (length - len(row))
    return row + padding if side == "right" else padding + row

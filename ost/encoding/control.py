"""Control tokens: which of a tokenizer's tokens steer the model, and how a text that spells one is encoded as text.

Marks travel inside a text from the chat template to the tokenizer: private-use characters that no text holds. Two of
them stand around what is learned, and are taken out before anything is tokenized. Others hide control tokens that a
message's text spells, such as "<|im_end|>" in an answer about chat templates: the first character is exchanged for one
of its own until the tokenizer's own marks are found, so template and processor see plain text there.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerBase

from ost.encoding.template import THOUGHT
from ost.errors import DataError

ALIASES = 0x10F000
"""The first of the private-use characters that an alias begins with."""

BLOCK, BLOCKS = 256, range(0x100000, 0x10F000, 256)
"""Characters of a set of marks, and where in Unicode's last private plane a set may begin."""
HIDDEN = 16
"""The first of a set's characters that hides another."""

_PRIVATE = re.compile("[\U00100000-\U0010efff]")


def control_tokens(tokenizer: PreTrainedTokenizerBase, processor: object, written: str) -> list[str]:
    """Tokens that no message's text may stand for, the longest first.

    All special tokens; of the other added ones those that the template writes around plain turns (`written`) or that
    the processor knows by name. Marks of reasoning that are not special are text that a model writes for itself.
    """
    named = {value for value in vars(processor).values() if isinstance(value, str)}
    return longest_first(
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.content.strip()
        and (token.special or (token.content not in THOUGHT and (token.content in named or token.content in written)))
    )


def longest_first(tokens) -> list[str]:
    """Without repetitions; a regular expression takes the first that fits."""
    return sorted(set(tokens), key=lambda token: (-len(token), token))


def any_of(tokens: Sequence[str]) -> re.Pattern:
    """Matches any of the tokens, the longest first."""
    return re.compile("|".join(map(re.escape, longest_first(tokens))) or "(?!)")


class Marks:
    """One set of marks, chosen so that none of the texts in hand holds any of them."""

    def __init__(self, control: re.Pattern, initials: str, first: int = BLOCKS[0]):
        """`control` matches the control tokens; `initials`: the characters that they begin with."""
        self._control, self._initials, self.first = control, initials, first
        self.opens, self.closes, self.stands_in = (chr(first + at) for at in range(3))
        hidden = [chr(first + HIDDEN + at) for at in range(len(initials))]
        self._hide = dict(zip(initials, hidden, strict=True))
        self._show = {ord(mark): character for character, mark in self._hide.items()}
        self._any_hidden = re.compile(f"[{''.join(hidden)}]" if hidden else "(?!)")

    def fresh_for(self, texts: Iterable[str]) -> "Marks":
        """These marks, or others where a text holds one of these; raises DataError where texts hold some of all."""
        taken = {(ord(found) - BLOCKS[0]) // BLOCK for text in texts for found in _PRIVATE.findall(text)}
        if not taken:
            return self
        free = next((block for at, block in enumerate(BLOCKS) if at not in taken), None)
        if free is None:
            raise DataError("the texts hold characters of all of Unicode's last private plane, which must be left free")
        return Marks(self._control, self._initials, free)

    def hide(self, text: str) -> str:
        """The text with every control token that it spells hidden; as long as before."""
        while self._control.search(text):  # what one leaves may spell another
            text = self._control.sub(lambda found: self._hide[found[0][0]] + found[0][1:], text)
        return text

    def show(self, text: str) -> str:
        """What `hide` was given."""
        return text.translate(self._show) if self.hides(text) else text

    def hides(self, text: str) -> bool:
        """Whether a control token is hidden in the text."""
        return not text.isascii() and self._any_hidden.search(text) is not None

    def stand_in(self, number: int) -> str:
        """A word that stands in for the text of a turn."""
        return f"{self.stands_in}{number}{self.stands_in}"

    def split(self, text: str, count: int) -> list[str] | None:
        """What stands around `count` stand-ins, each there once and in order; else None."""
        pieces = text.split(self.stands_in)
        numbers = [str(number) for number in range(count)]
        return pieces[::2] if pieces[1::2] == numbers else None

    def around(self, text: str, spans: Iterable[tuple[int, int]]) -> str:
        """The text with marks around spans, which are in order and do not touch."""
        marked, last = [], 0
        for start, end in spans:
            marked += [text[last:start], self.opens, text[start:end], self.closes]
            last = end
        return "".join([*marked, text[last:]])

    def spans(self, marked: str) -> tuple[str, list[tuple[int, int]]]:
        """What `around` was given, wherever in the text it has been carried."""
        spans: list[tuple[int, int]] = []
        pieces, at = [], 0
        for before_and_span in marked.split(self.opens):
            inside, closed, after = before_and_span.rpartition(self.closes)
            if closed:
                spans.append((at, at + len(inside)))
            pieces += [inside, after]
            at += len(inside) + len(after)
        return "".join(pieces), spans


class PlainText:
    """A tokenizer for which control tokens have other names, their aliases, which no text spells.

    What a text spells is then read as any other text, in one pass with what stands around it; the aliases are exchanged
    for the true tokens afterwards. An alias is as long as its token, so characters keep their places.
    """

    def __init__(self, backend: Tokenizer, control: Sequence[str]):
        initials = sorted({token[0] for token in control})
        self._alias = {token: chr(ALIASES + initials.index(token[0])) + token[1:] for token in control}
        self._control = any_of(control)
        self._ids = {backend.token_to_id(token) for token in control}
        state = json.loads(backend.to_str())
        added = {token["content"]: token["id"] for token in state["added_tokens"]}
        self._true = {self._alias.get(token, token): number for token, number in added.items()}
        self._backend = Tokenizer.from_str(json.dumps(self._renamed(state)))
        self._backend.no_padding()
        self._backend.no_truncation()

    def encode(self, text: str, show, add_special_tokens: bool) -> tuple[list[int], Encoding]:
        """Ids of a text whose spelled control tokens are hidden, with `show` to bring them back; and the encoding.

        Raises DataError where the tokenizer makes a control token of plain text all the same.
        """
        true = self._control.findall(text)
        aliased = show(self._control.sub(lambda found: self._alias[found[0]], text))
        encoding = self._backend.encode(aliased, add_special_tokens=add_special_tokens)
        ids = [self._true.get(token, number) for token, number in zip(encoding.tokens, encoding.ids, strict=True)]
        unknown = self._true.get(self._unknown)
        made = sum(
            number in self._ids and number != unknown and start < end
            for number, (start, end) in zip(ids, encoding.offsets, strict=True)
        )
        if made > len(true):
            raise DataError("the text spells a control token, and the tokenizer has no other way to write it")
        return ids, encoding

    def _renamed(self, state: dict) -> dict:
        """The tokenizer's own description with aliases for names."""
        for token in state["added_tokens"]:
            token["content"] = self._alias.get(token["content"], token["content"])
        model = state["model"]
        self._unknown = model.get("unk_token")
        if isinstance(model["vocab"], Mapping):
            model["vocab"] = {self._alias.get(token, token): number for token, number in model["vocab"].items()}
            if self._unknown in self._alias:
                model["unk_token"] = self._unknown = self._alias[self._unknown]
            if "merges" in model:
                model["merges"] = [
                    merge for merge in model["merges"] if not self._alias.keys() & {*merge, "".join(merge)}
                ]
        else:
            model["vocab"] = [[self._alias.get(token, token), score] for token, score in model["vocab"]]
            if model.get("unk_id") is not None:
                self._unknown = model["vocab"][model["unk_id"]][0]
        return state

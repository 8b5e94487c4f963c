"""Control tokens: which of a tokenizer's tokens steer the model, and how a text that spells one is encoded as text."""

import json
import re
from collections.abc import Mapping, Sequence

from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerBase

from ost.encoding.reasoning import THOUGHT
from ost.errors import DataError

ALIASES = 0x10F000
"""The first of the private-use characters that an alias begins with."""


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

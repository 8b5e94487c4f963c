"""A model's chat template: how it wants messages, and what it writes for them."""

import contextlib
import functools
import itertools
import re
from collections.abc import Sequence
from typing import Literal

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from ost.data.sample import plain, text_of
from ost.errors import DataError

ContentType = Literal["parts", "text"]
"""What the content of a turn is for a template: a list of parts, or their text."""

THOUGHT = ("<think>", "</think>")
"""The marks that most models write around their reasoning; see `Template.before_answers` for what one model has."""

ASKED, ANSWERED, TOLD = "pineapple", "tangerine", "blackcurrant"
"""Words of a conversation that only tries the template out."""


class Template:
    """The chat template of a processor, or of its tokenizer where that alone has one.

    Raises DataError where there is none, or where it can write no question with its answer.
    """

    def __init__(self, processor: object, tokenizer: PreTrainedTokenizerBase):
        self.source = _default(getattr(processor, "chat_template", None)) or _default(tokenizer.chat_template)
        if self.source is None:
            raise DataError("the checkpoint's tokenizer has no chat template, so messages cannot be rendered")
        first: tuple[ContentType, ContentType] = ("text", "parts") if processor is tokenizer else ("parts", "text")
        self._special = dict(tokenizer.special_tokens_map)
        self._forms: dict[str, ContentType] = self._forms_that_fit(first)
        self.takes_images = self._takes_images()
        """Whether it writes something for an image in a question."""

    def example(self, images: int = 0) -> str:
        """What it writes for a question with so many images, and an answer."""
        question = {"role": "user", "content": [*[{"type": "image"}] * images, {"type": "text", "text": ASKED}]}
        return self.render([self.turn(question), self.turn(_said("assistant", ANSWERED))])

    @functools.cached_property
    def before_answers(self) -> str:
        """What it writes between the prompt, or the reasoning, and an answer, such as "</think>"; may be nothing."""
        question, answer = _said("user", ASKED), _said("assistant", ANSWERED)
        thoughtful = ""
        prompt, plain = self.render([self.turn(question)], answer_next=True), self.example()
        led = plain.removeprefix(prompt).partition(ANSWERED)[0] if plain.startswith(prompt) else ""
        with contextlib.suppress(DataError):
            thoughtful = self.render([self.turn(question), self.turn(answer | {"reasoning_content": TOLD})])
        behind = thoughtful.partition(TOLD)[2].partition(ANSWERED)[0]
        if led and behind:
            same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(led[::-1], behind[::-1], strict=False))
            return led[len(led) - sum(1 for _ in same) :].strip()
        return (led or behind).strip()

    @functools.cached_property
    def leaves_reasoning(self) -> bool:
        """Whether answers follow on reasoning, or a prompt opens it, and no prompt ends it."""
        prompt = self.render([self.turn(_said("user", ASKED))], answer_next=True).rpartition(ASKED)[2]
        begins, ends = THOUGHT
        if self.before_answers:
            return self.before_answers not in prompt
        return begins in prompt and ends not in prompt

    @functools.cached_property
    def behind_answers(self) -> str:
        """What it writes behind the last answer."""
        return self.example().rpartition(ANSWERED)[2].rstrip()

    def turn(self, message: dict, text: str | None = None) -> dict:
        """A sample's message as the template wants it; `text` replaces the message's own."""
        answered = message["role"] == "assistant"
        if self._forms.get(message["role"], self._forms["user"]) == "text":
            content = text_of(message) if text is None else text
        elif answered or text is not None:  # some templates look at the first part of an answer alone
            content = [{"type": "text", "text": text_of(message) if text is None else text}]
        else:
            content = list(map(plain, message["content"]))
        thoughts = message.get("reasoning_content") if answered else None
        return {"role": message["role"], "content": content} | ({"reasoning_content": thoughts} if thoughts else {})

    def render(self, turns: Sequence[dict], answer_next: bool = False) -> str:
        """What the template writes for turns; raises DataError with what it says where it refuses them."""
        try:
            # What `apply_chat_template` calls; that would look the special tokens up anew each time.
            (written,), _ = render_jinja_template(
                [list(turns)], chat_template=self.source, add_generation_prompt=answer_next, **self._special
            )
            return written
        except Exception as error:  # a template is a program; whatever it raises is what it has to say
            raise DataError(f"the chat template refuses the turns: {type(error).__name__}: {error}") from error

    def _forms_that_fit(self, first: tuple[ContentType, ContentType]) -> dict[str, ContentType]:
        refused = "what it writes does not hold them"
        for user, assistant in itertools.product(first, first):
            self._forms = {"user": user, "assistant": assistant}
            try:
                if self._holds(_said("user", ASKED), _said("assistant", ANSWERED)):
                    return self._forms | {"system": self._form_of_system(user, first)}
            except DataError as error:
                refused = str(error)
        raise DataError(f"the chat template writes no question with its answer: {refused}")

    def _form_of_system(self, user: ContentType, first: tuple[ContentType, ContentType]) -> ContentType:
        for form in (user, *first):
            self._forms["system"] = form
            with contextlib.suppress(DataError):  # many templates know no system turn, and say so when one comes
                if self._holds(_said("system", TOLD), _said("user", ASKED), _said("assistant", ANSWERED)):
                    return form
        return user

    def _holds(self, *messages: dict) -> bool:
        """Whether the template writes the messages' texts, and not how the list of their parts is spelled."""
        written = self.render([self.turn(message) for message in messages])
        words = [text_of(message) for message in messages]
        return all(word in written and not re.search(rf"['\"]{word}['\"]\s*[,}}\]]", written) for word in words)

    def _takes_images(self) -> bool:
        with contextlib.suppress(DataError):
            return self.example(1) != self.example(0)
        return False


def _default(template: str | dict[str, str] | None) -> str | None:
    return template.get("default") if isinstance(template, dict) else template


def _said(role: str, text: str) -> dict:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def without_reasoning(text: str, mark: str = THOUGHT[1]) -> str:
    """What stands behind the last mark that ends reasoning; all of a text without one."""
    return text.rpartition(mark)[2] if mark else text

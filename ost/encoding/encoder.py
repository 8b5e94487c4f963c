"""Samples as model inputs: rendered by the template, tokenized by the processor, labelled on the answers."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from transformers import PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin

from ost.data import Sample
from ost.data.picture import picture
from ost.encoding.control import Marks, any_of, control_tokens
from ost.encoding.measure import Measured, Size, TokenCounter
from ost.encoding.processing import Batch, Processing
from ost.encoding.template import Template, without_reasoning
from ost.encoding.turns import write_learned
from ost.errors import DataError


class Encoder:
    """Turns samples into batches for one processor, or for the tokenizer of a text-only model.

    Raises DataError where the checkpoint has no chat template, or no tokenizer that knows where its tokens stand.
    """

    def __init__(self, processor: ProcessorMixin | PreTrainedTokenizerBase):
        self.processor, self.tokenizer = processor, getattr(processor, "tokenizer", processor)
        self._template = Template(processor, self.tokenizer)
        if not getattr(self.tokenizer, "is_fast", False):
            raise DataError(
                f"{type(self.tokenizer).__name__} does not tell where in a text its tokens stand: "
                "save the checkpoint with a fast tokenizer (tokenizer.json)"
            )
        control = control_tokens(self.tokenizer, processor, self._template.example(0) + self._template.example(1))
        self._marks = Marks(any_of(control), "".join(sorted({token[0] for token in control})))
        self._added = any_of([token for token in self.tokenizer.get_added_vocab() if token.strip()])
        self._processing = Processing(processor, control)
        self._takes_images = self._processing.sees and self._template.takes_images

    @property
    def pad_token_id(self) -> int:
        """What rows are padded with: the tokenizer's own token for it, or the one that ends a turn."""
        return self._processing.tokens.pad

    @property
    def end_token_ids(self) -> list[int]:
        """Tokens that end an answer: the template's own, or the tokenizer's where it writes none."""
        found = self._added.search(self._template.behind_answers)
        ends = [found[0]] if found else [self.tokenizer.eos_token]
        return self.tokenizer.convert_tokens_to_ids([end for end in ends if end])

    @property
    def reasons(self) -> bool:
        """Whether the template leaves it to the model to reason before it answers."""
        return self._template.leaves_reasoning

    def training(self, samples: Sequence[Sample]) -> Batch:
        """Whole samples, padded on the right, with `labels` (B, T) that are IGNORE outside their learned answers.

        Raises DataError, with the sample's id, where one cannot be encoded.
        """
        return self._batch(samples, self._whole, "right")

    def prompts(self, samples: Sequence[Sample]) -> Batch:
        """The samples without their last answer, padded on the left, for generation."""
        batch = self._batch(samples, self._prompt, "left")
        del batch["labels"]
        return batch

    def answers(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """What a model wrote behind its prompts, up to its end: text without special tokens, and without reasoning."""
        mark, ends = self._template.before_answers, set(self.end_token_ids)
        own = self._added.findall(mark)
        last = self.tokenizer.convert_tokens_to_ids(own[-1]) if own else None
        rows = [list(itertools.takewhile(lambda token: token not in ends, row)) for row in tokens]
        behind = [row[len(row) - row[::-1].index(last) :] if last in row else row for row in rows]
        texts = self.tokenizer.batch_decode(behind, skip_special_tokens=True)
        return [without_reasoning(without_reasoning(text, "" if own else mark)).strip() for text in texts]

    def measure(self, sample: Sample, sizes: Sequence[Size]) -> Measured:
        """What `training` would count of a sample, from the sizes of its images, without decoding any.

        Raises DataError, saying why, where the sample cannot be encoded.
        """
        marks = self._marks.fresh_for(_texts([sample]))
        return self._counter.measure(self._whole(sample, marks), sizes, marks)

    def image_tokens(self, sizes: Sequence[Size]) -> list[int]:
        """Tokens that the processor puts in the place of an image of each size, (width, height) in pixels.

        Raises DataError for a size that it refuses.
        """
        return self._counter.image_tokens(sizes)

    @property
    def counts_by_arithmetic(self) -> bool:
        """Whether the processor tells rightly how many tokens an image of a size has, so that none has to be made."""
        return self._counter.calculates

    @functools.cached_property
    def _counter(self) -> TokenCounter:
        return TokenCounter(self.processor, self._processing, self._marks, self._template.example)

    def _batch(self, samples: Sequence[Sample], write: Callable[[Sample, Marks], str], side: str) -> Batch:
        marks = self._marks.fresh_for(_texts(samples))
        try:
            texts = [write(sample, marks) for sample in samples]
            images = [[picture(image) for image in sample.images] for sample in samples]
            return self._processing.run(texts, images, side, marks)
        except DataError as error:
            if len(samples) == 1:
                raise DataError(f"sample {samples[0].id}: {error}") from error
            for sample in samples:  # to name the one
                self._batch([sample], write, side)
            raise

    def _whole(self, sample: Sample, marks: Marks) -> str:
        """A sample as the template writes it, with marks around what is learned."""
        messages = [_hidden(message, marks) for message in sample.messages]
        written = write_learned(messages, self._template, marks, self._added, self.tokenizer.eos_token)
        self._check_images(sample, written.text)
        return marks.around(written.text, written.spans)

    def _prompt(self, sample: Sample, marks: Marks) -> str:
        turns = [self._template.turn(_hidden(message, marks)) for message in sample.messages[:-1]]
        prompt = self._template.render(turns, answer_next=True)
        self._check_images(sample, prompt)
        return prompt

    def _check_images(self, sample: Sample, text: str) -> None:
        if not sample.images:
            return
        if not self._takes_images:
            raise DataError("it has images, and the model's processor or chat template has no place for them")
        token = getattr(self.processor, "image_token", None)
        if token and text.count(token) != len(sample.images):
            raise DataError(f"the chat template writes {text.count(token)} image(s) of its {len(sample.images)}")


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch's tensors on a device."""
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _texts(samples: Sequence[Sample]) -> Iterator[str]:
    for sample in samples:
        for message in sample.messages:
            yield from (part["text"] or "" for part in message["content"] if part["type"] == "text")
            yield message.get("reasoning_content") or ""


def _hidden(message: dict, marks: Marks) -> dict:
    """A message whose texts spell no control token."""
    content = [
        part | {"text": marks.hide(part["text"] or "")} if part["type"] == "text" else part
        for part in message["content"]
    ]
    thoughts = message.get("reasoning_content")
    return message | {"content": content} | ({"reasoning_content": marks.hide(thoughts)} if thoughts else {})

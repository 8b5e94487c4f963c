"""A sample, and the digest of its content.

A sample is `{"id", "images", "messages", "task"}`. Messages are in the chat form that `transformers` processors take:
`content` is a list of parts, `{"type": "image"}` or `{"type": "text", "text": ...}`; images travel as encoded bytes.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

OPTIONAL = {"reasoning_content": None, "loss": True}
"""Keys that a message may have beside `role` and `content`, and what their absence means: `reasoning_content`, the
assistant's reasoning before its answer; `loss`, false for an assistant turn that is context alone."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image-text sample; the last message is the assistant's answer."""

    images: tuple[bytes, ...]
    """Encoded image files, in the order of the image parts."""
    messages: tuple[dict, ...]
    """Chat turns `{"role", "content": [parts]}`, with the keys of OPTIONAL where they say something."""
    task: str = ""
    """Kind of question; anchor groups and metrics are formed by it."""
    id: str = ""
    """Digest of images and messages; filled in where it is left empty."""

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", sample_id(self.images, self.messages))

    @property
    def answer(self) -> str:
        """Text of the last message."""
        return text_of(self.messages[-1]) if self.messages else ""

    @property
    def question(self) -> str:
        """Text of all turns before the last."""
        return "\n".join(text_of(message) for message in self.messages[:-1])

    @property
    def learned(self) -> tuple[int, ...]:
        """Indices of the assistant's turns that are learned and scored; the others are context."""
        return tuple(at for at, turn in enumerate(self.messages) if is_learned(turn))


def context_turns(sample: Sample) -> int:
    """How many of the assistant's turns are context alone, neither learned nor scored."""
    return sum(turn["role"] == "assistant" for turn in sample.messages) - len(sample.learned)


def is_learned(message: dict) -> bool:
    """Whether a turn's text is one that a loss is taken on."""
    return message["role"] == "assistant" and message.get("loss") is not False


def learned_last(messages: Sequence[dict]) -> tuple[dict, ...]:
    """The messages with the last of the assistant's turns alone learned, as `data.train_on: last` has them."""
    *others, last = messages
    return (*as_context(others), last)


def as_context(messages: Sequence[dict]) -> tuple[dict, ...]:
    """The messages with none of the assistant's turns learned."""
    return tuple(turn | {"loss": False} if turn["role"] == "assistant" else turn for turn in messages)


def text_of(message: dict) -> str:
    """The text parts of a message, one after the other."""
    return "".join(part.get("text") or "" for part in message["content"] if part["type"] == "text")


def sample_id(images: Iterable[bytes], messages: Iterable[dict]) -> str:
    """Digest of a sample's content, the same on every machine (BLAKE2b, 128 bits, hexadecimal)."""
    return content_id(map(image_digest, images), messages)


def image_digest(image: bytes) -> bytes:
    """Digest of an encoded image (BLAKE2b, 128 bits)."""
    return hashlib.blake2b(image, digest_size=16).digest()


def content_id(images: Iterable[bytes], messages: Iterable[dict]) -> str:
    """As `sample_id`, from the images' digests."""
    digest = hashlib.blake2b(b"".join(images), digest_size=16)
    digest.update(json.dumps([_turn(turn) for turn in messages], sort_keys=True, ensure_ascii=False).encode())
    return digest.hexdigest()


def prompt_ids(images: Sequence[bytes], messages: Sequence[dict]) -> list[str]:
    """What each learned turn is asked, in their order: the digest of all that stands before it.

    `images`: their digests. Samples that ask the same in any of their turns share one, whatever the answers, and
    whichever of the turns before are learned. A turn before which nobody has asked anything has none.
    """
    said = [{key: value for key, value in message.items() if key != "loss"} for message in messages]
    found, shown = [], 0
    for at, message in enumerate(messages):
        if is_learned(message) and any(turn["role"] == "user" for turn in said[:at]):
            found.append(content_id(images[:shown], said[:at]))
        shown += sum(part["type"] == "image" for part in message["content"])
    return found


def chat(question: str, answer: str, images: int = 1) -> tuple[dict, ...]:
    """The messages of a one-turn sample: `images` image parts, the question, the answer."""
    parts = [{"type": "image", "text": None}] * images + [{"type": "text", "text": question}]
    return (
        {"role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    )


def content_digest(ids: Iterable[str]) -> str:
    """Digest of a set of samples, whatever their order: the dataset digest that MLflow is given."""
    return hashlib.blake2b("\n".join(sorted(ids)).encode(), digest_size=16).hexdigest()


def plain(part: dict) -> dict:
    """A part of a message without the keys that say nothing of one of its type."""
    return {"type": "text", "text": part["text"]} if part["type"] == "text" else {"type": part["type"]}


def _turn(turn: dict) -> dict:
    said = {key: turn[key] for key, usual in OPTIONAL.items() if turn.get(key) not in (None, usual)}
    return {"role": turn["role"], "content": list(map(plain, turn["content"]))} | said

"""A sheet of questions to answer: JSONL with an empty `answer` each, the images as files in a folder beside it.

A line is `{"id", "task", "images": [paths], "messages": [turns before the answer], "answer": null}`. What stands in the
pool as the answer is in none of it; nor is it in the id, which is the question's.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ost.data import Sample
from ost.data.picture import suffix_of
from ost.data.sample import as_context, content_id, image_digest, plain
from ost.errors import DataError
from ost.formats import Broken, Images, Rejected, load, open_source, parse
from ost.store import publish

ANSWER = "answer"
"""The field that a person, or a judge, fills."""
NAMED = 10
"""Refused records that an error names."""


@dataclass
class Answered:
    """What a file of answers holds."""

    samples: list[Sample] = field(default_factory=list)
    """Those that are answered, in the file's order."""
    open: int = 0
    """Questions without an answer."""


def question_of(sample: Sample) -> Sample:
    """What a sample's last learned answer is an answer to: all that stands before it, without the later images.

    Answers among it are context: nobody vouches for them, so they are not to be learned. Its id is the question's.
    """
    messages = as_context(sample.messages[: sample.learned[-1]])
    shown = sum(part["type"] == "image" for message in messages for part in message["content"])
    images = sample.images[:shown]
    return Sample(images, messages, sample.task, question_id(images, messages))


def question_id(images: Iterable[bytes], messages: Iterable[dict]) -> str:
    """Digest of a question, as ingestion tells by it that two samples ask the same; no answer to it goes in."""
    said = [{key: value for key, value in message.items() if key != "loss"} for message in messages]
    return content_id(map(image_digest, images), said)


def write_sheet(path: Path, questions: Sequence[Sample]) -> Path:
    """Write questions, in their order, and the folder with their images; raises DataError where a sheet is there."""
    folder = path.with_name(f"{path.stem}-images")
    if there := next((one for one in (path, folder) if one.exists()), None):
        raise DataError(f"{there} is there already, maybe with answers in it: name another file, or remove it")
    with publish(folder) as part:
        part.mkdir()
        records = [_record(question, part, folder.name) for question in questions]
    write_records(path, records)
    return path


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Publish the lines of a sheet: whole, whenever the process is killed."""
    with publish(path) as part:
        part.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")


def read_answers(source: str | Path, columns: Mapping[str, str] | None = None) -> Answered:
    """The answered records of a sheet, and of any other source of whole samples, in any form that is read.

    Raises DataError that names each record that can't be taken: one that is damaged, one whose question or image is no
    longer what its id stands for, one whose question another record of the file answers differently.
    """
    opened, found, refused = open_source(source), Answered(), []
    images, asked = Images(opened.root), {}
    for unit in opened.units():
        for position, record in load(unit, columns).records:
            if _is_open(record):
                found.open += 1
                continue
            place = f"record {position + 1} of {unit.name}"
            try:
                sample = _answered(record, unit.file, images, columns)
            except Rejected as error:
                refused.append(f"{place}: {error.why.detail}")
                continue
            asking = question_of(sample).id
            if asking not in asked:
                asked[asking] = sample.answer, place
                found.samples.append(sample)
            elif asked[asking][0] != sample.answer:
                refused.append(f"{place}: it asks what {asked[asking][1]} asks, and answers something else")
    if refused:
        raise DataError(told(refused, f"{source}: nothing is taken, for {len(refused)} record(s) can't be"))
    return found


def told(lines: Sequence[str], title: str) -> str:
    """A message of several lines, the first NAMED of them."""
    more = [f"and {len(lines) - NAMED} more"] if len(lines) > NAMED else []
    return "\n".join([f"{title}:", *(f"  {line}" for line in [*lines[:NAMED], *more])])


def _is_open(record: dict | Broken) -> bool:
    """Whether nobody has answered it yet."""
    if isinstance(record, Broken) or ANSWER not in record:
        return False
    answer = record[ANSWER]
    return answer is None or (isinstance(answer, str) and not answer.strip())


def _answered(record: dict | Broken, file: Path, images: Images, columns: Mapping[str, str] | None = None) -> Sample:
    """A record as a sample; raises Rejected."""
    own = isinstance(record, dict) and ANSWER in record
    draft = parse(whole(record) if own else record, columns)
    found = tuple(images.load(images.locate(value, file)) for value in draft.images)
    sample = Sample(found, draft.messages, draft.task)
    if own and (name := record.get("id")) is not None and name != question_of(sample).id:
        raise Rejected(
            "malformed", f"the id {name!r} is unknown: it is not that of this question, which was changed, or its image"
        )
    return sample


def whole(record: dict) -> dict:
    """The record of a sheet with its answer among the messages; raises Rejected where it has none."""
    said, turns = record[ANSWER], record.get("messages")
    if not isinstance(said, str):
        raise Rejected("malformed", f"`{ANSWER}` must be text; found {said!r}")
    if not isinstance(turns, list):
        raise Rejected("malformed", "an answer without `messages` that it answers")
    others = {name: value for name, value in record.items() if name != ANSWER}
    return others | {"messages": [*turns, {"role": "assistant", "content": said.strip()}]}


def _record(question: Sample, part: Path, folder: str) -> dict:
    """A line of the sheet; its images go into `part`, which will be `folder`."""
    names = [f"{question.id}-{at}.{suffix_of(image)}" for at, image in enumerate(question.images)]
    for name, image in zip(names, question.images, strict=True):
        (part / name).write_bytes(image)
    messages = [message | {"content": list(map(plain, message["content"]))} for message in question.messages]
    paths = [f"{folder}/{name}" for name in names]
    return {"id": question.id, "task": question.task, "images": paths, "messages": messages, ANSWER: None}

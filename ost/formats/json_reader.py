"""JSON text: arrays in one `.json`, lines in a `.jsonl`, each also by the other's name, and packed with gzip or zstd.

Both are streamed. A record keeps the exact bytes that the user wrote: what a unit carries, and an export gives back.
"""

import codecs
import io
import json
import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

from ost.formats.fields import TURNS
from ost.formats.reject import Broken, show, unreadable
from ost.formats.streams import DAMAGE, opened, packed
from ost.formats.unit import MOST_RECORD, Loaded, Unit, cut, digest_of

SUFFIXES = (".json", ".jsonl", ".ndjson")
LISTED, COMPRESSED = (1, ".json, .jsonl"), "text"

CHUNK, MOST_CHUNK = 1 << 20, 1 << 26
"""Bytes that are read of an array at a time; more where a record is longer, so that it is not scanned too often."""

_BLANKS = re.compile(r"[ \t\n\r]*")
_CUT_OFF = 16
"""Characters before the end of what was read within which an error may only mean that more has to be read."""


def units(file: Path, name: str) -> Iterator[Unit]:
    """The file's records in units, streamed. Damage is a Broken record in its place, never an exception."""
    first = 0
    for records in cut(_items(file, name), key=_bytes, size=lambda item: len(_bytes(item))):
        yield Unit(file, name, "json", first, sum(len(_bytes(item)) for item in records), tuple(records))
        first += len(records)


def load(unit: Unit, columns: Mapping[str, str]) -> Loaded:
    """The unit's records, parsed; all of their fields, whatever `columns` are asked for."""
    records = (item if isinstance(item, Broken) else _parsed(item) for item in unit.payload)
    return Loaded(digest_of(map(_bytes, unit.payload)), enumerate(records, start=unit.first))


def raw_records(file: Path, positions: AbstractSet[int]) -> Iterator[tuple[int, bytes]]:
    """Position and exact bytes of the records at `positions`, in the file's order, without what stands between them.

    Blank lines, the commas of an array and a mark of byte order at the file's start belong to no record.
    """
    last = max(positions, default=-1)
    for position, item in enumerate(_items(file, file.name) if positions else ()):
        if position in positions and isinstance(item, bytes):
            yield position, item
        if position == last:
            return


def is_array(file: Path) -> bool:
    """Whether the file is one JSON array rather than lines. Raises one of DAMAGE where it cannot be read."""
    with opened(file) as stream:
        return _is_array(stream, file)


def copy_records(file: Path, target: Path, positions: AbstractSet[int]) -> Iterator[int]:
    """Write the records at these positions into another file of this form; gives how many, as they are written."""
    before, between, behind = (b"[\n", b",\n", b"\n]\n") if is_array(file) else (b"", b"\n", b"\n")
    with packed(target) as stream:
        for _, record in raw_records(file, positions):
            stream.write(before + record)
            before = between
            yield 1
        stream.write(behind)


def _bytes(item: bytes | Broken) -> bytes:
    return item.detail.encode("utf-8", "backslashreplace") if isinstance(item, Broken) else item


def _parsed(raw: bytes) -> dict | Broken:
    try:
        record = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return Broken(f"it is not JSON: {error}")
    return record if isinstance(record, dict) else Broken(f"it is no JSON object but {show(record)}")


def _items(file: Path, name: str) -> Iterator[bytes | Broken]:
    """The raw records; what ends them early is a last Broken."""
    try:
        with opened(file) as stream:
            if _head(stream).startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                yield Broken(f"{name} is UTF-16 text; save it as UTF-8", "broken-file")
            elif _is_array(stream, file):
                yield from _array(stream, name)
            elif _is_object(stream, file):
                yield _object(stream, name)
            else:
                yield from _lines(stream, name)
    except DAMAGE as error:
        yield unreadable(name, error, " to its end")


def _head(stream: io.BufferedReader) -> bytes:
    return stream.peek(CHUNK).removeprefix(codecs.BOM_UTF8).lstrip()


def _named_json(file: Path) -> bool:
    return ".json" in (suffix.lower() for suffix in file.suffixes[-2:])


def _is_array(stream: io.BufferedReader, file: Path) -> bool:
    head = _head(stream)
    # A line may be an array too, if a useless one: by the name of lines, it takes an object to be an array of records.
    return head.startswith(b"[") and (_named_json(file) or head[1:].lstrip()[:1] in (b"{", b""))


def _is_object(stream: io.BufferedReader, file: Path) -> bool:
    """Whether a `.json` is one object over many lines, which no line of it is."""
    first, newline, _ = _head(stream).partition(b"\n")
    return _named_json(file) and first.startswith(b"{") and bool(newline) and isinstance(_parsed(first), Broken)


def _lines(stream: io.BufferedReader, name: str) -> Iterator[bytes | Broken]:
    mark = codecs.BOM_UTF8
    while line := stream.readline(MOST_RECORD + 1):
        if len(line) > MOST_RECORD:
            while line and not line.endswith(b"\n"):
                line = stream.readline(MOST_RECORD)
            yield Broken(f"a line of {name} is longer than {MOST_RECORD:,} bytes")
        elif (line := line.removeprefix(mark)).strip():
            yield line.rstrip(b"\r\n")
        mark = b""


def _object(stream: io.BufferedReader, name: str) -> bytes | Broken:
    """The one record of a file that is one object; what only looks like it is told by its keys."""
    raw = stream.read(MOST_RECORD + 1).removeprefix(codecs.BOM_UTF8).strip()
    record = Broken(f"it is longer than {MOST_RECORD:,} bytes") if len(raw) > MOST_RECORD else _parsed(raw)
    if isinstance(record, Broken):
        return Broken(f"{name} is neither an array, nor lines, nor one object: {record.detail}", "broken-file")
    if TURNS.isdisjoint(record):
        found = f"one object that is no record (found: {', '.join(map(show, list(record)[:8]))})"
        return Broken(f"{name} holds {found}; write the records as an array or as JSONL", "broken-file")
    return raw


def _array(stream: io.BufferedReader, name: str) -> Iterator[bytes | Broken]:
    window = _Window(stream)
    count = 0
    try:
        window.symbol()
        ended = window.symbol(peek=True) == "]"
        while not ended:
            yield window.value()
            count += 1
            if (symbol := window.symbol()) not in (",", "]"):
                raise _Garbage(f"expected a comma or the array's end, found {show(symbol) if symbol else 'nothing'}")
            ended = symbol == "]"
        if not count:
            window.symbol()
        if window.symbol():
            raise _Garbage("it goes on behind the end of its array")
    except _Garbage as error:
        yield Broken(f"{name} cannot be read behind its first {count:,} record(s): {error}", "broken-file")


class _Garbage(Exception):
    """What stands in an array is no JSON."""


class _Window:
    """A part of a long text that moves on as its values are taken.

    Bytes that are no UTF-8 are carried along, so that they spoil the record that they stand in alone.
    """

    # Only the borders of values are sought here: numbers of any length are no concern.
    _scan = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode

    def __init__(self, stream: io.BufferedReader):
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape").decode
        self._text, self._at, self._ended = "", 0, False

    def symbol(self, peek: bool = False) -> str:
        """The next character that is not blank, "" at the end; gone behind unless it is only looked at."""
        while True:
            self._at = _BLANKS.match(self._text, self._at).end()
            if found := self._text[self._at : self._at + 1]:
                self._at += not peek
                return found
            if self._ended:
                return ""
            self._fill()

    def value(self) -> bytes:
        """The exact bytes of the next value; raises _Garbage where none stands, or one that does not end."""
        self.symbol(peek=True)
        while True:
            try:
                _, end = _Window._scan(self._text, self._at)
            except json.JSONDecodeError as error:
                unfinished = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - _CUT_OFF
                if self._ended or not unfinished:
                    raise _Garbage(error.msg) from error
            except RecursionError as error:
                raise _Garbage("it is nested too deep") from error
            else:
                if end < len(self._text) or self._ended:  # else a number might go on
                    raw = self._text[self._at : end]
                    self._at = end
                    return raw.encode("utf-8", "surrogateescape")
            if len(self._text) - self._at > MOST_RECORD:
                raise _Garbage(f"the record is longer than {MOST_RECORD:,} characters")
            self._fill()

    def _fill(self) -> None:
        rest = self._text[self._at :]
        more = self._stream.read(max(CHUNK, min(MOST_CHUNK, len(rest))))
        self._ended = not more
        self._text, self._at = rest + self._decode(more, self._ended), 0

"""Rows of Arrow tables as records, with the columns that `datasets` stores as JSON decoded."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from ost.formats.fields import FIELDS, NOT_LOADED, TEXTS, TURNS
from ost.formats.reject import Broken

DAMAGE = (OSError, ValueError, KeyError, TypeError, OverflowError, pa.ArrowException)
"""What Arrow raises at damaged bytes."""

ROWS, ROW_BYTES = 64, 1 << 24
"""Rows in memory at a time, and about how many bytes of them."""

Decoder = Callable[[Any], Any]


def batch_rows(size: int, rows: int) -> int:
    """How many of `rows` rows of `size` bytes together are read at a time."""
    return max(1, min(ROWS, ROW_BYTES * rows // max(1, size)))


def records(
    file: str,
    schema: pa.Schema,
    columns: Mapping[str, str],
    filled: Sequence[str],
    read: Callable[[list[str]], Iterable[pa.RecordBatch]],
) -> Iterator[dict | Broken]:
    """The rows of a table, each a dict, or Broken where Python cannot hold it; one Broken where no column holds turns.

    `columns` maps our names to the table's. `read` gives the batches of some columns: of the others, those that are
    `filled` are told by name alone.
    """
    names = [name for name in schema.names if name in FIELDS | set(columns.values())]
    turns = {theirs for ours, theirs in columns.items() if ours in TURNS} | TURNS
    if turns.isdisjoint(names):
        found = ", ".join(schema.names)
        yield Broken(f"{file} has no column of turns (found: {found}); name it in data.columns", "broken-file")
        return
    rest = dict.fromkeys((name for name in filled if name not in names), NOT_LOADED)
    for batch in read(names):
        decoders = _decoders(batch.schema, TEXTS | set(columns.values()))
        for row in _rows(batch):
            if isinstance(row, dict):
                row |= {name: decode(row[name]) for name, decode in decoders.items()} | rest
            yield row


def _rows(batch: pa.RecordBatch) -> list[dict | Broken]:
    try:
        return batch.to_pylist()
    except DAMAGE as error:  # text that is not UTF-8: row by row, so that it does not take others with it
        if batch.num_rows == 1:
            return [Broken(f"the row cannot be read: {error}")]
        return [row for index in range(batch.num_rows) for row in _rows(batch.slice(index, 1))]


def _decoders(schema: pa.Schema, texts: frozenset[str]) -> dict[str, Decoder]:
    found = {field.name: _decoder(field.type, field.name, texts) for field in schema}
    return {name: decode for name, decode in found.items() if decode}


def _decoder(kind: pa.DataType, name: str, texts: frozenset[str]) -> Decoder | None:
    """What decodes the `arrow.json` values within a column, None where it holds none."""
    if getattr(kind, "extension_name", "") == "arrow.json":
        return _text if name in texts else _value
    if pa.types.is_struct(kind):
        inner = _decoders(kind, texts)
        return inner and (lambda value: value and {key: inner.get(key, _same)(part) for key, part in value.items()})
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        each = _decoder(kind.value_type, name, texts)
        return each and (lambda values: values and [each(value) for value in values])
    return None


def _same(value: Any) -> Any:
    return value


def _value(stored: str | None) -> Any:
    try:
        return stored if stored is None else json.loads(stored)
    except (ValueError, RecursionError):
        return stored


def _text(stored: str | None) -> Any:
    """A string is text, a list of parts or turns is one, and all else is the text itself.

    `datasets` 5.2 stores a string that happens to be JSON as it is: the answers 42, null and [0.1, 0.2] lose their
    quotes on the way, not their spelling.
    """
    value = _value(stored)
    if isinstance(value, str) or (isinstance(value, list) and all(map(_part, value))):
        return value
    return stored


def _part(value: Any) -> bool:
    return isinstance(value, dict) and not {"type", "role", "from", "user", "text", "image"}.isdisjoint(value)

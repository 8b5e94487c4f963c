"""JSON lines that `datasets` reads without guessing wrong: one type a field, told by the first lines.

Its JSON loader takes the types from the first 10 MB: a list that is empty there, or a key that is absent, breaks the
loading of all (tried: datasets 4.0 and 4.8). So an image comes early (`Survey.lead`), and all lines have the same keys.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from ost.export.kept import Row
from ost.export.survey import Survey

_BREAKS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
"""What some readers, such as Python's splitlines, take for the end of a line."""


def write_lines(path: Path, records: Iterable[dict]) -> None:
    """Write records, one a line."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{_line(record)}\n" for record in records)


def _line(record: dict) -> str:
    line = json.dumps(record, ensure_ascii=False)
    return line if line.isascii() else line.translate(_BREAKS)


def told(row: Row, survey: Survey) -> dict[str, str]:
    """What a record holds beside its conversation, as text alone, and the same fields in all records of a survey.

    Our id, and the user's own as JSON text: as they are, 17 beside "a" is two types, and "2024-01-01" taken for a date.
    """
    own = {"own_id": row.own_id} if survey.all_named else {}
    return {"id": row.sample.id} | own | ({"task": row.sample.task} if survey.has_tasks else {})

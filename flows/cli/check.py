"""`ost check`: what would become of a pool, on the terminal."""

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from flows.display import Display, console, say, table, warn
from ost.ingestion.survey import FIRST, Survey, advice, survey
from ost.settings import Data
from ost.store import write_json
from ost.types import silent

BAR = 32
"""Characters of the longest bar."""
BINS = 10


def check_source(pool: str, settings: Data, model: str | None, json_file: Path | None, whole: bool) -> Survey:
    """Look at a source, print what was seen, and write it as JSON where a file is named; `-` prints JSON alone."""
    alone = str(json_file) == "-"
    with nullcontext() if alone else Display() as display:
        found = survey(pool, settings, model, None if whole else FIRST, display.bar("check") if display else silent)
    if alone:
        console.file.write(json.dumps(found.to_json(), indent=2, ensure_ascii=False) + "\n")
        return found
    _show(pool, found)
    if json_file:
        write_json(json_file, found.to_json())
        say(f"→ {json_file}")
    return found


def _show(pool: str, found: Survey) -> None:
    forms = ", ".join(f"{form} ({count:,} records)" for form, count in found.forms.most_common())
    part = "all of it was read" if found.whole else f"the first {found.read:,} records were read; --all reads the rest"
    told = f"{found.files:,} file(s), {decimal(found.size)}, {forms}; {part}"
    console.print(f"[bold]{escape(pool)}[/]: {told}", soft_wrap=True)
    share = found.kept / found.read if found.read else 0.0
    say(f"{found.kept:,} of {found.read:,} records would be kept ({share:.1%})")
    if found.reasons:
        console.print(_reasons(found))
    if found.unread_files:
        names = ", ".join(found.unread_files[:5])
        warn(f"{len(found.unread_files)} file(s) are in no form that is read: {names}")
    _histogram("answers learned a sample", {str(turns): count for turns, count in sorted(found.turns.items())})
    _histogram("images a sample", {str(images): count for images, count in sorted(found.images.items())})
    _histogram("tokens a sample", _binned(found.tokens))
    _histogram("longer edge of an image, pixels", _binned([max(size) for size in found.sizes.elements()]))
    for line in advice(found):
        console.print("[yellow]→[/]", escape(line), soft_wrap=True)


def _reasons(found: Survey) -> Table:
    shown = table("would be kept out", "reason", "records", "for example")
    for reason, count in found.reasons.most_common():
        first = found.examples[reason][0]
        own = f", id {first.own_id}" if first.own_id else ""
        place = f"record {first.position} of {first.file}{own}: " if first.file else ""
        shown.add_row(reason, f"{count:,}", escape(place + first.detail))
    return shown


def _histogram(title: str, counts: Mapping[str, int]) -> None:
    if not counts:
        return
    say(f"\n{title}")
    most, widest = max(counts.values()), max(map(len, counts))
    for label, count in counts.items():
        bar = "█" * max(1, round(BAR * count / most))
        console.print(f"  {label:>{widest}}  [cyan]{bar}[/] {count:,}")


def _binned(values: list[int]) -> dict[str, int]:
    """Counts in BINS equal parts of the range, empty ones left out."""
    if not values:
        return {}
    low, width = min(values), max(1, -(-(max(values) - min(values) + 1) // BINS))
    counts = Counter((value - low) // width for value in values)
    return {f"{low + at * width:,} … {low + (at + 1) * width - 1:,}": counts[at] for at in sorted(counts)}

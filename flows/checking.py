"""`ost check`: what would become of a pool, on the terminal."""

import json
from collections.abc import Mapping
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from flows.display import Display, console
from ost.config import Data
from ost.ingestion.survey import FIRST, Survey, advice, survey
from ost.store import write_json

BAR = 32
"""Characters of the longest bar."""
BINS = 10


def check_source(pool: str, settings: Data, model: str | None, json_file: Path | None, whole: bool) -> Survey:
    """Look at a source, print what was seen, and write it as JSON where a file is named; `-` prints JSON alone."""
    display = Display()
    to_terminal = json_file is None or str(json_file) != "-"
    if to_terminal:
        display.start()
    try:
        found = survey(
            pool,
            settings,
            model,
            None if whole else FIRST,
            lambda done, total, note="": to_terminal and display.advance("check", done, total, note),
        )
    finally:
        display.stop()
    if not to_terminal:
        console.file.write(json.dumps(found.to_json(), indent=2, ensure_ascii=False) + "\n")
        return found
    _show(pool, found)
    if json_file:
        write_json(json_file, found.to_json())
        console.print(f"→ {json_file}", highlight=False, soft_wrap=True)
    return found


def _show(pool: str, found: Survey) -> None:
    forms = ", ".join(f"{form} ({count:,} records)" for form, count in found.forms.most_common())
    part = "all of it was read" if found.whole else f"the first {found.read:,} records were read; --all reads the rest"
    told = f"{found.files:,} file(s), {_bytes(found.size)}, {forms}; {part}"
    console.print(f"[bold]{escape(pool)}[/]: {told}", highlight=False, soft_wrap=True)
    share = found.kept / found.read if found.read else 0.0
    console.print(f"{found.kept:,} of {found.read:,} records would be kept ({share:.1%})", highlight=False)
    if found.reasons:
        console.print(_reasons(found))
    if found.unread_files:
        names = ", ".join(escape(name) for name in found.unread_files[:5])
        console.print(f"[yellow]![/] {len(found.unread_files)} file(s) are in no form that is read: {names}")
    _histogram("answers learned a sample", {str(turns): count for turns, count in sorted(found.turns.items())})
    _histogram("images a sample", {str(images): count for images, count in sorted(found.images.items())})
    _histogram("tokens a sample", _binned(found.tokens))
    _histogram("longer edge of an image, pixels", _binned([max(size) for size in found.sizes.elements()]))
    for line in advice(found):
        console.print("[yellow]→[/]", escape(line), highlight=False, soft_wrap=True)


def _reasons(found: Survey) -> Table:
    table = Table(title="would be kept out", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("reason", no_wrap=True)
    table.add_column("records", justify="right")
    table.add_column("for example")
    for reason, count in found.reasons.most_common():
        first = found.examples[reason][0]
        own = f", id {first.own_id}" if first.own_id else ""
        place = f"record {first.position} of {first.file}{own}: " if first.file else ""
        table.add_row(reason, f"{count:,}", escape(place + first.detail))
    return table


def _histogram(title: str, counts: Mapping[str, int]) -> None:
    if not counts:
        return
    console.print(f"\n{title}", highlight=False)
    most, widest = max(counts.values()), max(map(len, counts))
    for label, count in counts.items():
        bar = "█" * max(1, round(BAR * count / most))
        console.print(f"  {label:>{widest}}  [cyan]{bar}[/] {count:,}", highlight=False)


def _binned(values: list[int]) -> dict[str, int]:
    """Counts in BINS equal parts of the range, empty ones left out."""
    if not values:
        return {}
    low, high = min(values), max(values)
    width = max(1, -(-(high - low + 1) // BINS))
    counts: dict[int, int] = {}
    for value in values:
        counts[(value - low) // width] = counts.get((value - low) // width, 0) + 1
    return {f"{low + at * width:,} … {low + (at + 1) * width - 1:,}": count for at, count in sorted(counts.items())}


def _bytes(size: int) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"

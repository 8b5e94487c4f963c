"""What a run will take, as the command shows it."""

from flows.display import console, say, table, warn
from tasks.forecast import GIB, Forecast, Row


def show_forecast(forecast: Forecast) -> None:
    """Print what the stages on the accelerator will take, what there is, and what to set where it does not fit."""
    if forecast.rows:
        numbers = ("samples", "a second", "takes", "memory")
        shown = table("What it will take", "stages", numbers=numbers)
        shown.add_column("")
        for row in forecast.rows:
            shown.add_row(row.what, *_cells(row), row.note)
        console.print(shown)
        seconds = sum(row.seconds or 0.0 for row in forecast.rows)
        parts = [f"about {duration(seconds)} in all"] if seconds else []
        parts.append(f"memory of a device {forecast.memory / GIB:.1f} GiB")
        if forecast.disk:
            parts.append(
                f"disk for models {forecast.disk / GIB:.1f} GiB of {forecast.free_disk / GIB:.1f} that are free"
            )
        say("; ".join(parts))
    for note in (*forecast.notes, *forecast.refusals):
        warn(note)


def duration(seconds: float) -> str:
    """A time as a person says it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _cells(row: Row) -> list[str]:
    rate = "" if row.rate is None else f"{row.rate:,.0f}" if row.rate >= 10 else f"{row.rate:.2g}"
    seconds = "" if row.seconds is None else duration(row.seconds)
    memory = "" if row.memory is None else f"{row.memory / GIB:.1f} GiB"
    return [f"{row.samples:,}" if row.samples else "", rate, seconds, memory]

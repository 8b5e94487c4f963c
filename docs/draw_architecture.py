"""Draws docs/architecture.svg from the code: rooms are packages, thin arrows imports, stages those of a curation.

python docs/draw_architecture.py        # or: make docs
"""

from collections.abc import Iterator
from html import escape
from pathlib import Path

import grimp

from tasks.pipeline import stages_of
from tasks.plan import Plan
from tasks.settings import Params

FILE = Path(__file__).with_name("architecture.svg")
SERVICES = {"prefect": "Prefect", "mlflow": "MLflow", "dvc": "DVC", "boto3": "S3", "ray": "Ray"}
"""Package → what a person calls the service that it speaks to."""
WAY = (
    "formats", "ingestion", "data", "encoding", "scoring", "arms", "selection", "training", "evaluation", "comparison",
    "report",
)  # fmt: skip
"""The rooms that the data passes, in order; they are numbered."""
COLUMNS = {
    "world": ("worlds",),
    "ingest": ("formats", "ingestion"),
    "warmup": ("data", "encoding", "models", "execution", "warmup"),
    "score": ("scoring", "baselines"),
    "select": ("arms", "anchors", "selection"),
    "sft": ("training",),
    "evaluate": ("evaluation",),
    "report": ("audit", "report"),
    "compare, export": ("comparison", "export"),
}
"""Stage, or commands → the rooms that are drawn below it. How high a room stands follows from its imports."""
LEFT, COLUMN, ROW, WIDTH, HEIGHT = 24, 134, 56, 112, 32

Edge = tuple[str, str]


def imports(graph: grimp.ImportGraph) -> tuple[set[str], set[Edge], set[str]]:
    """The rooms of `ost`, which of them imports which, and those that any may import: files without a room below."""
    rooms = {name.removeprefix("ost.") for name in graph.find_children("ost")}
    edges = {(a, b) for a in rooms for b in rooms if a != b and graph.direct_import_exists(
        importer=f"ost.{a}", imported=f"ost.{b}", as_packages=True
    )}  # fmt: skip
    folders = {room for room in rooms if graph.find_children(f"ost.{room}")}
    shared = {room for room in rooms - folders if not folders & reached(room, edges)}
    return rooms - shared, {(a, b) for a, b in edges if not {a, b} & shared}, shared


def reached(room: str, edges: set[Edge]) -> set[str]:
    """All rooms that a room imports, over others too."""
    found: set[str] = set()
    new = {room}
    while new:
        new = {b for a, b in edges if a in new} - found
        found |= new
    return found


def reduced(edges: set[Edge]) -> set[Edge]:
    """The imports that do not follow from others: a → c is left out where a → b and b → c are drawn."""
    return {(a, c) for a, c in edges if not any(c in reached(b, edges) for x, b in edges if x == a and b != c)}


def height_of(room: str, edges: set[Edge]) -> int:
    """How many rooms stand below it: the longest chain of imports."""
    return max((1 + height_of(b, edges) for a, b in edges if a == room), default=0)


def positions(rooms: set[str], edges: set[Edge], y: int) -> dict[str, tuple[int, int]]:
    """Upper left corner of each room's box, from y downward; raises ValueError for a room without a column."""
    column = {room: index for index, own in enumerate(COLUMNS.values()) for room in own}
    if set(column) != rooms:
        raise ValueError(f"rooms of ost/ and of COLUMNS differ: {sorted(set(column) ^ rooms)}; give each a column")
    levels = {room: height_of(room, edges) for room in rooms}
    top = max(levels.values())
    return {room: (LEFT + column[room] * COLUMN, y + (top - levels[room]) * ROW) for room in rooms}


def stages() -> tuple[dict[str, str], set[Edge]]:
    """Each kind of stage of a curation with the folder that it writes, and which kind reads what another writes."""
    found = stages_of(Path(), Plan(Params()))
    maker = {path: stage.kind for stage in found for path in stage.made}
    edges = {(maker[path], stage.kind) for stage in found for path in stage.reads if path in maker}
    folders = {stage.kind: stage.writes[0].partition("/")[0] + "/" for stage in found}
    return folders, {(a, b) for a, b in edges if a != b}


def chips(graph: grimp.ImportGraph, package: str) -> list[str]:
    """The parts of a package, each with the services that it speaks to; `stages` is drawn apart."""
    found = []
    for name in sorted(graph.find_children(package)):
        inside = {name, *graph.find_descendants(name)}
        used = set().union(*(graph.find_modules_directly_imported_by(one) for one in inside))
        services = [label for service, label in SERVICES.items() if service in used]
        found.append(" · ".join([name.rpartition(".")[2], *services]))
    return found


def box(x: int, y: int, text: str, kind: str, width: int = WIDTH) -> str:
    label = f'<text x="{x + width // 2}" y="{y + 21}" text-anchor="middle">{escape(text)}</text>'
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{HEIGHT}" rx="6"/>{label}'


def lines_of(texts: list[str]) -> list[list[str]]:
    """Texts of small boxes, divided into lines that are no wider than the picture."""
    lines: list[list[str]] = [[]]
    for text in texts:
        if sum(map(_width, [*lines[-1], text])) > (len(COLUMNS) - 1) * COLUMN + 64:
            lines.append([])
        lines[-1].append(text)
    return lines


def _width(text: str) -> int:
    """Of a small box and the gap behind it."""
    return 7 * len(text) + 24


def small_boxes(texts: list[str], y: int) -> Iterator[str]:
    """Small boxes side by side, each as wide as its text, on as many lines as they take."""
    for number, line in enumerate(lines_of(texts)):
        for index, text in enumerate(line):
            x = LEFT + 70 + sum(map(_width, line[:index]))
            yield box(x, y + 40 * number, text, "chip", _width(text) - 8)


def band(y: int, height: int, name: str, kind: str) -> str:
    right = LEFT + len(COLUMNS) * COLUMN
    title = f'<text class="title" x="{LEFT}" y="{y + 22}">{name}</text>'
    return f'<rect class="{kind}" x="8" y="{y}" width="{right}" height="{height}" rx="8"/>{title}'


def curve(start: tuple[int, int], end: tuple[int, int], kind: str) -> str:
    (x, y), (u, v) = start, end
    bend = (v - y) // 2
    return f'<path class="{kind}" d="M{x},{y} C{x},{y + bend} {u},{v - bend} {u},{v}" marker-end="url(#{kind})"/>'


def stage_row(y: int) -> Iterator[str]:
    """The stages from left to right, what each leaves, and what passes from one to the next."""
    folders, edges = stages()
    names = ["world", *(name for name in COLUMNS if name in folders and name != "world")]
    place = {name: LEFT + list(COLUMNS).index(name) * COLUMN for name in names} | {"base": LEFT}
    level = dict.fromkeys(place, y) | {"base": y + 44}
    for a, b in sorted(reduced(edges)):
        start, end = (place[a] + WIDTH, level[a] + 16), (place[b] - 3, level[b] + 16)
        yield f'<path class="flow" d="M{start[0]},{start[1]} L{end[0]},{end[1]}" marker-end="url(#flow)"/>'
    for name, x in place.items():
        yield box(x, level[name], name, "stage")
        if name not in ("world", "base"):
            yield small(x + WIDTH // 2, y + 50, folders[name], "middle")
    yield small(place["ingest"] + WIDTH // 2, y + 72, "↑ your own pool", "middle")
    yield box(LEFT + (len(COLUMNS) - 1) * COLUMN, y, list(COLUMNS)[-1], "chip")


def small(x: int, y: int, text: str, anchor: str = "start") -> str:
    return f'<text class="small" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 } .title { font-weight: 600 } .small { font-size: 11px; fill: #57606a }
.page { fill: #ffffff } .flows { fill: #f5f0fb } .tasks { fill: #eef7f0 } .ost { fill: #f3f6fb } .number { font-size: 9px; fill: #0b5cad }
.room { fill: #ffffff; stroke: #8c959f } .way { fill: #ddebfb; stroke: #0b5cad } .stage { fill: #d2edd9; stroke: #1a7f37 }
.chip { fill: #ffffff; stroke: #c2c8cf } path { fill: none } .import { stroke: #9aa4b2 } .flow { stroke: #1a7f37; stroke-width: 2.5 }
"""  # noqa: E501
HEAD = """<marker id="{0}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="{1}" markerHeight="{1}" orient="auto">\
<path d="M0,0 L8,4 L0,8 z" style="fill:{2}"/></marker>"""


def draw() -> str:
    """The picture as SVG, the same for the same code."""
    graph = grimp.build_graph("ost", "tasks", "flows", include_external_packages=True, cache_dir=None)
    flows, tasks = chips(graph, "flows"), chips(graph, "tasks")
    below = 28 + 40 * len(lines_of(flows))
    stages_at = below + 36 + 40 * len(lines_of(tasks))
    parts = [
        band(8, below - 16, "flows/", "flows"),
        *small_boxes(flows, 18),
        band(below, stages_at + 90 - below, "tasks/", "tasks"),
        *small_boxes(tasks, below + 10),
        small(LEFT, stages_at - 10, "the stages of a curation, and the folder that each leaves for those behind it"),
        *stage_row(stages_at),
    ]
    library, bottom = draw_library(graph, stages_at + 98)
    width = LEFT + len(COLUMNS) * COLUMN + 16
    size = f'viewBox="0 0 {width} {bottom}" width="{width}" height="{bottom}"'
    marks = HEAD.format("import", 7, "#9aa4b2") + HEAD.format("flow", 4, "#1a7f37")
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
        f"<style>{STYLE}</style><defs>{marks}</defs>",
        f'<rect class="page" width="{width}" height="{bottom}"/>',
    ]
    return "\n".join([*head, *parts, *library, "</svg>"]) + "\n"


def draw_library(graph: grimp.ImportGraph, y: int) -> tuple[list[str], int]:
    """The rooms of `ost` and their imports, from y downward; and where they end."""
    rooms, edges, shared = imports(graph)
    place = positions(rooms, edges, y + 52)
    bottom = max(y for _, y in place.values()) + HEIGHT + 16
    ends = [(place[a], place[b]) for a, b in sorted(reduced(edges))]
    half = WIDTH // 2
    parts = [
        band(y, bottom - y + 48, "ost/", "ost"),
        small(
            LEFT + 70,
            y + 22,
            "an arrow is an import, and none leads upward; blue: the rooms that data passes, in order",
        ),
        *(curve((x + half, y + HEIGHT), (u + half, v), "import") for (x, y), (u, v) in ends),
        *(box(*place[room], room, "way" if room in WAY else "room") for room in sorted(rooms)),
        *(number_in(place[room], number) for number, room in enumerate(WAY, 1)),
        *small_boxes(["for all rooms:", *sorted(shared)], bottom),
    ]
    return parts, bottom + 56


def number_in(corner: tuple[int, int], number: int) -> str:
    """The number of a room, small in the corner of its box."""
    return f'<text class="number" x="{corner[0] + 5}" y="{corner[1] + 12}">{number}</text>'


if __name__ == "__main__":
    FILE.write_text(draw())

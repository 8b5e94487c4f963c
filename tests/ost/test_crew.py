"""Workers: as many processes as you like give the same bytes, and what happens to them is told."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from pools import encoded, everything, record, talk, write_jsonl

from ost.errors import DataError, ModelError
from ost.formats import Source, Unit
from ost.ingestion import workers as workers_module

FATE = {"die": "os.kill(os.getpid(), signal.SIGKILL)", "sleep": "time.sleep(600)"}


class Fateful:
    """Part of a unit that does something to the process which unpacks it."""

    def __init__(self, fate: str):
        self.code = f"import os, signal, time; {FATE[fate]}"

    def __reduce__(self) -> tuple:
        return exec, (self.code,)


@pytest.fixture
def at_once(monkeypatch):
    """Workers from the first unit on."""
    monkeypatch.setattr(workers_module, "ALONE", 0.0)


def mixed_pool(folder: Path) -> Path:
    """Records of every fate, in several files, with images beside them and within."""
    for week in ("week1", "week2"):
        (folder / week).mkdir(parents=True)
        (folder / week / "a.png").write_bytes(encoded(seed=int(week[-1])))
        records = [record(f"{week}, {number}?", images=["a.png"]) for number in range(40)]
        records += [record(f"{week}?", answer=""), record("again?"), b"{", record(images=["absent.png"])]
        write_jsonl(folder / week, [*records, *(talk(f"{week}, {n}?", str(n), source="web") for n in range(40))])
    return folder


def test_workers_give_what_one_process_gives(take, tmp_path, small_units, at_once):
    pool, memory = mixed_pool(tmp_path / "pool"), tmp_path / "memory"
    one = everything(take(pool=pool, into=tmp_path / "one"))
    assert one == everything(take(pool=pool, into=tmp_path / "two", workers=2, memory=memory))
    assert one["counts"]["pool"]["reasons"] == {"empty-answer": 2, "duplicate": 1, "malformed": 2, "missing-image": 2}
    assert len(one["sets"]["pool"]) > 10, "else there was one unit"
    assert one == everything(take(pool=pool, into=tmp_path / "two", workers=2, memory=memory)), "remembered, too"


def test_a_small_source_is_done_before_others_would_have_started(take, monkeypatch):
    monkeypatch.setattr(workers_module, "ProcessPoolExecutor", None)
    assert len(take(workers=8)["pool"]) == 8


@pytest.mark.parametrize("late", [False, True], ids=["while others are awaited", "before others are handed out"])
def test_a_killed_worker_is_a_data_error_that_says_what_to_do(late, take, tmp_path, at_once, monkeypatch):
    pool = write_jsonl(tmp_path / "pool", [record()])
    read = Source.units

    def units(source: Source):
        if source.root == pool.parent.resolve():
            yield Unit(pool, pool.name, "json", 0, 1, (Fateful("die"),))
            time.sleep(1.0 if late else 0.0)
        yield from read(source)

    monkeypatch.setattr(Source, "units", units)
    with pytest.raises(DataError, match=r"killed from outside.*lower compute\.workers or data\.max_pixels"):
        take(pool=pool, workers=2)
    monkeypatch.setattr(Source, "units", read)
    assert len(take(pool=pool)["pool"]) == 1, "run again"


def test_what_a_worker_cannot_load_is_told_as_by_one_process(clean_files, take, tmp_path, at_once):
    take.model = tmp_path / "no-model"
    take.model.mkdir()
    for workers in (1, 2):
        with pytest.raises(ModelError, match="no-model"):
            take(workers=workers)


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = {paths}
from ost.settings import Data
from ost.formats import Source, Unit
from ost.ingestion import ingest, workers
from test_crew import Fateful
if __name__ == "__main__":
    workers.ALONE = 0.0
    file = Path(sys.argv[1])
    Source.units = lambda source: iter([Unit(file, "x", "json", 0, 1, (Fateful("sleep"),))] * 2)
    ingest(file, file, None, None, sys.argv[2], Data(), workers=2)
"""


def test_workers_end_with_the_one_that_asked_for_them_however_that_ends(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT.format(paths=[str(Path.cwd()), *sys.path]))
    pool = write_jsonl(tmp_path / "pool", [record()])
    process = subprocess.Popen([sys.executable, tmp_path / "script.py", pool, tmp_path / "data"])
    try:
        workers = _awaited(lambda: _grandchildren(process.pid))
        process.kill()
        process.wait()
        assert workers and _awaited(lambda: not any(map(_runs, workers))), "a worker runs on for nobody"
    finally:
        process.kill()


def _awaited(condition, seconds: float = 240.0):
    """What a condition gives once it holds."""
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def _grandchildren(of: int) -> list[int]:
    parents = {}
    for folder in Path("/proc").iterdir():
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (ValueError, OSError):
            continue
    return [pid for pid, parent in parents.items() if parents.get(parent) == of]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

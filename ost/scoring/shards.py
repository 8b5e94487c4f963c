"""Shards: parts of a pool on disk that are scored and published by themselves, here or on other machines."""

import contextlib
import functools
import hashlib
import importlib.metadata
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ost.cost import Stopwatch
from ost.data import Dataset, Sample
from ost.data.shards import size_of
from ost.models import Checkpoint, checkpoint_folders, commit_of, load_checkpoint, resolve_device
from ost.models.adapter import base_of
from ost.scoring.kept import kept_table
from ost.scoring.methods import prepared_scorer
from ost.scoring.methods.lookahead import with_steps
from ost.scoring.methods.scorer import Scorer
from ost.settings import Execution, Score
from ost.store import digest, write_table
from ost.types import Arithmetic

KEPT_RUNS = 3
"""Runs, of other proxies, anchor sets or settings each, whose rows the store keeps."""
READ, PORTION = 64, 256 << 20
"""Samples that are read at once, and bytes of samples that are scored at once."""
UNRELATED = {"checks", "precision", "shard_size", "toxic_q", "visual_gain"}
"""Settings that no row depends on but by what a run settles: its arithmetic, and how many or how long steps."""
PACKAGES = ("torch", "transformers", "tokenizers", "torchvision", "pillow", "peft")
"""Libraries that rows are computed with, from an image's bytes to a loss."""


@dataclass(frozen=True)
class Job:
    """All that a worker needs to score any shard: paths and settings, small enough to send."""

    pool: Path
    """Sample set, see `ost.data.Dataset`."""
    anchors: Path
    proxy: str | Path
    """A folder, or a hub name."""
    store: Path
    """Folder that shards are published in. Workers on other machines must see it, and the inputs, under these paths."""
    settings: Score
    device: str = "auto"
    threads: int = 1
    execution: Execution = field(default_factory=Execution)
    arithmetic: Arithmetic = "fp32"
    """The arithmetic, which the run settles."""
    step: float | None = None
    """Of `transposed`, once the run has settled it."""
    base: str | Path | None = None
    """What the proxy was warmed up from, where that is known."""
    one_at_a_time: bool = False
    shares: bool = True
    """What the self-test of the proxy found, see `ost.models.Checkpoint`."""
    steps: int | None = None
    """Of `lookahead`, once the run has settled them."""
    name: str = ""
    """Of the run's folder, once the inputs have been read for it."""
    digest_of: Callable[[Path], str] = field(default=digest, compare=False)
    """How the digest of an input is found; one that remembers spares the reading of weights."""

    @functools.cached_property
    def run(self) -> Path:
        """Where all is kept that comes of this proxy, these anchors, these settings and this code."""
        return self.store / (self.name or self._name())

    @property
    def folder(self) -> Path:
        """Where its rows are kept that were computed in this arithmetic, by these steps."""
        settled = (self.arithmetic, self.steps, self.step)
        return self.run / "-".join(str(part) for part in settled if part is not None)

    @property
    def ends(self) -> Path:
        """File of the weights that `lookahead`'s training on the anchors ends with."""
        return self.folder / "walk.safetensors"

    @property
    def reference(self) -> Path:
        """File of the check's rows, which are the same whatever arithmetic the run takes."""
        return self.run / f"reference/{self.steps or 1}.parquet"

    def plan(self, arithmetic: Arithmetic) -> Path:
        """File of how many steps `lookahead` takes, as looked for in an arithmetic."""
        return self.run / f"plan-{arithmetic}.json"

    @property
    def trials(self) -> Path:
        """File of the arithmetic and the length of the step that the run has settled, from all that it tries."""
        device = resolve_device(self.device).type
        return self.run / f"trials-{device}-{self.settings.precision}-{self.settings.checks}-{self.steps or 1}.json"

    def _name(self) -> str:
        """Digest of the weights, anchors and settings that rows come from, and of what computes them."""
        parts = [*weights_of(self.proxy, self.digest_of), self.digest_of(self.anchors), _code_digest(), *made_by()]
        if self.base and self.settings.method == "lookahead" and self.settings.lookahead.from_base(self.base):
            parts += weights_of(self.base, self.digest_of)
        parts.append(self.settings.model_dump_json(exclude=UNRELATED))
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=12).hexdigest()

    def load_proxy(self) -> Checkpoint:
        """The proxy, on the job's device."""
        proxy = load_checkpoint(self.proxy, resolve_device(self.device), self.base)
        return replace(proxy, one_at_a_time=self.one_at_a_time, shares=self.shares)

    def load_anchors(self) -> list[Sample]:
        """The anchors."""
        return list(Dataset(self.anchors))


def weights_of(model: str | Path, digest_of: Callable[[Path], str] = digest) -> list[str]:
    """What tells a model's weights from others: digests of its folders; on the hub its name and the commit."""
    if not Path(model).is_dir():
        return [f"{model} {commit_of(model)}"]
    folders, base = checkpoint_folders(model), base_of(model)
    on_hub = [] if base is None or Path(base).is_dir() else weights_of(base)
    return [*map(digest_of, folders), *on_hub]


@functools.cache
def made_by() -> tuple[str, ...]:
    """The versions of the PACKAGES that are installed."""
    found = []
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return tuple(found)


Runner = Callable[[Job, Sequence[Sequence[int]], Scorer | None], Iterable[int]]
"""Scores all shards of a job, and yields the size of each as it is published, in any order. It is given the job's
scorer, prepared in this process, for what it scores here."""


def run_here(job: Job, shards: Sequence[Sequence[int]], scorer: Scorer | None = None) -> Iterator[int]:
    """Score the shards one after the other, in this process; `scorer`: the job's, where it is prepared already."""
    if shards:
        yield from _scored(job, shards, scorer or prepare_scorer(job))


def prepare_scorer(job: Job) -> Scorer:
    """The job's method, with what it needs for any sample."""
    torch.set_num_threads(job.threads)
    settings = with_steps(job.settings, job.steps).model_copy(update={"step": job.step})
    return prepared_scorer(job.load_proxy(), job.load_anchors(), settings, job.arithmetic, job.execution, job.ends)


def score_shard(job: Job, positions: Sequence[int], scorer: Scorer | None = None) -> int:
    """Score the samples at these positions of the pool and publish their rows; returns how many there are.

    `scorer`: the job's, prepared, for a process that scores several shards; left out, it is prepared for this one.
    """
    return next(_scored(job, [positions], scorer or prepare_scorer(job)))


def _scored(job: Job, shards: Sequence[Sequence[int]], scorer: Scorer) -> Iterator[int]:
    """Score shards one after the other, each published as it is done; the next is read meanwhile.

    A row has its share of the `seconds` that its shard took.
    """
    watch, pool = Stopwatch(), Dataset(job.pool)
    tables = scorer.tables(samples for positions in shards for samples in _portions(pool, positions))
    for positions in shards:
        own, size = [], 0
        while size < len(positions):
            own.append(next(tables))
            size += len(own[-1])
        rows = pa.concat_tables(own)
        watch, seconds = Stopwatch(), watch.seconds
        rows = rows.append_column("seconds", pa.array(np.full(size, seconds / size)))
        name = hashlib.blake2b("\n".join(rows["id"].to_pylist()).encode(), digest_size=12).hexdigest()
        write_table(job.folder / f"{name}.parquet", rows)
        yield size


def _portions(pool: Dataset, positions: Sequence[int]) -> Iterator[list[Sample]]:
    """The samples at these positions, so many at a time as hold PORTION bytes."""
    portion, held = [], 0
    for start in range(0, len(positions), READ):
        for sample in pool.at(positions[start : start + READ]):
            portion.append(sample)
            held += size_of(sample)
        if held > PORTION:
            yield portion
            portion, held = [], 0
    if portion:
        yield portion


def pending(job: Job, ids: Sequence[str]) -> list[np.ndarray]:
    """Positions of the samples that have no rows yet, in shards of `shard_size`.

    A run that was killed finds the same shards again, less those that were published, so its results are the same.
    """
    known = [rows["id"] for rows in _published(job)]
    scored = pc.is_in(pa.array(ids), pa.chunked_array(known, pa.string()))
    left = np.flatnonzero(~scored.to_numpy(zero_copy_only=False))
    return np.split(left, range(job.settings.shard_size, len(left), job.settings.shard_size)) if len(left) else []


def collect(job: Job, pool: pa.Table) -> pa.Table:
    """The rows of all samples, in the order of the pool's `id, task`, which may have other tasks than when they were
    scored."""
    rows = pa.concat_tables(_published(job))
    rows = rows.take(pc.index_in(pool["id"].combine_chunks(), rows["id"].combine_chunks()))
    return rows.set_column(rows.column_names.index("task"), "task", pool["task"])


def prune(job: Job) -> None:
    """Forget what the store has of all but the latest runs."""
    job.run.touch()
    others = sorted((path for path in job.store.iterdir() if path.is_dir()), key=lambda path: -path.stat().st_mtime_ns)
    for folder in others[KEPT_RUNS:]:
        shutil.rmtree(folder)


def _published(job: Job) -> Iterator[pa.Table]:
    """The rows of each shard; one that is torn is removed, so that its samples count as not scored."""
    for path in sorted(job.folder.glob("*.parquet")):
        if (rows := kept_table(path)) is not None:
            yield rows
        else:
            path.unlink(missing_ok=True)


@functools.cache
def _code_digest() -> str:
    """Digest of the code that rows come from: after a change of it nothing old is taken for new."""
    library = Path(__file__).parents[1]
    rooms = ("scoring", "execution", "encoding", "models")
    files = [file for room in rooms for file in sorted((library / room).rglob("*.py"))]
    files += [library / f"data/{name}.py" for name in ("picture", "sample", "shards")]
    return hashlib.blake2b(b"".join(file.read_bytes() for file in files), digest_size=12).hexdigest()

"""Scoring shard by shard: the same table whatever the layout, whatever is killed; and only what is new is scored."""

import dataclasses
import errno
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from specimens import copy_of, drawn

import ost
from ost import store
from ost.data import Dataset, write_samples
from ost.errors import ModelError
from ost.scoring import Job, kept, score_file, shards
from ost.scoring.shards import pending, run_here, score_shard
from ost.settings import Score
from ost.store import read_json, read_table


@pytest.fixture(scope="module")
def job(tmp_path_factory, pool, anchors, proxy) -> Job:
    folder = tmp_path_factory.mktemp("job")
    write_samples(folder / "pool.parquet", pool)
    write_samples(folder / "anchors.parquet", anchors[:8])
    proxy.save(folder / "proxy")
    settings = Score(method="transposed", shard_size=16, checks=0)
    paths = {"pool": folder / "pool.parquet", "anchors": folder / "anchors.parquet", "proxy": folder / "proxy"}
    return Job(**paths, store=folder / "store", settings=settings)


@pytest.fixture(scope="module")
def undisturbed(job) -> pa.Table:
    return score_file(job).table


def elsewhere(job: Job, folder: Path, **settings) -> Job:
    """The same job with a store of its own, and other settings."""
    return dataclasses.replace(job, store=folder / "store", settings=job.settings.model_copy(update=settings))


def settled(job: Job, folder: Path) -> Job:
    """The same with a store of its own, as a run has it once it knows its step."""
    return dataclasses.replace(elsewhere(job, folder), step=1e-3)


def counting(counts: list[int]):
    def run(job, parts, scorer):
        for size in run_here(job, parts, scorer):
            counts.append(size)
            yield size

    return run


def interrupted(job, parts, scorer):
    """The first shard is published, and no other."""
    yield next(run_here(job, parts, scorer))
    raise KeyboardInterrupt


# --- the same scores --------------------------------------------------------------------------------------------------


def test_a_file_scores_like_a_list(undisturbed, job, pool, anchors, proxy):
    listed = ost.score(pool, anchors[:8], proxy, job.settings).table
    assert undisturbed.equals(listed)
    assert undisturbed["id"].to_pylist() == [sample.id for sample in pool], "rows must be in pool order"


@pytest.mark.parametrize("method", ["exact", "gradient", "transposed"])
@pytest.mark.parametrize("shard_size", [7, 1000])
def test_the_layout_of_shards_does_not_matter(method, shard_size, tmp_path, pool, anchors, proxy64):
    settings = {"method": method, "checks": 0}
    whole, cut = (
        ost.score(pool[:24], anchors[:8], proxy64, **settings, shard_size=size).table for size in (1000, shard_size)
    )
    for name in ("utility", "loss", "toxic_q"):
        np.testing.assert_allclose(*(table[name].to_numpy() for table in (cut, whole)), rtol=1e-4, atol=1e-4)


def test_settings_that_no_row_depends_on_share_the_rows(job, undisturbed, tmp_path):
    counts: list[int] = []
    other = dataclasses.replace(job, settings=job.settings.model_copy(update={"toxic_q": 0.5, "shard_size": 5}))
    assert score_file(other, counting(counts)).table["utility"].equals(undisturbed["utility"])
    assert counts == []


@pytest.mark.parametrize("change", [{"reduction": "sum"}, {"step": 2e-3}, {"layers": "language"}, {"detail": "folds"}])
def test_settings_that_rows_depend_on_do_not(change, job):
    other = dataclasses.replace(job, settings=job.settings.model_copy(update=change))
    assert other.folder != job.folder


@pytest.mark.parametrize("change", [{"arithmetic": "bf16"}, {"steps": 3}, {"steps": 4}, {"step": 0.1}])
def test_what_a_run_settles_tells_rows_of_one_run_apart(change, job):
    other = dataclasses.replace(job, **change)
    assert other.folder != job.folder and other.run == job.run


def test_what_is_settled_is_kept_for_each_way_to_settle_it(job, monkeypatch):
    kinds = [{"precision": "bf16"}, {"checks": 7}, {}]
    others = [dataclasses.replace(job, settings=job.settings.model_copy(update=change)) for change in kinds]
    files = {other.trials for other in others}
    assert len(files) == 3 and len({other.run for other in others}) == 1
    monkeypatch.setattr(shards, "resolve_device", lambda device: torch.device("cuda"))
    assert job.trials not in files, "what suits a CPU is taken for what suits an accelerator"


def test_other_libraries_or_another_commit_of_a_hub_model_have_rows_of_their_own(job, monkeypatch):
    commits = iter(["a1", "a1", "b2"])
    monkeypatch.setattr(shards, "commit_of", lambda name: next(commits))
    hub = [dataclasses.replace(job, proxy="some/model").run for _ in range(3)]
    assert hub[0] == hub[1] != hub[2]
    assert {"pillow", "tokenizers", "torch", "transformers"} <= {made.split()[0] for made in shards.made_by()}
    before = dataclasses.replace(job).run
    monkeypatch.setattr(shards, "made_by", lambda: ("pillow 1.0",))
    assert dataclasses.replace(job).run != before


def test_inputs_are_read_once(job, tmp_path):
    """Weights of many gigabytes, above all."""
    read: list[str] = []

    def digest_of(path: Path) -> str:
        read.append(path.name)
        return store.digest(path)

    score_file(dataclasses.replace(elsewhere(job, tmp_path), digest_of=digest_of))
    assert sorted(read) == ["anchors.parquet", "proxy"]


def test_another_proxy_or_other_anchors_have_rows_of_their_own(job, tmp_path, anchors, proxy):
    moved = copy_of(proxy)
    moved.model.lm_head.weight.data[0, 0] += 1e-3
    moved.save(tmp_path / "proxy")
    write_samples(tmp_path / "anchors.parquet", anchors[:7])
    others = {
        job.folder,
        dataclasses.replace(job, proxy=tmp_path / "proxy").folder,
        dataclasses.replace(job, anchors=tmp_path / "anchors.parquet").folder,
        dataclasses.replace(job, arithmetic="bf16").folder,
    }
    assert len(others) == 4


# --- only what is new -------------------------------------------------------------------------------------------------


def test_only_new_samples_are_scored(job, undisturbed, tmp_path, pool):
    """The pool in another order, less a few and with a few more: by content, not by place."""
    new = drawn("pool", 3, 9)
    write_samples(tmp_path / "pool.parquet", [new[0], *pool[40:10:-1], *new[1:]])
    counts: list[int] = []
    grown = score_file(dataclasses.replace(job, pool=tmp_path / "pool.parquet"), counting(counts)).table
    assert counts == [3]
    old = dict(zip(undisturbed["id"].to_pylist(), undisturbed["utility"].to_pylist(), strict=True))
    rows = dict(zip(grown["id"].to_pylist(), grown["utility"].to_pylist(), strict=True))
    assert all(rows[sample.id] == old[sample.id] for sample in pool[11:41])
    assert len(rows) == 33 and all(np.isfinite(rows[sample.id]) for sample in new)


def test_tasks_are_the_pools_own_however_old_the_rows_are(job, undisturbed, tmp_path, pool):
    write_samples(tmp_path / "pool.parquet", [dataclasses.replace(sample, task="renamed") for sample in pool])
    counts: list[int] = []
    again = score_file(dataclasses.replace(job, pool=tmp_path / "pool.parquet"), counting(counts)).table
    assert counts == [] and again["utility"].equals(undisturbed["utility"])
    assert set(again["task"].to_pylist()) == {"renamed"}


def test_a_table_costs_what_all_its_rows_took_and_tells_what_this_run_spent(job, tmp_path, pool):
    """Killed after its first shard, gone on with, and done again: the FLOPs are the same, and no second is lost."""
    own = elsewhere(job, tmp_path, checks=8)
    whole = score_file(elsewhere(job, tmp_path / "whole", checks=8))
    with pytest.raises(KeyboardInterrupt):
        score_file(own, interrupted)
    resumed = score_file(own)
    took = sum(read_table(path)["seconds"].to_numpy().sum() for path in own.run.rglob("*.parquet"))
    took += sum(read_json(path)["earlier"] for path in own.run.glob("*.json"))
    again = score_file(own)
    assert (whole.spent.scored, resumed.spent.scored, again.spent.scored) == (60, 44, 0)
    assert whole.cost.flops == resumed.cost.flops == again.cost.flops > 0
    assert whole.cost.seconds == whole.spent.seconds
    assert again.cost.seconds == pytest.approx(again.spent.seconds + took)
    assert again.figures["scored"] == 0 and again.figures["spent_seconds"] == again.spent.seconds
    assert resumed.spent.seconds < resumed.cost.seconds < resumed.spent.seconds + took


def test_a_smaller_pool_costs_less(job, tmp_path, pool):
    """Half of the rows of each shard are used."""
    own = elsewhere(job, tmp_path)
    score_file(own)
    write_samples(tmp_path / "pool.parquet", pool[::2])
    half = score_file(dataclasses.replace(own, pool=tmp_path / "pool.parquet"))
    assert half.spent.scored == 0
    rows = [read_table(path) for path in own.run.rglob("*.parquet")]
    took = sum(table["seconds"].to_numpy().sum() for table in rows)
    assert half.cost.seconds - half.spent.seconds == pytest.approx(took / 2)


def test_only_new_samples_are_checked(job, tmp_path, pool):
    own = elsewhere(job, tmp_path, checks=12)
    first = score_file(own)
    calls: list[tuple[int, str]] = []
    write_samples(tmp_path / "pool.parquet", [*pool[:-1], *drawn("pool", 2, 9)])
    grown = dataclasses.replace(own, pool=tmp_path / "pool.parquet")
    second = score_file(grown, progress=lambda done, total, note="": calls.append((done, note)))
    checked = [done for done, note in calls if note.startswith("checking")]
    assert len(checked) <= 3 and second.checks.samples >= 11
    assert score_file(own).checks == first.checks


def test_the_store_keeps_the_latest_runs_alone(job, tmp_path):
    own = elsewhere(job, tmp_path)
    small = tmp_path / "pool.parquet"
    write_samples(small, drawn("pool", 2, 1))
    folders = []
    for step in (1e-3, 2e-3, 3e-3, 4e-3, 5e-3):
        for precision in ("bf16", "fp32"):
            changes = {"step": step, "precision": precision}
            run = dataclasses.replace(own, pool=small, settings=own.settings.model_copy(update=changes))
            score_file(run)
        assert len(list(run.run.iterdir())) == 2, "a folder for each arithmetic"
        folders.append(run.run.name)
    assert sorted(path.name for path in own.store.iterdir()) == sorted(folders[-shards.KEPT_RUNS :])


def test_progress_counts_what_was_there(job, tmp_path):
    own = settled(job, tmp_path)
    score_shard(own, range(16))
    calls: list[tuple[int, int]] = []
    score_file(own, progress=lambda done, total, note="": calls.append((done, total)))
    assert calls == [(32, 60), (48, 60), (60, 60)]


# --- killed -----------------------------------------------------------------------------------------------------------


def test_shards_published_out_of_order_leave_the_others_as_they_were(job, tmp_path):
    own = elsewhere(job, tmp_path)
    ids = Dataset(own.pool).ids()
    before = pending(own, ids)
    assert [len(part) for part in before] == [16, 16, 16, 12]
    score_shard(own, before[2])
    after = pending(own, ids)
    assert [part.tolist() for part in after] == [before[index].tolist() for index in (0, 1, 3)]


def test_a_part_that_was_not_published_counts_for_nothing(job, undisturbed, tmp_path):
    own = settled(job, tmp_path)
    own.folder.mkdir(parents=True)
    (own.folder / "0123.parquet.part").write_bytes(b"PAR1 torn")
    assert score_file(own).table.equals(undisturbed)


@pytest.mark.parametrize("left", [0, 100, -9])
def test_a_torn_shard_counts_for_nothing(left, job, undisturbed, tmp_path):
    """As a machine that loses its power, or a disk, may leave one."""
    own = settled(job, tmp_path)
    score_file(own)
    torn = next(path for path in sorted(own.folder.glob("*.parquet")) if len(read_table(path)) == 12)
    torn.write_bytes(torn.read_bytes()[:left])
    counts: list[int] = []
    assert score_file(own, counting(counts)).table.equals(undisturbed) and counts == [12]


def test_a_shard_of_which_only_the_middle_is_torn_counts_for_nothing_too(job, undisturbed, tmp_path):
    own = settled(job, tmp_path)
    score_file(own)
    torn = next(path for path in sorted(own.folder.glob("*.parquet")) if len(read_table(path)) == 12)
    whole = torn.read_bytes()
    torn.write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])
    assert score_file(own).table.equals(undisturbed)


def test_a_shard_that_cannot_be_read_just_now_is_not_thrown_away(job, tmp_path, monkeypatch):
    own = settled(job, tmp_path)
    score_file(own)
    before = sorted(own.folder.glob("*.parquet"))

    def busy(path: Path) -> pa.Table:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(kept, "read_table", busy)
    with pytest.raises(OSError, match="Too many open files"):
        pending(own, Dataset(own.pool).ids())
    assert sorted(own.folder.glob("*.parquet")) == before


SCRIPT = """
import sys, torch
from pathlib import Path
from ost.settings import Score
from ost.scoring import Job, score_file
from ost.store import write_table
folder, store, out = map(Path, sys.argv[1:])
torch.set_num_threads(1)
job = Job(folder / "pool.parquet", folder / "anchors.parquet", folder / "proxy", store,
          Score(method="transposed", shard_size=8, checks=0))
print("ready", flush=True)
write_table(out, score_file(job).table)
"""


def start(job: Job, store: Path, out: Path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(job.pool.parent), str(store), str(out)], stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"ready\n"
    return process


def test_killed_at_random_moments_the_table_is_the_same_to_the_byte(job, tmp_path):
    """SIGKILL while shards are scored and published; `make bench-kills` does it fifty times."""
    assert start(job, tmp_path / "whole", tmp_path / "whole.parquet").wait() == 0
    store, out, kills = tmp_path / "store", tmp_path / "out.parquet", 0
    moments = np.random.default_rng(0)
    while not out.exists():
        process = start(job, store, out)
        if kills < 3:
            time.sleep(moments.uniform(0.0, 0.6))
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        else:
            assert process.wait() == 0
    assert kills >= 2, "the run ended before it could be killed: make it longer"
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


# --- memory -----------------------------------------------------------------------------------------------------------


def test_a_batch_that_does_not_fit_is_halved_and_no_sample_is_cut(pool, anchors, proxy, monkeypatch):
    """An accelerator whose memory holds five samples."""
    from ost.scoring.methods.transposed import TransposedScorer

    sizes: list[int] = []
    whole = TransposedScorer.score_batch

    def limited(self, samples, batch):
        sizes.append(len(samples))
        if len(samples) > 5:
            raise torch.OutOfMemoryError("out of memory")
        return whole(self, samples, batch)

    settings = {"method": "transposed", "checks": 0}
    expected = ost.score(pool[:20], anchors[:4], proxy, **settings).table
    monkeypatch.setattr(TransposedScorer, "score_batch", limited)
    found = ost.score(pool[:20], anchors[:4], proxy, **settings).table
    assert sizes[0] == 20 and sum(size > 5 for size in sizes) <= 3, "halved until it fitted, and small from then on"
    assert sum(size for size in sizes if size <= 5) == 20, "every sample once"
    assert found["length"].equals(expected["length"]) and found["id"].equals(expected["id"])
    np.testing.assert_allclose(found["utility"].to_numpy(), expected["utility"].to_numpy(), rtol=0.02, atol=0.02)


def test_a_single_sample_that_does_not_fit_ends_the_run(pool, anchors, proxy, monkeypatch):
    from ost.scoring.methods.transposed import TransposedScorer

    def never(self, samples, batch):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(TransposedScorer, "score_batch", never)
    with pytest.raises(ModelError, match=r"sample \w+ alone does not fit .* lower data.max_tokens"):
        ost.score(pool[:4], anchors[:2], proxy, method="transposed", checks=0)

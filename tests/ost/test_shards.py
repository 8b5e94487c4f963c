"""Scoring shard by shard: the same table whatever the layout, whatever is killed; and only what is new is scored."""

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from specimens import copy_of, drawn

import ost
from ost.data import Dataset, write_samples
from ost.errors import ModelError
from ost.scoring import Job, score_file, shards
from ost.scoring.shards import pending, run_here, score_shard
from ost.settings import Score


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


def counting(counts: list[int]):
    def run(job, parts, scorer):
        for size in run_here(job, parts, scorer):
            counts.append(size)
            yield size

    return run


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
        run = dataclasses.replace(own, pool=small, settings=own.settings.model_copy(update={"step": step}))
        score_file(run)
        folders.append(run.folder.name)
    assert sorted(path.name for path in own.store.iterdir()) == sorted(folders[-shards.KEPT_RUNS :])


def test_progress_counts_what_was_there(job, tmp_path):
    own = elsewhere(job, tmp_path)
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
    own = elsewhere(job, tmp_path)
    own.folder.mkdir(parents=True)
    (own.folder / "0123.parquet.part").write_bytes(b"PAR1 torn")
    assert score_file(own).table.equals(undisturbed)


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
    import torch

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
    import torch

    from ost.scoring.methods.transposed import TransposedScorer

    def never(self, samples, batch):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(TransposedScorer, "score_batch", never)
    with pytest.raises(ModelError, match=r"sample \w+ alone does not fit .* lower data.max_tokens"):
        ost.score(pool[:4], anchors[:2], proxy, method="transposed", checks=0)

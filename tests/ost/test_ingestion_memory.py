"""What is unchanged is not read again; whatever has changed is, and nothing else."""

import gzip
import json
import os
import shutil

import pytest
from pools import PNG, SETTINGS, Watched, data_url, encoded, everything, record, talk, write_jsonl

from ost.data import Dataset, ShardWriter, write_samples
from ost.data.dataset import LISTING
from ost.ingestion import inspector as inspector_module
from ost.models import Checkpoint
from ost.worlds.tiny import build_processor


@pytest.fixture
def watched(tmp_path, clean_files, monkeypatch) -> Watched:
    return Watched(tmp_path, clean_files, monkeypatch)


def many(count: int) -> list[dict]:
    return [talk(f"question {number}?", str(number), id=number) for number in range(count)]


# --- what costs nothing ----------------------------------------------------------------------------------------------


def test_a_second_run_judges_nothing_and_writes_no_shard(watched):
    (watched.pool / "img").mkdir(parents=True)
    (watched.pool / "img/a.png").write_bytes(PNG)
    bad = [record(answer=""), b"{", record(images=[data_url(PNG[:90])]), record(images=["img/a.png"])]
    watched.write(record("a?", images=["img/a.png"], source="web"), talk("b?", "1", "c?", "2"), *bad, *bad)
    first = everything(watched())
    assert watched.judged and watched.new
    assert first == everything(watched())
    assert watched.judged == [] and watched.new == set()


def test_an_appended_record_costs_its_own_unit(watched, small_units):
    watched.write(*many(400))
    watched()
    units = len(watched.shards())
    assert units > 20, "else this shows little"
    watched.write(*many(401))
    assert len(watched()["pool"]) == 401
    assert len(watched.judged) < 40 and ("rows.jsonl", 400) in watched.judged
    assert len(watched.new) == 1 and len(watched.shards()) in (units, units + 1)


def test_a_changed_record_costs_its_own_unit_and_a_new_file_itself(watched, small_units):
    watched.write(*many(400))
    watched()
    changed = many(400)
    changed[200]["messages"][1]["content"] = "another answer"
    watched.write(*changed)
    watched()
    assert len(watched.judged) < 80 and ("rows.jsonl", 200) in watched.judged
    watched.write(*(talk(f"new {number}?", "1") for number in range(4)), name="a-first.jsonl")
    assert len(watched()["pool"]) == 404
    assert {name for name, _ in watched.judged} == {"a-first.jsonl"}


def test_what_comes_in_another_packing_is_known_by_its_records(watched):
    watched.write(*many(20))
    watched()
    file = watched.pool / "rows.jsonl"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n\r\n"))
    os.utime(file, ns=(0, 0))
    watched()
    assert watched.judged == []


def test_places_and_names_are_those_of_now(watched, small_units):
    watched.write(*many(100), record(answer=""), name="b.jsonl")
    watched()
    watched.write(talk("new?", "1"), *many(100), record(answer=""), name="b.jsonl")
    assert watched()["pool"].table(["position"])["position"].to_pylist() == list(range(101))
    (watched.pool / "b.jsonl").rename(watched.pool / "c.jsonl")
    assert set(watched()["pool"].table(["file"])["file"].to_pylist()) == {"c.jsonl"}


def test_anchors_that_change_judge_no_pool_anew(watched):
    watched.write(talk("a?", "1"), talk("b?", "2"), talk("c?", "3"))
    assert len(watched()["pool"]) == 3
    result = watched(anchors=[talk("b?", "other")])
    assert [(entry.position, entry.reason) for entry in result.quarantine] == [(1, "in-anchors")]
    assert {name for name, _ in watched.judged} == {"samples.jsonl"} and watched.new == set()
    assert len(watched()["pool"]) == 3, "and back"


def test_a_duplicate_is_kept_once_its_elder_is_gone(watched):
    watched.write(talk("a?", "1"), name="a.jsonl")
    watched.write(talk("a?", "1"), talk("b?", "1"), name="b.jsonl")
    assert watched().counts["pool"]["reasons"] == {"duplicate": 1}
    (watched.pool / "a.jsonl").unlink()
    assert len(watched()["pool"]) == 2 and watched.judged == [] and len(watched.shards()) == 1


# --- what is noticed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", ["other bytes", "as long as before", "with its time set back", "another link", "nearer", "gone"]
)
def test_images_that_change_beside_an_unchanged_jsonl(how, watched):
    one, other = encoded(form="BMP", seed=1), encoded(form="BMP", seed=2)
    assert len(one) == len(other)
    watched.write(record(images=["a.png"]), record("again?", images=["a.png"]), name="week1/rows.jsonl")
    watched.write(*many(3), name="week2/rows.jsonl")
    image = watched.pool / "a.png"
    if how == "another link":
        for name, content in (("one", one), ("other", other)):
            (watched.pool / f"{name}.png").write_bytes(content)
        image.symlink_to("one.png")
    else:
        image.write_bytes(one)
    assert watched()["pool"][0].images == (one,)
    match how:
        case "other bytes":
            image.write_bytes(other := PNG)
        case "as long as before":
            image.write_bytes(other)
            os.utime(image, ns=(0, image.stat().st_mtime_ns + 1))
        case "with its time set back":
            before = image.stat()
            image.write_bytes(other)
            os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
        case "another link":
            image.unlink()
            image.symlink_to("other.png")
        case "nearer":
            (watched.pool / "week1/a.png").write_bytes(other)
        case "gone":
            image.unlink()
            assert watched().counts["pool"]["reasons"] == {"missing-image": 2}
            return
    assert watched()["pool"][0].images == (other,)
    assert {name for name, _ in watched.judged} == {"week1/rows.jsonl"}


def test_an_image_that_comes_later_is_taken_in(watched):
    watched.write(*many(2), record(images=["late.png"]))
    assert watched().counts["pool"]["reasons"] == {"missing-image": 1}
    (watched.pool / "late.png").write_bytes(PNG)
    assert watched()["pool"][2].images == (PNG,)
    watched()
    assert watched.judged == []


def test_an_image_that_is_mended_is_taken_in(watched):
    watched.write(*many(2), record(images=["a.png"]))
    (watched.pool / "a.png").write_bytes(PNG[:90])
    assert watched().counts["pool"]["reasons"] == {"broken-image": 1}
    (watched.pool / "a.png").write_bytes(PNG)
    assert len(watched()["pool"]) == 3


def test_a_file_that_is_mended_is_read(watched):
    watched.write(*many(3))
    whole = gzip.compress((watched.pool / "rows.jsonl").read_bytes())
    (watched.pool / "b.jsonl.gz").write_bytes(whole[:-20])
    (watched.pool / "rows.jsonl").write_text(json.dumps(talk("other?", "1")))
    assert watched().counts["pool"]["reasons"] == {"broken-file": 1}
    (watched.pool / "b.jsonl.gz").write_bytes(whole)
    assert watched().counts["pool"]["kept"] == 4


def test_what_could_not_be_read_once_is_tried_again(watched, clean, monkeypatch):
    write_samples(watched.pool / "a.parquet", clean["pool"])
    others = {"anchors": [talk("b?", "3")], "benchmark": [talk("c?", "4")]}

    def failing(*args):
        raise OSError("input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("ost.formats.parquet_reader._batches", failing)
        watched.write(talk("a?", "1"))
        assert watched(**others).counts["pool"]["reasons"] == {"broken-file": 1}
    assert watched(**others).counts["pool"]["kept"] == 9


def test_the_same_records_elsewhere_have_their_own_images(watched):
    for version, seed in (("v1", 1), ("v2", 2)):
        write_jsonl(watched.folder / version, [record(images=["a.png"])], "rows.jsonl")
        (watched.folder / version / "a.png").write_bytes(encoded(seed=seed))
    assert watched(pool=watched.folder / "v1/rows.jsonl")["pool"][0].images == (encoded(seed=1),)
    assert watched(pool=watched.folder / "v2/rows.jsonl")["pool"][0].images == (encoded(seed=2),)


@pytest.mark.parametrize(
    "changes",
    [{"train_on": "last"}, {"max_pixels": 100}, {"columns": {"task": "kind"}}, {"image_roots": ("elsewhere",)}],
    ids=str,
)
def test_other_settings_start_anew(changes, watched):
    rounds = talk("a?", "1", "b?", "2", kind="charts")
    others = {"anchors": [talk("c?", "3")], "benchmark": [talk("d?", "4")]}
    watched.write(rounds, record(), *many(2))
    watched(**others)
    result = watched(SETTINGS.model_copy(update=changes), **others)
    assert len(watched.judged) == 6, "every record of all sets"
    assert result["pool"][0].learned == ((3,) if "train_on" in changes else (1, 3))
    assert result["pool"][0].task == ("charts" if "columns" in changes else "")
    assert result.counts["pool"]["kept"] == (3 if "max_pixels" in changes else 4)
    watched(SETTINGS.model_copy(update=changes), **others)
    assert watched.judged == []


def test_another_processor_under_the_same_name_starts_anew(fresh: Checkpoint, watched, tmp_path):
    fresh.save(tmp_path / "model")
    watched.take.model = tmp_path / "model"
    watched.write(*many(3))
    before = watched()["pool"].table(["tokens"])["tokens"].to_pylist()
    Checkpoint(fresh.model, build_processor(["question " * 50])).save(tmp_path / "model")
    after = watched()["pool"].table(["tokens"])["tokens"].to_pylist()
    assert all(now < then for now, then in zip(after, before, strict=True)), "a tokenizer that knows the word"


def test_other_code_or_libraries_start_anew(watched, monkeypatch):
    watched.write(*many(2))
    watched()
    monkeypatch.setattr(inspector_module, "_code_digest", lambda: "other code")
    watched()
    assert watched.judged
    monkeypatch.setattr(inspector_module.importlib.metadata, "version", lambda name: "99")
    watched()
    assert watched.judged


def test_a_lost_shard_and_a_damaged_memory_are_made_anew(watched):
    watched.write(*many(5))
    expected = everything(watched())
    for shard in (watched.take.into / "pool").glob("*.parquet"):
        shard.unlink()
    assert everything(watched()) == expected
    for spoilt in (b"", b"{", b"[]", b'{"file": 1}', b'{"file": "a", "size": 1, "files": [[1]]}'):
        for note in watched.memory.rglob("*.json"):
            note.write_bytes(spoilt)
        assert everything(watched()) == expected


# --- what an end before the end leaves -------------------------------------------------------------------------------


def test_stale_shards_and_half_written_ones_are_removed(watched):
    watched.write(*many(3))
    watched()
    folder = watched.take.into / "pool"
    for name in ("0" * 32 + ".parquet", "shard-1-2.part"):
        (folder / name).write_bytes(b"left by a run that was killed")
    watched.write(talk("other?", "1"))
    watched()
    assert {file.name for file in folder.iterdir()} == {LISTING, *(name for name, _ in watched.shards())}
    assert len(watched.shards()) == 1


@pytest.mark.parametrize("end", [KeyboardInterrupt(), OSError("no space left")], ids=["ctrl-c", "a full disk"])
def test_an_interrupted_run_leaves_the_old_set_and_the_next_goes_on(end, watched, small_units, monkeypatch):
    watched.write(*many(200))
    watched()
    old = list(Dataset(watched.take.into / "pool"))
    watched.write(*(talk(f"new {number}?", "1") for number in range(200)))
    watched.judged.clear()
    add = ShardWriter.add

    def ended(writer, sample, facts):
        if facts.position == 150:
            raise end
        add(writer, sample, facts)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "add", ended)
        with pytest.raises(type(end)):
            watched.take(pool=watched.pool, memory=watched.memory)
    assert len(watched.judged) > 140
    assert list(Dataset(watched.take.into / "pool")) == old
    assert not list((watched.take.into / "pool").glob("*.part"))
    assert len(watched()["pool"]) == 200
    assert 50 <= len(watched.judged) < 100, "what was judged before the end is not judged again"


def test_memory_may_be_thrown_away_and_throws_away_what_is_of_no_use(watched):
    watched.write(*many(3))
    expected = everything(watched())
    shutil.rmtree(watched.memory)
    assert everything(watched()) == expected
    (watched.memory / "mine").mkdir()
    watched.write(*many(4))
    watched()
    assert len(list(watched.memory.glob("*/*.json"))) == 3
    watched(SETTINGS.model_copy(update={"train_on": "last"}))
    assert len(list(watched.memory.glob("*/*.json"))) == 3
    assert (watched.memory / "mine").is_dir(), "a folder of someone else's"

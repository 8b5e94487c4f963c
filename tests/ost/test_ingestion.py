"""Ingestion as a whole: every form gives the same samples, every record is kept or has its reason, and sets overlap in
nothing."""

import importlib
import json
import shutil
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pools import FORMS, PNG, SETTINGS, as_record, data_url, encoded, record, talk, write_jsonl
from test_gate import BAD

from ost.data import Sample, chat
from ost.errors import DataError
from ost.ingestion import Quarantined, write_quarantine

# --- the forms ------------------------------------------------------------------------------------------------------


def plain_form(folder: Path, samples: list[Sample]) -> Path:
    """String contents, no image parts, one `image`: the form that a person writes by hand."""
    return write_jsonl(
        folder,
        [record(s.question, s.answer, images=None, image=data_url(s.images[0]), task=s.task) for s in samples],
    )


def llava_form(folder: Path, samples: list[Sample]) -> Path:
    def turns(sample: Sample) -> list[dict]:
        asked = {"from": "human", "value": "<image>" + sample.question}
        return [asked, {"from": "gpt", "value": sample.answer}]

    return write_jsonl(
        folder,
        [{"image": data_url(s.images[0]), "conversations": turns(s), "task": s.task} for s in samples],
    )


@pytest.mark.parametrize("name", [*FORMS, "plain", "llava"])
def test_every_form_gives_the_same_samples(name, take, clean, tmp_path):
    form = {**FORMS, "plain": plain_form, "llava": llava_form}[name]
    result = take(pool=form(tmp_path / "form", clean["pool"]))
    assert result.quarantine == []
    assert list(result["pool"]) == clean["pool"], "ids, messages, images, tasks and their order"


def test_what_ingestion_gives_it_also_takes(take, clean, tmp_path):
    first = take(pool=[as_record(sample, map(data_url, sample.images)) for sample in clean["pool"]])
    again = take(pool=take.into / "pool", into=tmp_path / "again")
    assert list(again["pool"]) == clean["pool"] and again.taken["pool"].unread_columns == {}
    columns = ["id", "tokens", "learned", "sizes", "own_id", "ratings"]
    assert again["pool"].table(columns).equals(first["pool"].table(columns))


def test_parquet_images_may_be_paths_below_the_source(take, clean, tmp_path):
    sample = clean["pool"][0]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(sample.images[0])
    rows = [as_record(sample, [{"bytes": None, "path": "images/a.png"}])]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert list(take(pool=tmp_path / "rows.parquet")["pool"]) == [sample]


def test_blank_lines_are_no_records(take):
    result = take(pool=[b"\xef\xbb\xbf" + json.dumps(record()).encode(), b"", b"  ", record(answer="")])
    assert result.counts["pool"] == {"read": 2, "kept": 1, "quarantined": 1, "reasons": {"empty-answer": 1}}
    assert result.quarantine[0].position == 1


def test_what_images_were_read_from_is_told_by_its_outermost_entry(take, tmp_path):
    pool, elsewhere = tmp_path / "pool", tmp_path / "elsewhere"
    names = ["a.png", "deep/er/b.png", "deep/c.png", "d.png"]
    for name in names[:3]:
        (pool / name).parent.mkdir(parents=True, exist_ok=True)
        (pool / name).write_bytes(PNG)
    elsewhere.mkdir()
    (elsewhere / "d.png").write_bytes(PNG)
    write_jsonl(pool, [record(f"{name}?", images=[name, data_url(PNG)]) for name in names])
    taken = take(take.settings(image_roots=(str(elsewhere),)), pool=pool).taken["pool"]
    assert taken.beside == {pool / "a.png", pool / "deep", elsewhere} and taken.kept == 4


def test_a_sample_without_images_is_fine(take):
    assert len(take(pool=[record(images=[]), record("Another?", images=None)])["pool"]) == 2


def test_what_is_known_of_each_sample_stands_beside_it(take, tmp_path):
    write_jsonl(tmp_path / "pool/b", [talk("one?", "1", id="x"), record(answer=""), talk("two?", "2", id=7)])
    write_jsonl(tmp_path / "pool/a", [record(images=[data_url(encoded((48, 16)))], relevance_min=3, task="sum")])
    table = take(pool=tmp_path / "pool")["pool"].table(["file", "position", "own_id", "sizes", "ratings", "task"])
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("a/samples.jsonl", 0, None, [{"width": 48, "height": 16}], [{"name": "relevance", "value": 3.0}], "sum"),
        ("b/samples.jsonl", 0, '"x"', [], [], ""),
        ("b/samples.jsonl", 2, "7", [], [], ""),
    ]


@pytest.mark.parametrize("source", ["pool", "anchors", "benchmark"])
def test_what_is_no_source_is_a_data_error_that_names_the_forms(source, take, tmp_path):
    (tmp_path / "samples.csv").write_text("a,b")
    for path, found in ((tmp_path / "absent.jsonl", "nothing is at"), (tmp_path / "samples.csv", r"\.csv file")):
        with pytest.raises(DataError, match=found) as error:
            take(**{source: path})
        assert "save_to_disk" in str(error.value), "the message must say what can be given"
    assert not take.into.exists()


def test_a_table_without_turns_names_its_columns(take, tmp_path):
    pq.write_table(pa.table({"caption": ["a"], "image": [b""]}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"no column of turns \(found: caption, image\); name it in data\.columns"):
        take(pool=tmp_path / "rows.parquet")


# --- the reasons together --------------------------------------------------------------------------------------------


def test_bad_records_together_are_each_counted_and_told_alike_on_every_machine(take, tmp_path):
    write_jsonl(tmp_path / "here", [record("good?"), *(bad for _, _, bad in BAD.values())])
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    here = take(pool=tmp_path / "here")
    assert [entry.reason for entry in here.quarantine] == [reason for reason, _, _ in BAD.values()], "in order"
    assert [entry.position for entry in here.quarantine] == list(range(1, len(BAD) + 1))
    assert here.counts["pool"]["read"] == len(BAD) + 1
    there = take(pool=tmp_path / "there", into=tmp_path / "elsewhere")
    assert there.quarantine == here.quarantine and there.warnings == here.warnings
    assert str(tmp_path) not in repr(here.quarantine) + repr(here.warnings)


# --- overlaps -------------------------------------------------------------------------------------------------------


def test_a_repeated_sample_is_a_duplicate_whatever_its_task(take):
    result = take(pool=[record(task="one"), record(answer="2"), record(task="two", id="new"), b"{"])
    entry, after = result.quarantine
    assert (entry.position, entry.reason, entry.own_id) == (2, "duplicate", '"new"')
    assert entry.id == result["pool"].ids()[0] and after.position == 3, "in the source's order"


def answered(sample: Sample, answer: str) -> Sample:
    return Sample(sample.images, chat(sample.question, answer), sample.task)


@pytest.mark.parametrize("answer", [None, "something else"])
@pytest.mark.parametrize(
    ("source", "other"), [("pool", "anchors"), ("pool", "benchmark"), ("anchors", "benchmark")], ids=str
)
def test_what_stands_in_a_later_set_is_left_out_and_said(source, other, answer, take, clean):
    shared = clean[other][0]
    leaked = shared if answer is None else answered(shared, answer)
    result = take(**{source: [*clean[source], leaked]})
    (entry,) = result.quarantine
    assert (entry.source, entry.reason, entry.id) == (source, f"in-{other}", leaked.id)
    same = "sample" if answer is None else "question"
    assert entry.detail == f"the same {same} as {shared.id}"
    assert leaked.id not in result[source].ids()
    assert result.counts[other]["kept"] == len(clean[other]), "the set that is leaked from stays whole"
    assert any(f"1 sample(s) of the {source} also stand in the {other}" in note for note in result.warnings)


def test_another_image_is_another_question(take, clean):
    anchor = clean["anchors"][0]
    twin = Sample((PNG,), anchor.messages)
    assert anchor.question == twin.question
    assert list(take(pool=[twin])["pool"]) == [twin]


@pytest.mark.parametrize("rounds", [("a?", "1"), ("a?", "1", "b?", "2"), ("a?", "1", "b?", "other", "c?", "3")])
def test_a_question_is_found_in_any_turn_of_a_conversation(rounds, take):
    """The benchmark asks b? after a?; who has learned that turn, or its first, has seen the benchmark."""
    result = take(pool=[talk("z?", "0"), talk(*rounds)], benchmark=[talk("a?", "1", "b?", "2")])
    assert [(entry.position, entry.reason) for entry in result.quarantine] == [(1, "in-benchmark")]


def test_a_turn_that_is_never_learned_leaks_nothing(take):
    first = talk("a?", "1", "b?", "2")
    first["messages"][1]["loss"] = False
    assert take(pool=[first], anchors=[talk("a?", "1")]).quarantine == []


def test_what_is_context_alone_changes_no_question(take):
    """TRL's prompt and completion, and the same turns as messages of which all are learned."""
    turns = talk("a?", "1", "b?", "2")["messages"]
    forms = [{"prompt": turns[:3], "completion": "other"}, {"messages": turns}]
    for mine, other in (forms, forms[::-1]):
        result = take(pool=[talk("z?", "0"), mine], benchmark=[other])
        assert [(entry.position, entry.reason) for entry in result.quarantine] == [(1, "in-benchmark")]


def test_a_greeting_asks_nothing(take):
    def greeted(question: str) -> dict:
        hello = {"role": "assistant", "content": "Hello! How can I help?"}
        return {"messages": [hello, *talk(question, "1")["messages"]]}

    assert take(pool=[greeted("a?"), greeted("b?")], anchors=[greeted("c?")]).quarantine == []


def test_one_question_with_several_answers_stays_in_the_pool(take):
    assert len(take(pool=[record(answer=answer) for answer in "123"])["pool"]) == 3


# --- the whole ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["pool", "anchors", "benchmark"])
def test_a_source_with_nothing_left_is_a_data_error(source, take):
    with pytest.raises(DataError, match=rf"{source}: none of the 2 record\(s\).*1 malformed.*1 empty-answer") as error:
        take(**{source: [b"?", record(answer="")]})
    assert "Record 0 of samples.jsonl, for one, is malformed: it is not JSON" in str(error.value)
    assert "`ost check`" in str(error.value), "what to do next"


def test_an_empty_source_is_a_data_error(take):
    with pytest.raises(DataError, match=r"holds no records; point data\.pool"):
        take(pool=[b""])


def test_warnings_name_uncovered_tasks_and_a_small_pool(take):
    pool = [record(str(number), task=task) for number, task in enumerate(["maps", "charts", "sum", ""])]
    tasks, small = take(pool=pool).warnings
    assert "task(s) charts, maps:" in tasks
    assert small.startswith("the pool has 4 samples, under 1,000")


def test_a_large_pool_whose_tasks_are_covered_gives_no_warning(take, monkeypatch):
    monkeypatch.setattr(importlib.import_module("ost.ingestion.notes"), "SMALL_POOL", 8)
    assert take().warnings == []


def test_columns_that_were_not_read_are_named_once_with_their_counts(take):
    result = take(pool=[record(str(number), source="web", score=3 if number else None) for number in range(3)])
    (note,) = [note for note in result.warnings if "columns" in note]
    assert "source (3), score (2)" in note and "data.columns" in note


def test_a_pool_with_a_column_for_each_record_gives_a_short_warning(take):
    result = take(pool=[record(str(number), source="web", **{f"key{number}": 1}) for number in range(20)])
    (note,) = [note for note in result.warnings if "columns" in note]
    assert "source (20), key0 (1)" in note and "and 9 more" in note and len(note) < 400


def test_samples_that_smaller_images_would_save_are_counted(take):
    large = [data_url(encoded((100, 100), seed=seed)) for seed in range(2)]
    pool = [record("a"), record(images=large), record("What is it? " * 64)]
    (note,) = [note for note in take(pool=pool).warnings if "max_image_tokens" in note]
    assert "1 of 2 samples that are too long" in note


def test_without_a_benchmark_the_other_two_are_read(take, clean, clean_files, model_folder):
    ingest = importlib.import_module("ost.ingestion").ingest
    result = ingest(clean_files["pool"], clean_files["anchors"], None, model_folder, take.into, SETTINGS)
    assert [list(result[name]) for name in ("pool", "anchors")] == [clean["pool"], clean["anchors"]]
    assert list(result.counts) == ["pool", "anchors"] and not (take.into / "benchmark").exists()


def test_progress_is_told_from_the_start_and_ends_at_the_total(take):
    calls = []
    take(progress=lambda *call: calls.append(call))
    assert calls[0][0] == 0 and calls[-1][0] == calls[-1][1]
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)
    assert {total for _, total, _ in calls} == {calls[0][1]}
    assert any("pool: 8 records" in note and "8 kept" in note for _, _, note in calls)


def test_the_quarantine_table_holds_every_entry(tmp_path):
    entries = [
        Quarantined("pool", "a.jsonl", 3, "7", "", "malformed", "why"),
        Quarantined("anchors", "", 0, None, "ab", "too-long", "65 tokens"),
    ]
    for content in ([], entries):
        table = pq.read_table(write_quarantine(tmp_path / "quarantine.parquet", content))
        assert table.column_names == ["source", "file", "position", "own_id", "id", "reason", "detail"]
        assert [Quarantined(**row) for row in table.to_pylist()] == content


def test_a_set_is_read_by_datasets_too(take, clean):
    take()
    (shard,) = (take.into / "pool").glob("*.parquet")
    rows = datasets.Dataset.from_parquet(str(shard), cache_dir=str(take.folder / "cache"))
    assert rows["id"] == [sample.id for sample in clean["pool"]]
    assert rows[0]["images"][0]["bytes"] == clean["pool"][0].images[0]


def test_added_anchors_are_taken_in_behind_the_others_and_keep_the_pool_from_what_they_ask(take, clean, tmp_path):
    """In a form and a folder of their own; what both hold is there once."""
    (tmp_path / "img").mkdir()
    (tmp_path / "img/one.png").write_bytes(encoded(seed=9))

    def whole(sample):
        return as_record(sample, list(map(data_url, sample.images)))

    twin, taken = clean["anchors"][0], clean["pool"][0]
    other = {"images": ["img/one.png"], "messages": record()["messages"]}
    added = write_jsonl(tmp_path, [*map(whole, (twin, taken)), other], "added.jsonl")
    result = take(added=added)
    assert result["anchors"].ids()[:5] == [one.id for one in clean["anchors"]] + [taken.id]
    assert len(result["anchors"]) == 6 and len(result["pool"]) == len(clean["pool"]) - 1
    assert {(one.source, one.file, one.reason) for one in result.quarantine} == {
        ("anchors", "added.jsonl", "duplicate"),
        ("pool", "pool.parquet", "in-anchors"),
    }
    assert tmp_path / "img" in result.taken["anchors"].beside, "DVC has to watch it"
    with pytest.raises(DataError, match="nothing is at"):
        take(added=tmp_path / "missing.jsonl")

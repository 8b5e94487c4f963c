"""What people met who brought pools of their own, from the file to what the model is given."""

import base64
import gzip
import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pools import PNG, SETTINGS, data_url, encoded, learned, record, shown, talk, write_jsonl, write_tar

from ost.data import shards as shards_module
from ost.encoding import Encoder
from ost.models import load_processor

A, B = encoded(seed=1), encoded(seed=2)
LONG = SETTINGS.model_copy(update={"max_tokens": 4096})


@pytest.fixture
def encoder(model_folder) -> Encoder:
    return Encoder(load_processor(model_folder))


@pytest.fixture
def beside(tmp_path) -> Path:
    """A folder with images A and B in it."""
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/a.png").write_bytes(A)
    (tmp_path / "pool/b.png").write_bytes(B)
    return tmp_path / "pool"


# --- where images stand ----------------------------------------------------------------------------------------------


def test_a_mark_is_the_image_at_its_place_in_any_turn(take, beside, encoder):
    rounds = talk("<image>What is it?", "one", "And <image>?", "two", images=["a.png", "b.png"])
    question = "First <image> then <image>: which is darker?"
    write_jsonl(beside, [talk(question, "the second", images=["a.png", "b.png"]), rounds])
    first, second = take(LONG, pool=beside)["pool"]
    assert first.images == second.images == (A, B)
    assert "user\nFirst IMAGE then IMAGE: which is darker?" in shown(encoder, first)
    assert "user\nIMAGEWhat is it?" in shown(encoder, second) and "user\nAnd IMAGE?" in shown(encoder, second)
    assert "<image>" not in shown(encoder, first) + shown(encoder, second)


def test_a_count_that_differs_and_marks_of_videos_are_refused(take, beside):
    bad = [
        talk("<image><image>", "1", images=["a.png"]),
        talk("<image>?", "1", images=["a.png", "b.png"]),
        talk("<video>?", "1"),
        talk("<audio>?", "1"),
        talk("Picture 1: <img>a.png</img>\nWhat?", "1"),
    ]
    result = take(pool=write_jsonl(beside, [talk("good?", "1"), *bad]))
    assert [entry.reason for entry in result.quarantine] == ["malformed"] * 2 + ["unsupported"] * 3


def test_text_that_spells_a_control_token_is_text(take, encoder, processor):
    spelled = "<|image_pad|> or <|im_end|>?"
    (sample,) = take(pool=[record(spelled, "<|im_start|>", images=[])])["pool"]
    ids = encoder.training([sample])["input_ids"][0].tolist()
    tokenizer = processor.tokenizer
    assert tokenizer.convert_tokens_to_ids("<|image_pad|>") not in ids
    assert [ids.count(tokenizer.convert_tokens_to_ids(token)) for token in ("<|im_start|>", "<|im_end|>")] == [2, 2]
    assert shown(encoder, sample).count("<|im_start|>") == 3 and sample.question == spelled


@pytest.mark.parametrize("key", ["image", "path", "url", "base64", "image_url"])
def test_an_image_may_stand_in_its_part(key, take, beside):
    coded = {"url": data_url(A), "base64": base64.b64encode(A).decode(), "image_url": {"url": data_url(A)}}
    part = {"type": "image_url" if key == "image_url" else "image", key: coded.get(key, "a.png")}
    asked = [{"role": "user", "content": [part, {"type": "text", "text": "?"}]}, {"role": "assistant", "content": "1"}]
    clash = {"messages": asked, "images": ["b.png"]}
    result = take(pool=write_jsonl(beside, [{"messages": asked}, clash]))
    assert [sample.images for sample in result["pool"]] == [(A,)]
    (entry,) = result.quarantine
    assert entry.reason == "malformed" and "but `images` has" in entry.detail


def test_bare_base64_is_an_image(take):
    (sample,) = take(pool=[record(images=[base64.b64encode(A).decode()])])["pool"]
    assert sample.images == (A,)


def test_an_image_is_sought_beside_its_own_file_first(take, tmp_path):
    for place, seed in (("", 0), ("week1", 1), ("week2", 2)):
        (tmp_path / "pool" / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / "pool" / place / "a.png").write_bytes(encoded(seed=seed))
    for week in ("week1", "week2", "week3"):
        write_jsonl(tmp_path / "pool" / week, [record(f"{week}?", images=["a.png"])])
    samples = list(take(pool=tmp_path / "pool")["pool"])
    assert [sample.images[0] for sample in samples] == [encoded(seed=seed) for seed in (1, 2, 0)]


def test_links_lead_into_named_folders_and_into_dvcs_cache(take, tmp_path):
    hub, cache, pool = (tmp_path / name for name in ("hub", "work/.dvc/cache/files", "work/pool"))
    for folder in (hub, cache, pool):
        folder.mkdir(parents=True)
    (hub / "blob").write_bytes(A)
    (cache / "blob").write_bytes(B)
    (pool / "hub.png").symlink_to(hub / "blob")
    (pool / "dvc.png").symlink_to(cache / "blob")
    write_jsonl(pool, [record(images=["hub.png"]), record(images=["dvc.png"])])
    result = take(pool=pool)
    assert [sample.images for sample in result["pool"]] == [(B,)]
    (entry,) = result.quarantine
    assert entry.reason == "image-outside-folder"
    assert "is a link that leads out" in entry.detail and "data.image_roots" in entry.detail
    named = SETTINGS.model_copy(update={"image_roots": (str(hub),)})
    assert [sample.images for sample in take(named, pool=pool)["pool"]] == [(A,), (B,)]


# --- what a person sees ----------------------------------------------------------------------------------------------


def test_what_is_transparent_is_white_and_what_is_turned_is_upright(take, tmp_path, encoder):
    clear = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    turned, exif = Image.new("RGB", (64, 16), "white"), Image.Exif()
    exif[274] = 6
    for name, image, options in (("clear.png", clear, {}), ("turned.jpg", turned, {"exif": exif})):
        image.save(tmp_path / name, **options)
    pool = write_jsonl(tmp_path, [record(images=["clear.png"]), record(images=["turned.jpg"])])
    result = take(pool=pool)
    white, upright = result["pool"]
    assert encoder.training([white])["pixel_values"].min() > 0.99, "white, of pixels from -1 to 1"
    sizes = result["pool"].table(["sizes", "tokens"]).to_pylist()
    assert sizes[1]["sizes"] == [{"width": 16, "height": 64}]
    batch = encoder.training([upright])
    assert batch["image_grid_thw"].tolist() == [[1, 8, 2]] and sizes[1]["tokens"] == len(batch["input_ids"][0])


def test_a_photo_too_large_for_the_limit_is_told_what_would_save_it(take, tmp_path):
    Image.new("RGB", (2016, 1512)).save(tmp_path / "photo.jpg")
    pool = write_jsonl(tmp_path, [record(images=["photo.jpg"]), record()])
    settings = SETTINGS.model_copy(update={"max_pixels": 1 << 24})
    result = take(settings, pool=pool)
    assert [entry.reason for entry in result.quarantine] == ["too-long"]
    (note,) = [note for note in result.warnings if "max_image_tokens" in note]
    assert "1 of 1 samples that are too long" in note and "lowers the resolution" in note


# --- forms, files, columns -------------------------------------------------------------------------------------------

TURNS = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "a bus"}]
TALK = [{"role": "user", "content": "<image>\nWhat is it?"}, {"role": "assistant", "content": "a bus"}]


def test_all_forms_that_were_refused_are_read(take, beside):
    llava = {"image": "a.png", "conversations": TURNS}
    (beside / "1.json").write_text(json.dumps([llava]))
    write_jsonl(beside, [llava], "2.jsonl")
    texts = [{"user": TALK[0]["content"], "assistant": "a bus"}]
    rows = [{"images": [{"bytes": A, "path": None}], "texts": texts}]
    pq.write_table(pa.Table.from_pylist(rows), beside / "3.parquet")
    write_tar(beside / "4.tar", [("0.png", A), ("0.json", json.dumps({"conversations": TURNS}).encode())])
    (beside / "5.jsonl.gz").write_bytes(gzip.compress(json.dumps(llava).encode()))
    (beside / "6.jsonl").write_text(json.dumps([llava, llava]))
    prompt = {"prompt": TALK[0]["content"], "completion": "a bus", "images": [data_url(A)]}
    write_jsonl(beside, [prompt], "7.jsonl")
    result = take(pool=beside)
    assert result.counts["pool"] == {"read": 8, "kept": 1, "quarantined": 7, "reasons": {"duplicate": 7}}
    (sample,) = result["pool"]
    assert sample.images == (A,) and (sample.question, sample.answer) == ("\nWhat is it?", "a bus")


def test_tars_beside_a_jsonl_are_read_and_what_is_not_is_named(take, beside):
    write_tar(beside / "a.tar", [("0.png", A), ("0.json", json.dumps({"conversations": TURNS}).encode())])
    write_jsonl(beside, [talk("text?", "1")])
    (beside / "rows.csv").write_text("a,b")
    (beside / "clip.mp4").write_bytes(b"x")
    result = take(pool=beside)
    assert len(result["pool"]) == 2
    assert "pool: 2 file(s) are in no form that is read: clip.mp4; rows.csv" in result.warnings


def test_columns_that_say_something_are_taken_or_refused_and_the_rest_is_named(take, encoder):
    thought = [{"role": "user", "content": "7?"}, {"role": "assistant", "content": "7", "reasoning_content": "it is 7"}]
    unlearned = talk("a?", "1", "b?", "2")
    unlearned["messages"][1]["loss"] = False
    pool = [
        talk("What?", "1", system="Be brief."),
        unlearned,
        talk("clip?", "1", videos=["a.mp4"]),
        talk("clip?", "1", videos=["b.mp4"]),
        talk("call?", "1", tool_calls=[{"name": "f"}]),
        talk("plain?", "1", data_source="web", videos=[]),
        {"messages": thought},
    ]
    result = take(LONG, pool=pool)
    system, context, _ = result["pool"]
    assert "system\nBe brief." in shown(encoder, system)
    assert learned(encoder, context) == ["2<|im_end|>"]
    reasons = [(entry.position, entry.reason) for entry in result.quarantine]
    assert reasons == [(2, "unsupported"), (3, "unsupported"), (4, "unsupported"), (6, "cannot-encode")]
    assert "template drops the reasoning" in result.quarantine[-1].detail
    assert any(
        "columns that were not read, and in how many records: data_source (1)" in note for note in result.warnings
    )


def test_text_in_some_rows_and_parts_in_others_is_what_it_was(take, tmp_path, encoder):
    parts = [{"type": "image"}, {"type": "text", "text": "What?"}]
    answers = ["yes", "42", "null", '{"a": 1}', "[0.1]"]
    contents = [parts, *["What?"] * 4]
    rows = [
        {
            "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}],
            "images": [A] if content is parts else [],
        }
        for content, answer in zip(contents, answers, strict=True)
    ]
    made = datasets.Dataset.from_list(rows, on_mixed_types="use_json")
    assert "arrow.json" in str(made.data.schema), "else this shows nothing"
    made.to_parquet(tmp_path / "pool.parquet")
    made.save_to_disk(tmp_path / "saved")
    for pool in (tmp_path / "pool.parquet", tmp_path / "saved"):
        samples = list(take(pool=pool)["pool"])
        assert [learned(encoder, sample) for sample in samples] == [[f"{answer}<|im_end|>"] for answer in answers]
        assert "user\nIMAGEWhat?<|im_end|>" in shown(encoder, samples[0])


# --- size ------------------------------------------------------------------------------------------------------------


def test_a_pool_beyond_any_one_table_is_cut_by_bytes(take, tmp_path, monkeypatch):
    """Limits a thousand times lower: where two GiB of images once ended a run, 5 MB now fill many shards."""
    image_bytes, group, shard = 4_000, 32_000, 200_000
    monkeypatch.setattr(shards_module, "GROUP_BYTES", group)
    monkeypatch.setattr(shards_module, "SHARD_BYTES", shard)
    monkeypatch.setattr("ost.formats.unit.MOST_BYTES", 400_000)
    (tmp_path / "pool").mkdir()
    noise = [np.random.default_rng(seed).bytes(image_bytes) for seed in range(1_200)]
    rows = [talk(f"{n}?", "1", images=[{"bytes": PNG + noise[n], "path": None}]) for n in range(1_200)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pool/one-group.parquet", row_group_size=len(rows))
    for number in range(100):
        (tmp_path / f"pool/{number}.png").write_bytes(PNG + noise[number])
    write_jsonl(tmp_path / "pool", [talk(f"{n}!", "1", images=[f"{n % 100}.png"]) for n in range(100)])
    take.model = None
    found = take(pool=tmp_path / "pool")["pool"]
    files = [pq.ParquetFile(file) for file in (take.into / "pool").glob("*.parquet")]
    assert len(found) == 1_300 and len(files) > 25
    for file in files:
        groups = [file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups)]
        assert max(groups) < group + 2 * image_bytes and sum(groups) < shard + 2 * image_bytes
    assert [sample.question for sample in found[598:602]] == [f"{n}?" for n in range(598, 602)]
    assert pq.ParquetFile(tmp_path / "pool/one-group.parquet").metadata.row_group(0).total_byte_size > 20 * shard
    assert sum(1 for _ in found) == 1_300

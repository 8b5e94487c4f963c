"""Every form that pools come in, written as the project whose form it is writes it, gives the same samples."""

import base64
import gzip
import io
import json
import tarfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from ost import formats
from ost.errors import DataError
from ost.formats import FORMS, Draft, Images, Rejected, Source, form_of, load, open_source, parse
from ost.formats.source import READERS

A, B = b"\x89PNG\r\n\x1a\n first", b"\xff\xd8\xff second, a JPEG"
QUESTION, ANSWER = "Which is darker?", "the second"
IMAGE = {"type": "image", "text": None}


def said(text: str) -> dict:
    return {"type": "text", "text": text}


def turns(*contents, system: str = "") -> tuple[dict, ...]:
    roles = ("user", "assistant") * len(contents)
    spoken = tuple({"role": role, "content": list(parts)} for role, parts in zip(roles, contents, strict=False))
    return ({"role": "system", "content": [said(system)]}, *spoken) if system else spoken


def drafts(source: Source | Path, columns: dict | None = None) -> list[Draft]:
    source = source if isinstance(source, Source) else open_source(source)
    return [parse(record, columns) for unit in source.units() for _, record in load(unit, columns).records]


def images_of(draft: Draft, source: Source, file: Path) -> list[bytes]:
    images = Images(source.root)
    return [images.load(images.locate(value, file)) for value in draft.images]


def beside(folder: Path) -> None:
    for name, image in {"images/a.png": A, "images/b.jpg": B}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image)


def written(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def lines(records: list[dict]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


# --- LLaVA and its kin ----------------------------------------------------------------------------------------------

LLAVA = [
    {
        "id": "000000033471",
        "image": "images/a.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is it? "},
            {"from": "gpt", "value": " a bus"},
            {"from": "human", "value": "Its colour?"},
            {"from": "gpt", "value": "red"},
        ],
    },
    {
        "id": 41361,
        "conversations": [{"from": "human", "value": "Say hi."}, {"from": "gpt", "value": "hi"}],
    },
]
LLAVA_MESSAGES = [
    turns([IMAGE, said("\nWhat is it? ")], [said(" a bus")], [said("Its colour?")], [said("red")]),
    turns([said("Say hi.")], [said("hi")]),
]

TEXT_FORMS = {
    "pool.json": lambda records: json.dumps(records, indent=2).encode(),
    "compact.json": lambda records: json.dumps(records).encode(),
    "marked.json": lambda records: b"\xef\xbb\xbf" + json.dumps(records).encode(),
    "pool.jsonl": lambda records: lines(records).encode(),
    "windows.jsonl": lambda records: lines(records).replace("\n", "\r\n").encode(),
    "array.jsonl": lambda records: json.dumps(records).encode(),
    "lines.json": lambda records: lines(records).encode(),
    "pool.json.gz": lambda records: gzip.compress(json.dumps(records).encode()),
    "pool.jsonl.gz": lambda records: gzip.compress(lines(records).encode()),
    "pool.json.zst": lambda records: zstandard.compress(json.dumps(records).encode()),
    "pool.jsonl.zst": lambda records: zstandard.compress(lines(records).encode()),
    "frames.jsonl.zst": lambda records: b"".join(zstandard.compress(lines([record]).encode()) for record in records),
}


@pytest.mark.parametrize("name", TEXT_FORMS)
def test_llava_json_in_all_its_packings(name, tmp_path):
    beside(tmp_path)
    source = open_source(written(tmp_path / name, TEXT_FORMS[name](LLAVA)))
    first, second = drafts(source)
    assert [first.messages, second.messages] == LLAVA_MESSAGES, "stray white space stays"
    assert (first.own_id, second.own_id) == ('"000000033471"', "41361")
    assert images_of(first, source, source.files[0]) == [A] and second.images == ()
    assert first.unread == second.unread == ()


def test_several_images_with_sizes_as_internvl_has_them(tmp_path):
    record = {
        "id": 7,
        "image": ["images/a.png", "images/b.jpg"],
        "width_list": [4, 4],
        "height_list": [4, 4],
        "conversations": [
            {"from": "human", "value": f"Image-1: <image>\nImage-2: <image>\n{QUESTION}"},
            {"from": "gpt", "value": ANSWER},
        ],
    }
    (draft,) = drafts(written(tmp_path / "m4.jsonl", lines([record])))
    assert draft.messages == turns(
        [said("Image-1: "), IMAGE, said("\nImage-2: "), IMAGE, said(f"\n{QUESTION}")], [said(ANSWER)]
    )
    assert draft.images == ("images/a.png", "images/b.jpg")
    assert draft.unread == ("height_list", "width_list")


# --- Parquet of the hub ---------------------------------------------------------------------------------------------


def test_llava_onevision_with_and_without_marks(tmp_path):
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "7"}]
    plain = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "7"}]
    rows = [
        {"id": "1", "image": {"bytes": A, "path": "a.png"}, "conversations": talk, "data_source": "geo"},
        {"id": "2", "image": {"bytes": B, "path": None}, "conversations": plain, "data_source": "cauldron"},
        {"id": "3", "image": None, "conversations": plain, "data_source": "text"},
    ]
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "image": datasets.Image(decode=False),
            "conversations": [{"from": datasets.Value("string"), "value": datasets.Value("string")}],
            "data_source": datasets.Value("string"),
        }
    )
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "train.parquet")
    source = open_source(tmp_path / "train.parquet")
    marked, unmarked, text = drafts(source)
    assert marked.messages == turns([IMAGE, said("\nWhat?")], [said("7")])
    assert unmarked.messages == turns([IMAGE, said("What?")], [said("7")]), "the image comes first"
    assert text.messages == turns([said("What?")], [said("7")])
    assert [images_of(draft, source, source.files[0]) for draft in (marked, unmarked, text)] == [[A], [B], []]
    assert marked.unread == ("data_source",)
    assert drafts(source, {"task": "data_source"})[0].task == "geo"


def test_the_cauldron(tmp_path):
    rows = [
        {
            "images": [{"bytes": A, "path": None}, {"bytes": B, "path": None}],
            "texts": [
                {"user": QUESTION, "assistant": ANSWER, "source": "NLVR2"},
                {"user": "Sure?", "assistant": "yes", "source": "NLVR2"},
            ],
        }
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    (draft,) = drafts(tmp_path / "train.parquet")
    assert draft.messages == turns([IMAGE, IMAGE, said(QUESTION)], [said(ANSWER)], [said("Sure?")], [said("yes")])
    assert draft.unread == ("texts.source",)


def test_finevision_and_its_ratings(tmp_path):
    two = [{"user": "One?", "assistant": "1"}, {"user": "Two?", "assistant": "2"}]
    rows = [
        {
            "images": [{"bytes": A, "path": None}],
            "texts": two,
            "source": "chartqa",
            "relevance_ratings": [5, 3],
            "relevance_min": 3,
            "image_correspondence_ratings": [None, 4],
            "image_correspondence_min": None,
            "visual_dependency_ratings": [1, 2],
            "visual_dependency_min": 1,
            "formatting_ratings": [None, None],
            "formatting_min": None,
        }
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-00000-of-00001.parquet")
    (draft,) = drafts(tmp_path)
    assert draft.ratings == {"relevance": 3.0, "image_correspondence": 4.0, "visual_dependency": 1.0}
    assert draft.messages[0]["content"] == [IMAGE, said("One?")] and len(draft.messages) == 4
    assert draft.unread == ("source",)


# --- TRL, OpenAI, LLaMA-Factory, ms-swift ---------------------------------------------------------------------------

URL = "data:image/png;base64," + base64.b64encode(A).decode()
ASKED = turns([IMAGE, said(QUESTION)], [said(ANSWER)])
TRL_PART = {"type": "text", "text": QUESTION}

CHATS = {
    "TRL messages": {
        "messages": [
            {"role": "user", "content": [{"type": "image"}, TRL_PART]},
            {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]},
        ],
        "images": ["images/a.png"],
    },
    "TRL text content": {
        "messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}],
        "images": ["images/a.png"],
    },
    "TRL prompt and completion": {
        "prompt": [{"role": "user", "content": QUESTION}],
        "completion": [{"role": "assistant", "content": ANSWER}],
        "images": [URL],
    },
    "prompt and completion as text": {"prompt": QUESTION, "completion": ANSWER, "image": "images/a.png"},
    **{
        f"the image in the part, as {key}": {
            "messages": [
                {"role": "user", "content": [{"type": "image", key: value}, TRL_PART]},
                {"role": "assistant", "content": ANSWER},
            ]
        }
        for key, value in {
            "image": "images/a.png",
            "path": "images/a.png",
            "url": URL,
            "base64": base64.b64encode(A * 9).decode(),
        }.items()
    },
    "OpenAI image_url": {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": URL}}, TRL_PART]},
            {"role": "assistant", "content": ANSWER, "weight": 1},
        ]
    },
    "image_url as text": {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": URL}, TRL_PART]},
            {"role": "assistant", "content": ANSWER},
        ]
    },
    "Qwen's parts without a type": {
        "messages": [
            {"role": "user", "content": [{"image": "file://images/a.png"}, {"text": QUESTION}]},
            {"role": "assistant", "content": [{"text": ANSWER}]},
        ]
    },
    "the part and the column agree": {
        "messages": [
            {"role": "user", "content": [{"type": "image", "image": "images/a.png"}, TRL_PART]},
            {"role": "assistant", "content": ANSWER},
        ],
        "images": [{"bytes": None, "path": "images/a.png"}],
    },
    "ShareGPT of LLaMA-Factory": {
        "conversations": [{"from": "human", "value": f"<image>{QUESTION}"}, {"from": "gpt", "value": ANSWER}],
        "images": ["images/a.png"],
    },
    "ms-swift messages": {
        "messages": [
            {"role": "user", "content": f"<image>{QUESTION}"},
            {"role": "assistant", "content": ANSWER, "loss": True, "loss_scale": 1.0},
        ],
        "images": ["images/a.png"],
        "videos": [],
        "tools": None,
    },
    "ms-swift query": {"query": f"<image>{QUESTION}", "response": ANSWER, "images": ["images/a.png"], "history": []},
    "energon VQASample": {"context": QUESTION, "answers": [ANSWER], "image": "images/a.png"},
}


@pytest.mark.parametrize("name", CHATS)
def test_chats_as_trainers_take_them(name, tmp_path):
    beside(tmp_path)
    source = open_source(written(tmp_path / "pool.jsonl", lines([CHATS[name]])))
    (draft,) = drafts(source)
    assert draft.messages == ASKED
    assert [image.startswith(A) for image in images_of(draft, source, source.files[0])] == [True]
    assert draft.unread == ()


def test_system_and_history_of_ms_swift(tmp_path):
    record = {"system": "Be brief.", "history": [["1?", "one"]], "query": "2?", "response": "two"}
    (draft,) = drafts(written(tmp_path / "pool.jsonl", lines([record])))
    assert draft.messages == turns([said("1?")], [said("one")], [said("2?")], [said("two")], system="Be brief.")


def test_answers_within_a_prompt_are_context_as_trl_has_it():
    prompt = [
        {"role": "user", "content": "1?"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "2?"},
    ]
    draft = parse({"prompt": prompt, "completion": "two"})
    assert [turn.get("loss") for turn in draft.messages] == [None, False, None, None]


def test_the_answer_most_agree_on_is_learned_and_the_others_are_named():
    draft = parse({"context": "What?", "answers": ["a", "b", "b"]})
    assert draft.messages[-1]["content"] == [said("b")] and draft.unread == ("answers[1:]",)


# --- `datasets` -----------------------------------------------------------------------------------------------------

MIXED = [
    ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}, "yes"),
    ({"role": "user", "content": "What?"}, "42"),
    ({"role": "user", "content": "What?"}, "007"),
    ({"role": "user", "content": "What?"}, "null"),
    ({"role": "user", "content": "What?"}, '{"a": 1}'),
    ({"role": "user", "content": "What?"}, "[0.1, 0.2]"),
    ({"role": "user", "content": "What?"}, '[{"bbox_2d": [1, 2], "label": "cat"}]'),
    ({"role": "user", "content": "What?"}, "true"),
    ({"role": "user", "content": "What?"}, "ü"),
]


@pytest.mark.parametrize("saved", ["parquet", "disk"])
def test_columns_that_datasets_stores_as_json_come_back_as_they_were(saved, tmp_path):
    rows = [
        {"messages": [question, {"role": "assistant", "content": answer}], "images": [A] if number == 0 else []}
        for number, (question, answer) in enumerate(MIXED)
    ]
    dataset = datasets.Dataset.from_list(rows, on_mixed_types="use_json")
    assert "arrow.json" in str(dataset.data.schema), "else this tests nothing"
    path = tmp_path / "pool.parquet" if saved == "parquet" else tmp_path / "pool"
    dataset.to_parquet(path) if saved == "parquet" else dataset.save_to_disk(path)
    found = drafts(path)
    assert [draft.messages[-1]["content"] for draft in found] == [[said(answer)] for _, answer in MIXED]
    assert found[0].messages[0]["content"] == [IMAGE, said("What?")]
    assert all(draft.messages[0]["content"] == [said("What?")] for draft in found[1:])


def test_a_saved_dataset_in_shards(tmp_path):
    rows = [{"id": number, "messages": CHATS["TRL text content"]["messages"]} for number in range(100)]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "pool", num_shards=3)
    source = open_source(tmp_path / "pool")
    assert [draft.own_id for draft in drafts(source)] == [str(number) for number in range(100)]
    assert source.unread == () and len(source.files) == 3


def test_a_dataset_of_the_hub(tmp_path, monkeypatch):
    chat = CHATS["TRL text content"]["messages"]
    for split, count in (("train", 3), ("test", 2)):
        written(tmp_path / f"{split}.jsonl", lines([{"id": number, "messages": chat} for number in range(count)]))
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")}
    made = datasets.load_dataset("json", data_files=files, cache_dir=str(tmp_path / "cache"))
    asked = []
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: ["default", "charts"])
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: asked.append(names) or made)
    source = open_source("org/pool")
    assert (len(drafts(source)), source.unread) == (3, ("the split test",))
    assert len(drafts(open_source("org/pool:test"))) == 2
    assert len(drafts(open_source("org/pool:charts"))) == 3
    assert len(drafts(open_source("org/pool:charts:test"))) == 2
    assert [names[1] for names in asked] == [None, None, "charts", "charts"]
    with pytest.raises(DataError, match=r"no split dev \(found: train, test\)"):
        open_source("org/pool:charts:dev")


@pytest.mark.parametrize("address", ["world/pool.parquet", "ost/pool", "no/such:thing"])
def test_what_is_neither_here_nor_on_the_hub_is_a_data_error(address, monkeypatch):
    def refused(*names):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", refused)
    monkeypatch.setattr(datasets, "get_dataset_config_names", refused)
    with pytest.raises(DataError, match="nothing is at"):
        open_source(address)


# --- tars -----------------------------------------------------------------------------------------------------------


def tar(path: Path, members: list[tuple[str, bytes | str | dict | list]], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            data = json.dumps(content).encode() if isinstance(content, dict | list) else content
            data = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


TALK = {"conversations": LLAVA[0]["conversations"][:2]}
MANY = [{"from": "human", "value": "<image>" * 12}, {"from": "gpt", "value": "twelve"}]


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz")])
def test_webdataset_with_one_image_and_with_many_in_their_order(name, mode, tmp_path):
    by_name = sorted(f"01.{number}.jpg" for number in range(12))  # 10 before 2
    members = [("00.jpg", A), ("00.json", TALK), *((other, other.encode()) for other in by_name)]
    path = tar(tmp_path / name, [*members, ("01.json", {"conversations": MANY, "id": 1})], mode)
    one, many = drafts(path)
    assert one.images == (A,) and one.messages == LLAVA_MESSAGES[0][:2] and one.own_id == '"00"'
    assert many.images == tuple(f"01.{number}.jpg".encode() for number in range(12)) and many.own_id == "1"


def test_webdataset_packed_with_zstd(tmp_path):
    plain = tar(tmp_path / "plain.tar", [("a/00.png", A), ("a/00.json", TALK)])
    (draft,) = drafts(written(tmp_path / "a.tar.zst", zstandard.compress(plain.read_bytes())))
    assert draft.images == (A,) and draft.own_id == '"a/00"'


def test_energon_in_its_three_ways(tmp_path):
    talk = LLAVA[0]["conversations"][:2]
    members = [
        *[("0.jpg", A), ("0.json", {"context": "What?", "answers": "7"})],
        *[("1.jpg", A), ("1.json", talk)],  # the turns alone, with a field map in .nv-meta
        *[("2.jpg", A), ("2.context", "What?"), ("2.answers", "7")],
    ]
    tar(tmp_path / "pool/shard-0.tar", members)
    written(tmp_path / "pool/.nv-meta/dataset.yaml", "sample_type: VQASample")
    written(tmp_path / "pool/.nv-meta/split.json", "{}")
    source = open_source(tmp_path / "pool")
    one, two, three = drafts(source)
    assert one.messages == three.messages == turns([IMAGE, said("What?")], [said("7")])
    assert two.messages == LLAVA_MESSAGES[0][:2]
    assert source.unread == ()


def test_crude_jsonl_of_energon_with_its_index(tmp_path):
    beside(tmp_path / "pool")
    record = {"messages": CHATS["ms-swift messages"]["messages"], "images": ["images/a.png"]}
    written(tmp_path / "pool/x.jsonl", lines([record]))
    written(tmp_path / "pool/x.jsonl.idx", b"\0" * 16)
    written(tmp_path / "pool/meta.yaml", "__module__: megatron.energon")
    source = open_source(tmp_path / "pool")
    (draft,) = drafts(source)
    assert images_of(draft, source, source.files[0]) == [A] and source.unread == ()


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([("0.jpg", A), ("0.txt", "a cat")], "no chat turns.*txt"),
        ([("0.jpg", A), ("0.json", TALK | {"image": ["a.jpg", "b.jpg"]})], "1 image member.*JSON names 2"),
        ([("0.jpg", A), ("0.JPG", A), ("0.json", TALK)], "two members.*jpg"),
        ([("../0.jpg", A), ("../0.json", TALK)], "leads out"),
        ([("0.jpg", A), ("0.json", "{")], "0.json.*cannot be read"),
    ],
    ids=["caption", "count", "twice", "out", "no JSON"],
)
def test_a_bad_sample_of_a_tar_says_why_and_its_neighbours_stay(members, why, tmp_path):
    good = [("9.jpg", A), ("9.json", TALK)]
    source = open_source(tar(tmp_path / "a.tar", [("00.jpg", B), ("00.json", TALK), *members, *good]))
    records = [record for unit in source.units() for _, record in load(unit).records]
    assert parse(records[0]).images == (B,) and parse(records[-1]).images == (A,)
    with pytest.raises(Rejected, match=why):
        [parse(record) for record in records[1:-1]]


def test_links_and_devices_in_a_tar_are_refused(tmp_path):
    tar(tmp_path / "a.tar", [("0.json", TALK)])
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        link = tarfile.TarInfo("0.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    (unit,) = open_source(tmp_path / "a.tar").units()
    ((_, record),) = load(unit).records
    with pytest.raises(Rejected, match="no plain file but a link"):
        parse(record)


def test_video_members_are_refused_by_name(tmp_path):
    path = tar(tmp_path / "a.tar", [("0.mp4", b"x"), ("0.json", TALK)])
    with pytest.raises(Rejected, match="videos") as rejected:
        drafts(path)
    assert rejected.value.why.reason == "unsupported"


def test_a_tar_of_images_alone_is_one_refusal(tmp_path):
    path = tar(tmp_path / "images.tar", [(f"{number}.jpg", A) for number in range(3000)])
    with pytest.raises(Rejected, match="holds no text") as rejected:
        drafts(path)
    assert rejected.value.why.reason == "broken-file"


# --- folders --------------------------------------------------------------------------------------------------------


def test_a_folder_may_mix_forms_and_what_was_not_read_is_named(tmp_path):
    pool = tmp_path / "pool"
    chat = CHATS["TRL text content"]["messages"]
    tar(pool / "b/shard.tar", [("0.json", {"id": "tar", "messages": chat})])
    written(pool / "a.jsonl", lines([{"id": "lines", "messages": chat}]))
    written(pool / "c.json", json.dumps([{"id": "array", "messages": chat}]))
    pq.write_table(pa.Table.from_pylist([{"id": "table", "messages": chat}]), pool / "d.parquet")
    for name in ("README.md", "LICENSE", "images/a.png", "images/b.HEIC", ".git/x.jsonl", "dataset_info.json"):
        written(pool / name, "x")
    for name in ("captions.txt", "rows.csv", "clips/a.mp4", "images.zip"):
        written(pool / name, "x")
    (tmp_path / "more").mkdir()
    written(tmp_path / "more/x.jsonl", "")
    (pool / "linked").symlink_to(tmp_path / "more")
    source = open_source(pool)
    assert [draft.own_id for draft in drafts(source)] == ['"lines"', '"tar"', '"array"', '"table"']
    assert source.unread == ("captions.txt", "clips/a.mp4", "images.zip", "linked/ (a link)", "rows.csv")
    assert [unit.name for unit in source.units()] == ["a.jsonl", "b/shard.tar", "c.json", "d.parquet"]
    assert source.size == sum(file.stat().st_size for file in source.files)


def test_a_folder_of_splits_names_them(tmp_path):
    rows = datasets.Dataset.from_list([{"messages": CHATS["TRL text content"]["messages"]}])
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(DataError, match=r"several splits \(test, train\)"):
        open_source(tmp_path / "splits")


@pytest.mark.parametrize(
    ("files", "address", "found"),
    [
        ({}, "absent.jsonl", "nothing is at"),
        ({"samples.csv": "a,b"}, "samples.csv", r"\.csv file"),
        ({"inner/notes.txt": ""}, "inner", "notes.txt"),
        ({"saved/state.json": "{}"}, "saved", "cannot be read to its end"),
        (
            {"saved/state.json": '{"_data_files": [{"filename": "../x.arrow"}]}', "x.arrow": ""},
            "saved",
            "cannot be read",
        ),
        ({"saved/state.json": '{"_data_files": [{"filename": "x.arrow"}]}'}, "saved", "lacks x.arrow"),
    ],
    ids=["absent", "csv", "other things", "damaged state", "out of the folder", "lost file"],
)
def test_what_is_no_source_is_a_data_error_that_names_the_forms(files, address, found, tmp_path):
    for name, content in files.items():
        written(tmp_path / name, content)
    with pytest.raises(DataError, match=found) as error:
        open_source(tmp_path / address)
    assert "save_to_disk" in str(error.value), "the message must say what can be given"


def test_a_module_called_reader_is_a_form_and_messages_name_it():
    modules = {path.stem for path in Path(formats.__file__).parent.glob("*_reader.py")}
    assert {f"{form}_reader" for form in READERS} == modules
    told = FORMS.partition(", a folder")[0]
    assert told == "a .json, .jsonl, .parquet, .arrow or .tar file (text and tars also as .gz or .zst)"
    for form, reader in READERS.items():
        assert {form_of(Path(f"x{suffix}")) for suffix in reader.SUFFIXES} == {form}
        assert form_of(Path(f"x{reader.SUFFIXES[0]}.zst")) == (form if reader.COMPRESSED else None)

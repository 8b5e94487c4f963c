"""A stranger's pool in LLaVA's form, from its json to the subset, and what happens when something of it changes."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_workspace import ONE_TRAINING, TINY, Shell, make_workspace

from ost.data import Dataset
from ost.formats.images import Images
from ost.formats.reject import Rejected
from ost.selection import kept_ids
from ost.store import read_json, read_table

pytestmark = pytest.mark.usefixtures("on_one_server")


def write_llava(samples: Dataset, file: Path) -> None:
    """The samples as LLaVA writes them: an array, ids of both kinds, images in a folder beside it."""
    (file.parent / "images").mkdir(exist_ok=True)
    records = []
    for number, sample in enumerate(samples):
        name = f"images/{file.stem}-{number}.png"
        (file.parent / name).write_bytes(sample.images[0])
        turns = [{"from": "human", "value": f"<image>{sample.question}"}, {"from": "gpt", "value": sample.answer}]
        own = number if number % 2 else str(number)
        records.append({"id": own, "image": name, "conversations": turns, "category": sample.task})
    file.write_text(json.dumps(records, indent=1))


@pytest.fixture(scope="module")
def stranger(curated, tmp_path_factory, prefect_home) -> Shell:
    """A workspace whose pool is one file, run as far as the subset."""
    own = [f"data.{name}={name}.json" for name in ("pool", "anchors", "benchmark")]
    models = [f"models.{role}={role}-checkpoint" for role in ("target", "proxy")]
    assignments = [*TINY, *ONE_TRAINING, *own, *models, "data.truth=null", "data.columns={task: category}"]
    shell = make_workspace(tmp_path_factory.mktemp("stranger") / "workspace", prefect_home, assignments)
    for role in ("target", "proxy"):
        shutil.copytree(curated.root / f"models/{role}", shell.root / f"{role}-checkpoint")
    for name in ("pool", "anchors", "benchmark"):
        write_llava(Dataset(curated.root / f"world/{name}.parquet"), shell.root / f"{name}.json")
    shell.ost("curate", "--until", "select")
    return shell


def test_the_subset_comes_without_any_training_of_the_target(stranger, curated):
    assert not (stranger.root / "models/sft").exists() and not (stranger.root / "evaluations").exists()
    assert Dataset(stranger.root / "data/pool").ids() == Dataset(curated.root / "data/pool").ids(), (
        "another form, other ids"
    )
    table = Dataset(stranger.root / "data/pool").table(["own_id", "file", "position"])
    assert table.slice(0, 2).to_pylist() == [
        {"own_id": '"0"', "file": "pool.json", "position": 0},
        {"own_id": "1", "file": "pool.json", "position": 1},
    ]
    assert "✓" not in stranger.ost("curate", "--until", "select")


def test_the_subset_goes_out_as_it_came(stranger):
    subset = "selections/lookahead-20.parquet"
    kept = kept_ids(read_table(stranger.root / subset))
    stranger.ost("export", subset, "--form", "same", "--out", "out/same", "--verify")
    whole = json.loads((stranger.root / "pool.json").read_text())
    records = json.loads((stranger.root / "out/same/pool.json").read_text())
    assert len(records) == len(kept) and all(record in whole for record in records)
    for form in ("ids", "trl", "llamafactory", "ms-swift", "qwen", "internvl", "webdataset"):
        said = stranger.ost("export", subset, "--form", form, "--out", f"out/{form}", "--verify")
        assert f"{len(kept):,} samples as `{form}`" in said and "would lose nothing" in said, said
    said = stranger.ost("export", subset, "--form", "trl", "--out", "out/trl", ok=False)
    assert "holds an export already" in said and "Traceback" not in said


def test_dvc_watches_images_and_weights(stranger):
    status = stranger.run("dvc", "status", "select-lookahead-20")
    assert "up to date" in status, status
    (picture,) = [stranger.root / "images/pool-3.png"]
    before = picture.read_bytes()
    picture.write_bytes((stranger.root / "images/pool-4.png").read_bytes())
    assert "images" in stranger.run("dvc", "status", "ingest")
    printed = stranger.ost("curate", "--until", "ingest")
    assert "✓ ingest" in printed
    picture.write_bytes(before)
    assert read_json(stranger.root / "metrics/ingest.json")["counts"]["pool"]["kept"] == 200

    weights = stranger.root / "proxy-checkpoint/model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes((stranger.root / "target-checkpoint/model.safetensors").read_bytes())
    assert "proxy-checkpoint" in stranger.run("dvc", "status", "base-proxy")
    weights.write_bytes(before)


def test_one_percent_of_new_data_costs_its_own_shard(stranger):
    records = json.loads((stranger.root / "pool.json").read_text())
    new = [records[0] | {"conversations": [{"from": "human", "value": "<image>New?"}, {"from": "gpt", "value": "yes"}]}]
    (stranger.root / "incoming").mkdir()
    shutil.copytree(stranger.root / "images", stranger.root / "incoming/images")
    shutil.copyfile(stranger.root / "pool.json", stranger.root / "incoming/a.json")
    stranger.ost("curate", "--until", "ingest", "--set", "data.pool=incoming")
    first = {path.name for path in (stranger.root / "data/pool").glob("*.parquet")}
    (stranger.root / "incoming/b.json").write_text(json.dumps(new))
    stranger.ost("curate", "--until", "ingest")
    second = {path.name for path in (stranger.root / "data/pool").glob("*.parquet")}
    assert first < second and len(second - first) == 1


def test_an_image_that_is_not_found_is_told_where_else_to_name_it(tmp_path):
    for roots, told in ((), "; name others in data.image_roots"), ((tmp_path,), ", nor in data.image_roots"):
        with pytest.raises(Rejected, match=f"nor in the source's{told}$"):
            Images(tmp_path / "pool", roots).locate("absent.png", tmp_path / "pool/a.json")

"""A look at a pool before it is used: what it would give, without writing anything; and the command that shows it."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from pools import PNG, SETTINGS, data_url, encoded, record, talk, write_jsonl
from typer.testing import CliRunner

from flows.cli.main import app, main
from ost.errors import DataError, OSTError
from ost.ingestion.survey import Survey, advice, survey
from ost.settings import Data

LARGE = data_url(encoded((100, 100)))


@pytest.fixture
def pool(tmp_path) -> Path:
    """Records of every fate in files of two forms."""
    folder = tmp_path / "pool"
    context = talk("a?", "1", "b?", "2")
    context["messages"][1]["loss"] = False
    records = [record(f"{number}?", task="count", id=number, source="web") for number in range(3)]
    records += [talk("one?", "1", "two?", "2", "three?", "3"), context, record("Two?", images=[LARGE, LARGE])]
    records += [
        record("0?", task="other"),
        record(answer="", id="blank"),
        *(record(images=["x.png"]) for _ in range(5)),
    ]
    write_jsonl(folder, records)
    (folder / "more.json.gz").write_bytes(gzip.compress(json.dumps([record("5?"), talk("6?", "6")]).encode()))
    (folder / "captions.txt").write_text("a cat")
    return folder


@pytest.fixture
def seen(pool, model_folder) -> Survey:
    return survey(pool, SETTINGS, model_folder)


def test_a_survey_tells_what_ingestion_would_do(seen, pool, take):
    taken = take(pool=pool)
    assert (seen.read, seen.kept) == (taken.counts["pool"]["read"], taken.counts["pool"]["kept"]) == (15, 7)
    assert dict(seen.reasons) == taken.counts["pool"]["reasons"]
    assert seen.tokens == taken["pool"].table(["tokens"])["tokens"].to_pylist()
    assert seen.unread_columns == taken.taken["pool"].unread_columns == Counter(source=3)
    assert seen.unread_files == tuple(taken.taken["pool"].unread_files) == ("captions.txt",)
    assert seen.context_turns == taken.taken["pool"].context_turns == 1
    assert seen.shrinkable == taken.taken["pool"].shrinkable == 1


def test_a_survey_counts_forms_turns_images_tasks_and_sizes(seen):
    assert (seen.files, seen.forms, seen.whole) == (2, {"json": 15}, True)
    assert seen.turns == {1: 6, 3: 1}
    assert seen.images == {0: 3, 1: 4}
    assert seen.tasks == {"count": 3, "": 4}
    assert seen.sizes == {(32, 16): 4} and seen.edge_quantiles["50%"] == 32
    assert list(seen.token_quantiles) == ["0%", "5%", "25%", "50%", "75%", "95%", "100%"]
    assert seen.token_quantiles["0%"] == min(seen.tokens) and seen.token_quantiles["100%"] == max(seen.tokens)


def test_each_reason_has_a_few_examples_with_their_places(seen):
    assert {reason: len(examples) for reason, examples in seen.examples.items()} == {
        "too-long": 1,
        "duplicate": 1,
        "empty-answer": 1,
        "missing-image": 3,
    }
    (blank,) = seen.examples["empty-answer"]
    assert (blank.file, blank.position, blank.own_id) == ("samples.jsonl", 7, '"blank"') and "blank" in blank.detail


def test_a_first_look_ends_early_and_reads_no_further(tmp_path):
    lines = [json.dumps(talk(f"{number}?", "1")).encode() for number in range(1_500)]
    calls = []
    first = survey(write_jsonl(tmp_path, lines), progress=lambda *call: calls.append(call[:2]))
    assert (first.read, first.kept, first.whole) == (1_000, 1_000, False)
    assert calls[-1] == (1_000, 1_000)
    every = survey(tmp_path, most=None)
    assert (every.read, every.whole) == (1_500, True)
    assert survey(tmp_path, most=1_500).whole, "nothing was left"


def test_advice_says_what_to_set(seen, tmp_path):
    told = "\n".join(seen.to_json()["advice"])
    assert "1 samples are too long: raise data.max_tokens" in told and "data.max_image_tokens, save 1" in told
    assert "data.image_roots" in told and "source (3); data.columns" in told
    assert "data.columns={task" not in told and "--model" not in told
    plain = survey(write_jsonl(tmp_path / "plain", [talk("a?", "1"), record(images=[LARGE])]), Data(max_pixels=50))
    told = "\n".join(advice(plain))
    assert "1 samples hold an image above data.max_pixels" in told
    assert "data.columns={task: COLUMN}" in told and "name the target by --model" in told


def test_a_survey_is_plain_values(seen):
    told = seen.to_json()
    assert json.loads(json.dumps(told))["kept"] == 7
    assert told["reasons"] == {"too-long": 1, "duplicate": 1, "empty-answer": 1, "missing-image": 5}
    assert told["examples"]["duplicate"] == [
        {
            "file": "samples.jsonl",
            "position": 6,
            "own_id": None,
            "detail": "images and messages are those of an earlier record",
        }
    ]


def test_settings_hold_for_a_survey_too(pool, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/x.png").write_bytes(PNG)
    settings = Data(train_on="last", image_roots=(str(tmp_path / "elsewhere"),), columns={"task": "source"})
    found = survey(pool, settings)
    assert "missing-image" not in found.reasons and found.reasons["duplicate"] == 5
    assert found.context_turns == 3 and found.tasks["web"] == 3


def test_what_is_no_source_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="nothing is at"):
        survey(tmp_path / "absent.jsonl")
    assert survey(write_jsonl(tmp_path, [])).kept == 0


# --- `ost check` ------------------------------------------------------------------------------------------------------


def check(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["check", *map(str, arguments)])
    assert result.exception is None, result.output
    return result.output


def test_check_shows_it(pool, model_folder):
    said = " ".join(check(pool, "--model", model_folder, "--max-tokens", 64).split())
    assert "2 file(s)" in said and "json (15 records); all of it was read" in said
    assert "7 of 15 records would be kept (46.7%)" in said
    assert "missing-image 5 record 8 of samples.jsonl: 'x.png': no such file" in said
    assert 'empty-answer 1 record 7 of samples.jsonl, id "blank"' in said
    assert "1 file(s) are in no form that is read: captions.txt" in said
    for title in ("answers learned a sample", "images a sample", "tokens a sample", "longer edge of an image, pixels"):
        assert title in said
    assert "→ 1 samples are too long: raise data.max_tokens" in said


def test_check_prints_json_alone(pool, tmp_path):
    told = json.loads(check(pool, "--json", "-", "--train-on", "last"))
    assert told["read"] == 15 and told["context_turns"] == 3
    check(pool, "--json", tmp_path / "seen.json", "--train-on", "last")
    assert json.loads((tmp_path / "seen.json").read_text()) == told


def test_check_looks_at_the_first_thousand_or_at_all(tmp_path):
    pool = write_jsonl(tmp_path, [talk(f"{number}?", "1") for number in range(1_100)])
    assert "the first 1,000 records were read; --all reads the rest" in check(pool)
    assert json.loads(check(pool, "--all", "--json", "-"))["read"] == 1_100


def test_check_takes_columns_and_roots(pool, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/x.png").write_bytes(PNG)
    told = json.loads(check(pool, "--image-root", tmp_path / "elsewhere", "--column", "task=source", "--json", "-"))
    assert told["tasks"]["web"] == 3 and "missing-image" not in told["reasons"]


def test_check_writes_nothing_else(pool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    check(pool)
    assert sorted(tmp_path.rglob("*")) == before


BAD = {
    "nothing there": (["absent.jsonl"], "nothing is at absent.jsonl"),
    "no form": (["pool/captions.txt"], "which is not read; give"),
    "no model": (["pool", "--model", "no/such/model/"], "no/such/model"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_a_user_can_mend_is_an_error_without_a_traceback(name, pool, monkeypatch, capsys):
    arguments, said = BAD[name]
    monkeypatch.chdir(pool.parent)
    monkeypatch.setattr("sys.argv", ["ost", "check", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    shown = capsys.readouterr()
    assert end.value.code == 1 and "Traceback" not in shown.out + shown.err
    assert shown.err.startswith("error:") and said in shown.err and not shown.out.strip(), shown
    assert isinstance(end.value.__context__, OSTError)

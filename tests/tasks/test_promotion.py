"""Champion and challenger, on a real MLflow store."""

import pyarrow as pa
import pytest

from ost.errors import WorkspaceError
from ost.store import digest, read_json, write_table
from tasks.record.champion import CHALLENGER, CHAMPION, challenge, rollback
from tasks.settings import Recurate

SETTINGS = Recurate(resamples=200)
GIT = {"commit": "c0ffee" * 6 + "c0ff", "dirty": False}
SIZE = 100


@pytest.fixture
def trained(tracker, made):
    """Registers a model that answers so many of the benchmark's samples, as its training and evaluation would."""
    parent = tracker.open(GIT, "prefect")
    (tracker.root / "data").mkdir()
    (tracker.root / "data/benchmark").write_bytes(b"a benchmark")

    def train(weights: str, right: int, ids: str = "sample") -> None:
        made("", {}, {"models/sft/lookahead-20-B/weights": weights.encode()})
        digests = {"models/sft/lookahead-20-B": digest(tracker.root / "models/sft/lookahead-20-B")}
        tracker.record(made("sft-lookahead-20-B", {}, {}) | {"outputs": digests}, parent)
        answers(right, ids)
        path = "evaluations/lookahead-20-B.parquet"
        content = (tracker.root / path).read_bytes()
        benchmark = made("", {}, {"data/benchmark": (tracker.root / "data/benchmark").read_bytes()})
        inputs = digests | benchmark["outputs"]
        tracker.record(
            made("evaluate-lookahead-20-B", inputs, {path: content}, metrics={"accuracy": right / SIZE}), parent
        )

    def answers(right: int, ids: str, run: str = "lookahead-20-B") -> None:
        names = [f"{ids}{index}" for index in range(SIZE)]
        table = pa.table({"id": names, "correct": [index < right for index in range(SIZE)]})
        write_table(tracker.root / f"evaluations/{run}.parquet", table)

    train.answers = answers
    return train


def never() -> None:
    raise AssertionError("the champion's answers are on record, and it was evaluated anew")


def aliases(tracker) -> dict[str, str | None]:
    found = {alias: tracker.aliased(alias) for alias in (CHAMPION, CHALLENGER)}
    return {alias: str(version.version) if version else None for alias, version in found.items()}


def test_the_first_model_is_the_champion_and_only_a_proven_gain_replaces_it(tracker, trained):
    assert aliases(tracker) == {CHAMPION: None, CHALLENGER: None}
    trained("one", 50)
    verdict = challenge(tracker, SETTINGS, never)
    assert verdict.promoted and "first champion" in verdict.why
    trained("two", 51)
    verdict = challenge(tracker, SETTINGS, never)
    assert not verdict.promoted and "proves no gain" in verdict.why and "+1.0 points" in verdict.why
    assert aliases(tracker) == {CHAMPION: "1", CHALLENGER: "2"}
    trained("three", 70)
    verdict = challenge(tracker, SETTINGS, never)
    assert verdict.promoted and verdict.gain.mean == pytest.approx(0.2)
    assert "version 3 takes the place of 1: +20.0 points" in verdict.why
    assert aliases(tracker) == {CHAMPION: "3", CHALLENGER: "3"}


def test_the_same_weights_are_no_challenger(tracker, trained):
    trained("one", 50)
    challenge(tracker, SETTINGS, never)
    trained("one", 50)
    verdict = challenge(tracker, SETTINGS, never)
    assert not verdict.promoted and "weight by weight" in verdict.why
    assert aliases(tracker)[CHAMPION] == "1"


def test_a_rollback_goes_back_champion_by_champion(tracker, trained):
    with pytest.raises(WorkspaceError, match="no champion yet"):
        rollback(tracker)
    for weights, right in (("one", 20), ("two", 50), ("three", 80)):
        trained(weights, right)
        challenge(tracker, SETTINGS, never)
    assert rollback(tracker) == ("3", "2")
    assert aliases(tracker)[CHAMPION] == "2"
    assert rollback(tracker) == ("2", "1")
    with pytest.raises(WorkspaceError, match="version 1 is the first champion"):
        rollback(tracker)


def test_on_another_benchmark_the_champion_is_evaluated_anew(tracker, trained):
    trained("one", 90)
    challenge(tracker, SETTINGS, never)
    (tracker.root / "data/benchmark").write_bytes(b"a harder benchmark")
    trained("two", 60, "hard")

    def evaluate() -> None:
        assert (tracker.root / "models/sft/champion/weights").read_bytes() == b"one", (
            "another model than the champion's"
        )
        assert read_json(tracker.root / "models/sft/champion.manifest.json")["version"] == "1"
        trained.answers(30, "hard", "champion")

    verdict = challenge(tracker, SETTINGS, evaluate)
    assert verdict.promoted and verdict.gain.champion == 0.3 and verdict.gain.challenger == 0.6

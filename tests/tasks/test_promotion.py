"""Champion and challenger, on a real MLflow store."""

from collections.abc import Callable
from dataclasses import asdict

import pyarrow as pa
import pytest

from ost.data import Dataset, Sample, chat, write_samples
from ost.errors import WorkspaceError
from ost.store import digest, read_json, write_json, write_table
from tasks.pipeline import manifest_path
from tasks.record.champion import (
    CHALLENGER,
    CHAMPION,
    CHAMPIONS,
    ROLLED_BACK,
    ChampionChanged,
    Verdict,
    challenge,
    promote,
    rollback,
)
from tasks.settings import Recurate
from tasks.tracking import Tracker

SETTINGS = Recurate(resamples=200)
GIT = {"commit": "c0ffee" * 6 + "c0ff", "dirty": False}
SIZE, KEY = 100, "lookahead-20-B"
MODEL, ANSWERS, BENCHMARK = f"models/sft/{KEY}", f"evaluations/{KEY}.parquet", "data/benchmark"
EXACT, FINAL = ({"evaluate": {"metric": metric, "max_new_tokens": 8}} for metric in ("exact", "final"))


class Workspace:
    """A folder in which models are trained and evaluated, as far as manifests and the record show."""

    def __init__(self, tracker: Tracker, made: Callable[..., dict]):
        self.tracker, self.root, self._made = tracker, tracker.root, made
        self.parent = tracker.open(GIT, "prefect")
        self.ids: list[str] = []
        self.ask("sample")

    def ask(self, name: str) -> None:
        """Have another benchmark: half of it sums, half of it charts."""
        tasks = ["sum"] * (SIZE // 2) + ["chart"] * (SIZE // 2)
        samples = [Sample((), chat(f"{name} {number}", "1"), task) for number, task in enumerate(tasks)]
        (self.root / BENCHMARK).parent.mkdir(exist_ok=True)
        write_samples(self.root / BENCHMARK, samples)
        self.ids = Dataset(self.root / BENCHMARK).ids()

    def train(self, weights: str, recorded: bool = True) -> dict:
        """What a training leaves."""
        self._made("", {}, {f"{MODEL}/weights": weights.encode()})
        manifest = self._made(f"sft-{KEY}", {}, {}) | {"outputs": {MODEL: digest(self.root / MODEL)}}
        write_json(self.root / manifest_path(f"sft-{KEY}"), manifest)
        if recorded:
            self.tracker.record(manifest, self.parent)
        return manifest

    def evaluate(self, right: range, params: dict = EXACT, key: str = KEY, folder: str = MODEL) -> None:
        """What an evaluation leaves; `right`: places of the samples that are answered so."""
        path = f"evaluations/{key}.parquet"
        table = pa.table({"id": self.ids, "correct": [place in right for place in range(SIZE)]})
        write_table(self.root / path, table)
        inputs = {name: digest(self.root / name) for name in (folder, BENCHMARK)}
        outputs = {path: (self.root / path).read_bytes()}
        manifest = self._made(f"evaluate-{key}", inputs, outputs, metrics={"accuracy": 0.5}, params=params)
        write_json(self.root / manifest_path(f"evaluate-{key}"), manifest)
        if key == KEY:
            self.tracker.record(manifest, self.parent)

    def model(self, weights: str, right: int) -> None:
        """Both."""
        self.train(weights)
        self.evaluate(range(right))

    def challenge(self, evaluate: Callable[[], None] | None = None) -> Verdict:
        """Decide, and write it into the registry."""
        verdict = self.decide(evaluate)
        promote(self.tracker, told(verdict))
        return verdict

    def decide(self, evaluate: Callable[[], None] | None = None) -> Verdict:
        return challenge(self.tracker, SETTINGS, lambda one: self.tracker.record(one, self.parent), evaluate or never)

    @property
    def aliases(self) -> dict[str, str | None]:
        found = {alias: self.tracker.aliased(alias) for alias in (CHAMPION, CHALLENGER)}
        return {alias: str(version.version) if version else None for alias, version in found.items()}


def told(verdict: Verdict) -> dict:
    """A verdict as a summary keeps it."""
    return asdict(verdict) | {"promoted": verdict.promoted}


def never(*_) -> None:
    raise AssertionError("the champion's answers are on record, and it was evaluated anew")


@pytest.fixture
def workspace(tracker, made) -> Workspace:
    return Workspace(tracker, made)


def test_the_first_model_is_the_champion_and_only_a_proven_gain_replaces_it(workspace):
    assert workspace.aliases == {CHAMPION: None, CHALLENGER: None}
    workspace.model("one", 50)
    verdict = workspace.challenge()
    assert verdict.promoted and "first champion" in verdict.why
    workspace.model("two", 51)
    verdict = workspace.challenge()
    assert not verdict.promoted and "proves no gain" in verdict.why and "+1.0 points" in verdict.why
    assert workspace.aliases == {CHAMPION: "1", CHALLENGER: "2"}
    workspace.model("three", 75)
    verdict = workspace.challenge()
    assert verdict.promoted and verdict.gain.mean == pytest.approx(0.25)
    assert "version 3 takes the place of 1: +25.0 points" in verdict.why
    assert "as this was challenge 2 of version 1" in verdict.why
    assert workspace.aliases == {CHAMPION: "3", CHALLENGER: "3"}


def test_a_decision_changes_nothing_and_is_written_as_often_as_one_likes(workspace):
    workspace.model("one", 50)
    first = workspace.decide()
    assert workspace.aliases == {CHAMPION: None, CHALLENGER: None}
    workspace.challenge()
    workspace.model("two", 80)
    second = workspace.decide()
    assert workspace.aliases == {CHAMPION: "1", CHALLENGER: "1"} and workspace.decide() == second
    for _ in range(2):
        promote(workspace.tracker, told(second))
        assert workspace.aliases == {CHAMPION: "2", CHALLENGER: "2"}
        assert workspace.tracker.model_tag(CHAMPIONS) == "1,2"
    with pytest.raises(ChampionChanged, match=r"the champion of .* was nobody when version 1"):
        promote(workspace.tracker, told(first))


def test_the_more_often_a_champion_was_challenged_the_surer_a_gain_must_be(workspace):
    """Nine of a hundred samples are mended: enough for a first challenge, and not for a twelfth."""
    workspace.model("champion", 50)
    workspace.challenge()
    for week in range(1, 12):
        workspace.model(f"week {week}", 50 + week % 2)
        assert workspace.challenge().number == week
    workspace.model("better", 59)
    verdict = workspace.challenge()
    assert (verdict.number, verdict.promoted) == (12, False)
    assert "at 99.9789 %, as this was challenge 12 of version 1" in verdict.why
    workspace.tracker.tag(workspace.tracker.aliased(CHAMPION), "ost.challenges", "0")
    assert workspace.decide().promoted


def test_a_task_that_the_challenger_is_worse_in_is_named(workspace):
    workspace.train("one")
    workspace.evaluate(range(30, 70))
    workspace.challenge()
    workspace.train("two")
    workspace.evaluate(range(60))
    verdict = workspace.challenge()
    assert verdict.promoted and list(verdict.falls) == ["chart"]
    assert verdict.why.endswith("; it is worse in chart (-20.0)")


def test_the_same_weights_are_no_challenger(workspace):
    workspace.model("one", 50)
    workspace.challenge()
    workspace.model("one", 50)
    verdict = workspace.challenge()
    assert not verdict.promoted and "weight by weight" in verdict.why
    assert workspace.aliases[CHAMPION] == "1"


def test_the_challenger_is_what_lies_here_and_not_what_another_workspace_calls_so(workspace):
    """On a shared registry the alias is whoever's was registered last."""
    workspace.model("one", 50)
    workspace.challenge()
    workspace.model("ours", 80)
    theirs = workspace.tracker.client.create_model_version(
        workspace.tracker.model_name, "s3://elsewhere", tags={"ost.digest": "f" * 32, "ost.run": KEY}
    )
    workspace.tracker.set_alias(theirs, KEY)
    verdict = workspace.challenge()
    assert verdict.promoted and verdict.challenger == "2", "a model was promoted for the answers of another"


def test_a_model_that_is_not_registered_is_registered_first(workspace):
    manifest = workspace.train("one", recorded=False)
    workspace.evaluate(range(50))
    assert workspace.decide().challenger == "1"
    workspace.train("two", recorded=False)
    workspace.evaluate(range(50))
    with pytest.raises(WorkspaceError, match=r"not registered as a version of .*: MLflow has not taken its record"):
        challenge(workspace.tracker, SETTINGS, lambda _: None, never)
    assert [version.tags["ost.digest"] for version in workspace.tracker.model_versions()] == [
        manifest["outputs"][MODEL]
    ]


def test_answers_of_other_weights_are_refused(workspace):
    workspace.model("one", 50)
    workspace.train("two")
    with pytest.raises(WorkspaceError, match=rf"{KEY}.parquet holds the answers of another model .*: run again"):
        workspace.decide()


def test_a_rollback_goes_back_champion_by_champion(workspace):
    with pytest.raises(WorkspaceError, match="no champion yet"):
        rollback(workspace.tracker)
    for weights, right in (("one", 20), ("two", 50), ("three", 80)):
        workspace.model(weights, right)
        workspace.challenge()
    assert rollback(workspace.tracker) == ("3", "2")
    assert workspace.aliases[CHAMPION] == "2"
    assert rollback(workspace.tracker) == ("2", "1")
    with pytest.raises(WorkspaceError, match="version 1 is the first champion"):
        rollback(workspace.tracker)


def test_what_was_rolled_back_is_not_promoted_again(workspace):
    workspace.model("one", 20)
    workspace.challenge()
    workspace.model("two", 80)
    promotion = told(workspace.challenge())
    rollback(workspace.tracker)
    verdict = workspace.challenge()
    assert not verdict.promoted and "version 2, which was rolled back" in verdict.why and ROLLED_BACK in verdict.why
    assert workspace.aliases[CHAMPION] == "1"
    with pytest.raises(ChampionChanged):  # by a run that was killed just before it struck that off
        promote(workspace.tracker, promotion)
    workspace.model("three", 90)
    assert workspace.challenge().promoted
    assert rollback(workspace.tracker) == ("3", "1"), "a rollback led back to what had been rolled back"


def test_a_champion_of_an_earlier_build_can_be_rolled_back_too(workspace):
    workspace.model("one", 20)
    workspace.model("two", 80)
    two = workspace.tracker.aliased(KEY)
    workspace.tracker.tag(two, "ost.replaced", "1")
    workspace.tracker.set_alias(two, CHAMPION)
    assert rollback(workspace.tracker) == ("2", "1")


def test_on_another_benchmark_the_champion_is_evaluated_anew(workspace):
    workspace.model("one", 90)
    workspace.challenge()
    workspace.ask("harder")
    workspace.model("two", 60)

    def evaluate() -> None:
        folder = workspace.root / "models/sft/champion"
        assert (folder / "weights").read_bytes() == b"one", "another model than the champion's"
        assert read_json(folder.with_name("champion.manifest.json"))["version"] == "1"
        workspace.evaluate(range(30), key="champion", folder="models/sft/champion")

    verdict = workspace.challenge(evaluate)
    assert verdict.promoted and verdict.gain.champion == 0.3 and verdict.gain.challenger == 0.6


def test_judged_by_another_metric_the_champion_is_evaluated_anew(workspace):
    """As strictly as the challenger, or a metric that is easier to please would look like a gain."""
    workspace.model("one", 50)
    workspace.challenge()
    workspace.train("two")
    workspace.evaluate(range(80), FINAL)
    asked = []

    def evaluate(params: dict = FINAL) -> None:
        asked.append(params)
        workspace.evaluate(range(80), params, "champion", "models/sft/champion")

    verdict = workspace.challenge(evaluate)
    assert asked and not verdict.promoted and verdict.gain.mean == 0
    with pytest.raises(WorkspaceError, match=r"asked other questions .* evaluate: in params.yaml has changed"):
        workspace.decide(lambda: evaluate(EXACT))


def test_answers_to_other_samples_are_never_compared(workspace):
    workspace.model("one", 50)
    workspace.challenge()
    workspace.train("two")
    workspace.evaluate(range(80))

    def evaluate() -> None:
        workspace.evaluate(range(50), key="champion", folder="models/sft/champion")

    others = pa.table({"id": [*workspace.ids[:-1], "another"], "correct": [True] * SIZE})
    write_table(workspace.root / ANSWERS, others)
    with pytest.raises(WorkspaceError, match="asked other questions"):
        workspace.decide(evaluate)

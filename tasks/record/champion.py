"""The champion among the registered models: replaced only for a proven gain, and given back by a rollback."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
from mlflow.entities.model_registry import ModelVersion

from ost.comparison.challenge import Gain, paired_gain
from ost.errors import WorkspaceError
from ost.models.adapter import base_of
from ost.store import digest, publish, read_table, write_json
from tasks.pipeline import MANIFEST
from tasks.settings import Recurate
from tasks.tracking import Tracker, number_of, path_of, tag_of

CHAMPION, CHALLENGER = "champion", "challenger"
"""Aliases in the registry."""
REPLACED = "ost.replaced"
"""Tag of a version: the champion whose place it took."""
FOLDER = f"models/sft/{CHAMPION}"
"""Where a champion lies that has to be evaluated anew: beside the trainings, as far from an adapter's base as they."""
TARGET = "models/target"


@dataclass(frozen=True)
class Verdict:
    """What came of a challenge."""

    challenger: str
    """Number of its registered version."""
    champion: str
    """The one it met; empty where there was none."""
    gain: Gain | None
    """None where there was nobody, or nothing new, to compare with."""

    @property
    def promoted(self) -> bool:
        """Whether the challenger is the champion now and was not before."""
        return not self.champion or (self.gain is not None and self.gain.is_proven)

    @property
    def why(self) -> str:
        """The verdict in a sentence."""
        if not self.champion:
            return f"version {self.challenger} is the first champion"
        if self.gain is None:
            return f"the new model is version {self.champion} again, weight by weight: the champion stays"
        low, high = (f"{100 * end:+.1f}" for end in self.gain.interval)
        found = f"{100 * self.gain.mean:+.1f} points ({low} … {high}) on {self.gain.samples:,} benchmark samples"
        if self.promoted:
            return f"version {self.challenger} takes the place of {self.champion}: {found}"
        return f"version {self.champion} stays: {self.challenger} is at {found}, which proves no gain"


def challenge(tracker: Tracker, settings: Recurate, evaluate_champion: Callable[[], None]) -> Verdict:
    """Hold the newest model of `recurate.training` against the champion, and let it take its place if it is better.

    `evaluate_champion` runs the stage `evaluate-champion`, for a benchmark that the champion has not been on.
    """
    challenger = tracker.aliased(settings.training)
    champion = tracker.aliased(CHAMPION)
    if champion and number_of(champion) == number_of(challenger):
        return Verdict(number_of(challenger), number_of(champion), None)
    tracker.set_alias(challenger, CHALLENGER)
    gain = None
    if champion:
        known = _recorded_answers(tracker, champion) or _fresh_answers(tracker, champion, evaluate_champion)
        own = read_table(tracker.root / f"evaluations/{settings.training}.parquet")
        gain = _gain(known, own, settings)
    verdict = Verdict(number_of(challenger), number_of(champion) if champion else "", gain)
    if verdict.promoted:
        tracker.tag(challenger, REPLACED, verdict.champion)
        tracker.set_alias(challenger, CHAMPION)
    return verdict


def rollback(tracker: Tracker) -> tuple[str, str]:
    """Give the champion's place back to the version that it took it from; returns both numbers, old and new.

    Raises WorkspaceError where there is none.
    """
    champion = tracker.aliased(CHAMPION)
    if champion is None:
        raise WorkspaceError(f"the model {tracker.model_name} has no champion yet: run `ost recurate`")
    before = champion.tags.get(REPLACED)
    if not before:
        raise WorkspaceError(f"version {number_of(champion)} is the first champion: there is none to go back to")
    tracker.set_alias(tracker.client.get_model_version(tracker.model_name, before), CHAMPION)
    return number_of(champion), before


def _recorded_answers(tracker: Tracker, champion: ModelVersion) -> pa.Table | None:
    """What the champion answered on the benchmark as it is now, if that is on record."""
    run = champion.tags["ost.run"]
    benchmark = digest(tracker.root / "data/benchmark")
    for record in tracker.runs_with(f"dvc.in.models/sft/{run}", champion.tags["ost.digest"]):
        if record.data.tags.get("dvc.in.data/benchmark") == benchmark:
            with tracker.artifact(record.info.run_id, f"evaluations/{run}.parquet") as answers:
                return read_table(answers)
    return None


def _fresh_answers(tracker: Tracker, champion: ModelVersion, evaluate_champion: Callable[[], None]) -> pa.Table:
    with tracker.artifact(champion.run_id, path_of(champion)) as folder, publish(tracker.root / FOLDER) as part:
        shutil.copytree(folder, part)
    _check_base(tracker, champion)
    write_json(tracker.root / (FOLDER + MANIFEST), {"stage": CHAMPION, "version": number_of(champion)})
    evaluate_champion()
    return read_table(tracker.root / f"evaluations/{CHAMPION}.parquet")


def _check_base(tracker: Tracker, champion: ModelVersion) -> None:
    """Raises WorkspaceError for a champion that is an adapter on another base than the target of today."""
    was = tracker.client.get_run(champion.run_id).data.tags.get(tag_of("in", TARGET))
    if base_of(tracker.root / FOLDER) and was != digest(tracker.root / TARGET):
        raise WorkspaceError(
            f"version {number_of(champion)}, the champion, is an adapter on another target than {TARGET} is now, and "
            "the benchmark has changed, so nothing can be compared: set models.target back, or name another "
            "tracking.model_name to start with a champion anew"
        )


def _gain(known: pa.Table, own: pa.Table, settings: Recurate) -> Gain:
    """Of the challenger's own answers over the champion's; those of an earlier build are right or wrong, no more."""
    known, own = known.sort_by("id"), own.sort_by("id")
    score = "score" if "score" in known.column_names else "correct"
    clusters = own["cluster"].to_numpy() if "cluster" in own.column_names else None
    scores = (table[score].to_numpy() for table in (known, own))
    return paired_gain(*scores, settings.confidence, settings.resamples, clusters)

"""The champion among the registered models: replaced only for a proven gain, and given back by a rollback."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
from mlflow.entities.model_registry import ModelVersion

from ost.comparison.challenge import Gain, paired_gain
from ost.errors import WorkspaceError
from ost.store import digest, publish, read_table, write_json
from tasks.pipeline import MANIFEST
from tasks.settings import Recurate
from tasks.tracking import Tracker, number_of, path_of

CHAMPION, CHALLENGER = "champion", "challenger"
"""Aliases in the registry."""
REPLACED = "ost.replaced"
"""Tag of a version: the champion whose place it took."""
FOLDER = f"models/{CHAMPION}"
"""Where a champion lies that has to be evaluated anew."""


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
        gain = paired_gain(_hits(known), _hits(own), settings.confidence, settings.resamples)
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
            return read_table(tracker.artifact(record.info.run_id, f"evaluations/{run}.parquet"))
    return None


def _fresh_answers(tracker: Tracker, champion: ModelVersion, evaluate_champion: Callable[[], None]) -> pa.Table:
    folder = tracker.artifact(champion.run_id, path_of(champion))
    with publish(tracker.root / FOLDER) as part:
        shutil.copytree(folder, part)
    write_json(tracker.root / (FOLDER + MANIFEST), {"stage": CHAMPION, "version": number_of(champion)})
    evaluate_champion()
    return read_table(tracker.root / f"evaluations/{CHAMPION}.parquet")


def _hits(answers: pa.Table) -> list[bool]:
    return answers.sort_by("id")["correct"].to_pylist()

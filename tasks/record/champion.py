"""The champion among the registered models: replaced only for a proven gain, and given back by a rollback.

A challenge is decided without any effect, and what it came to is written into the registry afterwards: a run that is
killed in between leaves nothing half done.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
from mlflow.entities.model_registry import ModelVersion

from ost.comparison.challenge import Gain, confidence_of, falls, paired_gain
from ost.data import Dataset
from ost.errors import WorkspaceError
from ost.evaluation.benchmarks import benchmark_tasks
from ost.models.adapter import base_of
from ost.store import digest, publish, read_json, read_table, write_json
from tasks.pipeline import MANIFEST, manifest_path
from tasks.settings import Recurate
from tasks.tracking import Tracker, flat, number_of, path_of, tag_of

CHAMPION, CHALLENGER = "champion", "challenger"
"""Aliases in the registry."""
CHAMPIONS = "ost.champions"
"""Tag of the registered model: numbers of the versions that have been champion, each behind the one it replaced."""
REPLACED = "ost.replaced"
"""Tag of a version in earlier builds: the champion whose place it took."""
CHALLENGES = "ost.challenges"
"""Tag of a version: how often it has been challenged as the champion."""
ROLLED_BACK = "ost.rolled_back"
"""Tag of a version that a rollback took the champion's place from: no challenge gives it back."""
FOLDER = f"models/sft/{CHAMPION}"
"""Where a champion lies that has to be evaluated anew: beside the trainings, as far from an adapter's base as they."""
TARGET, BENCHMARK = "models/target", "data/benchmark"
MOST_CHAMPIONS = 100
"""Versions that are remembered for a rollback: a tag is no place for more."""


class ChampionChanged(WorkspaceError):
    """The registry has another champion by now than a challenge was decided against."""


@dataclass(frozen=True)
class Verdict:
    """What came of a challenge."""

    challenger: str
    """Number of its registered version."""
    champion: str
    """The one it met; empty where there was none."""
    gain: Gain | None
    """None where there was nobody, or nothing new, to compare with."""
    number: int = 0
    """Which challenge of this champion it was, from 1 on; 0 where the two were not compared."""
    falls: Mapping[str, Gain] = field(default_factory=dict)
    """Tasks of the benchmark in which the challenger is worse than the champion."""

    @property
    def promoted(self) -> bool:
        """Whether the challenger is to be the champion and was not before."""
        return not self.champion or (self.gain is not None and self.gain.is_proven)

    @property
    def why(self) -> str:
        """The verdict in a sentence."""
        if not self.champion:
            return f"version {self.challenger} is the first champion"
        if self.challenger == self.champion:
            return f"the new model is version {self.champion} again, weight by weight: the champion stays"
        if self.gain is None:
            return (
                f"version {self.champion} stays: the new model is version {self.challenger}, which was rolled back; "
                f"to let it in again, delete its tag {ROLLED_BACK} in MLflow"
            )
        low, high = (f"{100 * end:+.1f}" for end in self.gain.interval)
        found = f"{100 * self.gain.mean:+.1f} points ({low} … {high}) on {self.gain.samples:,} benchmark samples"
        at = f"at {100 * self.gain.confidence:.6g} %, as this was challenge {self.number} of version {self.champion}"
        worse = ", ".join(f"{task or 'untitled'} ({100 * gain.mean:+.1f})" for task, gain in self.falls.items())
        worse = f"; it is worse in {worse}" if worse else ""
        if self.promoted:
            return f"version {self.challenger} takes the place of {self.champion}: {found}, {at}{worse}"
        return f"version {self.champion} stays: {self.challenger} is at {found}, which proves no gain {at}{worse}"


def challenge(
    tracker: Tracker, settings: Recurate, record: Callable[[dict], object], evaluate_champion: Callable[[], None]
) -> Verdict:
    """Hold the model of `recurate.training` in this workspace against the champion; nothing is changed but files here.

    It takes the champion's place for a gain on the whole benchmark that is proven at `confidence_of` its number; tasks
    in which it is worse are named, and do not keep it from there.

    `record` makes MLflow's record of a stage from its manifest, for a training that is not registered.
    `evaluate_champion` runs the stage `evaluate-champion`, for a benchmark that the champion has not been on, or other
    settings than it was evaluated with. Raises WorkspaceError where the two cannot be compared.
    """
    if not tracker.answers():
        raise WorkspaceError(
            "MLflow does not answer, and its registry says who is the champion: run again when it does; what is "
            "finished is kept"
        )
    trained, evaluated = _manifests(tracker, settings.training)
    challenger, champion = _registered(tracker, trained, record), tracker.aliased(CHAMPION)
    if not champion or number_of(champion) == number_of(challenger):
        return Verdict(number_of(challenger), number_of(champion) if champion else "", None)
    if _is_rolled_back(tracker, challenger):
        return Verdict(number_of(challenger), number_of(champion), None)
    own = read_table(tracker.root / f"evaluations/{settings.training}.parquet").sort_by("id")
    known = _recorded_answers(tracker, champion, evaluated, own)
    if known is None:
        known = _fresh_answers(tracker, champion, evaluated, own, evaluate_champion)
    number = int(champion.tags.get(CHALLENGES, 0)) + 1
    pair, how = _scores(known, own), {"resamples": settings.resamples, "clusters": _clusters(own)}
    return Verdict(
        number_of(challenger),
        number_of(champion),
        paired_gain(*pair, confidence_of(number, settings.confidence), **how),
        number,
        falls(*pair, _tasks(tracker, evaluated, own["id"].to_pylist()), settings.confidence, **how),
    )


def promote(tracker: Tracker, found: Mapping) -> None:
    """Write into the registry what a challenge came to; doing so again changes nothing.

    `found`: the fields of a Verdict, and `promoted`. Raises ChampionChanged where somebody has given the place to
    another version since, or has rolled this one back.
    """
    champion = tracker.aliased(CHAMPION)
    now, versions = number_of(champion) if champion else "", {number_of(one): one for one in tracker.model_versions()}
    expected = {found["champion"], *([found["challenger"]] if found["promoted"] else [])}
    challenger = versions.get(found["challenger"])
    if challenger is None or now not in expected or (found["promoted"] and ROLLED_BACK in challenger.tags):
        raise ChampionChanged(
            f"the champion of {tracker.model_name} was {found['champion'] or 'nobody'} when version "
            f"{found['challenger']} was held against it, and somebody has changed the registry since: run again"
        )
    tracker.set_alias(challenger, CHALLENGER)
    if found["number"]:
        met = versions[found["champion"]]
        tracker.tag(met, CHALLENGES, str(max(found["number"], int(met.tags.get(CHALLENGES, 0)))))
    if found["promoted"]:
        before = _champions(tracker, found["champion"]) if found["champion"] else []
        tracker.tag_model(CHAMPIONS, ",".join([*before, found["challenger"]][-MOST_CHAMPIONS:]))
        tracker.set_alias(challenger, CHAMPION)


def rollback(tracker: Tracker) -> tuple[str, str]:
    """Give the champion's place back to the version that it took it from; returns both numbers, old and new.

    The version that loses it is not promoted again. Raises WorkspaceError where there is none to go back to.
    """
    champion = tracker.aliased(CHAMPION)
    if champion is None:
        raise WorkspaceError(f"the model {tracker.model_name} has no champion yet: run `ost recurate`")
    *before, now = _champions(tracker, number_of(champion))
    if not before:
        raise WorkspaceError(f"version {now} is the first champion: there is none to go back to")
    tracker.tag(champion, ROLLED_BACK, "true")
    tracker.set_alias(tracker.client.get_model_version(tracker.model_name, before[-1]), CHAMPION)
    tracker.tag_model(CHAMPIONS, ",".join(before))
    return now, before[-1]


def _champions(tracker: Tracker, current: str) -> list[str]:
    """Numbers of the champions up to this one, the first first; those that are no longer registered are left out."""
    versions = {number_of(version): version for version in tracker.model_versions()}
    told = tracker.model_tag(CHAMPIONS) or versions[current].tags.get(REPLACED, "")
    found = [number for number in told.split(",") if number in versions]
    if current in found:
        last = max(place for place, number in enumerate(found) if number == current)
        return found[: last + 1]
    return [*found, current]


def _manifests(tracker: Tracker, training: str) -> tuple[dict, dict]:
    """Of a training in this workspace, and of its evaluation, which must be of the weights that lie there."""
    trained, evaluated = (read_json(tracker.root / manifest_path(f"{kind}-{training}")) for kind in ("sft", "evaluate"))
    (path, md5), *_ = trained["outputs"].items()
    if evaluated["inputs"].get(path) != md5:
        raise WorkspaceError(
            f"evaluations/{training}.parquet holds the answers of another model than lies in {path}: run again"
        )
    return trained, evaluated


def _registered(tracker: Tracker, trained: dict, record: Callable[[dict], object]) -> ModelVersion:
    """The version with a training's weights, by their digest: an alias may be another workspace's by now."""
    (_, md5), *_ = trained["outputs"].items()
    training = trained["stage"].partition("-")[2]
    found = tracker.versions_of(md5, training)
    if not found:
        record(trained)
        found = tracker.versions_of(md5, training)
    if not found:
        raise WorkspaceError(
            f"the model of {training} is not registered as a version of {tracker.model_name}: MLflow has not taken its "
            "record, which is kept in .ost/outbox; see what MLflow says, and run again"
        )
    return found[-1]


def _is_rolled_back(tracker: Tracker, challenger: ModelVersion) -> bool:
    """Whether these weights were, under whatever number."""
    return any(ROLLED_BACK in version.tags for version in tracker.versions_of(challenger.tags["ost.digest"]))


def _recorded_answers(tracker: Tracker, champion: ModelVersion, like: dict, own: pa.Table) -> pa.Table | None:
    """What the champion answered on the same benchmark under the same settings, if that is on record.

    `like`, `own`: manifest of the challenger's evaluation, and its answers by id.
    """
    run, md5 = (champion.tags.get(f"ost.{name}", "") for name in ("run", "digest"))
    for record in tracker.runs_with(tag_of("in", f"models/sft/{run}"), md5):
        tags, settings = record.data.tags, record.data.params
        told = {name: value for name, value in settings.items() if name.startswith("evaluate.")}
        if tags.get(tag_of("in", BENCHMARK)) == like["inputs"].get(BENCHMARK) and told == _settings(like):
            with tracker.artifact(record.info.run_id, f"evaluations/{run}.parquet") as file:
                answers = read_table(file).sort_by("id")
            if answers["id"].equals(own["id"]):
                return answers
    return None


def _settings(manifest: dict) -> dict[str, str]:
    """What an evaluation was told, as MLflow keeps it."""
    return dict(flat({"evaluate": manifest["params"]["evaluate"]}))


def _fresh_answers(
    tracker: Tracker, champion: ModelVersion, like: dict, own: pa.Table, evaluate_champion: Callable[[], None]
) -> pa.Table:
    with tracker.artifact(champion.run_id, path_of(champion)) as folder, publish(tracker.root / FOLDER) as part:
        shutil.copytree(folder, part)
    _check_base(tracker, champion)
    write_json(tracker.root / (FOLDER + MANIFEST), {"stage": CHAMPION, "version": number_of(champion)})
    evaluate_champion()
    told = read_json(tracker.root / manifest_path(f"evaluate-{CHAMPION}"))
    answers = read_table(tracker.root / f"evaluations/{CHAMPION}.parquet").sort_by("id")
    if _settings(told) != _settings(like) or not answers["id"].equals(own["id"]):
        raise WorkspaceError(
            "the champion was asked other questions than the challenger, or judged otherwise: the benchmark or "
            "evaluate: in params.yaml has changed in between; run again"
        )
    return answers


def _check_base(tracker: Tracker, champion: ModelVersion) -> None:
    """Raises WorkspaceError for a champion that is an adapter on another base than the target of today."""
    was = tracker.client.get_run(champion.run_id).data.tags.get(tag_of("in", TARGET))
    if base_of(tracker.root / FOLDER) and was != digest(tracker.root / TARGET):
        raise WorkspaceError(
            f"version {number_of(champion)}, the champion, is an adapter on another target than {TARGET} is now, and "
            "the benchmark has changed, so nothing can be compared: set models.target back, or name another "
            "tracking.model_name to start with a champion anew"
        )


def _scores(known: pa.Table, own: pa.Table) -> list:
    """Of champion and challenger, by id; answers of an earlier build are right or wrong, no more."""
    score = "score" if "score" in known.column_names else "correct"
    return [table[score].to_numpy() for table in (known, own)]


def _clusters(own: pa.Table) -> list[int] | None:
    return own["cluster"].to_pylist() if "cluster" in own.column_names else None


def _tasks(tracker: Tracker, evaluated: dict, ids: list[str]) -> list[str]:
    """The task of each sample: the benchmark's, or the suite's, whose samples are named TASK/number."""
    if BENCHMARK not in evaluated["inputs"]:
        return [name.rpartition("/")[0] for name in ids]
    benchmark = Dataset(tracker.root / BENCHMARK)
    tasks = dict(zip(benchmark.ids(), benchmark_tasks(benchmark), strict=True))
    return [tasks[name] for name in ids]

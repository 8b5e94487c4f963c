"""The plan of a workspace: the subsets and trainings that its parameters ask for.

A curation plans few subsets, a comparison many, a study varies one thing of a comparison; the same stages run them all.
"""

from dataclasses import dataclass
from pathlib import Path

from ost.arms import Scores
from ost.arms.plan import BASE, PURE, Subset, Training, trainings_of
from ost.errors import ConfigError
from ost.evaluation.metrics import check_metric
from ost.selection.strategies import strategy_of
from tasks.settings import Params


@dataclass(frozen=True)
class Plan:
    """What is chosen and trained in one workspace, under one seed."""

    params: Params

    @property
    def subsets(self) -> list[Subset]:
        """Each arm at each fraction that is asked for; raises ConfigError for one that is not known."""
        return [Subset.parse(key) for key in self.params.curate.subsets]

    @property
    def trainings(self) -> list[Training]:
        """The trainings of the target."""
        return trainings_of(self.subsets, self.params.curate.protocols)

    @property
    def main(self) -> Subset:
        """The subset that a report is about: the first by utility. Raises ConfigError where there is none."""
        for subset in self.subsets:
            if subset.arm.utility:
                return subset
        raise ConfigError(
            "no subset is chosen by utility: name one, such as lookahead-20, in curate.subsets, for the report and the "
            "list of toxic samples are of one; baselines alone are trained by a comparison: "
            f"ost compare --arms {','.join(dict.fromkeys(one.name for one in self.subsets))}"
        )

    @property
    def scores(self) -> list[Scores]:
        """All that the arms have to know of the pool."""
        return list({subset.arm.by.name: subset.arm.by for subset in self.subsets if _by_scores(subset)}.values())

    @property
    def roles(self) -> list[str]:
        """The models that are there before anything is trained on the pool."""
        params = self.params
        judged = any(subset.name == "judge" for subset in self.subsets)
        local = judged and params.models.judge and not params.judge.server
        return ["target", "proxy", *(["judge"] if local else [])]

    @property
    def untrained(self) -> dict[str, str]:
        """Models that are evaluated as they came: key → folder."""
        return {BASE: "models/target"} | ({"judge": "models/judge"} if "judge" in self.roles else {})

    @property
    def evaluated(self) -> list[str]:
        """Keys of all evaluations."""
        return [*self.untrained, *(training.key for training in self.trainings)]

    def check(self) -> "Plan":
        """The plan itself; raises ConfigError, before anything is run, for what cannot be had."""
        params, subsets = self.params, self.subsets
        by_task = strategy_of(params.select.strategy).by_task
        check_metric(params.evaluate.metric)
        if params.curate.keep:
            _ = self.main
        ceilings = sorted({subset.name for subset in subsets if subset.arm.is_ceiling})
        if ceilings and not params.data.truth:
            raise ConfigError(
                f"the arm(s) {', '.join(ceilings)} need to know which samples are wrong, and data.truth is null: "
                "leave them out"
            )
        if by_task and any(subset.name == "lookahead" for subset in subsets):
            raise ConfigError(
                f"select.strategy is {params.select.strategy}, which needs a utility for each of the anchors' tasks, "
                "and the scores of lookahead have none: choose another, and name an arm such as one-step-vote for it"
            )
        for subset in subsets:
            if subset.fraction == PURE and not subset.arm.utility:
                raise ConfigError(
                    f"{subset.key}: only arms by utility expect a purity; give {subset.name} a percentage"
                )
        if params.score.method != "lookahead" and not any(scores.name == "one-step" for scores in self.scores):
            raise ConfigError(
                f"score.method is {params.score.method}, a method of the arm one-step, which no subset is of: name "
                "one, such as one-step-20, or set score.method to lookahead"
            )
        blind = [scores.name for scores in self.scores if scores.utility and not scores.tells_turns(params)]
        if params.select.unit == "turn" and blind:
            raise ConfigError(
                f"select.unit is turn, and the scores {blind[0]} do not tell turns apart: name arms of lookahead "
                "alone, or set score.method to transposed"
            )
        return self

    def check_tasks(self, root: Path) -> None:
        """Raise ConfigError where `evaluate.metric` names a task that the ingested benchmark has none of."""
        asked, benchmark = self.params.evaluate, root / "data/benchmark"
        if asked.suite or isinstance(asked.metric, str) or not benchmark.exists():
            return
        from ost.data import Dataset  # which loads datasets
        from ost.evaluation.benchmarks import benchmark_tasks
        from ost.evaluation.metrics import check_tasks

        check_tasks(asked.metric, benchmark_tasks(Dataset(benchmark)))


def _by_scores(subset: Subset) -> bool:
    return isinstance(subset.arm.by, Scores)

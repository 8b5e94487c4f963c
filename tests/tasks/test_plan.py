"""The plan of a workspace: what its parameters ask for, and what is refused before anything is run."""

from contextlib import nullcontext

import pytest
from specimens import drawn

from ost.data import write_samples
from ost.errors import ConfigError
from tasks.plan import Plan
from tasks.settings import Params, parse_params


def plan(*subsets: str, **sections: dict) -> Plan:
    curate = {"subsets": subsets, **sections.pop("curate", {})}
    return Plan(parse_params({"curate": curate, **sections}))


def test_the_defaults_can_be_had():
    usual = Plan(Params())
    assert usual.check() is usual
    assert [subset.key for subset in usual.subsets] == ["full", "random-20", "lookahead-20", "lookahead-50"]
    assert [training.key for training in usual.trainings] == [
        "full-B", "random-20-B", "random-20-A", "lookahead-20-B", "lookahead-20-A", "lookahead-50-B", "lookahead-50-A",
    ]  # fmt: skip
    assert usual.evaluated == ["base", *(training.key for training in usual.trainings)]
    assert [scores.name for scores in usual.scores] == ["lookahead"], "made twice for two subsets"
    assert usual.main.key == "lookahead-20"


@pytest.mark.parametrize(
    ("subsets", "sections", "told"),
    [
        (
            ["full", "less-20", "less-50"],
            {},
            "no subset is chosen by utility: name one, such as lookahead-20, in curate.subsets, for the report and the "
            "list of toxic samples are of one; .* by a comparison: ost compare --arms full,less$",
        ),
        (
            ["lookahead-20", "oracle", "clean-20"],
            {"data": {"truth": None}},
            r"the arm\(s\) clean, oracle need to know which samples are wrong, and data\.truth is null: leave them out",
        ),
        (
            ["lookahead-20", "random-pure"],
            {},
            "random-pure: only arms by utility expect a purity; give random a percentage",
        ),
        (
            ["lookahead-20"],
            {"score": {"method": "transposed"}},
            r"score\.method is transposed, a method of the arm one-step, which no subset is of: name one, such as "
            r"one-step-20, or set score\.method to lookahead",
        ),
        (
            ["one-step-vote-20", "lookahead-20"],
            {"select": {"strategy": "vote"}},
            "select.strategy is vote, which needs a utility for each of the anchors' tasks, and the scores of "
            "lookahead have none: choose another, and name an arm such as one-step-vote",
        ),
        (["osst-20"], {}, "no arm is named 'osst'; known: full, random"),
        (["lookahead"], {}, "no subset is named 'lookahead'; one is named like lookahead-20"),
        (["lookahead-20", "lookahead-20.0"], {}, "no subset is named 'lookahead-20.0'"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_remedy(subsets, sections, told):
    with pytest.raises(ConfigError, match=told):
        plan(*subsets, **sections).check()


@pytest.mark.parametrize(
    ("subsets", "sections"),
    [
        (["full", "less-20"], {"curate": {"keep": False}}),  # a comparison has no page about one subset
        (["lookahead-20", "oracle", "clean-20"], {}),
        (["lookahead-20", "lookahead-pure"], {}),
        (["one-step-20"], {"score": {"method": "transposed"}}),
    ],
)
def test_what_can_be_had_is_taken(subsets, sections):
    asked = plan(*subsets, **sections)
    assert asked.check() is asked


@pytest.mark.parametrize("there", [True, False])
def test_a_task_that_the_benchmark_does_not_have_is_refused_once_it_is_there(tmp_path, there):
    if there:
        write_samples(tmp_path / "data/benchmark", drawn("benchmark", 20))
    plan("lookahead-20", evaluate={"metric": {"sum": "exact"}}).check_tasks(tmp_path)
    plan("lookahead-20", evaluate={"metric": "exact"}).check_tasks(tmp_path)
    told = "evaluate.metric names the task 'docvqa', and the benchmark's are '.*'sum'"
    with pytest.raises(ConfigError, match=told) if there else nullcontext():
        plan("lookahead-20", evaluate={"metric": {"docvqa": "anls"}}).check_tasks(tmp_path)


@pytest.mark.parametrize(
    ("subsets", "models", "server", "judges"),
    [
        (["judge"], {"judge": "builtin"}, None, True),
        (["judge"], {}, None, False),  # the base target judges
        (["judge"], {"judge": "gpt"}, "http://127.0.0.1:8000/v1", False),
        (["random-20"], {"judge": "builtin"}, None, False),
    ],
)
def test_a_judge_of_its_own_is_made_and_tested_where_one_is_asked_for(subsets, models, server, judges):
    asked = plan(*subsets, models=models, judge={"server": server})
    assert ("judge" in asked.roles) == ("judge" in asked.untrained) == ("judge" in asked.evaluated) == judges
    assert asked.roles[:2] == ["target", "proxy"] and asked.untrained["base"] == "models/target"

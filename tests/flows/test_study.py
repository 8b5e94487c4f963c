"""Studies: every variant is a valid comparison, and a small one from the command to the chart."""

import shutil

import pytest
from arm_rows import row
from PIL import Image
from tiny_workspace import ROOT, TINY, make_workspace

from flows.parameters import set_params
from flows.study import STUDIES, _accuracies, _aurocs, _break_even, _costs, _gains, study
from flows.workspaces import planned
from ost.arms.plan import Subset
from ost.comparison import summarise
from ost.errors import ConfigError
from ost.report import Line
from ost.store import read_json
from tasks.plan import Plan
from tasks.settings import load_params

pytestmark = pytest.mark.usefixtures("on_one_server")


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, study in STUDIES.items() for value in study.variants]
)
def test_every_variant_is_a_valid_comparison(name, value, tmp_path):
    own = STUDIES[name]
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    lists = [f"compare.arms=[{', '.join(own.arms)}]", f"compare.fractions={list(own.fractions)}"]
    set_params(tmp_path / "params.yaml", [*lists, *own.variants[value]])
    params = load_params(tmp_path / "params.yaml")
    plan = Plan(planned(params)).check()
    assert {training.subset.name for training in plan.trainings} == set(own.arms)
    assert not own.ticks or len(own.ticks) == len(own.variants)


def test_a_study_of_the_built_in_world_is_none_of_ones_own_data(tmp_path):
    own = ", ".join(f"{name}: {name}.jsonl" for name in ("pool", "anchors", "benchmark"))
    (tmp_path / "params.yaml").write_text(f"data: {{{own}, truth: null}}\n")
    told = "the study pool-size varies the built-in world, .* here there are warmup, steps, fraction, strategy$"
    with pytest.raises(ConfigError, match=told):
        study("pool-size", tmp_path)


def values(lines: list[Line]) -> dict[str, list[tuple[float, float]]]:
    """Name → (place, value) of each point."""
    return {line.name: [(point["place"], point["value"]) for point in line.points] for line in lines}


def test_a_study_of_fractions_has_a_line_for_each_arm_and_others_one_for_each_subset():
    def point(value: float, accuracy: float) -> dict:
        rows = [row(subset, accuracy) for subset in ("one-step-top-50", "one-step-top-20", "full")]
        return {"place": value, "summary": summarise(rows)}

    alone = _accuracies([point(0, 0.5)])
    assert values(alone) == {"Full-SFT": [(1.0, 0.5)], "One step, by rank": [(0.2, 0.5), (0.5, 0.5)]}
    several = _accuracies([point(0.25, 0.5), point(0.05, 0.4)])
    names = ("Full-SFT", "One step 20 %, by rank", "One step 50 %, by rank")
    assert values(several) == {name: [(0.05, 0.4), (0.25, 0.5)] for name in names}
    assert [line.kind for line in several] == ["full", "one-step-top", "one-step-top"]


def test_a_paired_study_tells_what_the_last_value_gains_over_the_first_seed_by_seed():
    def point(*accuracies: tuple[float, float]) -> dict:
        rows = [
            row(subset, accuracy, seed=seed)
            for seed, own in enumerate(accuracies)
            for subset, accuracy in zip(("full", "lookahead-50"), own, strict=True)
        ]
        return {"place": 0, "summary": summarise(rows)}

    gains = _gains(point((0.5, 0.5), (0.5, 0.7)), point((0.5, 0.6), (0.5, 0.8)))
    assert list(gains) == ["Lookahead 50 %"], "only what is chosen by utility can gain"
    assert gains["Lookahead 50 %"]["mean"] == pytest.approx(0.1)
    assert gains["Lookahead 50 %"]["interval"] == pytest.approx((0.1, 0.1)), "seeds are not taken as pairs"


def test_a_study_draws_how_well_each_score_tells_right_from_wrong():
    def point(place: float, **aurocs: list[float | None]) -> dict:
        found = [{"score": score, "auroc": value} for score, values in aurocs.items() for value in values]
        return {"place": place, "summary": {"detection": found}}

    points = [point(20, a=[0.7, 0.9], b=[0.6]), point(1, a=[0.5, 0.7], b=[None])]
    lines = _aurocs(points)
    assert values(lines) == {"a": [(1, pytest.approx(0.6)), (20, pytest.approx(0.8))], "b": [(20, 0.6)]}
    assert lines[0].points[0]["range"] == (0.5, 0.7) and lines[0].kind == "a"
    assert _aurocs(points[:1]) == [], "a single variant has no line"


def test_a_study_of_pool_sizes_says_from_where_selection_pays():
    def point(size: int) -> dict:
        rows = []
        for subset, protocol, fixed in (("full", "B", 0), ("full", "A", 0), ("one-step-top-50", "A", 300)):
            varying = Subset.parse(subset).fraction * size
            costs = {"total_seconds": fixed + varying, "total_flops": 2 * fixed + varying}
            rows.append(row(subset, 0.5, protocol, **costs))
        return {"place": size, "summary": summarise(rows)}

    points = [point(500), point(2000)]
    assert values(_accuracies(points)).keys() == {"Full-SFT", "One step 50 %, by rank"}
    assert values(_costs(points)) == {
        "Full-SFT": [(500, 1), (2000, 1)],
        "One step 50 %, by rank": [(500, 1.7), (2000, pytest.approx(0.8))],
    }
    found = _break_even(points)
    assert set(found) == {"One step 50 %, by rank"}
    assert found["One step 50 %, by rank"] == {"seconds": pytest.approx(600), "flops": pytest.approx(1200)}


def test_a_study_computes_what_its_variants_share_once(tmp_path, prefect_home):
    workspace = make_workspace(tmp_path / "workspace", prefect_home, [*TINY, "score.checks=0", "compare.seeds=[5]"])
    printed = workspace.ost("study", "biased-anchors", "--set", "compare.arms=[full, one-step-top]")
    ran = [line.split()[1] for line in printed.splitlines() if line.startswith("✓")]
    assert ran.count("world") == ran.count("score-one-step") == 3, "the anchors are part of the world"
    assert ran.count("base-target") == ran.count("warmup") == 1
    found = read_json(workspace.root / "docs/studies/biased-anchors.json")
    assert [point["place"] for point in found["points"]] == [1.0, 2.0, 4.0]
    with Image.open(workspace.root / "docs/studies/biased-anchors.png") as chart:
        assert min(chart.size) > 500
    assert "Does a proxy of another" in workspace.ost("study", "list")
    assert "no study is named 'warm'; known: warmup" in workspace.ost("study", "warm", ok=False)

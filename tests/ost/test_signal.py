"""No claim without signal: anchors with each other's answers, held against the anchors, decide whether scores tell."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.stats import norm
from specimens import drawn
from test_lookahead import gains, losses, walked

import ost
from ost.data import Sample, chat
from ost.data.sample import text_of
from ost.errors import DataError
from ost.scoring.anchors import all_but_each, folds_of
from ost.scoring.statistics import conformal_p, signal
from ost.scoring.swapped import are_swapped, swapped
from ost.selection import expected_purity, is_clean, select, warnings_of
from ost.selection.purity import part_of, pure_size
from ost.selection.signal import TELLS, Signal, may_claim, signal_of
from ost.selection.strategies import ranked_by
from ost.settings import Select
from ost.store import read_table, write_table

STRONG = Signal(100, 0.99, 0.94, 1e-9, 0.27, 0.03)


def scores(apart: float, wrong_share: float, anchors: int = 100, count: int = 3000, seed: int = 0) -> pa.Table:
    """Scores in which wrong samples, and anchors with another's answer, rank `apart` standard deviations lower.

    All of them gain by the walk, whatever they say.
    """
    rng = np.random.default_rng(seed)
    wrong = rng.random(count) < wrong_share
    trusted, others = rng.normal(1.3, 0.5, anchors), rng.normal(1.3 - apart / 2, 0.5, anchors)
    relative = rng.normal(1.3 - apart * wrong / 2, 0.5)
    p = conformal_p(relative, trusted)
    table = pa.table(
        {
            "id": [f"{index:05d}" for index in range(count)],
            "utility": relative,
            "utility_relative": relative,
            "p_clean": p,
            "toxic": (p < 0.02) & (relative < 0),
            "toxic_q": p,
            "loss": np.ones(count),
            "task": [""] * count,
        }
    )
    return signal(trusted - others, trusted - others, trusted).onto(table)


def with_flags(table: pa.Table, toxic: bool) -> pa.Table:
    """The same scores, all of which are flagged, or none."""
    return table.set_column(table.column_names.index("toxic"), "toxic", pa.array([toxic] * len(table)))


# --- claims -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_scores_that_cannot_tell_say_nothing_of_a_pool_of_which_38_percent_is_wrong(seed):
    table = scores(apart=0.0, wrong_share=0.38, seed=seed)
    found = signal_of(table)
    assert found.gain > 10 * found.gain_se, "held-out anchors gain, which by itself says nothing"
    assert is_clean(table, Select()), "the scores show no harm"
    told = " ".join(warnings_of(table, Select(), in_full=True))
    assert "cannot tell right from wrong" in told and "warmup.fraction" in told and f"{found.gain:.2f} ±" in told
    short, *rest = warnings_of(table, Select())
    assert len(short) < 130 and "see the warning given with them" in short, "the scores' own is said again"
    assert rest == warnings_of(table, Select(), in_full=True)[1:]
    assert "shows no harm" not in told and "may well be best" not in told
    assert "says nothing, so the subset is drawn at random" in told
    for chosen in (select(table, 0.2, "draw"), select(table, 0.2, "draw", clean_below=0.0)):
        assert expected_purity(chosen) is None
    with pytest.raises(DataError, match=r"cannot tell right from wrong.*name a fraction"):
        select(table, None, "top", clean_below=0.0)


@pytest.mark.parametrize("seed", range(5))
def test_with_signal_a_clean_pool_is_called_clean_and_its_purity_is_told(seed):
    table = scores(apart=4.0, wrong_share=0.0, seed=seed)
    (told,) = warnings_of(table, Select())
    assert "the pool shows no harm" in told and "training on all of it may well be best" in told
    assert expected_purity(select(table, 0.2, "draw", clean_below=0.0)) > 0.85
    assert pure_size(ranked_by(table, "auto"), 0.85) > 2000


@pytest.mark.parametrize("seed", range(5))
def test_with_signal_a_pool_with_harm_is_chosen_from_as_before(seed):
    table = scores(apart=4.0, wrong_share=0.38, seed=seed)
    assert warnings_of(table, Select()) == []
    chosen, bare = (select(one, 0.2, "draw") for one in (table, table.replace_schema_metadata(None)))
    assert chosen.equals(bare) and expected_purity(chosen) == expected_purity(bare) > 0.85


def test_where_nothing_is_toxic_nothing_but_what_is_said_hangs_on_the_signal():
    """What is kept is the same; scores that nobody tried claim what they did."""
    table = with_flags(scores(apart=0.0, wrong_share=0.38), False)
    bare = table.replace_schema_metadata(None)
    assert select(table, 0.2, "draw").equals(select(bare, 0.2, "draw"))
    ranked, unknown = ranked_by(table, "auto"), ranked_by(bare, "auto")
    assert part_of(ranked, 600, 3000, Select())[0] == part_of(unknown, 600, 3000, Select())[0]
    assert part_of(ranked, 600, 3000, Select())[1] is None is not part_of(unknown, 600, 3000, Select())[1]
    assert may_claim(bare) and signal_of(bare) is None


def test_a_table_carries_its_signal_into_a_file_and_through_choosing(tmp_path):
    table = STRONG.onto(scores(0.0, 0.0, count=20).replace_schema_metadata({b"other": b"1"}))
    write_table(tmp_path / "scores.parquet", table)
    read = read_table(tmp_path / "scores.parquet")
    assert signal_of(read) == STRONG and read.schema.metadata[b"other"] == b"1"
    assert signal_of(ranked_by(read, "auto")) == STRONG


@pytest.mark.parametrize(
    ("changes", "tells"),
    [
        ({}, True),
        ({"knows": TELLS - 0.01}, False),
        ({"ranks": TELLS - 0.01}, False),
        ({"ranks": 0.2}, False),
        ({"p": 0.02}, False),
        ({"pairs": 0, "knows": 0.5, "ranks": 0.5, "p": 1.0}, False),
    ],
)
def test_a_signal_is_large_and_beyond_chance(changes, tells):
    found = dataclasses.replace(STRONG, **changes)
    assert found.tells == tells and bool(found.warnings) != tells
    if not found.pairs:
        assert "no two anchors of a kind have different answers" in found.warnings[0]


@pytest.mark.parametrize("pairs", [100, 0])
def test_where_the_training_on_the_anchors_lost_that_is_what_is_to_be_mended(pairs):
    """A longer warm-up would set the mark that it failed to reach only higher."""
    (told,) = Signal(pairs, 0.5, 0.46, 0.9, -0.42, 0.03).warnings
    assert "ended worse than the warm proxy" in told and "0.42 ± 0.03 nats higher by the proxy trained on" in told
    assert "warmup.fraction" not in told and "gained" not in told
    assert all(f"score.lookahead.{name}" in told for name in ("steps", "most_steps", "learning_rate"))


# --- what it is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [0.0, 1.0, 3.0])
def test_it_is_the_share_of_anchors_that_are_told_from_their_doubles(apart):
    rng = np.random.default_rng(3)
    knowing, ranking = rng.normal(2 * apart, 1, 400), rng.normal(apart, 1, 400)
    ranking[:3] = np.nan
    gained = rng.normal(size=500)
    found = signal(knowing, ranking, gained)
    assert (found.pairs, found.knows, found.ranks) == (397, np.mean(knowing[3:] > 0), np.mean(ranking[3:] > 0))
    assert found.ranks == pytest.approx(norm.cdf(apart), abs=0.05)
    assert found.gain == pytest.approx(gained.mean()) and found.gain_se == pytest.approx(gained.std(ddof=1) / 500**0.5)
    assert (found.p < 0.01) == found.tells == (apart > 0)


def test_doubles_that_rank_higher_are_no_signal():
    rng = np.random.default_rng(4)
    found = signal(rng.normal(3, 1, 60), rng.normal(-3, 1, 60), rng.normal(size=60))
    assert found.p > 0.99 and not found.tells


def test_a_proxy_that_knows_right_from_wrong_but_does_not_rank_by_it_is_no_signal():
    """Its warm-up has learned nothing of the pool: both losses are alike, and what they differ by is noise."""
    rng = np.random.default_rng(5)
    found = signal(rng.normal(3, 1, 300), rng.normal(0, 1, 300), rng.normal(size=300))
    assert found.knows > 0.99 and not found.tells


def test_without_a_pair_or_a_difference_nothing_is_known():
    none = np.empty(0)
    assert signal(none, none, np.ones(3)) == Signal(0, 0.5, 0.5, 1.0, 1.0, 0.0)
    same = signal(np.zeros(5), np.zeros(5), np.ones(5))
    assert (same.knows, same.ranks, same.p) == (0.5, 0.5, 1.0)


# --- anchors with each other's answers --------------------------------------------------------------------------------


def test_each_anchor_has_the_answer_of_another_of_its_kind():
    anchors = drawn("anchors", 40)
    found = swapped(anchors)
    assert are_swapped(anchors).all()
    for own, other in zip(anchors, found, strict=True):
        assert (other.images, other.question, other.task) == (own.images, own.question, own.task)
        assert other.answer != own.answer and other.id != own.id
        assert other.answer in {anchor.answer for anchor in anchors if anchor.task == own.task}
    back = swapped(anchors[::-1])[::-1]
    assert [one.id for one in back] == [one.id for one in found], "the order of the file plays no part"


def test_an_anchor_without_another_answer_stays_as_it_is():
    told = {"colour": ["red", "red", "red"], "yes or no": ["yes", "no", "yes"], "alone": ["it"]}
    anchors = [
        Sample((), chat(f"{task} {number}?", answer, 0), task)
        for task, answers in told.items()
        for number, answer in enumerate(answers)
    ]
    assert are_swapped(anchors).tolist() == [False] * 3 + [True] * 3 + [False]
    assert [one.answer for one in swapped(anchors)[3:6]] == ["no", "yes", "no"]


def test_of_several_turns_the_last_that_is_learned_is_swapped():
    def talk(first: str, second: str) -> Sample:
        turns = (*chat("Which?", first, 0), *chat("And?", second, 0))
        return Sample((), (*turns[:3], turns[3] | {"loss": False}))

    found = swapped([talk("a", "b"), talk("c", "b")])
    assert [[text_of(turn) for turn in one.messages] for one in found] == [
        ["Which?", "c", "And?", "b"],
        ["Which?", "a", "And?", "b"],
    ]


def test_they_are_watched_beside_the_anchors_while_left_out(pool, anchors, proxy64):
    settings = {"method": "lookahead", "checks": 0, "lookahead": {"steps": 2, "learning_rate": 2e-3}}
    scored = ost.score(pool[:4], anchors, proxy64, **settings)
    plan, wrong, folds = scored.plan, swapped(anchors), folds_of(anchors, 5)
    np.testing.assert_allclose(plan.swapped_before, losses(proxy64.model, proxy64, wrong).detach().numpy(), atol=1e-5)
    for own, others in zip(folds[:2], all_but_each(folds), strict=False):
        end = walked(proxy64, [anchors[at] for at in others], 2)
        for found, watched in ((plan.gains, anchors), (plan.swapped_gains, wrong)):
            np.testing.assert_allclose(found[list(own)], gains(proxy64, end, [watched[at] for at in own]), atol=2e-5)
    right, other = (
        gained / (np.array(before) + 0.05)
        for gained, before in ((plan.gains, plan.before), (plan.swapped_gains, plan.swapped_before))
    )
    knowing = np.array(plan.swapped_after) - np.array(plan.after)
    assert scored.signal == signal(knowing, right - other, plan.gains) == signal_of(scored.table)
    assert scored.figures["anchors_known"] == np.mean(knowing > 0)
    assert scored.signal.warnings == [told for told in scored.warnings if "right from wrong" in told]


@pytest.mark.parametrize("method", ["gradient", "exact", "transposed"])
def test_by_one_step_they_are_held_against_the_anchors_outside_their_fold(method, pool, anchors, proxy64):
    wrong, folds, weights = swapped(anchors), folds_of(anchors, 5), [*proxy64.model.parameters()]

    def gradient(sample: Sample) -> torch.Tensor:
        found = torch.autograd.grad(losses(proxy64.model, proxy64, [sample])[0], weights, allow_unused=True)
        return torch.cat([part.flatten() for part in found if part is not None])

    right, other = np.empty(len(anchors)), np.empty(len(anchors))
    of_anchors = [gradient(anchor) for anchor in anchors]
    for own, others in zip(folds, all_but_each(folds), strict=True):
        step = torch.stack([of_anchors[at] for at in others]).mean(dim=0)
        for at in own:
            right[at], other[at] = float(of_anchors[at] @ step), float(gradient(wrong[at]) @ step)
    knowing = losses(proxy64.model, proxy64, wrong) - losses(proxy64.model, proxy64, anchors)
    expected = signal(knowing.detach().numpy(), right - other)
    scored = ost.score(pool[:4], anchors, proxy64, method=method, optimizer="sgd", checks=0, folds=5)
    assert (scored.signal.pairs, scored.signal.knows) == (expected.pairs, expected.knows)
    by_differences = 0.0 if method == "gradient" else 0.05  # of passes, which may order two that are nearly alike
    assert scored.signal.ranks == pytest.approx(expected.ranks, abs=by_differences)
    assert scored.signal.p == pytest.approx(expected.p, abs=by_differences)
    assert scored.signal.gain is None and signal_of(scored.table) == scored.signal


def test_toxic_flags_of_scores_that_cannot_tell_keep_nothing_out():
    table = scores(apart=0.0, wrong_share=0.38)
    flagged = with_flags(table, True)
    chosen = select(flagged, 0.2, "top", clean_below=0.0)
    assert len(chosen.filter(chosen["rank"].is_valid())) == 600
    assert not any(reason and reason.startswith("toxic") for reason in chosen["reason"].to_pylist())
    convincing = STRONG.onto(flagged)
    assert not any(rank is not None for rank in select(convincing, 0.2, "top")["rank"].to_pylist())

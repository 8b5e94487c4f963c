"""The checks of a run: that they see what they are there to see, and warn with a remedy."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from specimens import drawn
from test_scoring import reference

import ost
from ost.data import write_samples
from ost.execution.device import Memory
from ost.models.parts import decoder_blocks
from ost.scoring import Job, checks
from ost.scoring.checks import FIDELITY, Agreement, Checks, agreement, choose, make_reference, warnings_of
from ost.scoring.methods import prepared_scorer
from ost.scoring.methods.lookahead import LookaheadScorer
from ost.scoring.precision import Settled, Way, settle
from ost.scoring.score import Engine
from ost.settings import Score


@pytest.fixture(scope="module")
def checked(pool, anchors, proxy) -> Checks:
    return ost.score(pool, anchors, proxy, method="gradient", checks=25).checks


def test_the_fast_method_passes_its_check(checked):
    assert checked.samples == 25
    assert checked.fidelity.spearman >= FIDELITY and checked.fidelity.top_overlap >= 0.8
    assert not any("float64" in warning for warning in checked.warnings)


def test_the_reference_is_the_gradient_product(pool, anchors, proxy, proxy64):
    truth = reference(proxy64, pool[:12], anchors)["utility"]
    found = make_reference(proxy, anchors, Score(method="gradient"), pool[:12]).utility
    np.testing.assert_allclose(found, truth, atol=0.1 * truth.std())  # a step of finite length sees curvature
    assert np.corrcoef(found, truth)[0, 1] > 0.999


def test_scores_from_noise_are_warned_of(pool, anchors, proxy):
    """A step so short that fp32 cannot tell its two ends apart."""
    checks = ost.score(pool, anchors, proxy, method="transposed", step=1e-8, checks=25).checks
    assert checks.fidelity.spearman < 0.9
    assert any("score.step" in warning for warning in checks.warnings)


def test_no_checks_where_none_are_asked_for(pool, anchors, proxy):
    scored = ost.score(pool[:4], anchors[:4], proxy, method="gradient", checks=0)
    assert scored.checks is None and scored.warnings == scored.signal.warnings


def test_how_many_are_checked_follows_from_the_proxy_and_its_device(proxy, monkeypatch):
    """Twenty with a proxy of 400 million weights on two cores, where two hundred take hours."""
    assert checks.count_of(Score(), proxy.model) == 200
    monkeypatch.setattr(checks, "LARGE", proxy.model.num_parameters() - 1)
    assert checks.count_of(Score(), proxy.model) == 20
    assert [checks.count_of(Score(checks=count), proxy.model) for count in (0, 300)] == [0, 300]
    accelerated = SimpleNamespace(device=torch.device("cuda"), num_parameters=proxy.model.num_parameters)
    assert checks.count_of(Score(), accelerated) == 200


def test_the_samples_are_chosen_by_content():
    ids = [f"{index:04x}" for index in range(500)]
    chosen = {ids[at] for at in choose(ids, 50)}
    assert {ids[::-1][at] for at in choose(ids[::-1], 50)} == chosen, "another order, other samples"
    more = [*ids, *(f"{index:04x}" for index in range(500, 505))]
    assert len({more[at] for at in choose(more, 50)} & chosen) >= 45, "1 % more samples, and all others are checked"
    assert 150 < np.mean(choose(ids, 50)) < 350
    assert choose(ids, 900) == list(range(500))


def test_agreement_of_rankings():
    values = np.arange(20.0)
    assert agreement(values, 3 * values + 1) == Agreement(1.0, 1.0)
    assert agreement(values, -values) == Agreement(-1.0, 0.0)
    assert agreement(np.where(values == 19, np.nan, values), values) == Agreement(1.0, 1.0)
    assert np.isnan(agreement(values[:2], values[:2]).spearman)


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"fidelity": Agreement(0.9, 0.8)}, "score.precision"),
        ({"stability": 0.5}, "add anchors"),
        ({"lookahead": Agreement(0.3, 0.2)}, "warmup.fraction"),
        ({}, None),
    ],
)
def test_each_warning_names_its_remedy(changes, remedy):
    good = {"fidelity": Agreement(1.0, 1.0), "lookahead": Agreement(0.9, 0.8), "halves": Agreement(0.8, 0.7)}
    checks = Checks(samples=200, **(good | {"stability": 0.9} | changes))
    found = warnings_of(checks, "gradient")
    assert len(warnings_of(checks, "lookahead")) == len(found) - ("lookahead" in changes), "it does look further"
    assert len(found) == (remedy is not None)
    assert remedy is None or remedy in found[0]


def test_more_anchors_are_more_stable(pool, proxy):
    settings = Score(method="gradient")
    few, many = (
        make_reference(proxy, drawn("anchors", n), settings, pool[:20]).compare(np.arange(20.0)) for n in (8, 48)
    )
    assert many.halves.spearman > few.halves.spearman
    assert many.stability == pytest.approx(2 * many.halves.spearman / (1 + many.halves.spearman))


# --- of a walk --------------------------------------------------------------------------------------------------------


def test_a_walk_is_checked_against_itself_in_float64_and_against_one_step(pool, anchors, proxy, proxy64):
    settings = {"method": "lookahead", "lookahead": {"steps": 6}}
    scored = ost.score(pool, anchors, proxy, checks=len(pool), **settings)
    expected = ost.score(pool, anchors, proxy64, checks=0, **settings).table["utility"].to_numpy()
    one_step = ost.score(pool, anchors, proxy64, checks=0, method="transposed", step=1e-3).table["utility"].to_numpy()
    assert scored.checks.fidelity == agreement(scored.table["utility"].to_numpy(), expected)
    assert scored.checks.fidelity.spearman >= FIDELITY
    assert scored.checks.lookahead.spearman == pytest.approx(agreement(expected, one_step).spearman, abs=1e-3)
    assert scored.figures["steps"] == 6.0 and scored.figures["stability"] == scored.checks.stability


def test_halves_of_a_walk_hold_every_task(pool, anchors, proxy64, monkeypatch):
    asked = []
    prepare = LookaheadScorer.prepare
    monkeypatch.setattr(
        LookaheadScorer, "prepare", lambda self, store=None: (asked.append(self.anchors), prepare(self))
    )
    make_reference(proxy64, anchors, Score(method="lookahead", lookahead={"steps": 1}), pool[:4])
    tasks = {anchor.task for anchor in anchors}
    assert [len(own) for own in asked] == [20, 10, 10] and all({a.task for a in own} == tasks for own in asked)


# --- the arithmetic ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gradient", "transposed"])
def test_on_an_accelerator_the_fastest_arithmetic_that_ranks_alike_is_taken(method, pool, anchors, proxy):
    """The difference of two close losses drowns in bf16, so a longer step goes with it; a gradient product does not."""
    engine = Engine(proxy, anchors, Score(method=method), len(pool))
    engine.on_accelerator = True
    engine.prepare(pool[:24])
    taken, tried = engine.settled.taken, engine.settled.tried
    assert taken.spearman >= 0.99 and taken == tried[-1]
    assert all(one.spearman < 0.99 for one in tried[:-1])
    if method == "gradient":
        assert taken.arithmetic == "bf16" and len(tried) == 1
    else:
        assert (tried[0].arithmetic, tried[0].step) == ("bf16", 1e-3) and len(tried) > 1 and taken.arithmetic != "fp32"
        assert engine.scorer().settings.length == taken.step


def test_a_step_that_is_set_stays_and_the_arithmetic_follows(pool, anchors, proxy):
    engine = Engine(proxy, anchors, Score(method="transposed", step=1e-3), len(pool))
    engine.on_accelerator = True
    engine.prepare(pool[:24])
    assert engine.settled.taken.step == 1e-3 and engine.settled.taken.arithmetic != "bf16"
    assert [one.arithmetic for one in engine.settled.tried] == ["bf16", "mixed", "fp32"][: len(engine.settled.tried)]


def test_without_a_check_nothing_is_tried(pool, anchors, proxy):
    engine = Engine(proxy, anchors, Score(method="transposed", checks=0), len(pool))
    engine.on_accelerator = True
    engine.prepare([])
    assert engine.settled.taken == Way("fp32", 1e-3) and not engine.settled.tried


def test_what_was_settled_is_kept(pool, anchors, proxy, tmp_path):
    reference, asked = make_reference(proxy, anchors, Score(method="gradient"), pool[:8]), []

    def utility(way: Way) -> np.ndarray:
        asked.append(way)
        return reference.utility * (1 if way.arithmetic == "mixed" else -1)

    def settled(**changes) -> Settled:
        return settle(Score(method="gradient", **changes), True, reference, utility, store=tmp_path / "trials.json")

    first = settled()
    assert first.taken.arithmetic == "mixed" and len(asked) == 2 and first.earlier == 0
    again = settled()
    assert dataclasses.replace(again, earlier=0.0) == first and again.earlier > 0 and len(asked) == 2
    assert settled(precision="fp32").taken.arithmetic == "fp32", "what was settled before stands above the settings"
    (tmp_path / "trials.json").write_text('{"taken": {"arith')
    assert settled() == first and len(asked) == 4, "a torn file counts as none"


@pytest.fixture
def job(pool, anchors, proxy, tmp_path) -> Job:
    """As an accelerator has it, but for the accelerator."""
    for name, samples in (("pool", pool), ("anchors", anchors)):
        write_samples(tmp_path / f"{name}.parquet", samples)
    proxy.save(tmp_path / "proxy")
    paths = (tmp_path / name for name in ("pool.parquet", "anchors.parquet", "proxy", "store"))
    return Job(*paths, Score(method="gradient", checks=20))


def prepared(job: Job, proxy, anchors, samples, **changes) -> Engine:
    """An engine that takes its device for an accelerator."""
    job = dataclasses.replace(job, settings=job.settings.model_copy(update=changes))
    engine = Engine(proxy, anchors, job.settings, 60)
    engine.on_accelerator = True
    engine.prepare(samples, job=job)
    return engine


def test_an_arithmetic_that_is_asked_for_is_taken_whatever_was_settled_before(job, pool, anchors, proxy):
    """The remedy that a warning of the checks names."""
    assert prepared(job, proxy, anchors, pool[:20]).settled.taken.arithmetic == "bf16"
    assert prepared(job, proxy, anchors, pool[:20], precision="fp32").settled.taken.arithmetic == "fp32"
    again = prepared(job, proxy, anchors, pool[:20])
    assert again.settled.taken.arithmetic == "bf16" and again.settled.earlier > 0 and again.earlier > 0


def test_of_a_pool_that_grew_a_little_what_is_known_settles_the_arithmetic(job, pool, anchors, proxy):
    """What is new has no rows in the reference, and is not tried either."""
    prepared(job, proxy, anchors, pool[:20])
    job.trials.unlink()
    grown = prepared(job, proxy, anchors, pool[1:22])
    assert grown.reference.samples == pool[1:20] and grown.reference.earlier > 0
    assert grown.settled.taken.arithmetic == "bf16" and len(grown.settled.tried) == 1 and grown.settled.earlier == 0


@pytest.mark.parametrize("layers", ["last:1", "all"])
def test_what_moves_computes_in_fp32_in_mixed_arithmetic(layers, pool, anchors, proxy):
    """A walk of small steps: mixed arithmetic tells the samples apart as fp32 does, and better than bf16."""
    changes = {"layers": layers, "checks": 0, "lookahead": {"steps": 3, "learning_rate": 2e-5}}
    exact, mixed, rough = (
        ost.score(pool, anchors, proxy, precision=precision, **changes).table["utility"].to_numpy()
        for precision in ("fp32", "mixed", "bf16")
    )
    assert agreement(exact, mixed).spearman > max(0.95, agreement(exact, rough).spearman)


def test_the_proxy_and_its_moved_weights_stay_as_they_are_in_any_arithmetic(anchors, proxy):
    before = {name: weight.clone() for name, weight in proxy.model.named_parameters()}
    for arithmetic in ("mixed", "bf16"):
        scorer = prepared_scorer(proxy, anchors, Score(method="transposed", layers="last:1"), arithmetic)
        scorer.rows(anchors)
        kinds = {
            str(weight.dtype) for name, weight in scorer.proxy.model.named_parameters() if name not in scorer.weights
        }
        assert kinds == {"torch.bfloat16"}
        assert {str(weight.dtype) for weight in scorer.weights.values()} == {"torch.float32"}
    assert all(torch.equal(before[name], weight) for name, weight in proxy.model.named_parameters())


@pytest.mark.parametrize("method", ["lookahead", "transposed"])
def test_pool_samples_pass_models_that_are_wholly_in_bf16(method, anchors, proxy):
    settings = Score(method=method, layers="last:1", lookahead={"steps": 2}, step=0.3)
    scorer = prepared_scorer(proxy, anchors, settings, "bf16")
    for model in scorer.compilable():
        assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in proxy.model.parameters()} == {torch.float32}
    exact = prepared_scorer(proxy, anchors, settings)
    found, expected = (np.concatenate(own.rows(anchors)["by_cell"].to_numpy()) for own in (scorer, exact))
    assert np.abs(found - expected).max() < 0.5 * np.abs(expected).max()


@pytest.mark.parametrize("method", ["lookahead", "transposed"])
def test_a_family_that_computes_in_fp32_by_itself_keeps_autocast(method, anchors, proxy):
    own = dataclasses.replace(proxy, model=copy.deepcopy(proxy.model))
    wide = decoder_blocks(own.model)[-1].mlp.down_proj
    wide.register_forward_pre_hook(lambda module, args: (args[0].float(),))
    settings = Score(method=method, layers="last:1", lookahead={"steps": 2}, step=0.3)
    scorers = [prepared_scorer(one, anchors, settings, "bf16") for one in (proxy, own)]
    assert [scorer.autocast for scorer in scorers] == ["fp32", "bf16"]
    plain, theirs = (np.concatenate(scorer.rows(anchors)["by_cell"].to_numpy()) for scorer in scorers)
    assert agreement(plain, theirs).spearman > 0.95


def test_a_reference_that_does_not_fit_in_float64_is_made_in_fp32_and_says_so(pool, anchors, proxy, monkeypatch):
    monkeypatch.setattr(checks, "memory_of", lambda device: Memory(1 << 20, 1 << 20))
    scored = ost.score(pool[:20], anchors, proxy, method="gradient", checks=20)
    assert scored.checks.arithmetic == "fp32" and scored.checks.fidelity.spearman > 0.9


def test_bf16_can_be_demanded(pool, anchors, proxy):
    exact, rough = (
        ost.score(pool, anchors, proxy, method="gradient", checks=0, precision=precision).table["utility"].to_numpy()
        for precision in ("fp32", "bf16")
    )
    assert 0 < np.abs(exact - rough).max() < 0.3 * exact.std()


def test_states_that_breadth_is_judged_by_are_kept_in_any_arithmetic(pool, anchors, proxy):
    settings = {"method": "lookahead", "lookahead": {"steps": 1}, "checks": 0, "sketch": 16}
    exact, rough = (
        np.stack(ost.score(pool[:12], anchors[:4], proxy, precision=precision, **settings).table["sketch"].to_pylist())
        for precision in ("fp32", "bf16")
    )
    assert exact.shape == (12, 16)
    np.testing.assert_allclose(rough, exact, atol=0.05 * np.abs(exact).max())


def test_a_pool_that_grew_a_little_is_not_checked_anew(pool, anchors, proxy, tmp_path):
    store = tmp_path / "rows.parquet"
    first = make_reference(proxy, anchors, Score(method="gradient"), pool[:20], store=store)
    grown = make_reference(proxy, anchors, Score(method="gradient"), pool[1:22], store=store)
    assert first.earlier == 0 < grown.earlier
    assert grown.forwards == pytest.approx(first.forwards * 19 / 20), "what was done for the rows that are used"
    assert grown.samples == pool[1:20], "what is new has no rows"
    utility = first.utility
    assert grown.compare(utility[1:]).samples == 19
    np.testing.assert_array_equal(grown.utility, utility[1:])
    assert grown.compare(utility[1:]).lookahead == agreement(utility[1:], first.other[1:])


def test_a_pool_that_grew_much_is_checked_on_what_is_new_too(pool, anchors, proxy, tmp_path):
    store = tmp_path / "rows.parquet"
    make_reference(proxy, anchors, Score(method="gradient"), pool[:10], store=store)
    grown = make_reference(proxy, anchors, Score(method="gradient"), pool[2:14], store=store)
    whole = make_reference(proxy, anchors, Score(method="gradient"), pool[2:14])
    assert grown.earlier > 0 == whole.earlier and grown.samples == pool[2:14]
    np.testing.assert_allclose(grown.utility, whole.utility, rtol=1e-6)
    np.testing.assert_allclose(grown.other, whole.other, rtol=1e-4, atol=1e-5)
    again = make_reference(proxy, anchors, Score(method="gradient"), pool[2:14], store=store)
    assert again.forwards == grown.forwards > 0 and again.earlier > grown.earlier
    store.write_bytes(store.read_bytes()[:-20])
    torn = make_reference(proxy, anchors, Score(method="gradient"), pool[2:14], store=store)
    assert torn.earlier == 0 and torn.forwards == whole.forwards, "a torn file counts as none"

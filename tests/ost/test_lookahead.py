"""`lookahead` against plain loops in float64: the walk, its length, the errors; and its kinship with `transposed`."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from specimens import copy_of, drawn

import ost
from ost.data import chat
from ost.encoding import Encoder
from ost.errors import ConfigError, ModelError
from ost.models import Checkpoint, add_adapter, load_checkpoint
from ost.scoring import Job, score_file
from ost.scoring.anchors import folds_of
from ost.scoring.kept import seconds_of_weights
from ost.scoring.methods import anchor_training
from ost.scoring.methods.anchor_training import PATIENCE, Plan, looks_of, plan_steps, rate_of, steps_on, steps_over
from ost.scoring.methods.lookahead import LookaheadScorer
from ost.settings import Execution, Lookahead, Score
from ost.store import matrix, read_json, read_table, write_json
from ost.worlds.tiny import PROXY, build_model, sized

RATE = 2e-3


def scores(pool, anchors, checkpoint, **settings) -> ost.Scored:
    settings = {"checks": 0, "lookahead": {"steps": 4, "learning_rate": RATE}} | settings
    return ost.score(pool, anchors, checkpoint, method="lookahead", **settings)


def losses(model, checkpoint: Checkpoint, samples) -> torch.Tensor:
    """One sample at a time, by the model's own loss."""
    found = []
    for sample in samples:
        batch = Encoder(checkpoint.processor).training([sample])
        if "pixel_values" in batch:
            batch["pixel_values"] = batch["pixel_values"].to(model.dtype)
        found.append(model(**batch).loss)
    return torch.stack(found)


def walked(checkpoint: Checkpoint, anchors, steps: int, kind=torch.optim.Adam, rate: float = RATE):
    """A copy of the model after steps on the anchors' mean loss, all of its weights moving; written out."""
    return walked_in_turn(checkpoint, [anchors] * steps, kind, rate)


def walked_in_turn(checkpoint: Checkpoint, parts, kind=torch.optim.Adam, rate: float = RATE):
    """The same after a step on each of some parts of them."""
    model = copy.deepcopy(checkpoint.model)
    optimizer = kind(model.parameters(), lr=rate)
    for part in parts:
        optimizer.zero_grad()
        losses(model, checkpoint, part).mean().backward()
        optimizer.step()
    return model


def parts_of(scorer: LookaheadScorer, anchors) -> list[list]:
    """The anchors of each step of a pass over them."""
    return [[anchor for own in part for anchor in own.cache.samples] for part in steps_over(scorer, anchors)]


@torch.no_grad()
def gains(checkpoint: Checkpoint, model, samples) -> np.ndarray:
    return (losses(checkpoint.model, checkpoint, samples) - losses(model, checkpoint, samples)).numpy()


# --- the walk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("optimizer", "kind"), [("auto", torch.optim.Adam), ("sgd", torch.optim.SGD)])
def test_utility_is_what_the_walk_takes_off_a_samples_loss(optimizer, kind, pool, anchors, proxy64):
    expected = gains(proxy64, walked(proxy64, anchors[:8], 4, kind), pool[10:26])
    table = scores(pool[10:26], anchors[:8], proxy64, optimizer=optimizer, execution=Execution(batch_tokens=45)).table
    np.testing.assert_allclose(table["utility"].to_numpy(), expected, atol=2e-5)
    relative = expected / (table["loss"].to_numpy() + 0.05)
    np.testing.assert_allclose(table["utility_relative"].to_numpy(), relative, atol=2e-4)


def test_a_step_is_on_a_part_of_the_anchors_and_each_has_its_turn(pool, anchors, proxy64):
    """Whatever the anchors' order; in a pass over them each is in one step."""
    ahead = {"steps": 4, "learning_rate": RATE, "batch_size": 3}
    scorer = LookaheadScorer(proxy64, anchors[:8], Score(method="lookahead", lookahead=ahead))
    parts = parts_of(scorer, anchors[:8])
    assert sorted(map(len, parts)) == [2, 3, 3] and {a.id for part in parts for a in part} == {
        a.id for a in anchors[:8]
    }
    expected = gains(proxy64, walked_in_turn(proxy64, [*parts, parts[0]]), pool[10:26])
    for own in (anchors[:8], anchors[7::-1]):
        table = scores(pool[10:26], own, proxy64, lookahead=ahead).table
        np.testing.assert_allclose(table["utility"].to_numpy(), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("ahead", "anchors", "looks"),
    [
        ({"most_steps": 12}, 100, [0, 1, 5, 10, 12]),
        ({"most_steps": 3}, 7, [0, 1, 2, 3]),
        ({"steps": 7}, 60, [0, 1, 3, 6, 7]),
        ({"steps": 1}, 300, [0, 1]),
    ],
)
def test_anchors_left_out_are_looked_at_once_a_pass(ahead, anchors, looks):
    assert looks_of(Lookahead(**ahead), anchors) == looks


def test_one_short_plain_step_is_transposed(pool, anchors, proxy64):
    near = ost.score(pool, anchors, proxy64, method="transposed", checks=0, step=3e-4).table["utility"].to_numpy()
    far = scores(pool, anchors, proxy64, optimizer="sgd", lookahead={"steps": 1, "learning_rate": 1e-4}).table
    utility = far["utility"].to_numpy() / 1e-4  # a shorter step drowns in the rounding of losses
    assert spearmanr(utility, near).statistic >= 0.999
    np.testing.assert_allclose(utility, near, atol=0.01 * near.std())


def test_more_steps_lower_the_anchors_own_loss(anchors, proxy):
    found = [
        scores(anchors, anchors, proxy, lookahead={"steps": steps, "learning_rate": 5e-4}).table["utility"].to_numpy()
        for steps in (1, 3, 10)
    ]
    found = [gained.mean() for gained in found]
    assert 0 < found[0] < found[1] < found[2]


def test_a_walk_leaves_the_proxy_where_it_was(anchors, proxy):
    walker = copy_of(proxy)
    before = copy.deepcopy(walker.model.state_dict())
    for layers in ("all", "last:1"):
        scores(anchors[:3], anchors, walker, layers=layers)
    assert all(torch.equal(value, before[name]) for name, value in walker.model.state_dict().items())
    assert all(weight.grad is None for weight in walker.model.parameters())


@pytest.mark.parametrize("layers", ["language", "last:1", "head"])
def test_only_the_layers_asked_for_move(layers, anchors, proxy):
    scorer = LookaheadScorer(proxy, anchors, Score(method="lookahead", layers=layers, lookahead=Lookahead(steps=2)))
    scorer.prepare()
    there = dict(scorer.proxy.model.named_parameters())
    moved = {name for name, weight in scorer.ends[0].named_parameters() if not torch.equal(weight, there[name])}
    assert moved and moved <= set(scorer.weights)


def test_a_walk_into_nowhere_is_refused(anchors, proxy):
    with pytest.raises(ModelError, match=r"smaller score\.lookahead\.learning_rate"):
        scores(anchors, anchors, proxy, lookahead={"steps": 60, "learning_rate": 1e30})


@pytest.fixture(scope="module")
def base(tmp_path_factory, fresh):
    """What the proxy was trained from."""
    folder = tmp_path_factory.mktemp("models") / "proxy"
    fresh.save(folder)
    return folder


def test_a_walk_starts_from_the_base_where_that_is_known(pool, anchors, proxy64, fresh, base):
    end = walked(copy_of(fresh, torch.float64), anchors[:8], 4)
    found = scores(pool[10:26], anchors[:8], dataclasses.replace(proxy64, base=base))
    np.testing.assert_allclose(found.table["utility"].to_numpy(), gains(proxy64, end, pool[10:26]), atol=2e-5)
    with torch.no_grad():
        before, at_base = (losses(c.model, c, anchors[:8]).mean().item() for c in (proxy64, fresh))
    np.testing.assert_allclose([np.mean(found.plan.before), found.plan.curve[0]], [before, at_base], atol=1e-5)
    assert before < at_base - 0.1


def test_a_walk_may_be_told_to_start_from_the_warm_proxy(pool, anchors, proxy, base):
    ahead = {"steps": 4, "learning_rate": RATE}
    known = dataclasses.replace(proxy, base=base)
    plain, told = (scores(pool[:9], anchors, one, lookahead=ahead | {"start": "warm"}).table for one in (proxy, known))
    assert told.equals(plain) and plain.equals(scores(pool[:9], anchors, proxy).table)
    with pytest.raises(ModelError, match="--base"):
        scores(pool[:9], anchors, proxy, lookahead=ahead | {"start": "base"})


def test_a_checkpoint_that_the_proxy_cannot_come_from_is_no_base(anchors, proxy, processor, tmp_path):
    Checkpoint(build_model(sized(PROXY, 64), processor, 0), processor).save(tmp_path / "other")
    with pytest.raises(ModelError, match=r"not warmed up from .*other"):
        scores(anchors, anchors, dataclasses.replace(proxy, base=tmp_path / "other"))


def test_what_does_not_move_stays_the_warm_proxys(anchors, proxy, base):
    """So that what lies below is still computed once."""
    settings = Score(method="lookahead", layers="last:1", lookahead=Lookahead(steps=1, learning_rate=1e-9))
    scorer = LookaheadScorer(dataclasses.replace(proxy, base=base), anchors, settings)
    scorer.prepare()
    first = load_checkpoint(base).model
    there, end = dict(scorer.proxy.model.named_parameters()), dict(scorer.ends[0].named_parameters())
    for name, weight in end.items():
        expected = first.get_parameter(name) if name in scorer.weights else there[name]
        np.testing.assert_allclose(weight.detach().numpy(), expected.detach().numpy(), atol=1e-7, err_msg=name)


def test_tasks_cannot_be_told_apart(anchors, proxy):
    with pytest.raises(ConfigError, match="total or folds"):
        scores(anchors, anchors, proxy, detail="groups")


# --- how far ----------------------------------------------------------------------------------------------------------


def planned(checkpoint: Checkpoint, anchors, folds: int = 3, **ahead) -> Plan:
    settings = Score(method="lookahead", folds=folds, lookahead=Lookahead(**{"learning_rate": RATE} | ahead))
    return plan_steps(LookaheadScorer(checkpoint, anchors, settings))


def test_the_curve_is_the_loss_of_anchors_left_out(anchors, proxy64):
    folds, steps = folds_of(anchors, 3), 2
    found = planned(proxy64, anchors, steps=steps)
    before, after = (np.empty(len(anchors)) for _ in range(2))
    for members in folds:
        own, rest = [anchors[at] for at in members], [a for at, a in enumerate(anchors) if at not in members]
        model = walked(proxy64, rest, steps)
        with torch.no_grad():
            before[list(members)] = losses(proxy64.model, proxy64, own)
            after[list(members)] = losses(model, proxy64, own)
    np.testing.assert_allclose(found.before, before, atol=1e-5)
    np.testing.assert_allclose(found.after, after, atol=1e-5)
    np.testing.assert_allclose(found.gains, before - after, atol=2e-5)
    assert found.steps == steps and len(found.curve) == steps + 1
    np.testing.assert_allclose([found.curve[0], found.curve[2]], [before.mean(), after.mean()], atol=1e-5)


@pytest.mark.parametrize(
    ("batch_size", "some", "steps", "taken"),
    [
        (20, 80, 45, 36),
        (20, 50, 45, 27),
        (20, 100, 45, 45),
        (20, 80, 1, 1),
        (100, 80, 45, 45),
        (3, 6, 4, 3),
        (8, 8, 4, 2),
    ],
)
def test_fewer_anchors_take_as_many_passes_not_as_many_steps(batch_size, some, steps, taken):
    anchors = {20: 100, 100: 100, 3: 8, 8: 16}[batch_size]
    assert steps_on(Lookahead(batch_size=batch_size), some, anchors, steps) == taken


def test_a_fold_left_out_is_looked_at_after_as_many_passes_over_the_others(anchors, proxy64):
    """Nine anchors three at a time are three steps a pass, the six outside a fold two: six steps are four there."""
    anchors, (first, *_) = anchors[:9], folds_of(anchors[:9], 3)
    found = planned(proxy64, anchors, steps=6, batch_size=3)
    own, rest = [anchors[at] for at in first], [a for at, a in enumerate(anchors) if at not in first]
    ahead = {"steps": 6, "learning_rate": RATE, "batch_size": 3}
    scorer = LookaheadScorer(proxy64, anchors, Score(method="lookahead", lookahead=ahead))
    parts = parts_of(scorer, rest)
    assert list(map(len, parts)) == [3, 3]
    model = walked_in_turn(proxy64, parts * 2)
    with torch.no_grad():
        after = losses(model, proxy64, own)
    np.testing.assert_allclose(np.array(found.after)[list(first)], after, atol=1e-5)
    assert found.steps == 6 and found.looks == (0, 1, 3, 6)
    watched = 2 * 3 * len(found.looks)  # the anchors left out, and as many with each other's answers
    assert found.forwards == 3 * (watched + 4 * 3 * 3)


def test_the_walk_ends_where_the_anchors_left_out_gain_most(proxy):
    found = planned(proxy, drawn("anchors", 60), most_steps=60)
    assert found.left_out_loss == min(found.curve[1:]) < found.curve[0]
    assert found.looks == (0, 1, 3, *range(6, found.looks[-1] + 1, 3)) and found.warnings == []


def test_a_walk_that_helps_no_other_is_short_and_warned_of(proxy):
    """A rate so high that every step harms."""
    settings = Score(method="lookahead", folds=2, lookahead=Lookahead(learning_rate=0.5))
    found = plan_steps(LookaheadScorer(proxy, drawn("anchors", 8), settings))
    assert len(found.curve) <= 6 * PATIENCE, "given up"
    assert "score.lookahead.learning_rate" in found.warnings[0]


@pytest.mark.parametrize(
    ("settings", "curve", "said"),
    [({"most_steps": 3}, [9, 8, 7, 6], True), ({"steps": 3}, [9, 8, 7, 6], False), ({}, [9, 8, 6, 7], False)],
)
def test_a_search_that_ends_at_its_limit_while_the_loss_falls_is_warned_of(settings, curve, said, proxy, monkeypatch):
    def watched(training, scorer, own, looks, count, patience, least):
        return (np.full(2 * count, float(loss)) for loss in curve)

    monkeypatch.setattr(anchor_training, "_watched", watched)
    found = planned(proxy, drawn("anchors", 6), **settings)
    assert found.steps == int(np.argmin(curve))
    told = "the loss of anchors left out was still falling at score.lookahead.most_steps (3): raise it, or "
    assert found.warnings == [f"{told}score.lookahead.learning_rate"] * said


@pytest.mark.parametrize(("size", "whole", "adapter"), [(4e5, 1e-3, 1e-3), (5e8, 2e-5, 2e-4), (2e9, 1e-5, 1e-4)])
def test_the_rate_follows_from_the_proxys_size_and_from_what_moves(size, whole, adapter, fresh, monkeypatch):
    proxy = copy_of(fresh)
    monkeypatch.setattr(proxy.model, "num_parameters", lambda: int(size))
    assert rate_of(proxy, Lookahead()) == whole and rate_of(proxy, Lookahead(learning_rate=0.3)) == 0.3
    add_adapter(proxy.model, 2, 0)
    assert rate_of(proxy, Lookahead()) == adapter


def test_the_rate_in_force_is_told_and_null_scores_as_it_does(pool, anchors, proxy):
    usual, named = (
        scores(pool[:9], anchors, proxy, lookahead={"steps": 4} | rate) for rate in ({}, {"learning_rate": 1e-3})
    )
    assert usual.table.equals(named.table) and usual.figures["learning_rate"] == 1e-3
    assert scores(pool[:9], anchors, proxy).figures["learning_rate"] == RATE


def test_folds_hold_each_anchor_once_and_every_task(anchors):
    folds = folds_of(anchors, 4)
    assert sorted(at for fold in folds for at in fold) == list(range(len(anchors)))
    assert all(len({anchors[at].task for at in fold}) == 4 for fold in folds)
    assert len(folds_of(anchors[:1], 4)) == 1
    assert max(map(len, folds)) - min(map(len, folds)) <= 1


def test_folds_are_of_like_size_however_few_anchors_a_task_has(anchors):
    """Five tasks of one anchor each are five folds; six of each are dealt on, not each task from the first fold."""
    lone = [dataclasses.replace(anchor, task=str(at)) for at, anchor in enumerate(anchors[:5])]
    assert sorted(map(len, folds_of(lone, 5))) == [1] * 5
    six = [dataclasses.replace(anchor, task=str(at // 6)) for at, anchor in enumerate(anchors[:18])]
    assert sorted(map(len, folds_of(six, 4))) == [4, 4, 5, 5]


@pytest.mark.parametrize(
    ("means", "ends"),
    [
        ([1.0, *[1.1] * 10], False),
        ([1.0, *[1.1] * 29], False),
        ([1.0, *[1.1] * 30], True),
        ([1.0, 0.9, *[1.1] * 9], False),
        ([1.0, 0.9, *[1.1] * 10], True),
        ([1.0, 1.5, 2.0, *np.linspace(2.0, 0.5, 30)[:25]], False),
        ([1.0, 0.5, *np.linspace(0.5, 0.9, 10)], True),
        ([3.0, *np.linspace(1.0, 0.5, 12)], False),
        ([3.0, *np.linspace(1.0, 0.5, 12), *np.linspace(0.5, 0.48, 11)], True),
    ],
)
def test_the_search_ends_where_the_loss_rises_or_settles_and_not_while_it_is_on_its_way_down(means, ends):
    assert anchor_training._is_over(means) == ends


@pytest.mark.parametrize(
    ("first", "second", "best"),
    [
        ([3, 2, 1.0], [3, 2, 1.0, 0.98], 2),  # what is behind is not worth another training
        ([3, 2, 1.0], [3, 2, 1.0, 0.5], 3),
        ([3, 1, 1.5], [3, 1, 1.5, 1.6], 1),
        ([3, 4, 5.0], [3, 4, 5.0, 3.5], 1),  # nothing helped: the first step harmed least
    ],
)
def test_the_best_look_is_one_that_all_have_reached_unless_a_later_one_is_worth_it(first, second, best):
    paths = [np.tile(np.array(path)[:, None], 4) for path in (first, second)]
    assert anchor_training._best(Lookahead(), paths, [[0, 1], [2, 3]]) == best
    assert anchor_training._best(Lookahead(steps=9), paths, [[0, 1], [2, 3]]) == 3


def test_what_a_fold_would_have_lost_later_is_found_out_before_it_counts(proxy, monkeypatch):
    """A fold whose search ends early is trained on, as far as the others' best step."""
    anchors, first = drawn("anchors", 24), [True]

    def ends(means, patience) -> bool:
        if len(means) == 3 and first:
            first.clear()
            return True
        return len(means) > 8

    monkeypatch.setattr(anchor_training, "_is_over", ends)
    found = planned(proxy, anchors, most_steps=20)
    monkeypatch.setattr(anchor_training, "_is_over", lambda means, patience: len(means) > 8)
    whole = planned(proxy, anchors, most_steps=20)
    assert whole.steps > 3, "the others gain for longer"
    assert found.steps == whole.steps and found.curve == whole.curve and found.after == whole.after


def test_a_single_anchor_can_be_walked_on(pool, anchors, proxy):
    scored = scores(pool[:4], anchors[:1], proxy, lookahead={})
    assert np.isfinite(scored.table["utility"].to_numpy()).all()


# --- what is known of each sample -------------------------------------------------------------------------------------


def test_folds_give_the_jackknifes_standard_error(pool, anchors, proxy64):
    table = scores(pool[20:32], anchors, proxy64, detail="folds", folds=4).table
    folds = folds_of(anchors, 4)
    rests = [[a for at, a in enumerate(anchors) if at not in members] for members in folds]
    by_walk = np.stack([gains(proxy64, walked(proxy64, rest, 4), pool[20:32]) for rest in rests])
    np.testing.assert_allclose(table["utility"].to_numpy(), by_walk.mean(axis=0), atol=2e-5)
    jackknife = np.sqrt(3 / 4 * ((by_walk - by_walk.mean(axis=0)) ** 2).sum(axis=0))
    np.testing.assert_allclose(table["utility_se"].to_numpy(), jackknife, atol=1e-4)


def test_without_folds_there_is_no_standard_error_but_a_flag(pool, anchors, proxy):
    table = scores(pool, anchors, proxy).table
    assert table["utility_se"].null_count == len(table) and table["toxic_q"].null_count == 0
    assert table["toxic"].to_numpy()[-24:].sum() >= table["toxic"].to_numpy()[:36].sum()


@pytest.mark.parametrize(("method", "claims_all"), [("lookahead", False), ("transposed", False), ("gradient", True)])
def test_what_is_like_no_anchor_is_not_called_toxic_for_differing_from_them(pool, anchors, proxy, method, claims_all):
    """One step's own test is of what a sample does to the anchors, whatever its task."""
    own = [anchor for anchor in anchors if anchor.task == anchors[0].task]
    table = ost.score(pool, own, proxy, method=method, checks=0, lookahead={"steps": 4}, toxic_q=1.0).table
    other = np.array([sample.task != own[0].task for sample in pool])
    claimed = table["toxic_q"].is_valid().to_numpy()
    assert 0 < other.sum() < len(pool) and claimed[~other].all() and (claimed[other] == claims_all).all()
    assert claims_all or not table["toxic"].to_numpy()[other].any()


def test_p_clean_ranks_a_sample_among_the_anchors_left_out(pool, anchors, proxy):
    scored = scores(pool, anchors, proxy)
    trusted = scored.plan.gains / (np.array(scored.plan.before) + 0.05)
    expected = [(1 + (trusted <= value).sum()) / 21 for value in scored.table["utility_relative"].to_numpy()]
    np.testing.assert_allclose(scored.table["p_clean"].to_numpy(), expected)
    assert scored.table["p_clean"].to_numpy()[:16].mean() > scored.table["p_clean"].to_numpy()[-24:].mean()


def test_the_state_is_the_mean_over_what_comes_before_the_answer(pool, anchors, proxy):
    table = scores(pool[:10], anchors, proxy, execution=Execution(batch_tokens=60)).table
    batch = Encoder(proxy.processor).training([pool[7]])
    before = batch.pop("labels")[0] == -100
    with torch.no_grad():
        states = copy_of(proxy).model(**batch, output_hidden_states=True).hidden_states[-1][0]
    expected = states[before].mean(dim=0).numpy()
    np.testing.assert_allclose(matrix(table, "sketch")[7], expected, rtol=2e-3, atol=2e-3)


def test_what_is_answered_leaves_the_state_as_it_is(anchors, proxy):
    one = anchors[0]
    other = ost.Sample(one.images, chat(one.question, "something else, and longer"), one.task)
    states = matrix(scores([one, other], anchors, proxy).table, "sketch").astype(float)
    np.testing.assert_allclose(*states, atol=2e-3)


def test_long_states_are_projected_and_keep_their_angles(pool, anchors, proxy):
    whole, short = (
        matrix(scores(pool, anchors, proxy, sketch=size, lookahead={"steps": 1}).table, "sketch").astype(float)
        for size in (256, 64)
    )
    assert (whole.shape[1], short.shape[1]) == (96, 64)
    cosines = [np.corrcoef(states)[np.triu_indices(len(pool), 1)] for states in (whole, short)]
    assert np.corrcoef(*cosines)[0, 1] > 0.7


# --- on disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path, pool, anchors, proxy) -> Job:
    for name, samples in (("pool", pool[:40]), ("anchors", anchors)):
        ost.write_samples(tmp_path / f"{name}.parquet", samples)
    proxy.save(tmp_path / "proxy")
    settings = Score(method="lookahead", lookahead=Lookahead(most_steps=3), checks=4, shard_size=20)
    return Job(
        tmp_path / "pool.parquet", tmp_path / "anchors.parquet", tmp_path / "proxy", tmp_path / "store", settings
    )


def test_shards_walk_as_far_as_the_run_has_planned(job, pool, anchors, proxy):
    scored = score_file(job)
    whole = ost.score(pool[:40], anchors, proxy, method="lookahead", checks=0, lookahead={"most_steps": 3})
    assert scored.plan.steps == whole.plan.steps == read_json(job.plan("fp32"))["steps"] > 0
    np.testing.assert_allclose(scored.table["utility"].to_numpy(), whole.table["utility"].to_numpy(), atol=1e-5)
    assert scored.cost.flops > whole.cost.flops > 0, "with the checks it costs more"


def test_a_plan_is_drawn_up_once_and_its_cost_stays_the_tables(job, pool, monkeypatch):
    first = score_file(job)
    for path in job.run.glob("*/*.parquet"):
        if path.parent.name != "reference":
            path.unlink()
    monkeypatch.setattr("torch.optim.Adam.step", lambda *_: pytest.fail("walked again"))
    again = score_file(job)
    assert again.table.equals(first.table) and again.plan.forwards == first.plan.forwards > 0
    assert again.cost.flops == first.cost.flops
    (walk,) = job.run.rglob("walk.safetensors")
    (checked,) = job.run.glob("reference/*.parquet")
    took = again.plan.earlier + seconds_of_weights(walk) + sum(read_table(checked)["seconds"].to_pylist())
    assert first.plan.earlier == 0 < again.plan.earlier and again.spent.scored == 40
    assert again.cost.seconds == pytest.approx(again.spent.seconds + took)


def test_walks_of_other_lengths_are_kept_apart(job, monkeypatch):
    """What is looked for in bf16 and in fp32, for one, may end after other numbers of steps."""
    job = dataclasses.replace(job, settings=job.settings.model_copy(update={"checks": 0}))
    first, plan = score_file(job), job.plan("fp32")
    write_json(plan, read_json(plan) | {"steps": 1})
    again = score_file(job)
    assert first.plan.steps > 1 == again.plan.steps
    assert not again.table["utility"].equals(first.table["utility"])


@pytest.mark.parametrize("name", ["walk.safetensors", "plan-fp32.json"])
def test_a_torn_walk_or_plan_counts_for_nothing(name, job):
    job = dataclasses.replace(job, settings=job.settings.model_copy(update={"checks": 0}))
    first = score_file(job)
    for rows in job.run.glob("*/*.parquet"):
        rows.unlink()
    (torn,) = job.run.rglob(name)
    torn.write_bytes(torn.read_bytes()[:-40])
    assert score_file(job).table.equals(first.table)
    assert torn.stat().st_size > 40


def test_scores_from_a_base_are_kept_apart(job, base):
    job = dataclasses.replace(job, settings=job.settings.model_copy(update={"checks": 0}))
    plain, known = score_file(job), dataclasses.replace(job, base=base)
    assert known.folder != job.folder and not score_file(known).table.equals(plain.table)
    ahead = job.settings.model_copy(update={"lookahead": Lookahead(start="warm")})
    assert dataclasses.replace(known, settings=ahead).folder == dataclasses.replace(job, settings=ahead).folder

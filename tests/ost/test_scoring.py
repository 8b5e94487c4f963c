"""Utilities against gradients computed here with plain autograd, against each other, and what must not matter."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from specimens import copy_of, drawn

import ost
from ost.data import Sample, chat
from ost.encoding import Encoder
from ost.errors import DataError, ModelError
from ost.models import Checkpoint
from ost.scoring.methods import prepared_scorer
from ost.settings import Execution, Score
from ost.store import write_table

STEP64 = 3e-4
"""Below it, the norms and softmaxes that transformers computes in fp32 whatever the weights would show."""

METHODS = ("exact", "gradient", "transposed")

# --- the reference: one sample at a time, the model's own loss, float64 throughout ------------------------------------


def gradient(checkpoint: Checkpoint, sample: Sample, reduction: str) -> tuple[torch.Tensor, float, int]:
    """Flat gradient of one sample's loss, the loss, and its number of answer tokens."""
    batch = Encoder(checkpoint.processor).training([sample])
    if "pixel_values" in batch:
        batch["pixel_values"] = batch["pixel_values"].double()
    tokens = int((batch["labels"] != -100).sum())
    loss = checkpoint.model(**batch).loss * (tokens if reduction == "sum" else 1)
    checkpoint.model.zero_grad()
    loss.backward()
    parts = [w.grad.flatten() if w.grad is not None else torch.zeros(w.numel()) for w in checkpoint.model.parameters()]
    checkpoint.model.zero_grad()
    return torch.cat(parts).double(), loss.item(), tokens


def reference(checkpoint: Checkpoint, pool: list[Sample], anchors: list[Sample], reduction: str = "mean") -> dict:
    """⟨∇ℓ(z), ∇L_V⟩, loss and tokens of each pool sample z."""
    assert checkpoint.model.dtype == torch.float64
    direction = torch.stack([gradient(checkpoint, anchor, reduction)[0] for anchor in anchors]).mean(dim=0)
    found = [gradient(checkpoint, sample, reduction) for sample in pool]
    utility = np.array([(own @ direction).item() for own, _, _ in found])
    return {"utility": utility, "loss": [loss for _, loss, _ in found], "tokens": [tokens for _, _, tokens in found]}


@pytest.fixture(scope="module")
def truth(proxy64, pool, anchors) -> dict:
    return reference(proxy64, pool, anchors)


def scores(pool, anchors, checkpoint, method="transposed", **settings) -> ost.Scored:
    return ost.score(pool, anchors, checkpoint, method=method, checks=0, **settings)


def utilities(pool, anchors, checkpoint, method="transposed", **settings) -> np.ndarray:
    return scores(pool, anchors, checkpoint, method, **settings).table["utility"].to_numpy()


@pytest.fixture(scope="module")
def scored(pool, anchors, proxy) -> ost.Scored:
    return scores(pool, anchors, proxy)


# --- right ------------------------------------------------------------------------------------------------------------


def test_the_reference_separates_samples(truth):
    """Otherwise an agreement of ranks would say little."""
    assert 0.05 < np.mean(truth["utility"] < 0) < 0.95, "the shared proxy gives one sign only: train it otherwise"


def test_transposed_is_the_gradient_product(scored, truth):
    utility = scored.table["utility"].to_numpy()
    assert spearmanr(utility, truth["utility"]).statistic >= 0.999, "fp32 differences drown the utility, or wrong sign"
    error = np.abs(utility - truth["utility"]).max() / truth["utility"].std()
    assert error < 0.02, "the scale is off: ε or the gradient's norm is not divided out"


def test_transposed_in_float64_is_the_gradient_product_almost_exactly(pool, anchors, proxy64, truth):
    utility = utilities(pool, anchors, proxy64, step=STEP64)
    np.testing.assert_allclose(utility, truth["utility"], rtol=0, atol=2e-3 * truth["utility"].std())


def test_gradient_is_the_gradient_product_exactly(pool, anchors, proxy, proxy64, truth):
    """In float64 to rounding; in fp32 to fp32's."""
    np.testing.assert_allclose(utilities(pool, anchors, proxy64, "gradient"), truth["utility"], rtol=1e-5, atol=1e-6)
    error = np.abs(utilities(pool, anchors, proxy, "gradient") - truth["utility"]).max()
    assert error < 1e-3 * truth["utility"].std()


def test_transposed_with_sums_is_the_product_of_summed_losses(pool, anchors, proxy64):
    expected = reference(proxy64, pool[10:30], anchors, "sum")["utility"]
    utility = utilities(pool[10:30], anchors, proxy64, step=STEP64, reduction="sum")
    np.testing.assert_allclose(utility, expected, rtol=0, atol=2e-3 * expected.std())


def test_loss_and_tokens_are_the_samples_own(scored, truth, pool):
    np.testing.assert_allclose(scored.table["loss"].to_numpy(), truth["loss"], rtol=1e-4)
    assert scored.table["tokens"].to_pylist() == truth["tokens"]
    assert scored.table["id"].to_pylist() == [sample.id for sample in pool], "rows must be in pool order"
    assert scored.table["task"].to_pylist() == [sample.task for sample in pool]


@pytest.mark.parametrize("step", [1e-4, 3e-5])
def test_exact_and_transposed_agree_in_rank_and_unit(step, pool, anchors, proxy64, truth):
    some = pool[8:28]
    utility = utilities(some, anchors, proxy64, "exact", step=step)
    gradients = utilities(some, anchors, proxy64)
    assert spearmanr(utility, gradients).statistic >= 0.99
    slope = (utility @ gradients) / (gradients @ gradients)
    assert slope == pytest.approx(1, abs=0.1), "the two methods differ in unit: a step size is not divided out"


def test_exact_approaches_the_gradient_product_as_the_step_shrinks(pool, anchors, proxy64, truth):
    """The simulated step's own definition: the error is of first order in η."""
    errors = []
    for step in (1e-3, 1e-4):
        utility = utilities(pool[:6], anchors, proxy64, "exact", step=step)
        errors.append(np.abs(utility - truth["utility"][:6]).max())
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.5)


def test_utility_is_symmetric_between_sample_and_anchor(pool, anchors, proxy64):
    there = utilities([pool[0]], [anchors[1]], proxy64, step=STEP64)
    back = utilities([anchors[1]], [pool[0]], proxy64, step=STEP64)
    np.testing.assert_allclose(there, back, rtol=2e-3)


def test_utility_is_the_mean_over_anchors(pool, anchors, proxy64):
    halves = [utilities(pool[:8], part, proxy64, step=STEP64) for part in (anchors[:10], anchors[10:])]
    whole = utilities(pool[:8], anchors, proxy64, step=STEP64, execution=Execution(batch_tokens=100))
    np.testing.assert_allclose(
        np.mean(halves, axis=0), whole, rtol=0, atol=5e-3, err_msg="anchors are summed, or not all used"
    )


@pytest.mark.parametrize("method", METHODS)
def test_training_on_the_anchor_itself_helps(method, anchors, proxy64):
    assert utilities([anchors[0]], [anchors[0]], proxy64, method, step=1e-5)[0] > 0, "the sign of utility is turned"


def test_wrong_answers_score_lower(scored):
    """The fixture's last 24 samples are wrong on purpose."""
    utility = scored.table["utility"].to_numpy()
    assert utility[-24:].mean() < utility[:36].mean()


# --- what must not matter ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_batch_size_order_and_batch_mates_do_not_matter(method, pool, anchors, proxy64):
    some = pool[10:26]
    expected = utilities(some, anchors, proxy64, method)
    shuffled = np.random.default_rng(0).permutation(len(some))
    settings = {"execution": Execution(batch_tokens=70)}
    for order in (shuffled, shuffled[:3]):
        got = utilities([some[index] for index in order], anchors[::-1], proxy64, method, **settings)
        np.testing.assert_allclose(
            got, expected[order], atol=1e-4 * expected.std(), rtol=0, err_msg="batch mates or padding leak in"
        )


@pytest.mark.parametrize("tokens", [1, 100])
def test_in_fp32_batch_mates_change_no_more_than_rounding(tokens, pool, anchors, proxy, scored):
    expected = scored.table["utility"].to_numpy()
    got = utilities(pool, anchors, proxy, execution=Execution(batch_tokens=tokens))
    assert np.abs(got - expected).max() < 5e-3 * expected.std()
    np.testing.assert_allclose(
        scores(pool[:9], anchors, proxy, execution=Execution(batch_tokens=tokens)).table["loss"].to_numpy(),
        scored.table["loss"].to_numpy()[:9],
        rtol=1e-5,
    )


def test_the_same_scores_twice_are_the_same_bits(pool, anchors, proxy, scored):
    assert scores(pool, anchors, proxy).table.equals(scored.table)


@pytest.mark.parametrize("method", METHODS)
def test_the_proxy_is_left_bitwise_as_it_was(method, pool, anchors, proxy):
    scoring = copy_of(proxy)
    before = {name: value.clone() for name, value in scoring.model.state_dict().items()}
    scores(pool[:4], anchors[:4], scoring, method)
    after = scoring.model.state_dict()
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    assert not changed, f"the simulated step was not taken back in {changed[:3]}"
    assert all(weight.grad is None for weight in scoring.model.parameters()), "a gradient was left behind"


def test_loss_by_sum_is_loss_by_mean_times_tokens(pool, anchors, proxy, scored):
    summed = scores(pool, anchors, proxy, reduction="sum").table
    expected = scored.table["loss"].to_numpy() * scored.table["tokens"].to_numpy()
    np.testing.assert_allclose(summed["loss"].to_numpy(), expected, rtol=1e-3)
    assert summed["tokens"].equals(scored.table["tokens"])


def test_progress_reaches_the_pool(pool, anchors, proxy):
    calls = []
    scores(
        pool[:10],
        anchors[:2],
        proxy,
        execution=Execution(batch_tokens=60),
        progress=lambda *call: calls.append(call[:2]),
    )
    assert len(calls) > 2 and calls == sorted(calls) and calls[-1] == (10, 10)


# --- harm and damage --------------------------------------------------------------------------------------------------


def test_toxic_is_negative_utility_at_a_false_discovery_rate(pool, anchors, proxy):
    strict, lax = (scores(pool, anchors, proxy, "gradient", toxic_q=rate) for rate in (0.3, 1.0))
    utility, q = (lax.table[name].to_numpy() for name in ("utility", "toxic_q"))
    assert (lax.table["toxic"].to_numpy() == (utility < 0)).all(), "at a rate of one, every negative utility is toxic"
    assert (strict.table["toxic"].to_numpy() == ((utility < 0) & (q <= 0.3))).all()
    assert strict.table["toxic_q"].equals(lax.table["toxic_q"])
    assert 0 < lax.toxic_share == pytest.approx(np.mean(utility < 0))
    assert lax.quarantined == []


def test_the_methods_agree_on_what_trusted_samples_look_like(anchors, proxy64):
    settings = {"checks": 0, "detail": "folds", "folds": 3}
    found = {
        method: prepared_scorer(proxy64, anchors, Score(method=method, step=step, **settings)).held_out()
        for method, step in (("gradient", 1.0), ("transposed", STEP64), ("exact", 1e-5))
    }
    for method in ("transposed", "exact"):
        error = np.abs(found[method] - found["gradient"]).max()
        assert error < 0.02 * found["gradient"].std(), method


def poisoned(proxy: Checkpoint, character: str) -> Checkpoint:
    """A proxy whose input embedding of one character is NaN; the output layer is cut loose from it first."""
    damaged = copy_of(proxy)
    model = damaged.model
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    token = damaged.tokenizer.encode(character, add_special_tokens=False)
    assert len(token) == 1
    model.get_input_embeddings().weight.data[token] = torch.nan
    return damaged


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tokens", [1, 60])
def test_a_sample_without_a_finite_loss_is_quarantined_alone(method, tokens, anchors, proxy):
    clean = drawn("pool", 6, 3)
    broken = [Sample(s.images, chat(s.question + "~", s.answer), s.task) for s in drawn("pool", 3, 4)]
    mixed = [clean[0], broken[0], *clean[1:4], broken[1], broken[2], *clean[4:]]
    damaged = poisoned(proxy, "~")
    result = scores(mixed, anchors[:4], damaged, method, execution=Execution(batch_tokens=tokens))
    utility = result.table["utility"].to_numpy()
    expected = ["~" in sample.question for sample in mixed]
    assert np.isnan(utility).tolist() == expected, "a broken sample takes its batch mates with it, or passes as scored"
    assert result.quarantined == [sample.id for sample, bad in zip(mixed, expected, strict=True) if bad]
    assert not any(flag for flag, bad in zip(result.table["toxic"].to_pylist(), expected, strict=True) if bad)
    alone = scores([s for s, bad in zip(mixed, expected, strict=True) if not bad], anchors[:4], damaged, method)
    np.testing.assert_allclose(utility[~np.array(expected)], alone.table["utility"].to_numpy(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("pool_size", "anchor_count"), [(0, 1), (1, 0), (0, 0)])
def test_nothing_to_score_is_a_data_error_with_both_counts(pool_size, anchor_count, pool, anchors, proxy):
    with pytest.raises(DataError, match=f"{pool_size} and {anchor_count} samples"):
        scores(pool[:pool_size], anchors[:anchor_count], proxy)


@pytest.mark.parametrize("value", [0.0, torch.nan])
def test_an_anchor_gradient_without_a_direction_is_a_model_error(value, pool, anchors, fresh):
    flat = copy_of(fresh)
    with torch.no_grad():
        for weight in flat.model.parameters():
            weight.fill_(value)
    with pytest.raises(ModelError, match=r"anchor gradient has norm (0\.0|nan)"):
        prepared_scorer(flat, anchors[:2], Score(method="gradient"))
    with pytest.raises(ModelError, match="cannot be scored with"):
        scores(pool[:2], anchors[:2], flat)


def test_cost_counts_the_passes(pool, anchors, proxy):
    """A sample costs two forward passes, or a forward and a backward one, or those and a forward one an anchor.

    Beside it there is a row of the head that each batch is tried by.
    """

    def flops(count: int, method: str) -> float:
        return scores(pool[:1] * count, anchors[:4], proxy, method).cost.flops

    one = (flops(16, "transposed") - flops(8, "transposed")) / (2 * 8)
    assert flops(16, "gradient") - flops(8, "gradient") == pytest.approx(one * 3 * 8, rel=0.01)
    assert flops(16, "exact") - flops(8, "exact") == pytest.approx(one * (3 + 4) * 8, rel=0.01)


def test_a_score_table_is_read_back_and_another_refused(scored, tmp_path):
    write_table(tmp_path / "scores.parquet", scored.table)
    assert ost.read_scores(tmp_path / "scores.parquet").equals(scored.table)
    write_table(tmp_path / "other.parquet", scored.table.drop_columns(["loss"]))
    with pytest.raises(DataError, match="loss"):
        ost.read_scores(tmp_path / "other.parquet")
    write_table(tmp_path / "empty.parquet", scored.table.slice(0, 0))
    with pytest.raises(DataError, match="0 rows"):
        ost.read_scores(tmp_path / "empty.parquet")

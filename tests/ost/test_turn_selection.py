"""Selection by turn: masks that follow from the scores, change nothing else, and reach labels and exports."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from export_pools import conversations, keeping, pool_of, read_again, turn
from hypothesis import given, settings
from hypothesis import strategies as st

from ost.audit.turns import audit_turns
from ost.data import Masked, Sample, with_masks
from ost.data.sample import text_of
from ost.encoding import IGNORE, Encoder
from ost.errors import DataError
from ost.export import export, verify
from ost.selection import kept_ids, mask_turns, masks_of, read_turns, select, selection_table, turns_beside
from ost.selection.purity import p_right
from ost.selection.turns import ALL_WRONG, p_turn_right
from ost.settings import Select
from ost.store import write_table
from ost.worlds import world_of
from ost.worlds.handmath import worked
from ost.worlds.settings import Base, World
from ost.worlds.teacher import answer_pool, turn_truth

ANCHORS = 40
SELECT = Select(clean_below=0)


def scored(seed: int, counts: list[int], wrong_share: float = 0.4) -> tuple[pa.Table, pa.Table, np.ndarray]:
    """Scores and turns of a pool whose wrong turns are told by a utility four deviations below; and which are wrong."""
    rng, samples = np.random.default_rng(seed), len(counts)
    owner = np.repeat(np.arange(samples), counts)
    wrong = rng.random(len(owner)) < wrong_share
    values = rng.normal(size=len(owner)) - 4 * wrong
    own = np.bincount(owner, values, samples) / np.array(counts)
    trusted = np.sort(rng.normal(size=ANCHORS))
    p = (1 + np.searchsorted(trusted, own, side="right")) / (1 + ANCHORS)
    ids = [f"{at:03}" for at in range(samples)]
    scores = {"id": ids, "utility": own, "p_clean": p, "toxic": own < -3, "loss": np.ones(samples)}
    places = np.concatenate([np.arange(count) * 2 + 1 for count in counts])
    turns = {"id": [ids[at] for at in owner], "turn": pa.array(places, pa.int32()), "utility": values}
    return pa.table(scores | {"task": ["a"] * samples}), pa.table(turns), wrong


pools = st.builds(
    scored, st.integers(0, 999), st.lists(st.integers(1, 4), min_size=1, max_size=30), st.sampled_from([0.0, 0.3, 0.9])
)


@settings(max_examples=60, deadline=None)
@given(pool=pools, fraction=st.sampled_from([0.2, 0.5, 1.0]), told=st.booleans())
def test_masks_take_turns_of_kept_samples_and_never_all_of_them(pool, fraction, told):
    """Property: who is kept and in which order is as by sample, less those of which nothing would be learned."""
    scores, turns, _ = pool
    scores = scores if told else scores.drop_columns("p_clean")
    whole = select(scores, fraction, "top", clean_below=0)
    found = select(scores, fraction, "top", clean_below=0, turns=turns)
    empty = set(found.filter(pc.equal(found["reason"], ALL_WRONG))["id"].to_pylist())
    assert kept_ids(found) == [name for name in kept_ids(whole) if name not in empty]
    others = pc.invert(pc.is_in(whole["id"], pa.array(sorted(empty), pa.string())))
    assert found.filter(others)["reason"].equals(whole.filter(others)["reason"])
    own = {name: set() for name in scores["id"].to_pylist()}
    for name, place in zip(turns["id"].to_pylist(), turns["turn"].to_pylist(), strict=True):
        own[name].add(place)
    masks = masks_of(found)
    assert masks.keys() <= set(kept_ids(found)) and all(set(masks[name]) < own[name] for name in masks)
    assert all(len(own[name]) > 1 for name in {*masks, *empty}), "a sample of one turn is judged by its own rank"


def test_a_wrong_turn_among_right_ones_is_masked_and_no_other():
    scores, turns, wrong = scored(1, [3] * 400, 0.2)
    found = select(scores, 1.0, "top", clean_below=0, turns=turns)
    masks, gone = masks_of(found), set(found["id"].to_pylist()) - set(kept_ids(found))
    keys = list(zip(turns["id"].to_pylist(), turns["turn"].to_pylist(), strict=True))
    masked = np.array([place in masks.get(name, ()) or name in gone for name, place in keys])
    assert wrong[masked].mean() > 0.75 and masked[wrong].mean() > 0.9
    assert len(gone) < 30, "a conversation with one wrong turn is left out"


def test_the_probability_of_a_turn_is_that_of_a_sample_that_ranks_as_it_does():
    scores, turns, _ = scored(2, [2, 3, 1] * 20)
    utility, p = scores["utility"].to_numpy(), scores["p_clean"].to_numpy()
    at = [p[utility <= value].max(initial=p.min()) for value in turns["utility"].to_numpy()]
    np.testing.assert_allclose(p_turn_right(scores, turns), p_right(np.array(at)))
    broken = turns.set_column(2, "utility", pc.if_else(pc.equal(turns["turn"], 3), np.nan, turns["utility"]))
    assert (np.isnan(p_turn_right(scores, broken)) == (turns["turn"].to_numpy() == 3)).all()
    assert p_turn_right(scores.drop_columns("p_clean"), turns) is None


def test_the_relative_utility_ranks_turns_where_it_ranks_samples():
    scores, turns, _ = scored(3, [2] * 30)
    swapped = [
        table.append_column("utility_relative", table["utility"]).set_column(
            table.column_names.index("utility"), "utility", pc.negate(table["utility"])
        )
        for table in (scores, turns)
    ]
    np.testing.assert_array_equal(p_turn_right(*swapped), p_turn_right(scores, turns))


def test_without_p_clean_a_negative_utility_decides():
    scores, turns, _ = scored(4, [3] * 20)
    selection = select(scores, 1.0, "top", clean_below=0)
    masks, kept = masks_of(mask_turns(selection, scores.drop_columns("p_clean"), turns, SELECT)), kept_ids(selection)
    assert set(scores.filter(scores["toxic"])["id"].to_pylist()).isdisjoint(kept) and len(kept) > 10
    for own in turns.group_by("id").aggregate([("utility", "list")]).to_pylist():
        negative = [2 * at + 1 for at, value in enumerate(own["utility_list"]) if value < 0]
        assert masks.get(own["id"], []) == (negative if own["id"] in kept and len(negative) < 3 else [])


def test_nothing_is_masked_in_a_pool_that_is_right():
    scores, turns, _ = scored(5, [3] * 300, 0.0)
    assert masks_of(select(scores, 1.0, "top", clean_below=0, turns=turns)) == {}
    negative = turns.set_column(2, "utility", pa.array(np.full(len(turns), -1.0)))
    scores = scores.set_column(3, "toxic", pa.array([False] * 300)).append_column("utility_relative", scores["utility"])
    clean = mask_turns(select(scores, 1.0, "top"), scores, negative, Select())
    assert masks_of(clean) == {} and len(kept_ids(clean)) == 300, "a pool that shows no harm has no harmful turns"


def test_turns_of_other_samples_are_refused_and_a_missing_table_is_named(tmp_path):
    scores, turns, _ = scored(6, [2, 2])
    with pytest.raises(DataError, match=r"2 of 4 turns are of samples that the scores have not: score anew"):
        mask_turns(
            select(scores, 1.0, "top"), scores, turns.set_column(0, "id", pa.array([*"xx", "000", "000"])), SELECT
        )
    assert turns_beside("scores/lookahead.parquet").as_posix() == "scores/lookahead-turns.parquet"
    with pytest.raises(DataError, match=r"utility-turns\.parquet is missing: score with the method lookahead"):
        read_turns(tmp_path / "utility.parquet")
    write_table(tmp_path / "utility-turns.parquet", turns)
    assert read_turns(tmp_path / "utility.parquet").equals(turns)


# --- labels and exports -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def talks() -> list[Sample]:
    world = world_of("multi-turn")
    return [world.to_sample(problem) for problem in world.draw("pool", 40, 0)]


def test_a_mask_takes_the_labels_of_its_turn_and_no_others(talks):
    encoder, rng = Encoder(world_of("multi-turn").processor()), np.random.default_rng(0)
    for sample in talks:
        masked = [at for at in sample.learned if rng.random() < 0.5][: len(sample.learned) - 1]
        one = Sample(sample.images, with_masks(sample.messages, masked), sample.task, sample.id)
        plain, told = encoder.training([sample]), encoder.training([one])
        assert plain["input_ids"].equal(told["input_ids"])
        hidden = told["labels"] != plain["labels"]
        assert (told["labels"][hidden] == IGNORE).all()
        kept = [text_of(sample.messages[at]) for at in sample.learned if at not in masked]
        found = encoder.tokenizer.decode(told["labels"][told["labels"] != IGNORE])
        assert found == "".join(f"{answer}<|im_end|>" for answer in kept)


def test_masked_samples_are_read_from_a_set_and_told_apart_by_their_masks(tmp_path):
    pool = pool_of(tmp_path / "pool", conversations())
    ids = pool.ids()
    rounds = next(sample for sample in pool if len(sample.learned) == 2)
    masked = Masked(pool.subset(ids), {rounds.id: [1]})
    assert len(masked) == len(ids) and masked.ids() == ids
    for before, after in zip(pool, masked[:], strict=True):
        assert after.learned == ((3,) if before.id == rounds.id else before.learned)
        assert (before.id, before.images) == (after.id, after.images)
        assert after == before or before.id == rounds.id
    others = [Masked(pool.subset(ids), masks) for masks in ({}, {rounds.id: [3]})]
    assert others[0].contents() == ids
    assert len({tuple(one.contents()) for one in (masked, *others)}) == 3


def masked_export(form: str, folder: Path, masked: list[int], **options) -> None:
    """Three samples, the first of two turns, some of them masked."""
    rounds = (turn("user", "What?"), turn("assistant", "a cat"), turn("user", "And?"), turn("assistant", "a dog"))
    pool = pool_of(folder / "pool", [(Sample((), rounds), 1), *conversations()[:2]])
    masks = pa.array([masked, [], []], pa.list_(pa.int32()))
    export(keeping(pool, [0, 1, 2]).append_column("masked", masks), pool, form, folder / "out", **options)


@pytest.mark.parametrize("form", ["ms-swift", "webdataset"])
def test_exports_whose_trainer_is_told_what_to_learn_have_the_masks(form, tmp_path):
    masked_export(form, tmp_path, [3])
    again = [sample for sample, _ in read_again(tmp_path / "out" / ("data.jsonl" if form == "ms-swift" else ""))]
    assert [sample.learned for sample in again] == [(1,), (1,), (1,)]


def test_an_export_with_masks_is_verified_without_a_finding(tmp_path):
    masked_export("ms-swift", tmp_path, [1])
    assert list(verify(tmp_path / "out")) == []


@pytest.mark.parametrize("form", ["qwen", "internvl", "trl", "llamafactory"])
def test_a_trainer_that_would_learn_masked_turns_is_refused(form, tmp_path):
    with pytest.raises(DataError, match=r"masks turns of 1 samples, and .* would learn them: take a form"):
        masked_export(form, tmp_path, [3])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["trl", "llamafactory"])
def test_forms_that_learn_the_last_answer_alone_take_masks_of_all_before(form, tmp_path):
    masked_export(form, tmp_path, [1])
    if form == "llamafactory":
        assert "mask_history: true" in (tmp_path / "out/sft.yaml").read_text()
    else:
        assert read_again(tmp_path / "out/data")[0][0].learned == (3,)


def test_the_users_own_records_cannot_say_masks(tmp_path):
    with pytest.raises(DataError, match=r"their own records cannot say: take the form ms-swift"):
        masked_export("same", tmp_path, [1], source=tmp_path / "source.jsonl")


def test_the_list_of_ids_names_the_masks(tmp_path):
    masked_export("ids", tmp_path, [1])
    lines = (tmp_path / "out/ids.jsonl").read_text().splitlines()
    assert [json.loads(line)["masked"] for line in lines] == [[1], [], []]


# --- the world, and its audit -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told() -> tuple[list, list[Sample], list[bool], pa.Table]:
    world = world_of("multi-turn")
    problems = world.draw("pool", 400, 0)
    samples, wrong = answer_pool(world, problems, World(errors="rules"), Base(), 0)
    return problems, samples, wrong, turn_truth(samples, list(map(world.to_sample, problems)))


def test_conversations_ask_two_to_four_things_of_one_picture(told):
    problems, samples, _, _ = told
    assert {len(problem.questions) for problem in problems} == {2, 3, 4}
    for problem, sample in zip(problems, samples, strict=True):
        assert len({(one.left, one.right) for one in problem.questions}) == len(sample.images) == 1
        assert len({one.task for one in problem.questions}) == len(sample.learned) == len(problem.questions)
    world = world_of("multi-turn")
    assert all(len(world.to_sample(one).messages) == 2 for one in world.draw("benchmark", 20, 0)), "earlier turns help"


def test_the_truth_by_turn_is_what_the_answers_say_and_agrees_with_that_by_sample(told):
    problems, samples, wrong, truth = told
    rows = {(row["id"], row["turn"]): row["wrong"] for row in truth.to_pylist()}
    for problem, sample, flag in zip(problems, samples, wrong, strict=True):
        own = []
        for question, at in zip(problem.questions, sample.learned, strict=True):
            said = sample.messages[at]["content"][0]["text"]
            own.append(rows.pop((sample.id, at)))
            assert own[-1] == (said != worked(question.task, *question.digits))
        assert flag == any(own)
    assert not rows
    shares = truth.group_by("id").aggregate([("wrong", "sum"), ("wrong", "count")])
    some = pc.and_(pc.greater(shares["wrong_sum"], 0), pc.less(shares["wrong_sum"], shares["wrong_count"]))
    assert pc.mean(some.cast(pa.float64())).as_py() > 0.3, "too few conversations are right and wrong in part"


def test_a_pool_of_conversations_can_be_right(told):
    world = world_of("multi-turn")
    settings = World(errors="rules", wrong_share=0.0)
    samples, wrong = answer_pool(world, told[0][:20], settings, Base(), 0)
    assert samples == list(map(world.to_sample, told[0][:20])) and not any(wrong)


def test_the_audit_by_turn_counts_what_is_masked():
    truth = pa.table({"id": [*"aaabb"], "turn": [1, 3, 5, 1, 3], "wrong": [True, False, True, False, False]})
    scores = pa.table({"id": [*"aaabb"], "turn": [1, 3, 5, 1, 3], "utility": [-1.0, 0.5, 0.2, 1.0, 0.1]})
    whole = selection_table(["a", "b"], ["a", "b"], "")
    masks = pa.array([[1, 3], []], pa.list_(pa.int32()))
    found = audit_turns(truth, {"s": scores}, {"whole": whole, "turns": whole.append_column("masked", masks)})
    assert found["wrong_share"] == pytest.approx(0.4) and found["auroc"] == {"s": pytest.approx(5 / 6)}
    assert found["purity"] == {"whole": pytest.approx(0.6), "turns": pytest.approx(2 / 3)}
    assert found["masked"] == {"turns": 2} and found["masked_wrong"] == found["wrong_masked"] == {"turns": 0.5}
    with pytest.raises(DataError, match="the truth says nothing of 1 of 5 turns, such as message 3 of b: complete it"):
        audit_turns(truth.slice(0, 4), {"s": scores}, {})

"""What to ask and what was answered: planted clusters, pools that are shuffled, and answers that must never be seen."""

import itertools
import json
import multiprocessing

import numpy as np
import pyarrow as pa
import pytest
from specimens import drawn, other_forms

from ost.anchors import (
    add_anchors,
    contradicted,
    doubt_words,
    gaps,
    question_of,
    read_answers,
    suggested,
    suggestions,
    uncovered,
    write_sheet,
)
from ost.anchors.coverage import MOST
from ost.anchors.states import states_of
from ost.anchors.table import anchor_table
from ost.data import Dataset, Sample, chat, sample_id, write_samples
from ost.data.sample import image_digest, prompt_ids
from ost.errors import DataError
from ost.scoring import score
from ost.scoring.methods.anchor_training import Plan
from ost.store import lists

SECRET = "the answer is xyzzy"


def planted(each=(200, 100, 50, 25), width=8, seed=0, noise=0.05):
    """A pool of clusters of these sizes, in a shuffled order, and the cluster of each row; ids say nothing of it."""
    rng = np.random.default_rng(seed)
    kind = rng.permutation(np.repeat(np.arange(len(each)), each))
    sketches = np.eye(width)[kind] + noise * rng.normal(size=(len(kind), width))
    ids = [f"{name:032x}" for name in rng.permutation(10 * len(kind))[: len(kind)]]
    columns = {"id": ids, "task": ["sum"] * len(kind), "loss": np.ones(len(kind))}
    return pa.table(columns | {"sketch": lists(sketches.astype(np.float16))}), kind


def at_clusters(*kinds, width=8):
    return pa.table({"sketch": lists(np.eye(width)[list(kinds)].astype(np.float16))})


def first(scores, anchors, count):
    return list(itertools.islice(suggested(scores, anchors), count))


def sketches_of(table):
    return np.array(table["sketch"].to_pylist(), dtype=np.float32)


def test_the_largest_cluster_without_an_anchor_is_asked_first_and_each_once_before_any_twice():
    scores, kind = planted()
    assert kind[first(scores, at_clusters(0), 3)].tolist() == [1, 2, 3]
    assert kind[first(scores, at_clusters(1, 3), 2)].tolist() == [0, 2]


def test_each_task_is_asked_for_as_often_as_the_pool_has_it():
    scores, _ = planted((120, 100, 80), noise=0.3)
    tasks = np.where(np.arange(len(scores)) % 4 == 0, "rare", "usual")
    mixed = scores.set_column(scores.column_names.index("task"), "task", pa.array(tasks))
    for count in (4, 20, 40):
        assert abs((tasks[first(mixed, at_clusters(0), count)] == "rare").sum() - count / 4) <= 1
    assert sorted(suggested(mixed, at_clusters(0))) == list(range(len(scores))), "all of them in the end"


def test_the_order_of_the_pool_plays_no_part_and_neither_does_who_is_asked_twice():
    scores, _ = planted(noise=0.3)
    chosen = [scores["id"][row].as_py() for row in first(scores, at_clusters(0), 40)]
    shuffled = scores.take(np.random.default_rng(5).permutation(len(scores)))
    again = [shuffled["id"][row].as_py() for row in first(shuffled, at_clusters(0), 40)]
    assert chosen == again and len(set(chosen)) == 40


@pytest.mark.parametrize("seed", range(3))
def test_what_is_suggested_lowers_the_uncovered_mass_more_than_a_draw(seed):
    scores, _ = planted((300, 200, 90, 40, 20, 10), seed=seed, noise=0.25)
    pool, anchors = sketches_of(scores), np.eye(8, dtype=np.float32)[[0]]
    near = float(np.median(np.linalg.norm(pool / np.linalg.norm(pool, axis=1)[:, None] - anchors[0], axis=1)))

    def left(rows):
        return uncovered(pool, np.concatenate([anchors, pool[rows]]), near).sum()

    rng = np.random.default_rng(seed)
    draws = [left(rng.permutation(len(pool))[:8]) for _ in range(20)]
    assert left(first(scores, at_clusters(0), 8)) < 0.97 * min(draws) and max(draws) < left([])


def test_time_and_choice_do_not_grow_with_a_pool_that_is_larger_than_what_is_looked_at():
    """Ids are digests: the first MOST of them are a draw, and nothing behind them is looked at."""
    scores, _ = planted((MOST, 4000), noise=0.2)
    part = scores.take(np.argsort(scores["id"].to_numpy())[:MOST])
    large, small = ([table["id"][row].as_py() for row in first(table, at_clusters(0), 10)] for table in (scores, part))
    assert large == small


def test_a_quarantined_sample_and_one_without_a_sketch_are_not_asked_about():
    scores, kind = planted((50, 40))
    lost = np.where(kind == 1, np.nan, 1.0)
    broken = scores.set_column(scores.column_names.index("loss"), "loss", pa.array(lost))
    assert set(kind[list(suggested(broken, at_clusters(2)))]) == {0}
    holes = [None if own else row for own, row in zip(kind == 1, scores["sketch"].to_pylist(), strict=True)]
    bare = scores.set_column(scores.column_names.index("sketch"), "sketch", pa.array(holes, scores["sketch"].type))
    assert set(kind[list(suggested(bare, at_clusters(2)))]) == {0}


def test_without_sketches_or_with_another_proxys_nothing_is_suggested():
    scores, _ = planted()
    with pytest.raises(DataError, match=r"set score\.sketch"):
        first(scores.drop_columns("sketch"), at_clusters(0), 1)
    with pytest.raises(DataError, match="7 numbers, and the pool's 8"):
        first(scores, at_clusters(0, width=7), 1)


def test_a_cluster_that_no_anchor_is_near_is_told_and_one_that_has_an_anchor_is_not():
    scores, kind = planted((300, 40, 20), noise=0.02)
    found = gaps(scores, at_clusters(0))
    assert {frozenset(kind[gap.rows]) for gap in found} == {frozenset({1}), frozenset({2})}
    assert sum(len(gap.rows) for gap in found) == 60 and len(found[0].rows) >= len(found[-1].rows)
    assert all(gap.far > 2 for gap in found)
    assert gaps(scores, at_clusters(0, 1, 2)) == []
    assert gaps(scores.drop_columns("sketch"), at_clusters(0)) == []


def test_anchors_states_are_the_sketches_of_the_score_table(proxy, pool, anchors):
    """Else distances between the two would say nothing; to the precision that they are kept in."""
    found = score(pool, anchors, proxy, checks=0, lookahead={"steps": 2}).table
    states = states_of(pool, proxy, 256)
    assert states.shape == (len(pool), min(256, proxy.model.config.text_config.hidden_size))
    np.testing.assert_allclose(states.astype(float), sketches_of(found), atol=4e-3)
    assert np.abs(states[0].astype(float) - states[1]).max() > 0.05, "a tolerance that tells samples apart"


def reanswered(sample, text=SECRET):
    messages = list(sample.messages)
    at = sample.learned[-1]
    messages[at] = messages[at] | {"content": [{"type": "text", "text": text}]}
    return Sample(sample.images, tuple(messages), sample.task)


def test_no_answer_of_the_pool_is_written_and_none_changes_what_is(tmp_path):
    samples = [*drawn("pool", 6), *other_forms()]
    sheets = []
    for name, own in {"one": samples, "other": list(map(reanswered, samples))}.items():
        (tmp_path / name).mkdir()
        sheets.append(write_sheet(tmp_path / name / "sheet.jsonl", list(map(question_of, own))).read_text())
    assert sheets[0] == sheets[1], "the file, ids with it, is the same whatever the answers are"
    records = list(map(json.loads, sheets[0].splitlines()))
    for record, sample in zip(records, samples, strict=True):
        assert record["answer"] is None and record["id"] != sample_id(sample.images, sample.messages)
        assert sample.answer not in json.dumps(record["messages"])


def test_a_question_is_told_by_what_ingestion_tells_it_by():
    for sample in [*drawn("pool", 3), *other_forms()]:
        assert question_of(sample).id == prompt_ids(list(map(image_digest, sample.images)), sample.messages)[-1]


def test_earlier_answers_of_a_conversation_are_context_and_what_follows_the_last_question_is_gone():
    turns = other_forms()[0]
    question = question_of(turns)
    assert [message.get("loss", True) for message in question.messages if message["role"] == "assistant"] == [False]
    assert question.messages[-1]["role"] == "user" and question.images == turns.images
    unlearned = tuple(m | {"loss": False} if at == 3 else m for at, m in enumerate(turns.messages))
    assert len(question_of(Sample(turns.images, unlearned)).messages) == 1


def answered(path, answers):
    records = [json.loads(line) for line in path.read_text().splitlines()]
    filled = [record | {"answer": text} for record, text in zip(records, answers, strict=True)]
    path.write_text("".join(json.dumps(record) + "\n" for record in filled))
    return path


@pytest.fixture
def sheet(tmp_path):
    return write_sheet(tmp_path / "sheet.jsonl", list(map(question_of, [*drawn("pool", 3), *other_forms()])))


def test_answers_come_back_as_whole_samples_with_the_images_and_blank_ones_are_counted(sheet):
    found = read_answers(answered(sheet, ["1", None, "  ", "Ünf\n", "5", "6", "7"]))
    originals = [*drawn("pool", 3), *other_forms()]
    assert found.open == 2 and [one.answer for one in found.samples] == ["1", "Ünf", "5", "6", "7"]
    for one, original in zip(found.samples, [originals[0], *originals[3:]], strict=True):
        assert question_of(one).id == question_of(original).id and one.images == original.images
        assert one.task == original.task and len(one.learned) == 1, "nobody vouches for earlier answers"


def test_a_right_answer_makes_the_very_anchor_that_the_truth_is(sheet):
    right = drawn("pool", 3)
    found = read_answers(answered(sheet, [one.answer for one in right] + [None] * 4))
    assert [one.id for one in found.samples] == [one.id for one in right]


def test_whole_samples_of_any_form_are_taken_as_they_are(tmp_path):
    samples = drawn("anchors", 4)
    assert [one.id for one in read_answers(write_samples(tmp_path / "a.parquet", samples)).samples] == [
        one.id for one in samples
    ]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"id": "0" * 32}, "record 1 .*the id '0+' is unknown"),
        ({"answer": 7}, "record 1 .*`answer` must be text"),
        ({"images": ["../secret.png"]}, "record 1 .*"),
        ({"messages": [{"role": "user", "content": "<image>Another question"}]}, "record 1 .*is unknown"),
        ({"messages": 3}, "record 1 .*without `messages`"),
    ],
)
def test_a_record_that_can_not_be_taken_is_named_and_nothing_is(sheet, change, told):
    answered(sheet, ["1"] * 7)
    first, *others = sheet.read_text().splitlines()
    sheet.write_text("\n".join([json.dumps(json.loads(first) | change), *others]))
    with pytest.raises(DataError, match=told):
        read_answers(sheet)


def test_a_question_that_is_answered_twice_is_named_unless_both_say_the_same(sheet):
    answered(sheet, ["1"] * 7)
    line = json.loads(sheet.read_text().splitlines()[0])
    sheet.write_text(sheet.read_text() + json.dumps(line) + "\n")
    assert len(read_answers(sheet).samples) == 7
    sheet.write_text(sheet.read_text() + json.dumps(line | {"answer": "2"}) + "\n")
    with pytest.raises(DataError, match=r"record 9 .*asks what record 1 of sheet.jsonl asks"):
        read_answers(sheet)


def test_a_sheet_that_is_there_is_not_overwritten(sheet):
    before = answered(sheet, ["1"] * 7).read_text()
    with pytest.raises(DataError, match="there already"):
        write_sheet(sheet, [])
    assert sheet.read_text() == before


def test_adding_is_idempotent_and_keeps_what_is_there(tmp_path):
    table, (one, two, three) = tmp_path / "added.parquet", drawn("pool", 3)
    assert vars(add_anchors([one, two], table)) == {"new": 2, "known": 0, "total": 2}
    before = table.read_bytes()
    assert vars(add_anchors([two, one], table)) == {"new": 0, "known": 2, "total": 2}
    assert table.read_bytes() == before
    assert vars(add_anchors([one, three], table)) == {"new": 1, "known": 1, "total": 3}
    assert Dataset(table).ids() == [one.id, two.id, three.id]


def test_an_anchor_of_the_users_own_is_not_added_and_another_answer_to_its_question_is_refused(tmp_path):
    table, (one, two) = tmp_path / "added.parquet", drawn("pool", 2)
    assert add_anchors([one], table, [one]).new == 0 and not table.exists()
    with pytest.raises(DataError, match=f"'{SECRET}', and an anchor says '.*'") as error:
        add_anchors([two, reanswered(one)], table, [one])
    assert "1 question(s)" in str(error.value) and not table.exists(), "all or nothing"


def _killed_while_writing(table, sample):
    """A process that dies after the part is written and before it has its name."""
    import os

    import ost.store

    ost.store.name_file = lambda *paths: os._exit(9)
    add_anchors([sample], table)


def test_a_kill_leaves_the_table_as_it_was(tmp_path):
    table, (one, two) = tmp_path / "added.parquet", drawn("pool", 2)
    add_anchors([one], table)
    before = table.read_bytes()
    process = multiprocessing.get_context("fork").Process(target=_killed_while_writing, args=(table, two))
    process.start()
    process.join()
    assert process.exitcode == 9 and table.read_bytes() == before
    assert add_anchors([two], table).total == 2


def test_suggestions_are_questions_that_no_anchor_asks_each_once(tmp_path):
    samples = drawn("pool", 40)
    twins = [reanswered(sample, f"say {at}") for at, sample in enumerate(samples[:10])]
    every = [*samples, *twins]
    rng = np.random.default_rng(0)
    states = np.concatenate([(own := rng.normal(size=(40, 8))), own[:10]]).astype(np.float16)
    columns = {"id": [one.id for one in every], "task": [one.task for one in every], "loss": np.ones(len(every))}
    scores = pa.table(columns | {"sketch": lists(states)})
    pool = Dataset(write_samples(tmp_path / "pool.parquet", every))
    known = [reanswered(samples[20]), samples[21]]
    found = list(suggestions(scores, pa.table({"sketch": lists(states[:2])}), pool, known))
    ids = [one.id for one in found]
    assert len(ids) == len(set(ids)) == 38, "a question of two samples is asked once, an anchor's never"
    assert not set(ids) & {question_of(one).id for one in known}
    assert not any(message["role"] == "assistant" for one in found for message in one.messages)


def told_table(own, wrong, tasks=None):
    tasks = tasks or ["sum"] * len(own)
    columns = {"id": [f"a{at}" for at in range(len(own))], "task": tasks, "left_out": own, "swapped": wrong}
    return pa.table(columns)


def test_anchors_as_unlikely_as_wrong_answers_are_named_the_worst_first():
    own = [0.1] * 16 + [2.5, 4.0, 0.6, 1.2]
    found = contradicted(told_table(own, np.linspace(1, 5, 20).tolist()))
    assert [one.id for one in found] == ["a17", "a16"] and found[0].loss == 4.0
    assert all(one.wrong == pytest.approx(2.0) for one in found)


def test_each_task_with_enough_anchors_is_measured_by_itself():
    """Captions are unlikelier than single words, right ones too."""
    own, wrong = [0.1] * 9 + [1.5] + [2.0] * 9 + [4.0], [1.0, 2.0] * 5 + [4.0, 5.0] * 5
    found = contradicted(told_table(own, wrong, ["word"] * 10 + ["caption"] * 10))
    assert {one.id for one in found} == {"a9", "a19"}


def test_a_proxy_that_knows_nothing_and_a_method_without_steps_contradict_nobody():
    assert contradicted(told_table([2.0] * 20, [2.0] * 20)) == []
    assert contradicted(told_table([0.1] * 19 + [9.0], [None] * 13 + [2.0] * 7)) == [], "too few to measure by"
    assert contradicted(told_table([9.0] * 20, [2.0] * 20).drop_columns("left_out")) == []


def test_the_warning_shows_question_and_answer_of_the_first_and_counts_the_others():
    anchors = [Sample((), chat(f"How many is {at}?", f"is {at}", images=0)) for at in range(20)]
    table = told_table([0.1] * 15 + [9.0] * 5, [2.0] * 20).set_column(0, "id", pa.array([one.id for one in anchors]))
    (told,) = doubt_words(contradicted(table), anchors)
    assert told.startswith("5 of 20 anchors are contradicted") and "and 2 more" in told
    assert told.count("How many is") == 3 and doubt_words([], anchors) == []


def test_the_table_of_anchors_has_what_a_plan_says_and_no_double_where_there_is_none(proxy):
    anchors = [*drawn("anchors", 4), Sample((), chat("Alone?", "yes", images=0), "alone")]
    plan = Plan(1, (1.0, 0.5), (1.0,) * 5, (0.5,) * 5, 0.0, 1e-3, (2.0,) * 5, (3.0,) * 5)
    table = anchor_table(anchors, proxy, plan, 64)
    assert table["id"].to_pylist() == [one.id for one in anchors] and table["sketch"].type.list_size == 64
    assert table["left_out"].to_pylist() == [0.5] * 5 and table["swapped"][4].as_py() is None
    assert anchor_table(anchors, proxy, None, 0).column_names == ["id", "task"]


def test_wrong_anchors_are_named_by_a_real_training_on_the_others(fresh):
    """Six facts, each asked in six ways, so that the other anchors teach what one is to say; 4 of 36 say another's."""
    facts = ["1 + 2 = 3", "4 - 1 = 3", "2 * 4 = 8", "5 max 9 = 9", "7 + 8 = 15", "6 - 6 = 0"]
    ways = ["{} ?", "What is {} ?", "the two digits {}", "digits : {} ?", "Which is {} ?", "minus the first {} ?"]
    pairs = list(itertools.product(range(6), range(6)))
    wrong = {(0, 1), (2, 5), (3, 0), (5, 3)}

    def anchor(fact, way):
        said = facts[(fact + 1) % 6 if (fact, way) in wrong else fact]
        return Sample((), chat(ways[way].format(facts[fact].partition(" =")[0]), said, images=0), "sum")

    anchors = [anchor(*pair) for pair in pairs]
    ahead = {"learning_rate": 4e-3, "most_steps": 40}
    plan = score(drawn("pool", 2), anchors, fresh, checks=0, lookahead=ahead).plan
    found = [one.id for one in contradicted(anchor_table(anchors, fresh, plan, 0))]
    named = {pair for pair, one in zip(pairs, anchors, strict=True) if one.id in found}
    assert len(named & wrong) >= 2 and len(named - wrong) <= 1, (
        "few right ones are named where each fact is asked often"
    )

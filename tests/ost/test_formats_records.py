"""From a record to messages: marks, parts, labels, and a reason for everything that is not taken."""

import json
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ost.formats import Broken, Draft, Reason, Rejected, parse
from ost.formats.draft import MARK
from ost.formats.fields import FIELDS

IMAGE = {"type": "image", "text": None}
USER, ANSWER = {"role": "user", "content": "What?"}, {"role": "assistant", "content": "7"}


def said(text: str) -> dict:
    return {"type": "text", "text": text}


def record(*contents, **fields) -> dict:
    """A record of alternating turns, the user's first."""
    roles = ("user", "assistant") * len(contents)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]} | fields


def contents(draft: Draft) -> list[list[dict]]:
    return [turn["content"] for turn in draft.messages]


def refusal(value: dict | Broken, columns: dict | None = None) -> tuple[Reason, str]:
    with pytest.raises(Rejected) as rejected:
        parse(value, columns)
    return rejected.value.why


# --- marks and parts ------------------------------------------------------------------------------------------------


def test_marks_are_parts_at_their_place_in_any_turn():
    draft = parse(
        record("First <image> then <image>: which?", "the second", "And <image>\n?", "7", images=["a", "b", "c"])
    )
    assert contents(draft) == [
        [said("First "), IMAGE, said(" then "), IMAGE, said(": which?")],
        [said("the second")],
        [said("And "), IMAGE, said("\n?")],
        [said("7")],
    ]
    assert draft.images == ("a", "b", "c")


def test_marks_in_a_system_turn_and_beside_parts():
    turns = [
        {"role": "system", "content": "The legend: <image>"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "<image>and?"}]},
        ANSWER,
    ]
    draft = parse({"messages": turns, "images": ["a", "b", "c"]})
    assert contents(draft)[:2] == [[said("The legend: "), IMAGE], [IMAGE, IMAGE, said("and?")]]


def test_without_marks_images_open_the_first_user_turn():
    system = {"role": "system", "content": "Be brief."}
    draft = parse({"messages": [system, ANSWER, USER, ANSWER, USER, ANSWER], "images": ["a", "b"]})
    assert contents(draft)[2] == [IMAGE, IMAGE, said("What?")]
    assert IMAGE not in contents(draft)[4]


def test_other_tokens_and_tags_are_text():
    draft = parse(record('Is <|image|> or <img src="a.png"> or <Image> HTML?', "<video controls>"))
    assert contents(draft) == [[said('Is <|image|> or <img src="a.png"> or <Image> HTML?')], [said("<video controls>")]]


@pytest.mark.parametrize(
    ("value", "reason", "detail"),
    [
        (record("<image> and <image>?", "7", images=["a"]), "malformed", "2 mark(s) <image> and 0 image part(s)"),
        (record("<image>?", "7", images=["a", "b"]), "malformed", "but 2 image(s) given"),
        (record("Is <image> a tag?", "7"), "malformed", "but 0 image(s) given"),
        (record("What?", "<image> 7", image="a"), "malformed", "an answer holds the mark"),
        (record("<image>", "7", "", "<image>", images=["a", "b"]), "malformed", "an answer holds the mark"),
        (record("<video>\nWhat?", "7"), "unsupported", "<video>"),
        (record("What?", "it is <audio>"), "unsupported", "<audio>"),
        (record("Picture 1: <img>a/b.png</img>\nWhat?", "7"), "unsupported", "<img>a/b.png</img>"),
        (record([IMAGE, said("?")], "7"), "malformed", "1 image part(s) in the messages, but 0"),
        (record("?", [IMAGE, said("7")], images=["a"]), "malformed", "an answer holds an image part"),
        (record([IMAGE | {"image": "x.png"}], "7", images=["a.png"]), "malformed", "'x.png', but `images` has 'a.png'"),
        (record([IMAGE | {"image": "x.png"}, IMAGE], "7"), "malformed", "2 image part(s) in the messages, but 0"),
        (record([IMAGE | {"image": "x.png"}, said("<image>")], "7", images=["x.png"]), "malformed", "1 mark(s)"),
    ],
)  # fmt: skip
def test_marks_and_images_that_do_not_fit_are_refused_with_both_counts(value, reason, detail):
    found, told = refusal(value)
    assert found == reason and detail in told


PIECES = st.lists(st.sampled_from([MARK, "a", "\n", "<", " image>"]) | st.text(max_size=3), min_size=1, max_size=6)


@given(first=PIECES, second=PIECES)
def test_no_mark_reaches_the_model_and_no_other_character_is_lost(first, second):
    texts = ["".join(first), "".join(second)]
    count = sum(text.count(MARK) for text in texts)
    images = [f"{number}.png" for number in range(count)]
    draft = parse(record(texts[0], "yes", texts[1], "no", images=images))
    spelled = ["".join(MARK if part == IMAGE else part["text"] for part in content) for content in contents(draft)]
    assert spelled == [texts[0], "yes", texts[1], "no"]
    assert not any(MARK in (part["text"] or "") for content in contents(draft) for part in content)
    assert draft.images == tuple(images)


# --- what a message may say besides ---------------------------------------------------------------------------------


def with_extras(**extras) -> dict:
    return {"messages": [USER, ANSWER | extras, USER, ANSWER]}


@pytest.mark.parametrize("key", ["loss", "weight"])
@pytest.mark.parametrize(("value", "context"), [(False, True), (0, True), (True, False), (1.0, False), (None, False)])
def test_a_message_says_whether_it_is_learned(key, value, context):
    message = parse(with_extras(**{key: value})).messages[1]
    assert message.get("loss", True) is not context and ("loss" in message) is context


def test_reasoning_stays_with_its_answer():
    draft = parse(with_extras(reasoning_content="It looks like one."))
    assert [turn.get("reasoning_content") for turn in draft.messages] == [None, "It looks like one.", None, None]


def test_a_system_column_becomes_the_system_turn_once():
    system = {"role": "system", "content": "Be brief."}
    drafts = [parse({"system": "Be brief.", "messages": turns}) for turns in ([USER, ANSWER], [system, USER, ANSWER])]
    assert drafts[0].messages == drafts[1].messages
    assert drafts[0].messages[0] == {"role": "system", "content": [said("Be brief.")]}
    assert refusal({"system": "Be long.", "messages": [system, USER, ANSWER]})[0] == "malformed"


@pytest.mark.parametrize("column", ["video", "videos", "audio", "audios", "tools", "tool_calls"])
def test_what_is_not_read_but_changes_the_meaning_is_refused_by_name(column):
    reason, detail = refusal(record("?", "7", **{column: ["x"]}))
    assert reason == "unsupported" and f"`{column}`" in detail
    for empty in ([], None, ""):
        assert parse(record("?", "7", **{column: empty})).unread == ()


@pytest.mark.parametrize(
    "message",
    [
        {"tool_calls": [{"name": "f"}]},
        {"loss_scale": 0.5},
        {"loss": 0.5},
        {"loss": "false"},
        {"role": "tool"},
        {"role": "observation"},
        {"role": "user", "loss": True},
        {"content": [{"type": "video", "video": "a.mp4"}]},
        {"content": [{"type": "input_audio", "input_audio": {}}]},
    ],
    ids=str,
)
def test_so_is_it_in_a_message(message):
    assert refusal({"messages": [USER, ANSWER | message, USER, ANSWER]})[0] == "unsupported"


def test_columns_that_were_not_read_are_named_unless_they_are_empty():
    value = record("?", "7", images=[], source="x", note=None, width=3, tags=[], conversations=[{"from": "x"}])
    value["messages"][0] |= {"name": "Ann", "cut": ""}
    assert parse(value).unread == ("conversations", "message.name", "source", "width")


# --- ids, tasks, names ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "own"),
    [
        ({"id": 17}, "17"),
        ({"id": "17"}, '"17"'),
        ({"id": 'a"ü'}, '"a\\"ü"'),
        ({"id": "\ud800"}, '"\\ud800"'),
        ({"__key__": "k", "uid": "u"}, '"k"'),
        ({"question_id": 0}, "0"),
        ({"id": None}, None),
        ({"id": float("nan")}, None),
        ({"id": ["a"]}, None),
        ({}, None),
    ],
)
def test_own_ids_are_json_text(fields, own):
    draft = parse(record("?", "7", **fields))
    assert draft.own_id == own
    assert draft.own_id is None or (json.loads(draft.own_id) in fields.values() and draft.own_id.encode())


def test_our_own_shards_keep_what_they_told():
    row = record("?", "7", id="ab", own_id="17", file="a.json", position=3, tokens=5, learned=1, sizes=[{"width": 1}])
    draft = parse(row | {"ratings": [{"name": "relevance", "value": 3.0}], "task": "sum"})
    assert (draft.own_id, draft.ratings, draft.unread, draft.task) == ("17", {"relevance": 3.0}, (), "sum")
    assert parse(record("?", "7", own_id="x", ratings=[1])).unread == ("own_id", "ratings"), "a user's own columns"


def test_columns_maps_our_names_to_theirs():
    columns = {"query": "question", "response": "answer", "images": "pictures", "task": "kind", "id": "nr"}
    value = {
        "question": "<image>?",
        "answer": "7",
        "pictures": "a.png",
        "kind": "count",
        "nr": 5,
        "id": "old",
        "more": 1,
    }
    draft = parse(value, columns)
    assert contents(draft) == [[IMAGE, said("?")], [said("7")]]
    assert (draft.images, draft.task, draft.own_id) == (("a.png",), "count", "5")
    assert draft.unread == ("id", "more"), "what the mapping covers is named too"
    text_only = {"question": "?", "answer": "7"}
    assert parse(text_only, columns).images == (), "a text-only record may lack the images' column"
    reason, detail = refusal({"text": "?"}, columns)
    assert reason == "malformed" and "'question'" in detail and "text" in detail


def test_both_image_columns_must_agree():
    assert parse(record("?", "7", image="a", images=["a"])).images == ("a",)
    assert parse(record("?", "7", image="a", images=[])).images == ("a",)
    assert parse(record("?", "7", image="", images=None)).images == ()
    assert refusal(record("?", "7", image="a", images=["b"]))[0] == "malformed"


# --- refusals -------------------------------------------------------------------------------------------------------

MALFORMED = {
    "no turns": {"images": ["a"]},
    "half a dialect": {"prompt": "?"},
    "messages are no list": {"messages": "hello"},
    "messages are empty": {"messages": []},
    "a message is text": {"messages": ["hello", ANSWER]},
    "an unknown role": {"messages": [USER, {"role": "critic", "content": "x"}, ANSWER]},
    "a role that cannot be hashed": {"messages": [{"role": [], "content": "x"}, ANSWER]},
    "content is a number": record(3, "7"),
    "content is null": record(None, "7"),
    "a part is text": record(["x"], "7"),
    "a part of two kinds": record([{"text": "x", "image": "y"}], "7"),
    "a text part with an image": record([{"type": "text", "text": "x", "image": "y"}], "7"),
    "a text part without text": record([{"type": "text"}], "7"),
    "half a surrogate pair": record("\ud83d", "7"),
    "half a surrogate pair in a system column": record("?", "7", system="\ud83d"),
    "the user speaks last": record("?", "7", "?"),
    "nothing was asked": {"messages": [ANSWER]},
    "a task is a number": record("?", "7", task=3),
    "texts hold no turns": {"texts": ["x"]},
    "an answer is missing": {"texts": [{"user": "?"}]},
    "history is no pairs": {"query": "?", "response": "7", "history": [["a"]]},
    "no answers": {"context": "?", "answers": []},
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_malformed_says_so(name):
    reason, detail = refusal(MALFORMED[name])
    assert reason == "malformed" and detail
    detail.encode()


def test_a_record_of_context_alone_teaches_nothing():
    assert refusal({"messages": [USER, ANSWER | {"loss": False}]})[0] == "empty-answer"


def test_broken_places_keep_their_reason():
    assert refusal(Broken("cut", "broken-file")) == ("broken-file", "cut")


# --- anything at all ------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(sorted(FIELDS | {"role", "content", "from", "value", "type", "text", "loss", "bytes", "path"}))
WORDS = st.sampled_from(["user", "assistant", "human", "gpt", "image", "text", MARK, "a.png", ""]) | st.text(max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant"]), "content": JSON},
    optional={"loss": JSON, "reasoning_content": JSON},
)


@given(value=st.dictionaries(NAMES, JSON | st.lists(TURN, max_size=4), max_size=6))
def test_any_record_becomes_a_draft_or_is_refused_with_a_reason(value):
    try:
        draft = parse(value)
    except Rejected as rejected:
        why = rejected.why
    else:
        _is_whole(draft)
        return
    assert why.reason in typing.get_args(Reason) and why.detail.encode()


def _is_whole(draft: Draft) -> None:
    parts = [part for turn in draft.messages for part in turn["content"]]
    assert parts.count(IMAGE) == len(draft.images)
    assert draft.messages[-1]["role"] == "assistant"
    assert all(isinstance(part["text"], str) for part in parts if part != IMAGE)
    json.dumps(draft.messages, allow_nan=False).encode()


@pytest.mark.parametrize(
    "mark",
    [
        "<image_1>",
        "<|image_1|>",
        "<image 1>",
        "<Image>",
        "<IMAGE/>",
        "<ImageHere>",
        "<|image_pad|>",
        "[IMG]",
        "<image_placeholder>",
    ],
)
def test_other_spellings_of_a_mark_never_reach_the_model_as_text(mark):
    turns = [{"role": "user", "content": f"{mark}\nWhat?"}, {"role": "assistant", "content": "7"}]
    with pytest.raises(Rejected, match="looks like an image's place"):
        parse({"messages": turns, "images": ["a.png"]})
    assert parse({"messages": turns}).images == (), "without images it is a text about marks"

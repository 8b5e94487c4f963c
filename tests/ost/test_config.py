"""Parameters: what is accepted, and that every refusal says what was found and what was meant."""

import typing
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ost.errors import ConfigError
from ost.formats.fields import FIELDS, IDS, UNSUPPORTED
from ost.settings import without_userinfo
from ost.types import Column
from tasks.settings import Params, load_params, parse_params

ROOT = Path(__file__).parents[2]


def leaves(section, prefix: str = "") -> dict:
    """Every value of a nested mapping by its dotted name."""
    found = {}
    for name, value in section.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


KEYS = leaves(Params().model_dump())


def nested(name: str, value) -> dict:
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "params.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_the_defaults_pass_their_own_checks():
    defaults = Params()
    assert parse_params(defaults.model_dump(mode="json")) == parse_params({}) == defaults


TINY_MODELS = ("evaluate.max_new_tokens", "sft.layers", "sft.learning_rate", "sft.steps", "warmup.learning_rate")
"""What suits the built-in world's models of a million weights, and is set for them in the shipped file."""


def test_the_shipped_file_says_what_the_defaults_are_but_for_what_the_built_in_world_needs():
    """A reader of either must not be misled by the other."""
    shipped, defaults = leaves(load_params(ROOT / "params.yaml").model_dump()), KEYS
    other = {name: value for name, value in shipped.items() if value != defaults[name]}
    assert other.pop("evaluate.metric") == "final", "its answers are chains, of which the end counts"
    assert other.keys() <= set(TINY_MODELS)


def test_the_shipped_file_shows_every_key():
    shown = set(leaves(yaml.safe_load((ROOT / "params.yaml").read_text())))
    assert shown == set(KEYS), "params.yaml is the list of what can be told"


def test_numbers_in_yamls_own_scientific_form_are_numbers(tmp_path):
    """YAML 1.1 reads 2e-3 as a string."""
    path = written(tmp_path, "sft: {learning_rate: 2e-3}\nscore: {step: 1.0e-4}\n")
    assert load_params(path).sft.learning_rate == 0.002
    assert load_params(path).score.step == 1e-4


def test_an_empty_file_gives_the_defaults(tmp_path):
    assert load_params(written(tmp_path, "# nothing yet\n")) == Params()


@pytest.mark.parametrize(
    ("raw", "name", "meant"),
    [
        ({"select": {"puritty": 0.2}}, "select.puritty", "purity"),
        ({"selct": {}}, "selct", "select"),
        ({"sft": {"learning-rate": 1}}, "sft.learning-rate", "learning_rate"),
        ({"world": {"teacher_step": 3}}, "world.teacher_step", "teacher_steps"),
        ({"Seed": 3}, "Seed", "seed"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(raw, name, meant):
    with pytest.raises(ConfigError, match=rf"{name}: unknown key; did you mean `{meant}`\?"):
        parse_params(raw)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("select.purity", 0.0),
        ("select.purity", 20),
        ("select.among", 1.5),
        ("warmup.fraction", -0.1),
        ("world.misread", 1.01),
        ("sft.steps", 0),
        ("sft.steps", 2.5),
        ("sft.learning_rate", 0),
        ("sft.learning_rate", float("nan")),
        ("sft.learning_rate", float("inf")),
        ("sft.weight_decay", -1),
        ("score.step", float("inf")),
        ("score.method", "exakt"),
        ("score.reduction", "max"),
        ("base.tasks", "sum"),
        ("compute.device", "tpu"),
        ("seed", -1),
        ("seed", "one"),
        ("data.pool", 3),
        ("select", "narrow"),
        ("select", None),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused_with_what_was_found(name, value):
    with pytest.raises(ConfigError) as error:
        parse_params(nested(name, value))
    assert f"  {name}" in str(error.value)
    assert f"found {value!r}" in str(error.value)


def test_all_problems_are_said_at_once():
    raw = {"select": {"purity": 2, "puritty": 1}, "sft": {"steps": 0}, "sedd": 1}
    with pytest.raises(ConfigError, match=r"has 4 problem\(s\)") as error:
        parse_params(raw, source="my.yaml")
    message = str(error.value)
    assert message.startswith("my.yaml ")
    assert all(name in message for name in ("select.purity:", "select.puritty:", "sft.steps:", "sedd:"))


@pytest.mark.parametrize("name", ["curate.subsets", "curate.protocols", "compare.arms", "compare.seeds"])
def test_a_plan_names_something_and_nothing_twice(name):
    one = 3 if name == "compare.seeds" else "B"
    assert parse_params(nested(name, [one]))
    for values in ([], [one, one]):
        with pytest.raises(ConfigError, match=rf"{name}: name at least one, and none twice \(found"):
            parse_params(nested(name, values))


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("select.fraction", 0.3, "a percentage in curate.subsets now, such as lookahead-20"),
        ("select.wide_fraction", 0.5, "another subset in curate.subsets now, such as lookahead-50"),
        ("recurate.run", "ost-B", "recurate.training now: lookahead-20-B where it was ost-B"),
        ("evaluate.match", "whole", "evaluate.metric now: exact where it was whole"),
    ],
)
def test_a_key_of_an_earlier_build_is_answered_with_what_became_of_it(name, value, remedy, tmp_path):
    path = written(tmp_path, yaml.safe_dump(nested(name, value)))
    with pytest.raises(ConfigError) as error:
        load_params(path)
    assert str(error.value).startswith(f"{path} is of an earlier build; change it, and run again:\n  {name}: ")
    assert remedy in str(error.value)


def test_all_keys_of_earlier_builds_are_said_at_once():
    with pytest.raises(ConfigError) as error:
        parse_params(nested("recurate.run", "ost-B") | nested("select.fraction", 0.2))
    assert [line.split(":")[0].strip() for line in str(error.value).splitlines()[1:]] == [
        "select.fraction",
        "recurate.run",
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("select: [0.2", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
        (b"seed: 1 # \xff", "not valid YAML"),
        ("- seed", "found list"),
        ("seed", "found str"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_a_file_that_holds_no_sections_is_a_config_error(text, found, tmp_path):
    with pytest.raises(ConfigError, match=found) as error:
        load_params(written(tmp_path, text))
    assert "params.yaml" in str(error.value)


@pytest.mark.parametrize("name", ["params.yaml", "."])
def test_a_missing_file_is_a_config_error_that_says_where(name, tmp_path):
    with pytest.raises(ConfigError, match="run in a workspace") as error:
        load_params(tmp_path / name)
    assert str(tmp_path.parent) in str(error.value)


def test_parameters_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Params().select.purity = 0.3


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=2),
    max_leaves=4,
)
SECTIONS = st.sampled_from(sorted(Params.model_fields))


TAKEN = "taken, with no problem(s)"


def refusal(raw: dict) -> str:
    """What the refusal says; any error but ConfigError passes through."""
    try:
        parse_params(raw)
    except ConfigError as error:
        return str(error)
    return TAKEN


@settings(max_examples=150)
@given(raw=st.dictionaries(SECTIONS | st.text(max_size=4) | st.integers(), VALUES, max_size=3))
def test_anything_else_is_a_config_error(raw):
    assert "problem(s)" in refusal(raw)


@settings(max_examples=100)
@given(name=st.sampled_from(sorted(KEYS)), value=VALUES)
def test_any_value_of_any_key_is_taken_or_named(name, value):
    message = refusal(nested(name, value))
    assert name in message or message == TAKEN


def test_columns_that_may_be_renamed_are_those_that_are_read():
    names = set(typing.get_args(Column))
    assert names <= FIELDS and FIELDS - names <= {*UNSUPPORTED, *IDS, "own_id", "ratings"} | {
        name for name in FIELDS if name.endswith(("_ratings", "_min"))
    }
    with pytest.raises(ConfigError, match=r"data\.columns\.task_name"):
        parse_params({"data": {"columns": {"task_name": "category"}}})


# --- secrets, which params.yaml may not hold --------------------------------------------------------------------------

TRAIN = "train {data} {model} {out}"
SUITE = "run {model} {tasks} {out}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tracking.uri", "postgresql+psycopg2://me:hidden@db:5432/mlflow"),
        ("tracking.uri", "postgresql://me:hidden/with@slash@db/mlflow"),
        ("tracking.uri", "https://hidden@mlflow.example.org"),
        ("judge.server", "http://me:hidden@127.0.0.1:8000/v1"),
        ("data.pool", "s3://me:hidden@bucket/pool"),
        ("data.image_roots", ["images", "s3://me:hidden@bucket/images"]),
        ("recurate.publish", "s3://me:hidden@bucket/selections"),
        ("compute.ray", "ray://me:hidden@head:10001"),
        ("sft.command", f"{TRAIN} --report http://me:hidden@wandb:80"),
        ("sft.command", f"HF_TOKEN=hidden {TRAIN}"),
        ("sft.command", f"env AWS_SECRET_ACCESS_KEY='hidden' {TRAIN}"),
        ("evaluate.suite_command", f"OPENAI_API_KEY=hidden {SUITE}"),
    ],
)
def test_a_secret_is_refused_and_never_quoted(name, value, tmp_path):
    """Parameters are copied to every manifest, to dvc.lock and to MLflow."""
    with pytest.raises(ConfigError, match=f"{name}: .*leave it out") as caught:
        load_params(written(tmp_path, yaml.safe_dump(nested(name, value))))
    assert "hidden" not in str(caught.value) and caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tracking.uri", "postgresql://me@db/mlflow"),  # its password comes from PGPASSWORD
        ("tracking.uri", "https://mlflow.example.org:5000/path:1@2"),
        ("judge.server", "http://127.0.0.1:8000/v1"),
        ("models.target", "org/name@main"),
        ("data.pool", "s3://bucket/2026:10/a@b"),
        ("sft.command", f'HF_TOKEN=$MINE WANDB_API_KEY="$OTHER" {TRAIN} --tokens=3 --eos_token=x'),
    ],
)
def test_what_only_looks_like_a_secret_is_taken(name, value):
    parse_params(nested(name, value))


def test_a_file_that_is_no_yaml_is_told_without_its_passwords(tmp_path):
    with pytest.raises(ConfigError, match="not valid YAML") as caught:
        load_params(written(tmp_path, "tracking: uri: postgresql://me:hidden@db/mlflow"))
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:hidden@db:5432/mlflow", "postgresql://db:5432/mlflow"),
        (
            "no answer from http://me:hid@den@a:1/v1, nor from http://b:2/v1",
            "no answer from http://a:1/v1, nor from http://b:2/v1",
        ),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
    ],
)
def test_an_address_is_shown_without_its_user(text, shown):
    assert without_userinfo(text) == shown


def test_a_value_in_place_of_a_list_is_told_how_to_become_one():
    with pytest.raises(ConfigError, match=r"curate\.subsets: a list is needed, such as \[lookahead-20\]"):
        parse_params({"curate": {"subsets": "lookahead-20"}})

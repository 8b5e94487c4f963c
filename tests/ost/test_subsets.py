"""Subsets and trainings: their names, which stages, files and models go by, and which of them a list asks for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ost.arms import arms
from ost.arms.plan import PURE, Subset, Training, subsets_of, trainings_of
from ost.errors import ConfigError

FRACTIONS = [0.2, 0.5, 0.125, 0.05, 0.07, 0.29, 1.0, PURE]


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("arm", list(arms()))
def test_keys_are_read_back(arm, fraction):
    for subset in subsets_of([arm], [fraction]):
        training = Training(subset, "A")
        assert Training.parse(training.key) == training and Subset.parse(subset.key) == subset
        assert set(training.key) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_AB"), "DVC's names hold no more"
        assert "{" not in subset.label


@given(arm=st.sampled_from(list(arms())), fraction=st.floats(1e-4, 1.0))
def test_every_key_that_is_made_leads_back_to_itself(arm, fraction):
    key = Subset(arm, fraction).key
    assert Subset.parse(key).key == key


def parsed(key: str) -> Subset | None:
    """The subset of a key; None for one that is refused."""
    try:
        return Subset.parse(key)
    except ConfigError:
        return None


@given(arm=st.sampled_from([*arms(), "nobody", ""]), share=st.text("0123456789._-epurnaif", max_size=6))
def test_a_key_is_refused_or_is_the_one_of_its_subset(arm, share):
    """Two keys of one subset would be two stages that write one file."""
    for key in (f"{arm}-{share}", arm):
        subset = parsed(key)
        assert not subset or (subset.key == key and (subset.fraction == PURE or 0 < subset.fraction <= 1))


@pytest.mark.parametrize(
    "key",
    [
        "lookahead-nan",
        "lookahead-20.5",
        "lookahead-020",
        "full-20",
        "judge-pure",
        "x-x",
        "",
    ],
)
def test_a_key_that_is_no_subsets_is_told_how_one_is_named(key):
    with pytest.raises(ConfigError, match=rf"no subset is named '{key}'; one is named like lookahead-20"):
        Subset.parse(key)


@pytest.mark.parametrize(("key", "share"), [("lookahead-0", "0"), ("lookahead-200", "200"), ("random-100_5", "100.5")])
def test_a_share_beyond_the_pool_is_named(key, share):
    with pytest.raises(ConfigError, match=rf"{key}: an arm keeps more than 0 % of .* at most 100 %, and not {share} %"):
        Subset.parse(key)


@pytest.mark.parametrize("key", ["lookahead-B", "nobody-20-B", "lookahead-x-B", "lookahead-20-C", "lookahead-20", ""])
def test_another_key_than_a_trainings_is_an_error(key):
    with pytest.raises(ConfigError, match=r"no (subset|arm|training) is named"):
        Training.parse(key)


def test_a_plan_trains_full_sft_once():
    planned = trainings_of(subsets_of(["full", "one-step", "judge"], [0.2, 0.5]), ["B", "A"])
    assert [training.key for training in planned] == [
        "full-B", "one-step-20-B", "one-step-20-A", "one-step-50-B", "one-step-50-A", "judge-B", "judge-A",
    ]  # fmt: skip


def test_pure_is_a_fraction_of_arms_by_utility_alone():
    assert [subset.key for subset in subsets_of(["random", "less", "judge", "lookahead"], [0.2, PURE])] == [
        "random-20", "less-20", "judge", "lookahead-20", "lookahead-pure",
    ]  # fmt: skip
    assert (Subset.parse("lookahead-pure").share, Subset.parse("lookahead-pure").label) == (None, "Lookahead pure")


def test_an_unknown_arm_is_named_with_those_that_are_known():
    with pytest.raises(ConfigError, match="no arm is named 'osst'; known: full, random"):
        subsets_of(["osst"], [0.2])

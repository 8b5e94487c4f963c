"""What a run will take: counted from configurations, and measured on some samples."""

import dataclasses
from pathlib import Path

import pytest
import torch
from specimens import drawn

from flows.forecast import duration, show_forecast
from flows.parameters import set_params
from ost.data import write_samples
from ost.errors import ConfigError
from ost.execution.device import Memory
from ost.execution.estimate import Timeline, count_of, on_meta, training_bytes
from ost.scoring import probe as scoring_probe
from ost.scoring import score
from ost.settings import Lookahead, Score
from ost.store import write_json
from tasks import forecast as forecast_room
from tasks.forecast import COPIES, is_worth_it, on_accelerator
from tasks.pipeline import stages_of
from tasks.plan import Plan
from tasks.settings import Params
from tasks.stages import probe as probe_room
from tasks.stages.probe import probe

NAMES = ["warmup", "score-lookahead", "sft-full-B", "sft-lookahead-20-A", "evaluate-base"]


@pytest.fixture
def place(folder, proxy) -> Path:
    """A workspace with a pool and models, none of them trained yet."""
    for name, count in {"pool": 40, "anchors": 8, "benchmark": 8}.items():
        write_samples(folder / f"data/{name}", drawn(name, count))
    for role in ("target", "proxy"):
        proxy.save(folder / f"models/{role}")
    set_params(folder / "params.yaml", ["score.lookahead.most_steps=2", "sft.batch_size=4", "sft.steps=10"])
    return folder


def test_weights_are_counted_without_any_memory_and_each_once(proxy):
    model = on_meta(proxy.model.config)
    assert all(weight.device.type == "meta" for weight in model.parameters())
    assert count_of(model) == sum({id(one): one.numel() for one in proxy.model.parameters()}.values())


def test_a_training_holds_weights_gradient_and_two_moments():
    weights = torch.nn.Linear(10, 10)
    optimizer = torch.optim.AdamW(weights.parameters())
    weights(torch.ones(1, 10)).sum().backward()
    optimizer.step()
    held = [*weights.parameters(), *(one.grad for one in weights.parameters())]
    held += [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    assert training_bytes(110) == sum(one.nbytes for one in held)
    assert training_bytes(110, trained=0) == 440


def test_a_timeline_knows_phases_and_rates():
    clock = iter([10.0, 11.0, 13.0, 17.0])
    seen = Timeline(lambda: next(clock))
    seen(1, 2, "walking on")
    seen(10, 100, "scoring (x)")
    seen(50, 100, "scoring (x)")
    assert (seen.until("walking"), seen.until("walking", "scoring"), seen.until("checking")) == (1.0, 7.0, 0.0)
    assert seen.rate("scoring") == 10.0 and seen.rate("walking") == 0.0


@pytest.mark.parametrize("method", ["lookahead", "gradient"])
def test_the_probe_tells_what_scoring_takes(method, proxy, monkeypatch):
    """By a clock that counts calls of the model, so that no other process is in the way."""
    calls = []
    hook = proxy.model.register_forward_hook(lambda *_: calls.append(1))
    pool, anchors = drawn("pool", 384), drawn("anchors", 10)
    settings = Score(method=method, checks=16, folds=2, lookahead=Lookahead(steps=8))
    monkeypatch.setattr(scoring_probe, "Timeline", lambda: Timeline(lambda: float(len(calls))))
    try:
        told = scoring_probe.probe_scoring(proxy, anchors, pool[:192], settings)
        before = len(calls)
        score(pool, anchors, proxy, settings)
        took = len(calls) - before
    finally:
        hook.remove()
    assert told.once + len(pool) / told.rate == pytest.approx(took, rel=0.35)


def test_all_that_will_run_is_tried_and_told(place, capsys):
    found = probe(place, NAMES, 2)
    assert [row.what for row in found.rows] == ["warmup", "score-lookahead", "2 × sft", "evaluate"]
    assert all(row.rate > 0 and row.seconds > 0 and row.memory > 0 for row in found.rows), found.rows
    assert [row.samples for row in found.rows] == [4, 40, 48, 8]
    weights = count_of(on_meta(probe_room.load_config(place / "models/target")))
    assert found.disk == COPIES * 4 * weights * (2 + 2)
    found.check()
    show_forecast(dataclasses.replace(found, notes=("set this",)))
    shown = capsys.readouterr().out
    assert "2 × sft" in shown and "in all" in shown and "! set this" in shown


def test_what_cannot_fit_is_refused_with_the_remedy_before_anything_is_loaded(place, monkeypatch):
    monkeypatch.setattr(probe_room, "memory_of", lambda device: Memory(100_000, 100_000))
    monkeypatch.setattr(probe_room, "load_checkpoint", None)
    with pytest.raises(ConfigError, match="this run does not fit") as refused:
        probe(place, NAMES, 1).check()
    for remedy in ("warmup.lora_rank", "score.layers to language or last:1", "--until select"):
        assert remedy in str(refused.value)


def test_before_the_pool_is_there_configurations_tell_what_they_can(place):
    (place / "data/pool").unlink()
    found = probe(place, NAMES, 1)
    assert all(row.rate is None and row.memory for row in found.rows)
    assert found.notes == (forecast_room.MORE,)


def test_a_small_pool_on_a_cpu_is_scored_at_once(tmp_path):
    assert not is_worth_it(tmp_path, accelerated=False) and is_worth_it(tmp_path, accelerated=True)
    write_json(tmp_path / "data/manifest.json", {"metrics": {"pool_samples": 20_001.0}})
    assert is_worth_it(tmp_path, accelerated=False)


def test_a_forecast_is_about_what_is_still_to_run_on_the_accelerator(tmp_path):
    stages = stages_of(tmp_path, Plan(Params()))
    assert on_accelerator(stages, {"ingest", "base-target", "score-lookahead", "sft-full-B"}) == [
        "score-lookahead",
        "sft-full-B",
    ]
    assert on_accelerator(stages, set()) == []


@pytest.mark.parametrize(("seconds", "told"), [(40, "40 s"), (720, "12 min"), (12600, "3.5 h")])
def test_a_time_is_told_as_a_person_says_it(seconds, told):
    assert duration(seconds) == told


def test_what_others_run_is_not_tried_and_an_adapter_takes_no_disk(place):
    command = "sft.command=train {data} {model} {out} {steps}"
    suite = ["evaluate.suite=lmms-eval", "evaluate.suite_tasks=[mmmu_val]"]
    set_params(place / "params.yaml", [command, *suite, "sft.method=full"])
    told = probe(place, NAMES[2:], 1)
    assert [(row.rate, row.note) for row in told.rows] == [
        (None, "by sft.command, not tried beforehand"),
        (None, "by lmms-eval, not tried beforehand"),
    ]
    assert told.disk > 0
    set_params(place / "params.yaml", ["sft.method=lora"])
    assert probe(place, NAMES[2:], 1).disk == 0

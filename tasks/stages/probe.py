"""The probe of a workspace: its own models, on some of its own samples, for a forecast of the run."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch

from ost.arms import scores_of
from ost.arms.plan import Training
from ost.data import Dataset, Sample
from ost.errors import ModelError
from ost.evaluation.generate import answer_limit, generate
from ost.evaluation.metrics import references_of
from ost.execution.compiling import decided
from ost.execution.device import memory_of, peak_memory
from ost.execution.estimate import FP32, Timeline, count_of, on_meta, training_bytes
from ost.models import Checkpoint, add_adapter, load_checkpoint, load_config, resolve_device
from ost.scoring.passes.weights import scored_weights
from ost.scoring.probe import probe_scoring
from ost.settings import BUILTIN, LLAVA, Score
from ost.training import Recipe, train
from ost.warmup import warmup_data
from tasks.forecast import COPIES, GIB, MORE, Forecast, Row, free_disk, grouped
from tasks.settings import load_params
from tasks.stages.reproducible import make_reproducible
from tasks.stages.sft import prepare, sft_recipe

SAMPLES, ANSWERED, STEPS = 256, 16, 4
"""Samples of the pool that are scored, prompts that are answered, and steps that are trained."""


def probe(root: Path, names: Sequence[str], devices: int) -> Forecast:
    """What the stages of these names will take on so many devices like the one that this process uses.

    Without a pool or models that are there already, what their configurations tell.
    """
    return _Probe(root, devices).forecast(names)


class _Probe:
    def __init__(self, root: Path, devices: int):
        self.root, self.devices, self.params = root, devices, load_params(root / "params.yaml")
        make_reproducible(self.params.compute.threads)
        self.device = resolve_device(self.params.compute.device)
        self.total, self.notes = memory_of(self.device).total, []
        self.weights = {role: self._weights(role) for role in ("target", "proxy")}

    def forecast(self, names: Sequence[str]) -> Forecast:
        kinds = grouped(names)
        least = {what: self._least(own[0]) for what, own in kinds.items()}
        refusals = tuple(filter(None, (self._refusal(what, least[what]) for what in kinds)))
        known = (self.root / "data/pool").exists() and not refusals
        if not known and not refusals:
            self.notes.append(MORE)
        rows = tuple(self._row(what, own, least[what], known) for what, own in kinds.items())
        whole = 0 if self.params.sft.method == "lora" else self.weights["target"] or 0  # an adapter is small
        disk = sum(COPIES * FP32 * whole for name in names if name.startswith("sft-"))
        if "warmup" in names:
            disk += COPIES * 2 * FP32 * (self.weights["proxy"] or 0)  # its second moment lies beside it
        if disk > (free := free_disk(self.root)):
            self.notes.append(
                f"models need {disk / GIB:.0f} GiB of disk, and {free / GIB:.0f} are free: free some, plan fewer "
                "curate.subsets or protocols, or end with --until select"
            )
        return Forecast(rows, self.total, disk, free, tuple(self.notes), refusals)

    def _config(self, role: str):
        folder, name = self.root / f"models/{role}", getattr(self.params.models, role)
        if folder.is_dir():
            return load_config(folder)
        if name in (BUILTIN, LLAVA):
            return None
        return load_config(self.root / name if (self.root / name).is_dir() else name)

    def _weights(self, role: str) -> int | None:
        """Numbers among the weights of target or proxy; None where its configuration cannot be had yet."""
        try:
            config = self._config(role)
        except ModelError as error:
            self.notes.append(f"the size of the {role} is not known: {error}")
            return None
        return None if config is None else count_of(on_meta(config))

    def _least(self, stage: str) -> int | None:
        """Bytes that a stage takes at least, whatever the batches: weights, gradients and moments."""
        kind, _, key = stage.partition("-")
        weights = self.weights["target" if kind in ("sft", "trial", "evaluate") else "proxy"]
        if weights is None:
            return None
        if kind in ("sft", "trial"):
            if self.params.sft.command:
                return None
            return training_bytes(weights, 0 if self.params.sft.method == "lora" else weights)
        lora = bool(self.params.warmup.lora_rank)
        if kind == "warmup":
            return training_bytes(weights, 0 if lora else weights)
        walks = kind == "score" and self._settings(key) and self._settings(key).method == "lookahead" and not lora
        return training_bytes(weights, self._moved if walks else 0)

    @cached_property
    def _moved(self) -> int:
        """Numbers among the proxy's weights that scoring moves."""
        moved = scored_weights(on_meta(self._config("proxy")), self.params.score.layers)
        return sum(weight.numel() for weight in moved.values())

    def _settings(self, name: str) -> Score | None:
        """How a stage scores by utility; None for scores of other kinds."""
        score = self.params.score
        if not scores_of(name).utility:
            return None
        if name == "lookahead":
            changes = {"method": "lookahead", "detail": None if score.detail == "groups" else score.detail}
        else:
            changes = {"method": "gradient" if score.method == "lookahead" else score.method}
        return score.model_copy(update=changes)

    def _refusal(self, what: str, least: int | None) -> str | None:
        if least is None or least <= self.total:
            return None
        remedy = (
            "set sft.method to lora, choose a smaller models.target, or end with --until select, which trains no target"
        )
        if what == "warmup":
            remedy = "set warmup.lora_rank, such as 16, or choose a smaller models.proxy"
        elif what.startswith("score"):
            remedy = "set score.layers to language or last:1, warmup.lora_rank, or choose a smaller models.proxy"
        return (
            f"{what} needs at least {least / GIB:.1f} GiB for weights, gradients and moments, and {self.device.type} "
            f"has {self.total / GIB:.1f}: {remedy}"
        )

    def _row(self, what: str, own: Sequence[str], least: int | None, known: bool) -> Row:
        kind, _, key = what.partition("-")
        measure = {"warmup": self._warmup, "score": self._score, "evaluate": self._evaluate}.get(kind, self._train)
        told = f"{len(own)} × {what}" if len(own) > 1 else what
        if not known:
            return Row(told, 0, None, None, least)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            samples, rate, once, note = measure(own, key)
        except torch.OutOfMemoryError:
            note = "runs out of memory: lower sft.batch_size or data.max_tokens"
            return Row(told, 0, None, None, self.total, note)
        finally:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        if rate is None:
            return Row(told, samples, None, None, least, note)
        side_by_side = self.devices if kind == "score" else min(self.devices, len(own))
        return Row(told, samples, rate, once + samples / rate / side_by_side, peak_memory(self.device), note)

    @cached_property
    def _pool(self) -> list[Sample]:
        return _spread(Dataset(self.root / "data/pool"), SAMPLES)

    def _load(self, name: str) -> Checkpoint:
        base = self.root / "models/proxy" if name.startswith("proxy") else None
        return load_checkpoint(self.root / f"models/{name}", self.device, base)

    def _score(self, own: Sequence[str], key: str) -> tuple[int, float | None, float, str]:
        size, settings = len(Dataset(self.root / "data/pool")), self._settings(key)
        if settings is None:
            return size, None, 0.0, "not tried beforehand"
        proxy = self._load("proxy-warm" if (self.root / "models/proxy-warm").exists() else "proxy")
        anchors = list(Dataset(self.root / "data/anchors"))
        execution = decided(self.params.compute, self.device, size)
        found = probe_scoring(proxy, anchors, self._pool, settings, execution)
        return size, found.rate, found.once, f"of it at most {found.once:.0f} s for anchors and checks"

    def _warmup(self, own: Sequence[str], key: str) -> tuple[int, float | None, float, str]:
        recipe, _ = warmup_data(self.params, Dataset(self.root / "data/pool"), self.weights["proxy"] or 0)
        return self._trained("proxy", recipe, recipe.steps)

    def _train(self, own: Sequence[str], key: str) -> tuple[int, float | None, float, str]:
        pool = len(Dataset(self.root / "data/pool"))
        if self.params.sft.command:
            return pool, None, 0.0, "by sft.command, not tried beforehand"
        trainings = [Training.parse(name.partition("-")[2]) for name in own]
        recipes = [
            sft_recipe(self.params, one.protocol, pool, one.subset.share or 1.0, self.weights["target"] or 0)
            for one in trainings
        ]
        samples, rate, once, note = self._trained("target", recipes[0], sum(recipe.steps for recipe in recipes))
        return samples, rate, once, note or ("" if self.devices > 1 or len(own) == 1 else "one after the other")

    def _trained(self, role: str, recipe: Recipe, steps: int) -> tuple[int, float | None, float, str]:
        seen, size = Timeline(), recipe.batch_size
        trial, model = dataclasses.replace(recipe, steps=STEPS), self._load(role)
        if role == "target":
            prepare(model, self.params.sft, 0)
        elif self.params.warmup.lora_rank:
            add_adapter(model.model, self.params.warmup.lora_rank, 0)
        train(model, self._pool, trial, seen, execution=self.params.compute)
        return steps * size, size * seen.rate("training"), 0.0, ""

    def _evaluate(self, own: Sequence[str], key: str) -> tuple[int, float | None, float, str]:
        if suite := self.params.evaluate.suite:
            return 0, None, 0.0, f"by {suite}, not tried beforehand"
        benchmark, model = Dataset(self.root / "data/benchmark"), self._load("target")
        prompts, most = _spread(benchmark, ANSWERED), self.params.evaluate.max_new_tokens
        most = most or answer_limit(model, (text for one in prompts for text in references_of(one.answer)))
        generate(model, prompts[:1], max_new_tokens=1, execution=self.params.compute)
        seen = Timeline()
        generate(model, prompts, max_new_tokens=most, execution=self.params.compute)
        seen(len(prompts), len(prompts), "generating")
        return len(own) * len(benchmark), len(prompts) / seen.until("generating"), 0.0, "larger batches take less"


def _spread(samples: Dataset, count: int) -> list[Sample]:
    """So many samples, at even distances."""
    return samples.at(list(range(0, len(samples), max(1, len(samples) // count)))[:count])

"""Stages `sft` and `trial`: the target, fine-tuned on one subset under one protocol; kept, or tested and forgotten."""

import json
import shutil
from dataclasses import dataclass, replace

import torch

from ost.arms.plan import Training
from ost.cost import Cost, Stopwatch
from ost.data import Joined, Masked, Samples, content_digest
from ost.errors import ConfigError
from ost.execution.estimate import count_of, on_meta
from ost.models import Checkpoint, add_adapter, freeze_but_language, load_checkpoint, load_config, resolve_device
from ost.selection import kept_ids, masks_of
from ost.settings import SFT
from ost.store import md5, publish, read_json, read_table
from ost.training import Recipe, Trained, train, usual_rate
from ost.types import TrainingProtocol, silent
from tasks.coinciding import coinciding
from tasks.pipeline import manifest_path
from tasks.settings import Params
from tasks.stages.context import Context, Outcome
from tasks.stages.evaluate import evaluate_model
from tasks.stages.own_trainer import train_by_command
from tasks.stages.reproducible import make_reproducible
from tasks.stages.rows import choosing_cost, whole_cost
from tasks.stages.shared import shared

TARGET = "models/target"


def sft(ctx: Context) -> Outcome:
    """Protocol B takes as many steps as Full-SFT; protocol A as many epochs, so fewer steps for a smaller subset."""
    setup = Setup.of(ctx)
    folder = f"models/sft/{ctx.key}"
    if twin := _twin(ctx, setup):
        with publish(ctx.output(folder)) as part:
            shutil.copytree(ctx.root / "models/sft" / twin["key"], part)
        return _as_twin(twin, setup)
    target, found, cost, curves = _train(ctx, setup)
    target.save(ctx.output(folder))
    ctx.saved_training([setup.fingerprint]).forget()
    return Outcome(setup.metrics | found, cost, datasets=setup.digests, labels=setup.labels, curves=curves)


def trial(ctx: Context) -> Outcome:
    """Train and evaluate at once; of the model nothing but its answers is kept."""
    watch, setup = Stopwatch(), Setup.of(ctx)
    answers, choosing = f"evaluations/{ctx.key}", choosing_cost(ctx.root, setup.training.subset)
    if twin := _twin(ctx, setup):
        for suffix in (".json", ".parquet"):
            with publish(ctx.output(answers + suffix)) as part:
                shutil.copyfile(ctx.root / f"evaluations/{twin['key']}{suffix}", part)
        told = _as_twin(twin, setup)
        training = Cost(told.metrics["train_seconds"], told.metrics["train_flops"])
        datasets = told.datasets | {"benchmark": twin["datasets"]["benchmark"]}
        return replace(told, metrics=told.metrics | whole_cost(choosing, training), datasets=datasets)
    target, found, cost, curves = _train(ctx, setup)
    took = {"train_seconds": cost.seconds, "train_flops": cost.flops}
    tested = evaluate_model(ctx, target, {"samples": len(setup.samples), "steps": setup.recipe.steps} | took)
    ctx.saved_training([setup.fingerprint]).forget()
    metrics = tested.metrics | setup.metrics | whole_cost(choosing, cost) | found
    digests = setup.digests | tested.datasets
    return Outcome(metrics, Cost(watch.seconds), tested.warnings, digests, setup.labels, curves)


@dataclass(frozen=True)
class Setup:
    """What one training of the target learns from, and how."""

    training: Training
    samples: Samples
    contents: list[str]
    """What tells them from others in what is learned of them, in order."""
    recipe: Recipe
    fingerprint: str
    """Of all that a training's outcome depends on: two with the same one come to the same model."""

    @classmethod
    def of(cls, ctx: Context) -> "Setup":
        """The setup of the training that the stage's key names, in the workspace as it is now."""
        training, pool = Training.parse(ctx.key), ctx.samples("pool")
        subset = training.subset
        selection = read_table(ctx.input(f"selections/{subset.key}.parquet"))
        own = Masked(pool.subset(kept_ids(selection)), masks_of(selection))
        samples: Samples = own
        contents = own.contents()
        if subset.arm.with_anchors:
            samples = Joined(own, anchors := ctx.samples("anchors"))
            contents += anchors.ids()
        target = ctx.input(TARGET)  # also where the weights are a twin's: lineage leads there
        weights = count_of(on_meta(load_config(target)))
        recipe = sft_recipe(ctx.params, training.protocol, len(pool), len(samples) / len(pool), weights)
        parts = [contents, vars(recipe), ctx.params.sft.model_dump(), ctx.digest(TARGET), ctx.versions()]
        if ctx.stage.startswith("trial"):
            ctx.input("data/benchmark")
            parts += [ctx.params.evaluate.model_dump(), ctx.digest("data/benchmark")]
        return cls(training, samples, contents, recipe, md5(json.dumps(parts).encode()).hexdigest())

    @property
    def metrics(self) -> dict[str, float]:
        """How many samples, for how many steps."""
        recipe = self.recipe
        return {"samples": len(self.samples), "steps": float(recipe.steps), "learning_rate": recipe.learning_rate}

    @property
    def digests(self) -> dict[str, str]:
        """The digest of the samples, by the subset's name."""
        return {self.training.subset.key: content_digest(self.contents)}

    @property
    def labels(self) -> dict[str, str]:
        """What tells the training from others."""
        subset, protocol = self.training.subset, self.training.protocol
        named = {"arm": subset.name, "subset": subset.key, "protocol": protocol}
        return named | {"fingerprint": self.fingerprint}


def sft_recipe(params: Params, protocol: TrainingProtocol, pool: int, share: float, weights: int) -> Recipe:
    """How a target of so many weights is trained on a share of the pool under a protocol."""
    sft, full = params.sft, params.sft.steps_over(pool)
    return Recipe(
        steps=full if protocol == "B" else max(1, round(full * share)),
        batch_size=sft.batch_size,
        learning_rate=sft.learning_rate or usual_rate(weights, sft.method == "lora"),
        warmup_ratio=sft.warmup_ratio,
        weight_decay=sft.weight_decay,
        seed=params.seed,
        gradient_checkpointing=sft.gradient_checkpointing == "always"
        or (sft.gradient_checkpointing == "auto" and resolve_device(params.compute.device).type != "cpu"),
    )


def prepare(target: Checkpoint, settings: SFT, seed: int) -> None:
    """Leave those weights of a target trainable, in place, that `sft.method` and `sft.layers` name."""
    if settings.method == "lora":
        add_adapter(target.model, settings.lora_rank, seed, settings.layers)
    elif settings.layers == "language":
        freeze_but_language(target.model)


def _train(ctx: Context, setup: Setup) -> tuple[Checkpoint, dict[str, float], Cost, dict]:
    """The target, trained, with what its training came to and cost, and its curves."""
    device, settings = resolve_device(ctx.params.compute.device), ctx.params.sft
    if settings.command:
        if setup.training.subset.arm.with_anchors:
            raise ConfigError(f"{ctx.stage} trains on anchors too, which sft.command is not given: leave that arm out")
        selection = f"selections/{setup.training.subset.key}.parquet"
        target, cost = train_by_command(ctx, selection, TARGET, setup.recipe, device)
        return target, {}, cost, {}
    with shared(ctx.slots, _share, replace(ctx, progress=silent, slots=None)):
        target, trained = _fit(ctx, setup, device)
    return target, {"loss": trained.loss}, trained.cost, trained.curves


def _fit(ctx: Context, setup: Setup, device: torch.device) -> tuple[Checkpoint, Trained]:
    target = load_checkpoint(ctx.root / TARGET, device)
    prepare(target, ctx.params.sft, ctx.params.seed)
    saved = ctx.saved_training([setup.fingerprint])
    return target, train(target, setup.samples, setup.recipe, ctx.progress, execution=ctx.params.compute, saved=saved)


def _share(ctx: Context) -> None:
    """In a process on another device: the stage's training, for its part of each step."""
    make_reproducible(ctx.params.compute.threads)
    _fit(ctx, Setup.of(ctx), resolve_device(ctx.params.compute.device))


def _twin(ctx: Context, setup: Setup) -> dict | None:
    """The manifest of a finished training with the same outcome, and its `key`; None where there is none."""
    key = coinciding(ctx.root, ctx.params, ctx.key)
    path = ctx.root / manifest_path(f"{ctx.stage.partition('-')[0]}-{key}")
    if key is None or not path.exists():
        return None
    manifest = read_json(path)
    whole = all((ctx.root / made).exists() and ctx.digest(made) == was for made, was in manifest["outputs"].items())
    return manifest | {"key": key} if whole and manifest["labels"].get("fingerprint") == setup.fingerprint else None


def _as_twin(twin: dict, setup: Setup) -> Outcome:
    """What a training comes to that was made before under another name."""
    told = f"it keeps exactly what {Training.parse(twin['key']).subset.label} keeps: trained once, as {twin['key']}"
    cost = Cost(twin["seconds"], twin["flops"])
    labels = setup.labels | {"same_as": twin["key"]}
    return Outcome(twin["metrics"], cost, [told], setup.digests, labels, twin.get("curves", {}))

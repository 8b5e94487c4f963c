"""Stages `sft` and `trial`: the target, fine-tuned on one subset under one protocol; kept, or tested and forgotten."""

import json
import shutil
from dataclasses import dataclass, replace

from ost.arms.plan import Training
from ost.cost import Cost, Stopwatch
from ost.data import Joined, Masked, Samples, content_digest
from ost.models import Checkpoint, load_checkpoint, resolve_device
from ost.selection import kept_ids, masks_of
from ost.store import md5, publish, read_json, read_table
from ost.training import Recipe, Trained, train
from ost.types import TrainingProtocol
from tasks.coinciding import coinciding
from tasks.pipeline import manifest_path
from tasks.settings import Params
from tasks.stages.context import Context, Outcome
from tasks.stages.evaluate import evaluate_model
from tasks.stages.rows import choosing_cost, whole_cost

TARGET = "models/target"


def sft(ctx: Context) -> Outcome:
    """Protocol B takes as many steps as Full-SFT; protocol A as many epochs, so fewer steps for a smaller subset."""
    setup = Setup.of(ctx)
    folder = f"models/sft/{ctx.key}"
    if twin := _twin(ctx, setup):
        with publish(ctx.output(folder)) as part:
            shutil.copytree(ctx.root / "models/sft" / twin["key"], part)
        return _as_twin(twin, setup)
    target, trained = _train(ctx, setup)
    target.save(ctx.output(folder))
    return Outcome(setup.metrics | {"loss": trained.loss}, trained.cost, datasets=setup.digests, labels=setup.labels)


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
    target, trained = _train(ctx, setup)
    cost = {"train_seconds": trained.cost.seconds, "train_flops": trained.cost.flops}
    tested = evaluate_model(ctx, target, {name: int(value) for name, value in setup.metrics.items()} | cost)
    metrics = tested.metrics | setup.metrics | whole_cost(choosing, trained.cost) | {"loss": trained.loss}
    return Outcome(metrics, Cost(watch.seconds), datasets=setup.digests | tested.datasets, labels=setup.labels)


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
        recipe = sft_recipe(ctx.params, training.protocol, len(samples) / len(pool))
        ctx.input(TARGET)  # also where the weights are a twin's: lineage leads there
        parts = [contents, vars(recipe), ctx.digest(TARGET), ctx.versions()]
        if ctx.stage.startswith("trial"):
            ctx.input("data/benchmark")
            parts += [ctx.params.evaluate.model_dump(), ctx.digest("data/benchmark")]
        return cls(training, samples, contents, recipe, md5(json.dumps(parts).encode()).hexdigest())

    @property
    def metrics(self) -> dict[str, float]:
        """How many samples, for how many steps."""
        return {"samples": float(len(self.samples)), "steps": float(self.recipe.steps)}

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


def sft_recipe(params: Params, protocol: TrainingProtocol, share: float) -> Recipe:
    """How a target is trained on a share of the pool under a protocol."""
    steps = params.sft.steps if protocol == "B" else max(1, round(params.sft.steps * share))
    return Recipe(**(params.sft.model_dump() | {"steps": steps, "seed": params.seed}))


def _train(ctx: Context, setup: Setup) -> tuple[Checkpoint, Trained]:
    target = load_checkpoint(ctx.input(TARGET), resolve_device(ctx.params.compute.device))
    return target, train(target, setup.samples, setup.recipe, ctx.progress)


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
    return Outcome(twin["metrics"], cost, [told], setup.digests, setup.labels | {"same_as": twin["key"]})

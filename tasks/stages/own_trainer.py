"""A user's own trainer in place of ours: it gets the subset and the target, and the model that it leaves is taken."""

import json
import shutil
from pathlib import Path

import torch

from ost.cost import BACKWARD, Cost, Stopwatch
from ost.errors import ModelError, TrainingError
from ost.execution.forward import forward_flops
from ost.export import export
from ost.models import Checkpoint, load_checkpoint
from ost.store import read_table, remove
from ost.training import Recipe
from tasks.stages.command import filled, run_command
from tasks.stages.context import Context

CONFIGS = ("config.json", "adapter_config.json")
"""Either makes a folder a model's."""
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


def train_by_command(
    ctx: Context, selection: str, target: str, recipe: Recipe, device: torch.device
) -> tuple[Checkpoint, Cost]:
    """Run `sft.command` on the samples that a selection keeps; returns the model that it leaves, on the device.

    What it prints goes to .ost/training/STAGE.log. Seconds are its own; its FLOPs are those of the recipe's steps.
    Raises TrainingError where it fails or leaves no model.
    """
    watch, settings = Stopwatch(), ctx.params.sft
    folder = ctx.root / ".ost/training" / ctx.stage
    remove(folder)
    data, out, base = folder / "data", folder / "out", ctx.root / target
    pool = ctx.samples("pool")
    table = read_table(ctx.root / selection)
    export(table, pool, settings.command_form, data, progress=ctx.progress)
    out.mkdir(parents=True)
    given = {"data": data, "model": base, "out": out, "steps": recipe.steps, "batch_size": recipe.batch_size}
    given |= {"learning_rate": recipe.learning_rate, "seed": recipe.seed}
    run_command(ctx, "sft.command", filled(settings.command, given), folder.with_suffix(".log"), TrainingError)
    found = _model_in(out)
    _complete(found, base)
    model = load_checkpoint(found, device)
    model.model.name_or_path = str(base)
    flops = forward_flops(model, pool[:64], ctx.params.compute) * (1 + BACKWARD) * recipe.steps * recipe.batch_size
    remove(folder)
    return model, Cost(watch.seconds, flops)


def _model_in(out: Path) -> Path:
    """The folder of the newest model in a folder."""
    found = {file.parent for name in CONFIGS for file in out.rglob(name) if _weights(file.parent)}
    if out in found:
        return out
    if not found:
        raise TrainingError(f"sft.command left no model in {out}: no folder there has a config.json and weights")
    return max(found, key=lambda folder: max(file.stat().st_mtime_ns for file in _weights(folder)))


def _weights(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.suffix in WEIGHTS]


def _complete(found: Path, base: Path) -> None:
    """Put beside a model what a trainer leaves out: the processor, and an adapter's way to its base."""
    if not list(found.glob("*.safetensors")):
        raise ModelError(f"the model that sft.command left in {found} has no safetensors: have it save them")
    for file in base.iterdir():
        if file.is_file() and file.suffix not in WEIGHTS and "index" not in file.name:
            target = found / file.name
            if not target.exists() and file.name not in CONFIGS:
                shutil.copyfile(file, target)
    adapter = found / CONFIGS[1]
    if adapter.is_file():
        settings = json.loads(adapter.read_text()) | {"base_model_name_or_path": str(base.resolve())}
        adapter.write_text(json.dumps(settings))
        shutil.copyfile(base / CONFIGS[0], found / CONFIGS[0])

"""Public benchmarks in the user's own environment of lmms-eval: it gets a model's folder, and its log is read."""

import dataclasses
from pathlib import Path

import torch

from ost.errors import EvaluationError
from ost.evaluation.evaluate import Evaluation
from ost.evaluation.lmms_eval import read_logs
from ost.models import Checkpoint, load_checkpoint
from ost.models.adapter import base_of, has_adapter
from ost.store import remove
from tasks.stages.command import filled, run_command
from tasks.stages.context import Context


def evaluate_by_suite(ctx: Context, model: Path | Checkpoint) -> tuple[list[str], Evaluation]:
    """Run `evaluate.suite_command` on a model; returns the samples' names with the evaluation.

    A folder of whole weights is given as it lies. Anything else is written for the time of the run, adapters merged
    into their base. What the command prints goes to .ost/suite/STAGE.log; what it leaves is kept where it fails.
    Raises EvaluationError where it fails or leaves no log that can be read.
    """
    settings, folder = ctx.params.evaluate, ctx.root.absolute() / ".ost/suite" / ctx.stage
    log = folder.with_name(f"{folder.name}.log")
    remove(folder)
    out, merged = folder / "out", folder / "model"
    out.mkdir(parents=True)
    try:
        given = {"model": _on_disk(model, merged), "tasks": ",".join(settings.suite_tasks), "out": out}
        command = filled(settings.suite_command, given)
        said = run_command(ctx, "evaluate.suite_command", command, log, EvaluationError)
    finally:
        remove(merged)
    try:
        found = read_logs(out)
    except EvaluationError as error:  # lmms-eval ends with 0 where it fails
        raise EvaluationError(f"{error}; {said}") from error
    remove(folder)
    return found


def _on_disk(model: Path | Checkpoint, folder: Path) -> Path:
    """Where a model lies in whole weights, with its processor: its own folder, or this one, which is written then."""
    if isinstance(model, Path):
        if not base_of(model):
            return model.absolute()
        model = load_checkpoint(model)
    model.model.to("cpu")  # the accelerator is the command's
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    _merge_adapter(model)
    dataclasses.replace(model, second_moment=None).save(folder)
    return folder


def _merge_adapter(checkpoint: Checkpoint) -> None:
    """Add the adapter that a model carries, if any, to the weights beside it, in place."""
    model = checkpoint.model
    if not has_adapter(model):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for path, layer in [(path, layer) for path, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)]:
        layer.merge()
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, layer.get_base_layer())
    del model.peft_config

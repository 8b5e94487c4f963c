"""The entries of the accelerator's benchmark, see benchmarks/gpu.py."""

import functools
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu_ground import Ground, collect, synchronize
from benchmarks.yardsticks import BergsonHooks, flat_losses
from ost.encoding import to_device
from ost.execution.forward import losses_of
from ost.scoring import Job, score, score_file
from ost.scoring.probe import probe_scoring
from ost.settings import Execution
from ost.training import Recipe, train

LEAN, PART, WARM = 512, 16, 4
"""Samples that lie on the device, that a worker encodes at a time, and batches before the clock starts."""
PROBED, CHECKED = 256, 16
"""Samples that a plan is made from, and that the defaults score."""
TRAINED, STEPS = 16, 30
"""Of the adapter's training: samples of a step, and steps."""
WALK = {"method": "lookahead", "lookahead": {"steps": 4}, "folds": 2}
BEFORE = 24.0
"""Samples a second that the build d00599e forwarded on an H100, same model and samples, bf16 over fp32 weights."""
LARGE = 665_298
"""Samples of a pool as large as those that models are trained on."""


def encode(ground: Ground) -> dict[str, Any]:
    """Batches taken from the loader, and thrown away."""
    watch = ground.watch(samples=PART)

    def work() -> None:
        for number, _ in enumerate(ground.encoded(ground.pool, PART), 1):
            watch(number, len(ground.pool))

    return watch.run(work) | {"processes": ground.encoders}


@torch.no_grad()
def lean(ground: Ground) -> dict[str, Any]:
    """Forward passes over batches that lie on the device: at the best of two sizes."""
    found = {}
    for size in (32, 64):
        batches = [to_device(batch, ground.device) for batch in ground.encoded(ground.pool[:LEAN], size)]
        for batch in batches[:: max(1, len(batches) // WARM)]:
            flat_losses(ground.lean, batch)
        synchronize()
        began = time.perf_counter()
        for batch in batches:
            flat_losses(ground.lean, batch)
        synchronize()
        samples = sum(len(batch["labels"]) for batch in batches)
        found[str(size)] = samples / (time.perf_counter() - began)
    best = max(found, key=found.get)
    return {"samples_per_second": found[best], "batch_size": int(best), "by_batch_size": found}


def bergson(ground: Ground) -> dict[str, Any]:
    """The peer over such batches."""
    try:
        import bergson  # noqa: F401
    except ImportError as error:
        return {"left_out": f"bergson is not here ({error}): make peer"}
    anchors = [to_device(batch, ground.device) for batch in ground.encoded(ground.anchors, 4)]
    size = 64
    while True:
        try:
            peer = BergsonHooks(ground.lean, anchors)
            return _hooked(ground, peer, size) | {"batch_size": size}
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
        collect()


def _hooked(ground: Ground, peer: BergsonHooks, size: int) -> dict[str, Any]:
    watch, done = ground.watch(), 0
    batches = [to_device(batch, ground.device) for batch in ground.encoded(ground.pool[: LEAN // 2], size)]
    peer.score(batches[-1])  # the largest

    def work() -> None:
        nonlocal done
        for batch in batches:
            peer.score(batch)
            synchronize()
            done += len(batch["labels"])
            watch(done, len(ground.pool))

    return watch.run(work)


def from_shards(ground: Ground, compiled: str = "never") -> dict[str, Any]:
    """`lookahead` of the last block, from Parquet shards to published rows."""
    ground.forget()
    settings = ground.settings(layers="last:1", shard_size=len(ground.pool) // 4, **WALK)
    files = [ground.folder / name for name in ("pool.parquet", "anchors.parquet", "proxy", f"store-{compiled}")]
    job = Job(*files, settings, device=ground.device.type, execution=Execution(compile=compiled))
    watch = ground.watch("scoring")
    return watch.run(lambda: score_file(job, progress=watch))


def plan(ground: Ground) -> dict[str, Any]:
    """What `ost plan` tells beforehand of `lookahead_last1`, from a few samples."""
    settings = ground.settings(layers="last:1", **WALK)
    found = probe_scoring(ground.proxy, ground.anchors, ground.pool[:PROBED], settings)
    return {"samples_per_second": found.rate, "seconds_once": found.once}


def defaults(ground: Ground) -> dict[str, Any]:
    """The library's defaults, with checks, the arithmetic that they settle, and few steps and samples."""
    walk = {"steps": WALK["lookahead"]["steps"]}
    found = score(ground.pool[:CHECKED], ground.anchors, ground.proxy, checks=CHECKED, lookahead=walk)
    return {"settled": found.settled.to_json(), "checks": found.checks.to_json(), "notes": list(found.notes)}


def forward(ground: Ground) -> dict[str, Any]:
    """The samples' losses by the library's plain pass."""
    watch, proxy = ground.watch("losses"), ground.proxy
    return watch.run(lambda: losses_of(ground.pool, proxy, progress=watch))


def scored(ground: Ground, **changes: Any) -> dict[str, Any]:
    """A method on samples in memory."""
    watch, proxy = ground.watch("scoring"), ground.proxy
    settings = ground.settings(**changes)
    return watch.run(lambda: score(ground.pool, ground.anchors, proxy, settings, progress=watch))


def train_lora(ground: Ground) -> dict[str, Any]:
    """The training of a fresh adapter."""
    watch, recipe = ground.watch("training", TRAINED), Recipe(steps=STEPS, batch_size=TRAINED, learning_rate=1e-4)
    return watch.run(lambda: train(ground.adapted, ground.pool, recipe, watch)) | {"batch_size": TRAINED}


def gradient_lora(ground: Ground) -> dict[str, Any]:
    """`gradient` over the adapter's weights, trained or, where that failed, drawn."""
    ups = [weight for name, weight in ground.adapted.model.named_parameters() if "lora_B" in name]
    if not any(weight.any() for weight in ups):
        for weight in ups:
            torch.nn.init.normal_(weight, std=0.01)
    return scored(ground, method="gradient", detail="total")


RUN: dict[str, Callable[[Ground], dict[str, Any]]] = {
    "encode": encode,
    "lean": lean,
    "bergson": bergson,
    "lookahead_last1": from_shards,
    "plan": plan,
    "forward": forward,
    "lookahead_language": functools.partial(scored, layers="language", **WALK),
    "transposed": functools.partial(scored, method="transposed"),
    "lookahead_all": functools.partial(scored, **WALK),
    "lookahead_last1_compiled": functools.partial(from_shards, compiled="always"),
    "defaults": defaults,
    "train_lora": train_lora,
    "gradient_lora": gradient_lora,
}


def guarded(entry: Callable[[Ground], dict[str, Any]], ground: Ground) -> dict[str, Any]:
    """What an entry finds and holds of the device, or why it failed."""
    if ground.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    try:
        found = entry(ground)
    except Exception as error:
        traceback.print_exc()
        found = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    if ground.device.type == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        found["reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
    if "error" in found:
        ground.forget()
    collect()
    return found | {"seconds": time.perf_counter() - began}


def ratios(entries: dict[str, dict[str, Any]]) -> dict[str, float]:
    """What the goals are about, as far as it is known."""
    rate = {name: found["samples_per_second"] for name, found in entries.items() if "samples_per_second" in found}
    own, found = rate.get("lookahead_last1"), {}
    for name in ("lean", "bergson"):
        if own and name in rate:
            found[f"lookahead_last1_to_{name}"] = own / rate[name]
    if own and "plan" in rate:
        found["plan_to_lookahead_last1"] = rate["plan"] / own
    if "lean" in rate:
        found["lean_to_d00599e_forward"] = rate["lean"] / BEFORE
    return found | ({f"hours_for_{LARGE}": LARGE / own / 3600} if own else {})

"""How fast and how exact the scoring methods are: `make bench-scoring` → metrics/bench_scoring.json.

Everything is measured in one run, on one proxy, one pool and one CPU thread, end to end: reading shards, encoding,
scoring, publishing rows and writing the table. With `lookahead` that includes the search for the walk's length, which
is made once for a proxy and its anchors; `again` leaves it out. Each measurement is a process of its own, so that its
peak memory is its own; the methods take turns over several rounds, and the median counts. `forward` and `backward` are
the yardsticks: the same engine with a plain forward pass, and with a forward and a backward pass, in place of a method.
Spearman is against float64 gradient products by plain autograd, computed apart, over the weights that the method
covers; AUROC that of right answers against wrong ones, which half of the pool's are.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from flows.display import console
from ost.data import Dataset, Sample, write_samples
from ost.encoding import Batch
from ost.models import Checkpoint, load_checkpoint
from ost.scoring import METHODS, Job, score_file
from ost.scoring.methods.lookahead import LookaheadScorer
from ost.scoring.methods.scorer import BatchScores, Scorer
from ost.scoring.methods.two_pass import moved_share
from ost.settings import Score
from ost.store import digest, read_json, write_json, write_table
from ost.training import Recipe, train
from ost.worlds import handmath
from ost.worlds.settings import World
from ost.worlds.teacher import wrong_answers
from ost.worlds.tiny import PROXY, build_model

ANCHORS, CHECKED, ROUNDS = 100, 300, 3
SAMPLES = {"exact": 96}
"""Samples that a slow method is timed on; the others take the whole pool."""
POOL, SCALE = 8192, (2048, 8192, 32768, 131072)
KINDS = (
    *("forward", "backward", "exact", "gradient", "gradient (folds, sketch)", "transposed", "bergson"),
    *("lookahead", "lookahead (language)", "lookahead (last:1)", "lookahead (head)"),
)
SETTINGS: dict[str, dict[str, Any]] = {
    "gradient": {"detail": "groups", "sketch": 0},
    "gradient (folds, sketch)": {"detail": "folds", "sketch": 256},
    "exact": {"step": 1e-4},
    **{f"lookahead ({layers})": {"layers": layers} for layers in ("language", "last:1", "head")},
}
PRETRAINING, WARMUP = 800, 30
"""Steps that the proxy is trained for: rightly on the tasks that it knows, then on the pool, half of which is wrong."""


class Forward(Scorer):
    """A plain forward pass without gradients: what reading the pool once costs."""

    def prepare(self, store: Path | None = None) -> None:
        """Nothing."""

    @torch.no_grad()
    def score_batch(self, samples: Sequence[Sample], batch: Batch) -> BatchScores:
        """The losses."""
        losses, tokens = self.losses(batch)
        return self.batch_scores(losses[:, None].expand(-1, len(self.partition.members)), losses, tokens, batch)


class Backward(Forward):
    """A forward and a backward pass: what training on the pool once costs, without the optimizer."""

    @torch.enable_grad()
    def score_batch(self, samples: Sequence[Sample], batch: Batch) -> BatchScores:
        """The losses, and the batch's gradient."""
        losses, tokens = self.losses(batch)
        losses.sum().backward()
        self.proxy.model.zero_grad()
        losses = losses.detach()
        return self.batch_scores(losses[:, None].expand(-1, len(self.partition.members)), losses, tokens, batch)


def scorer_class(kind: str) -> type[Scorer]:
    """What a kind of measurement runs."""
    if kind == "bergson":
        from benchmarks.bergson_peer import BergsonPeer

        return BergsonPeer
    return {"forward": Forward, "backward": Backward}.get(kind) or METHODS[scored_by(kind)]


def scored_by(kind: str) -> str:
    """The method that a kind of measurement is of."""
    return kind.partition(" ")[0]


def measure(kind: str, folder: Path, samples: int) -> dict[str, Any]:
    """Score the first shards of the pool in this process; seconds, peak memory, and the utilities of the first few."""
    torch.set_num_threads(1)
    method = scored_by(kind)
    own = scorer_class(kind)
    slot = method if method in METHODS else "transposed"
    METHODS[slot] = own
    pool = folder / f"pool-{samples}.parquet"
    settings = Score(method=slot, checks=0, **{"sketch": 0} | SETTINGS.get(kind, {}))
    with tempfile.TemporaryDirectory() as store:
        job = Job(pool, folder / "anchors.parquet", folder / "proxy", Path(store), settings)
        result = _timed(job)
        for path in job.folder.glob("*.parquet") if scored_by(kind) == "lookahead" else ():
            path.unlink()  # what remains is the walk's length
        again = _timed(job)["seconds"] if result["steps"] else result["seconds"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result | {"again": again, "peak_mb": peak}


def _timed(job: Job) -> dict[str, Any]:
    start = time.perf_counter()
    scored = score_file(job)
    write_table(job.store / "table.parquet", scored.table)
    seconds, table = time.perf_counter() - start, scored.table
    ranks = table["utility_relative" if scored.plan else "utility"].to_pylist()
    return {
        "seconds": seconds,
        "steps": scored.plan.steps if scored.plan else None,
        "utility": table["utility"].to_pylist()[:CHECKED],
        "ranks": ranks,
    }


def prepare(folder: Path, sizes: Sequence[int]) -> None:
    """Pools, anchors and a proxy that has learned something."""
    torch.set_num_threads(1)
    processor = handmath.processor()
    proxy = Checkpoint(build_model(PROXY, processor, 0), processor)
    lessons = [handmath.to_sample(p) for p in handmath.draw("pretrain", handmath.LESSONS, 0, handmath.KNOWN)]
    # No second moment is kept: it scores by plain gradients, which bergson is asked for too.
    train(proxy, lessons, Recipe(steps=PRETRAINING, batch_size=32, learning_rate=2e-3))
    write_samples(folder / "anchors.parquet", [handmath.to_sample(p) for p in handmath.draw("anchors", ANCHORS, 0)])
    problems = handmath.draw("pool", max(sizes), 0)
    texts = wrong_answers(handmath, problems, World(), 0)
    pool = [handmath.to_sample(problem, text) for problem, text in zip(problems, texts, strict=True)]
    train(proxy, pool[: 32 * WARMUP], Recipe(steps=WARMUP, batch_size=32, learning_rate=2e-3))
    proxy.save(folder / "proxy")
    for size in sizes:
        write_samples(folder / f"pool-{size}.parquet", pool[:size])
    wrong = [text != handmath.answer(problem) for problem, text in zip(problems, texts, strict=True)]
    write_json(folder / "wrong.json", wrong[:POOL])


def truth(folder: Path) -> dict[str, list[float]]:
    """⟨∇ℓ(z), ∇L_V⟩ in float64 by plain autograd: over all weights, and over those that bergson covers."""
    proxy = load_checkpoint(folder / "proxy")
    model = proxy.model.double()
    linear = {f"{path}.weight" for path, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    language = {name for name in linear if "visual" not in name}
    model.lm_head.weight = torch.nn.Parameter(
        model.lm_head.weight.detach().clone()
    )  # its own use, apart from the table's
    names = [name for name, _ in model.named_parameters()]
    scorer = Forward(proxy, list(Dataset(folder / "anchors.parquet")), Score(method="transposed"))

    def gradient(sample: Sample) -> list[torch.Tensor]:
        return list(torch.autograd.grad(scorer.losses(scorer.encode([sample]))[0].sum(), list(model.parameters())))

    total = [torch.zeros_like(weight) for weight in model.parameters()]
    for anchor in scorer.anchors:
        for into, part in zip(total, gradient(anchor), strict=True):
            into += part / len(scorer.anchors)
    head, table = names.index("lm_head.weight"), names.index("model.language_model.embed_tokens.weight")
    found: dict[str, list[float]] = {"all": [], "bergson": []}
    for sample in Dataset(folder / f"pool-{POOL}.parquet").at(range(CHECKED)):
        own = gradient(sample)
        products = [(mine * theirs).sum().item() for mine, theirs in zip(own, total, strict=True)]
        tied = (own[head] * total[table]).sum().item() + (own[table] * total[head]).sum().item()
        found["all"].append(sum(products) + tied)
        found["bergson"].append(sum(p for name, p in zip(names, products, strict=True) if name in language))
    return found


def shares(folder: Path) -> dict[str, float]:
    """Layers → share of a forward pass's FLOPs that is above what both passes have in common."""
    proxy, anchors = load_checkpoint(folder / "proxy"), list(Dataset(folder / "anchors.parquet"))
    settings = [Score(method="lookahead", layers=layers) for layers in ("all", "language", "last:1", "head")]
    return {own.layers: moved_share(LookaheadScorer(proxy, anchors, own), anchors[:16]) for own in settings}


def bench(folder: Path, kinds: Sequence[str], rounds: int, scale: Sequence[int]) -> dict[str, Any]:
    """All figures."""
    from scipy.stats import spearmanr
    from sklearn.metrics import roc_auc_score

    sizes = sorted({POOL, *scale, *SAMPLES.values()})
    apart("prepare", folder, *map(str, sizes))
    reference = apart("truth", folder)
    runs: dict[str, list[dict]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind in kinds:
            runs[kind].append(apart("measure", folder, kind, str(SAMPLES.get(kind, POOL))))
            console.print(f"{kind}: {runs[kind][-1]['seconds']:.1f} s", highlight=False)
    methods = {kind: _figures(kind, own, runs["forward"]) for kind, own in runs.items()}
    right = [not wrong for wrong in read_json(folder / "wrong.json")]
    for kind, figures in methods.items():
        utility, ranks = runs[kind][0]["utility"], runs[kind][0]["ranks"]
        if kind not in ("forward", "backward") and len(ranks) == POOL:
            figures["auroc"] = float(roc_auc_score(right, ranks))
        if kind not in ("forward", "backward") and scored_by(kind) != "lookahead":
            expected = reference["bergson" if kind == "bergson" else "all"][: len(utility)]
            figures["spearman_float64"] = float(spearmanr(utility[: len(expected)], expected).statistic)
    growth = {str(size): apart("measure", folder, "transposed", str(size)) for size in scale}
    moving = apart("shares", folder)
    return {
        "machine": {"threads": 1, "torch": torch.__version__, "proxy": digest(folder / "proxy"), "anchors": ANCHORS},
        "pool": POOL,
        "rounds": rounds,
        "methods": methods,
        "ratios": _ratios(methods),
        "share_that_moves": moving,
        "scale": _growth(growth),
    }


def _figures(kind: str, runs: list[dict], forward: list[dict]) -> dict[str, float]:
    samples = SAMPLES.get(kind, POOL)
    seconds = statistics.median(run["seconds"] for run in runs)
    rate, plain = samples / seconds, POOL / statistics.median(run["seconds"] for run in forward)
    spread = [samples / run["seconds"] for run in runs]
    return {
        "samples": samples,
        "seconds": seconds,
        "samples_per_second": rate,
        "slowest": min(spread),
        "fastest": max(spread),
        "forwards": plain / rate,
        "forwards_again": plain * statistics.median(run["again"] for run in runs) / samples,
        "steps": runs[0]["steps"],
        "peak_mb": max(run["peak_mb"] for run in runs),
    }


def _ratios(methods: dict[str, dict]) -> dict[str, float]:
    rate = {kind: figures["samples_per_second"] for kind, figures in methods.items()}
    wanted = {
        "transposed_to_forward": ("forward", "transposed"),
        "exact_to_transposed": ("transposed", "exact"),
        "bergson_to_transposed": ("transposed", "bergson"),
        "gradient_to_backward": ("backward", "gradient"),
        "gradient_folds_sketch_to_backward": ("backward", "gradient (folds, sketch)"),
    }
    return {name: rate[one] / rate[other] for name, (one, other) in wanted.items() if {one, other} <= rate.keys()}


def _growth(runs: dict[str, dict]) -> dict[str, Any]:
    sizes = np.array([int(size) for size in runs], dtype=float)
    seconds = np.array([run["seconds"] for run in runs.values()])
    points = [
        {"samples": int(size), "seconds": run["seconds"], "peak_mb": run["peak_mb"]}
        for size, run in zip(sizes, runs.values(), strict=True)
    ]
    memory = {int(point["samples"]): point["peak_mb"] for point in points}
    result: dict[str, Any] = {"points": points}
    if len(sizes) > 1:
        result["time_exponent"] = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    if {8192, 131072} <= memory.keys():
        result["memory_128k_to_8k"] = memory[131072] / memory[8192]
    return result


def apart(step: str, folder: Path, *arguments: str) -> Any:
    """Run one step in a process of its own."""
    out = folder / "step.json"
    command = [sys.executable, "-m", "benchmarks.scoring", "--step", step, str(folder), str(out), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{step} {' '.join(arguments)} failed:\n{done.stderr}")
    return read_json(out)


def _step(step: str, folder: Path, out: Path, *arguments: str) -> None:
    result: Any = None
    if step == "prepare":
        prepare(folder, [int(size) for size in arguments])
    elif step == "truth":
        result = truth(folder)
    elif step == "shares":
        result = shares(folder)
    else:
        result = measure(arguments[0], folder, int(arguments[1]))
    write_json(out, result)


def _show(result: dict[str, Any]) -> None:
    table = Table(title=f"Scoring {result['pool']:,} samples, one thread, end to end")
    for name in ("method", "samples / s", "forwards", "again", "peak MB", "Spearman, float64", "AUROC"):
        table.add_column(name, justify="right")
    for kind, figures in result["methods"].items():
        agreement, auroc = figures.get("spearman_float64"), figures.get("auroc")
        cells = [f"{figures[name]:,.2f}" for name in ("forwards", "forwards_again")]
        cells = [f"{figures['samples_per_second']:,.0f}", *cells, f"{figures['peak_mb']:,.0f}"]
        cells += ["" if agreement is None else f"{agreement:.7f}", "" if auroc is None else f"{auroc:.3f}"]
        table.add_row(kind, *cells)
    console.print(table)
    console.print_json(json.dumps({"ratios": result["ratios"], "scale": result["scale"]}))


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--scale", type=int, nargs="*", default=list(SCALE), help="pool sizes for the growth")
    parser.add_argument("--out", type=Path, default=Path("metrics/bench_scoring.json"))
    arguments = parser.parse_args()
    if arguments.step:
        step, folder, out, *rest = arguments.step
        _step(step, Path(folder), Path(out), *rest)
        return
    with tempfile.TemporaryDirectory() as folder:
        result = bench(Path(folder), arguments.kinds, arguments.rounds, arguments.scale)
    write_json(arguments.out, result)
    _show(result)


if __name__ == "__main__":
    main()

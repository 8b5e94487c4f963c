"""Scoring on an accelerator, at most five minutes: `make bench-gpu`, or `python -m benchmarks.gpu --out FOLDER`.

A model of Qwen3-VL-2B's shape with random weights, samples of one 448 × 448 picture and 446 tokens on average. Writes
bench_gpu.json, after each entry. An entry that fails, by running out of memory too, is its error's text, and the next
goes on; so is one that no time was left for. Each is ended after `--each` seconds of scoring, and tells what it did.
Rates are of the steady run, from the first batch or shard that is done to the last; `peak_gib` is what torch held at
most for tensors, `reserved_gib` what it held of the device.

- `encode`: the loader's worker processes alone. `lean`: a forward pass over inputs that lie on the device.
- `bergson`: its hooks on the last block's linear layers, inputs and losses as in `lean`, the largest batch that fits.
- `lookahead_last1`: end to end, from Parquet shards to published rows; `lookahead_last1_compiled`: the same through
  torch.compile, as large pools are scored; `plan`: what `ost plan` tells of it beforehand. `defaults`: as the library
  scores if told nothing, with checks, on few samples. `forward`, `lookahead_language`,
  `lookahead_all`, `transposed`: from samples in memory. `train_lora`, `gradient_lora`: with an adapter of rank 16.

It needs Python 3.11 or newer, torch and transformers 5.24 with what they depend on, and besides these wheels alone:
accelerate, annotated-types, datasets, dill, fsspec, multiprocess, pandas, peft, pillow, psutil, pyarrow, pydantic,
pydantic-core, python-dateutil, scipy, six, typing-inspection, xxhash; for `bergson`, those of `make peer`. Nothing is
fetched. `--tiny` tries the driver on a CPU.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

ENTRIES = (
    *("encode", "lean", "bergson", "lookahead_last1", "forward", "lookahead_language", "transposed", "lookahead_all"),
    *("defaults", "train_lora", "gradient_lora", "plan", "lookahead_last1_compiled"),
)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("metrics"), help="folder that bench_gpu.json is written to")
    parser.add_argument(
        "--tiny", action="store_true", default=bool(os.environ.get("TINY")), help="on a CPU, in seconds"
    )
    parser.add_argument("--each", type=float, default=7.0, help="seconds of scoring after which an entry is ended")
    parser.add_argument("--within", type=float, default=285.0, help="seconds after which no entry begins")
    parser.add_argument("--entries", nargs="+", choices=ENTRIES, default=list(ENTRIES))
    options = parser.parse_args()
    # Here, for each process of the loader's imports this file anew, and would spend seconds on torch and transformers.
    import torch

    from benchmarks.gpu_entries import RUN, guarded, ratios
    from benchmarks.gpu_ground import Ground

    began = time.perf_counter()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        ground = Ground(Path(folder), options.tiny, options.each)
        name = torch.cuda.get_device_name() if ground.device.type == "cuda" else "cpu"
        entries: dict[str, dict[str, Any]] = {}
        result = {"device": name, "torch": torch.__version__, "tiny": options.tiny, "entries": entries}
        for entry in options.entries:
            late = time.perf_counter() - began > options.within
            entries[entry] = {"error": "no time was left"} if late else guarded(RUN[entry], ground)
            result |= {"ratios": ratios(entries), "seconds": time.perf_counter() - began}
            print(json.dumps({entry: entries[entry]}), flush=True)  # noqa: T201
            (options.out / "bench_gpu.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

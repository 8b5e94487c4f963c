#!/usr/bin/env bash
# accelerate: which of the ways to start two processes without a GPU make two that work together
#
# Versions: accelerate 1.15.0, torch 2.13.0.
# `accelerate launch --cpu --num_processes 2` starts one process and doesn't say so. torchrun starts two, and its process
# group has both, but a plain `Accelerator()`, which is what the tutorials write, tells each that it is the only one:
# both go through all rows, both are the main process, and the model isn't wrapped, so that no gradient is shared. They
# meet with `Accelerator(cpu=True)`, the argument that is documented to "force the execution on one process only", or
# with ACCELERATE_USE_CPU=1, which `PartialState()` doesn't read. Of accelerate's own commands `--multi_gpu` starts two
# on a machine without a GPU. The guide for training on CPUs speaks of mpirun alone.
#
# Output seen (for each process that was started: how many it says there are, and the rows of 8 that it gets):
#   accelerate launch --cpu --num_processes 2         Accelerator()          1 started: of 1, 8 rows
#   accelerate launch --multi_gpu --num_processes 2   Accelerator(cpu=True)  2 started: of 2, 4 rows · of 2, 4 rows
#   torchrun --nproc-per-node 2                       Accelerator()          2 started: of 1, 8 rows · of 1, 8 rows
#   torchrun --nproc-per-node 2                       Accelerator(cpu=True)  2 started: of 2, 4 rows · of 2, 4 rows
#   ACCELERATE_USE_CPU=1 torchrun --nproc-per-node 2  Accelerator()          2 started: of 2, 4 rows · of 2, 4 rows
#   ACCELERATE_USE_CPU=1 torchrun --nproc-per-node 2  PartialState()         2 started: of 1 · of 1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=$(command -v uv) || { python3 -m venv "$work/uv" && "$work/uv/bin/pip" install --quiet uv==0.13.9 && uv="$work/uv/bin/uv"; }
"$uv" venv --quiet --python "$(command -v python3)" "$work/env"
"$uv" pip install --quiet --python "$work/env/bin/python" ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} \
    torch==2.13.0 accelerate==1.15.0
export HF_HUB_OFFLINE=1 HF_HOME="$work/hf" CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1
unset ACCELERATE_USE_CPU
cd "$work"

cat > each.py <<'PY'
import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState

how = {"Accelerator()": Accelerator, "Accelerator(cpu=True)": lambda: Accelerator(cpu=True), "PartialState()": PartialState}
one = how[sys.argv[1]]()
told = f"of {one.num_processes}"
if isinstance(one, Accelerator):
    rows, model = one.prepare(torch.utils.data.DataLoader(torch.arange(8), batch_size=2), torch.nn.Linear(1, 1))
    told += f", {sum(len(batch) for batch in rows)} rows, {type(model).__name__}"
group = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
Path(f"told-{os.getpid()}").write_text(f"{told}, main {one.is_main_process}, group of {group}\n")
PY

try() { # what is meant to be seen, the call within the script, and the command that starts it
    local expected=$1 call=$2 seen
    shift 2
    rm -f told-*
    "$@" each.py "$call" 2> errors || { cat errors; exit 1; }
    seen="$(ls told-* | wc -l | tr -d " ") started: $(cat told-* | sort | paste -sd "|" - | sed 's/|/ · /')"
    echo "  $call  $seen"
    [ "$seen" = "$expected" ] || { echo "no longer: $expected"; exit 1; }
}
alone="of 1, 8 rows, Linear, main True, group of"
joined="2 started: of 2, 4 rows, DistributedDataParallel, main False, group of 2"
joined+=" · of 2, 4 rows, DistributedDataParallel, main True, group of 2"
launch=("$work/env/bin/accelerate" launch --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no)
torchrun=("$work/env/bin/torchrun" --standalone --nproc-per-node 2)

echo "accelerate launch --cpu --num_processes 2"
try "1 started: $alone 1" "Accelerator()" "${launch[@]}" --cpu
if [ -s errors ]; then echo "it says something now:" && cat errors && exit 1; fi
echo "accelerate launch --multi_gpu --num_processes 2"
try "$joined" "Accelerator(cpu=True)" "${launch[@]}" --multi_gpu --main_process_port 0
echo "torchrun --nproc-per-node 2"
try "2 started: $alone 2 · $alone 2" "Accelerator()" "${torchrun[@]}"
try "$joined" "Accelerator(cpu=True)" "${torchrun[@]}"
echo "ACCELERATE_USE_CPU=1 torchrun --nproc-per-node 2"
export ACCELERATE_USE_CPU=1
try "$joined" "Accelerator()" "${torchrun[@]}"
try "2 started: of 1, main True, group of 2 · of 1, main True, group of 2" "PartialState()" "${torchrun[@]}"

"$work/env/bin/python" - <<'PY'
from accelerate import Accelerator

assert "force the execution on one process only" in " ".join(Accelerator.__doc__.split())
PY

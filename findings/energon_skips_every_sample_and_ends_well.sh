#!/usr/bin/env bash
# Megatron-Energon: a cooker without `@stateless` gives an epoch of no samples, without an error
#
# Versions: megatron-energon 7.4.1, webdataset 1.0.2, torch 2.13.0.
# A sample that its cooker fails on is skipped, so that one bad file doesn't end a run. A cooker that isn't marked as
# stateless fails an assertion, at each sample, inside of that same net: every sample is reported and skipped, the
# loader is exhausted, its length still tells all of them, and the loop around it goes on as after an epoch. By its
# message it gives up after 100 in a row, so a validation set, or a small selection, is silently empty. With the mark,
# the same function gives every sample.
#
# Output seen:
#   marked:     the loader promises 4, gives 4
#   not marked: the loader promises 4, gives 0; no exception
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=$(command -v uv) || { python3 -m venv "$work/uv" && "$work/uv/bin/pip" install --quiet uv==0.13.9 && uv="$work/uv/bin/uv"; }
"$uv" venv --quiet --python "$(command -v python3)" "$work/env"
install() { "$uv" pip install --quiet --python "$work/env/bin/python" ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} "$@"; }
install torch==2.13.0 webdataset==1.0.2 multi-storage-client==1.3.1 rapidyaml==0.15.2 mfusepy==3.1.1 filetype==1.2.0 \
    pillow==13.0.0 numpy==2.4.6 click==8.5.1 tqdm==4.70.1
install --no-deps megatron-energon==7.4.1
cd "$work"
mkdir shards

"$work/env/bin/python" - <<'PY'
import io
import tarfile

with tarfile.open("shards/000.tar", "w") as tar:
    for key in range(4):
        content = b'{"answer": "red"}'
        member = tarfile.TarInfo(f"{key:03}.json")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
PY
"$work/env/bin/energon" prepare shards --non-interactive --split-ratio 1,0,0 --sample-type CrudeWebdataset \
    --num-workers 1 > "$work/prepared"
"$work/env/bin/python" - <<'PY' 2> "$work/said"
from megatron.energon import (
    Cooker, DefaultTaskEncoder, Sample, WorkerConfig, basic_sample_keys, edataclass, get_loader, get_val_dataset, stateless,
)


@edataclass
class Row(Sample):
    answer: str


def cook(sample: dict) -> Row:
    return Row(**basic_sample_keys(sample), answer=sample["json"]["answer"])


def run(cooker) -> tuple[int, int]:
    """Samples that the loader promises, and those that it gives."""

    class Task(DefaultTaskEncoder):
        cookers = (Cooker(cooker),)

        def batch(self, samples):
            return samples[0]

    alone = WorkerConfig(rank=0, world_size=1, num_workers=0)
    samples = get_val_dataset("shards", split_part="train", batch_size=1, task_encoder=Task(), worker_config=alone)
    loader = get_loader(samples)
    return len(loader), len(list(loader))


found = {"not marked": run(cook), "marked": run(stateless(cook))}
for name, (promised, given) in found.items():
    print(f"{name}: the loader promises {promised}, gives {given}")
assert found == {"not marked": (4, 0), "marked": (4, 4)}
PY
grep --max-count=1 "Cooker must be stateless" "$work/said"

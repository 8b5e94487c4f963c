#!/usr/bin/env bash
# DVC: `dvc commit` takes an output that is one file away while it commits it, and puts it back
#
# Versions: dvc 3.67.1.
# With the default kinds of link (reflink, copy) and a cache on the same disk, an output that is a file is moved into the
# cache and copied back. Whoever opens it meanwhile, a server, a notebook, another stage, finds nothing. The gap grows with
# the file; the files of an output that is a folder stay.
#
# Output seen (share of the looks during a commit at which the output was not there; the share depends on the disk):
#   100 MB file      gone in 15 % of looks
#   file in a folder gone in 0 % of looks
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=$(command -v uv) || { python3 -m venv "$work/uv" && "$work/uv/bin/pip" install --quiet uv==0.13.9 && uv="$work/uv/bin/uv"; }
"$uv" venv --quiet --python "$(command -v python3)" "$work/env"
"$uv" pip install --quiet --python "$work/env/bin/python" dvc==3.67.1
export DVC_NO_ANALYTICS=1 DVC_SITE_CACHE_DIR="$work/site"
mkdir "$work/repo" && cd "$work/repo"
"$work/env/bin/dvc" init --quiet --no-scm
cat > dvc.yaml <<'YAML'
stages:
  make:
    cmd: python make.py
    outs: [weights.bin, folder]
YAML

cat > look.py <<'PY'
import logging
import os
import threading

from dvc.repo import Repo

logging.getLogger("dvc").setLevel(logging.ERROR)
os.makedirs("folder")
for name in ("weights.bin", "folder/weights.bin"):
    with open(name, "wb") as file:
        file.write(os.urandom(100_000_000))
looks, gone, done = 0, {"weights.bin": 0, "folder/weights.bin": 0}, threading.Event()


def look():
    global looks
    while not done.is_set():
        looks += 1
        for name in gone:
            gone[name] += not os.path.exists(name)


watcher = threading.Thread(target=look)
watcher.start()
with Repo(".") as repo:
    repo.commit("make", force=True)
done.set()
watcher.join()
print(f"100 MB file      gone in {gone['weights.bin'] / looks:.0%} of looks")
print(f"file in a folder gone in {gone['folder/weights.bin'] / looks:.0%} of looks")
assert gone["weights.bin"] > 0 and gone["folder/weights.bin"] == 0, "DVC no longer does so"
PY
"$work/env/bin/python" look.py

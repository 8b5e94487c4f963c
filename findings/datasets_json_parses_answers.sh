#!/usr/bin/env bash
# datasets: where a JSON field is text in some records and a list in others, its texts are parsed: "007" is 7
#
# Versions: datasets 5.2.0.
# Chat data mixes both forms of `content`: a string, and a list of parts with an image. `load_dataset("json")` gives
# such a field the type Json(), stores each value as JSON text, and takes a string for JSON text that is there
# already. So answers that happen to be JSON change their type: "42" and "007" become numbers, "null" becomes None,
# "true" a bool, '{"a": 1}' a dict; "red" stays. Records are right or wrong one by one, and only by what they say.
#
# Output seen:
#   'red' -> 'red', '42' -> 42, '007' -> 7, 'null' -> None, 'true' -> True, '{"a": 1}' -> {'a': 1}
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=$(command -v uv) || { python3 -m venv "$work/uv" && "$work/uv/bin/pip" install --quiet uv==0.13.9 && uv="$work/uv/bin/uv"; }
"$uv" venv --quiet --python "$(command -v python3)" "$work/env"
install() { "$uv" pip install --quiet --python "$work/env/bin/python" ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} "$@"; }
install datasets==5.2.0
export HF_HUB_OFFLINE=1 HF_HOME="$work/hf" HF_DATASETS_DISABLE_PROGRESS_BARS=1 TQDM_DISABLE=1

cd "$work"
"$work/env/bin/python" - <<'PY'
import json
from pathlib import Path

from datasets import load_dataset

answers = ["red", "42", "007", "null", "true", '{"a": 1}']
turns = [{"role": "assistant", "content": answer} for answer in answers]
parts = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
with Path("rows.jsonl").open("w") as file:
    for turn in [*turns, parts]:
        file.write(json.dumps({"messages": [turn]}) + "\n")

loaded = load_dataset("json", data_files="rows.jsonl", split="train")
print(loaded.features)
got = [row["messages"][0]["content"] for row in loaded][: len(answers)]
print(", ".join(f"{answer!r} -> {value!r}" for answer, value in zip(answers, got)))
assert got[0] == "red"
assert got[1:] == [42, 7, None, True, {"a": 1}], got
PY

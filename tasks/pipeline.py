"""What dvc.yaml says that a stage depends on, where that follows from what the stage has read."""

from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from ost.config import Params
from ost.store import publish
from tasks.versioning import one_at_a_time

NOWHERE = ".dvcignore"
"""Stands for the weights of a model that has no folder here: a file that every DVC workspace has, and that stays."""


def watch_inputs(root: Path, params: Params, manifest: dict) -> bool:
    """Let DVC watch what a stage has read: images beside its sources, weights in a folder of the user's own.

    Returns whether dvc.yaml had to be changed for it. Only `ingest` and `base@ROLE` read what isn't known before.
    """
    if manifest["stage"].partition("@")[0] not in ("ingest", "base"):
        return False
    with one_at_a_time:
        return _watch(root, params, manifest)


def _watch(root: Path, params: Params, manifest: dict) -> bool:
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    document = yaml.load((root / "dvc.yaml").read_text())
    name, _, role = manifest["stage"].partition("@")
    stage, read = document["stages"].get(name), [path for path in manifest["inputs"] if path != params.data.truth]
    if name == "ingest":
        changed = _set_list(stage["deps"], [_as_written(path, params) for path in read])
    else:
        weights = read[0] if read else NOWHERE
        changed = stage["foreach"][role]["weights"] != weights
        stage["foreach"][role]["weights"] = weights
    if changed:
        with publish(root / "dvc.yaml") as part, part.open("w") as stream:
            yaml.dump(document, stream)
    return changed


def _as_written(path: str, params: Params) -> str:
    """A path as dvc.yaml writes it: by the parameter that names it, where one does."""
    for name in ("pool", "anchors", "benchmark"):
        if getattr(params.data, name) == path:
            return f"${{data.{name}}}"
    return path


def _set_list(listed: CommentedSeq, wanted: list[str]) -> bool:
    """Bring a list to what it should hold, and leave the order of what stays."""
    gone, new = [one for one in listed if one not in wanted], [one for one in wanted if one not in listed]
    for one in gone:
        listed.remove(one)
    listed.extend(new)
    return bool(gone or new)

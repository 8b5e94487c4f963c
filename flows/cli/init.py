"""`ost init`: a workspace for data of one's own, with a page of parameters, from what lies in its folder."""

import sys
from collections.abc import Iterable
from pathlib import Path

import typer
import yaml

from flows.display import say
from ost.errors import ConfigError
from ost.formats import open_source
from ost.formats.source import form_of
from ost.store import publish
from tasks import versioning
from tasks.pipeline import write_pipeline
from tasks.storage import is_remote

NAMES = {
    "pool": ("pool", "train"),
    "anchors": ("anchor", "trusted"),
    "benchmark": ("bench", "test", "eval"),
}
"""Sample set → how the names of its file or folder begin."""
CONFIG = "config.json"
"""What a folder with a model has."""
IGNORED = (
    "data",
    "world",
    "models",
    "scores",
    "selections",
    "evaluations",
    "report",
    "comparisons",
    "recurations",
    "mlruns",
)
PAGE = """\
# What this curation is told. Every other key, with its meaning: ost/settings.py and tasks/settings.py
seed: 0
data:
  pool: {pool}
  anchors: {anchors}
  benchmark: {benchmark}
  truth: null # or a table `id, wrong`, where it is known which samples of the pool are wrong
  max_tokens: 4096 # longer samples are left out
models:
  target: {target} # what is fine-tuned in the end
  proxy: {proxy} # a smaller one of its family, which scores
sft:
  method: lora # or full: all weights, which takes four times their bytes in memory, and as many on disk a training
  epochs: 1 # over the whole pool; every arm takes as many steps
  batch_size: 32 # samples of a step; how many go through the model at once follows from memory
evaluate:
  metric: auto # by the references of each task; or one that you name: docs/evaluation.md
  max_new_tokens: null # from the references
curate:
  subsets: [full, random-20, lookahead-20] # arms, and the percent of the pool that they keep
  protocols: [B] # as many steps as on the whole pool
compare: {{arms: [full, random, one-step-top, lookahead], fractions: [0.2], protocols: [B], seeds: [0, 1, 2]}}
recurate:
  training: lookahead-20-B # whose model may become the champion
"""


def init_workspace(root: Path, given: dict[str, str | None]) -> None:
    """Write params.yaml, dvc.yaml and what DVC needs into a folder; `given`: pool, anchors, benchmark, target, proxy.

    What is not given is looked for in the folder, and asked for on a terminal where it cannot be found. Raises
    ConfigError where something stays unknown, or the folder is a workspace already.
    """
    file = _new_params(root)
    found = _found(root) | {name: value for name, value in given.items() if value}
    missing = [name for name in given if name not in found]
    if missing and not sys.stdin.isatty():
        options = " ".join(f"--{name} …" for name in missing)
        raise ConfigError(f"nothing in {root.resolve()} looks like the {' or the '.join(missing)}: name it, {options}")
    found |= {name: typer.prompt(f"{name} (file, folder or hub name)") for name in missing}
    found = {name: _seen_from(root, found[name]) for name in given}
    _can_be_read(root, found["pool"])
    names = {name: _in_yaml(value) for name, value in found.items()}
    _make(root, PAGE.format(**names))
    for name, value in found.items():
        say(f"  {name:<10} {value}")
    say(f"→ {file}, {root / 'dvc.yaml'}")
    place = "" if root.resolve() == Path.cwd() else f" --workspace {root}"
    say(f"next: ost curate{place} --until select, and without --until for proof on the target")


def init_world(root: Path, name: str) -> None:
    """Make a workspace of a built-in world, whose tiny models are trained as those of the demo are.

    Raises ConfigError for one that is there.
    """
    file = _new_params(root)
    _make(
        root,
        f"# Every key, with its meaning: ost/settings.py, ost/worlds/settings.py and tasks/settings.py\n"
        f"seed: 0\nworld: {{name: {name}}}\n"
        "warmup: {learning_rate: 2e-3} # of tiny models, here and below\n"
        "sft: {steps: 600, learning_rate: 1e-3, layers: all}\n"
        'evaluate: {metric: final} # what follows the last "=" of an answer\n',
    )
    say(f"→ {file}, {root / 'dvc.yaml'}")
    say("next: ost curate" + ("" if root.resolve() == Path.cwd() else f" --workspace {root}"))


def _new_params(root: Path) -> Path:
    """Where a folder's params.yaml goes; raises ConfigError where there is one."""
    file = root / "params.yaml"
    if file.exists():
        raise ConfigError(f"{file} is there already: change it, or name another folder")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {root} cannot be made ({error.strerror}): name another") from error
    return file


def _make(root: Path, params: str) -> None:
    """Write what a workspace of these parameters needs."""
    with publish(root / "params.yaml") as part:
        part.write_text(params)
    versioning.init(root)
    ignored = root / ".gitignore"
    if not ignored.exists():
        ignored.write_text("".join(f"/{name}/\n" for name in IGNORED) + "/mlflow.db*\n/.ost/\n*.part\n")
    write_pipeline(root)


def _found(root: Path) -> dict[str, str]:
    """What lies in the folder: sample sets by their names, models by their configs, the larger one as the target."""
    entries = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    sets = [path for path in entries if _holds_samples(path)]
    named = {name: _one(path for path in sets if path.stem.lower().startswith(NAMES[name])) for name in NAMES}
    models = sorted((path for path in entries if (path / CONFIG).is_file()), key=_weight)
    if models and len(models) < 3:
        named |= {"target": models[-1], "proxy": models[0]}
    return {name: path.name for name, path in named.items() if path}


def _holds_samples(path: Path) -> bool:
    if path.is_dir():
        return not (path / CONFIG).is_file() and any(form_of(file) for file in path.rglob("*"))
    return form_of(path) is not None


def _weight(model: Path) -> int:
    """Bytes of a model's weights."""
    return sum(file.stat().st_size for form in ("*.safetensors", "*.bin") for file in model.glob(form))


def _one(paths: Iterable[Path]) -> Path | None:
    """The only one; None where there is none, or a choice."""
    found = list(paths)
    return found[0] if len(found) == 1 else None


def _seen_from(root: Path, name: str) -> str:
    """A name as params.yaml has it, where paths start from the workspace; here they may start from another folder."""
    path = Path(name)
    return str(path.resolve()) if path.exists() and not (root / name).exists() else name


def _in_yaml(value: str) -> str:
    """A text as a YAML value, quoted where it has to be."""
    return yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=10_000).strip()[1:-1]


def _can_be_read(root: Path, pool: str) -> None:
    """Raises DataError where nothing that can be read lies at a pool; one in object storage is not fetched for it."""
    if not is_remote(pool):
        open_source(root / pool if (root / pool).exists() else pool)

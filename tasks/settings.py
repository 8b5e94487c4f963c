"""All of `params.yaml`: what the product is told, the built-in worlds, and how the pipeline is run."""

import typing
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, field_validator

from ost.errors import ConfigError
from ost.settings import Count, Execution, Fraction, Rate, Section, Settings, Share, parse_section, without_userinfo
from ost.types import Device, TrainingProtocol
from ost.worlds.settings import Base, World

Position = typing.Annotated[int, Field(ge=0)]


class _Plan(Section):
    """How trainings of the target are planned."""

    protocols: tuple[TrainingProtocol, ...] = ("B", "A")
    """B: as many steps as Full-SFT, which tells what a subset is worth; A: as many epochs: what it saves."""

    @field_validator("subsets", "arms", "fractions", "protocols", "seeds", check_fields=False)
    @classmethod
    def _has_some(cls, values: tuple) -> tuple:
        if not values or len(set(values)) < len(values):
            raise ValueError("name at least one, and none twice")
        return values


class Curate(_Plan):
    """Which subsets `ost curate` chooses, and how the target is trained on each."""

    subsets: tuple[str, ...] = ("full", "random-20", "lookahead-20", "lookahead-50")
    """Arms with the percent of the pool that they keep, or `pure`: as many as are expected to be `select.purity` right.
    Known arms stand in ost/arms/."""
    keep: bool = True
    """Whether fine-tuned models, and shards of scores that later runs take over, are kept; a comparison keeps none."""


class Compare(_Plan):
    """What `ost compare` trains the target on: each arm at each fraction, for each seed."""

    arms: tuple[str, ...] = ("full", "random", "low-loss", "less", "judge", "one-step-top", "lookahead", "oracle")
    """Known arms stand in ost/arms/."""
    fractions: tuple[Fraction | Literal["pure"], ...] = (0.2, 0.5)
    """Shares of the pool that each arm keeps, where it does not decide that itself; `pure`: as above."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """A seed changes all that is drawn: in a built-in world its images, bases, teacher and pool too."""


class Recurate(Section):
    """When `ost recurate` warms the proxy up anew, and what a challenger has to show."""

    training: str = "lookahead-20-B"
    """The training of `ost curate` whose model is the challenger: arm, percent that it keeps, and protocol."""
    anchor_loss_rise: Rate = 0.2
    """Rise of the warm proxy's loss on the anchors, as a share of what it was after its warm-up, above which it is
    warmed up anew."""
    drift: Share = 0.3
    """Kolmogorov-Smirnov distance of the new samples' utility or loss from the known ones' above which it is."""
    confidence: Fraction = 0.95
    """1 − the chance that a champion is ever replaced by a model that is no better, all its challenges together: of the
    interval of a challenger's gain, all of which must be above zero (docs/production.md)."""
    resamples: Count = 10_000
    """Of the paired bootstrap; the interval is that or Student's, whichever is wider."""
    publish: typing.Annotated[str, Field(pattern=r"^s3://[^/]+")] | None = None
    """Where each run's selections are uploaded, such as s3://bucket/selections: `latest.json` there names the newest,
    once all of it is there."""


class Compute(Execution):
    """What the machine gives; no stage is re-run because of it."""

    device: Device = "auto"
    devices: Count | tuple[Position, ...] | None = None
    """How many accelerators, or which by their numbers: each is one stage's at a time, or some shards', and no process
    sees a second one. Null: all that are visible. Without an accelerator: how many stages that would use one run at a
    time; null: `workers`."""
    devices_per_training: Count = 1
    """Devices that share the steps of one training of the target. More of them leave fewer for other arms, so this is
    for runs of fewer arms than devices."""
    threads: Count = 1
    """CPU threads of one stage. Scores are reproducible bit by bit at the same number."""
    workers: Count = 2
    """Processes: stages that the flow runs at the same time beside those on accelerators, and those that read, check
    and decode a pool."""
    ray: str | None = None
    """Where a pool's shards are scored: null for the devices of this machine, `local` for a Ray of this machine, or the
    address of a running Ray cluster."""
    ray_workers: Count = 2
    """Shards that a local Ray scores at a time; a cluster takes as many as it has CPUs, or accelerators, for."""

    @field_validator("devices")
    @classmethod
    def _names_some_once(cls, devices: int | tuple[int, ...] | None) -> int | tuple[int, ...] | None:
        if isinstance(devices, tuple) and (not devices or len(set(devices)) < len(devices)):
            raise ValueError("name at least one device, and none twice; null stands for all")
        return devices


class Tracking(Section):
    """The MLflow record."""

    uri: str = "sqlite:///mlflow.db"
    """Tracking store; the environment's MLFLOW_TRACKING_URI wins, and alone may hold a password."""
    experiment: str = "ost"
    model_name: str = "ost-target"
    """Name under which every fine-tuned target is registered."""
    models: Literal["trained", "all"] = "trained"
    """Which models MLflow keeps a copy of: fine-tuned targets, or target, proxy and judge before it as well."""


class Params(Settings):
    """All of `params.yaml`."""

    world: World = World()
    base: Base = Base()
    curate: Curate = Curate()
    compare: Compare = Compare()
    recurate: Recurate = Recurate()
    compute: Compute = Compute()
    tracking: Tracking = Tracking()

    @property
    def uses_world(self) -> bool:
        """Whether any sample set comes from the built-in world."""
        return any(path.startswith("world/") for path in (self.data.pool, self.data.anchors, self.data.benchmark))


MOVED = {
    "select.fraction": "it is a percentage in curate.subsets now, such as lookahead-20",
    "select.wide_fraction": "it is another subset in curate.subsets now, such as lookahead-50",
    "score.batch_size": "batches follow from memory now; compute.batch_tokens sets how many tokens go at once",
    "evaluate.batch_size": "as score.batch_size",
    "evaluate.match": "it is evaluate.metric now: exact where it was whole; final, as before; or leave it out",
    "recurate.run": "it is recurate.training now: lookahead-20-B where it was ost-B",
}
"""Keys that earlier builds had, and what became of them."""


def load_params(path: str | Path) -> Params:
    """Read and validate a `params.yaml`; raises ConfigError naming every problem at once."""
    try:
        raw = yaml.safe_load(params_text(path)) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {without_userinfo(str(error))}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold sections such as `select:`; found {type(raw).__name__}")
    return parse_params(raw, source=str(path))


def params_text(path: str | Path) -> str:
    """Content of a `params.yaml`; raises ConfigError where there is none."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(
            f"no {path.name} in {path.parent.resolve()}; run in a workspace, or name one with --workspace"
        )
    return path.read_text(encoding="utf-8")


def parse_params(raw: dict, source: str = "params") -> Params:
    """Validate a nested mapping; raises ConfigError. An unknown key is answered with the nearest known one."""
    moved = [name for name in MOVED if _holds(raw, name)]
    if moved:
        lines = [f"  {name}: {MOVED[name]}" for name in moved]
        raise ConfigError(f"{source} is of an earlier build; change it, and run again:\n" + "\n".join(lines))
    return parse_section(Params, raw, source)


def _holds(raw: dict, name: str) -> bool:
    section, _, key = name.partition(".")
    return isinstance(raw.get(section), dict) and key in raw[section]

"""What a user of the product sets: typed sections of `params.yaml`, each key with its meaning beside it.

Every section is frozen and refuses what it does not know, so that a typing error stops the run before any work starts.
"""

import difflib
import math
import re
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ost.errors import ConfigError
from ost.types import Change, Column, Detail, JudgeMode, Method, Optimizer, Precision, Ranking, Reduction, Start, Unit

Fraction = typing.Annotated[float, Field(gt=0.0, le=1.0)]
Share = typing.Annotated[float, Field(ge=0.0, le=1.0)]
Count = typing.Annotated[int, Field(ge=1)]
Rate = typing.Annotated[float, Field(gt=0.0)]
Layers = typing.Annotated[str, Field(pattern=r"^(all|language|head|last:[1-9]\d*)$")]

Model = typing.TypeVar("Model", bound=BaseModel)

BUILTIN, LLAVA = "builtin", "builtin-llava"
"""Model names that stand for tiny models of the built-in world, pretrained here instead of fetched: of Qwen3-VL's form,
and of LLaVA's."""


ASKED = ("data", "model", "out", "steps", "batch_size", "learning_rate", "seed")
"""What `sft.command` may ask for; the first three it must."""
SUITE_ASKED = ("model", "tasks", "out")
"""What `evaluate.suite_command` must ask for."""
LMMS_EVAL = (
    "python -m lmms_eval --model qwen2_5_vl --model_args pretrained={model} --tasks {tasks} --batch_size 1"
    " --log_samples --output_path {out}"
)


_USERINFO = re.compile(r"(\w+://)((?:[^\s/:@]*:(?!\d*/)[^\s@]*|[^\s/@]*)@(?:[^\s/@]*@)*)")
"""Scheme of an address, and what stands before its host. A password may hold a slash; digits and a slash are a port."""
_SECRET = re.compile(r"(?<!\w)([A-Z0-9_]*(?:KEY|TOKEN|SECRET|PASSWORD)=)(?![\"']?\$)[\"']?[^\s\"']+")
"""What a command sets a variable of the environment to, where that is no other variable."""
_COPIED = "and parameters are copied to manifests, to dvc.lock and to MLflow: leave it out"


def without_userinfo(text: str) -> str:
    """An address, or any text that holds some, without the `user:password@` before the host."""
    return _USERINFO.sub(r"\1", text)


class Section(BaseModel):
    """A section of params.yaml. No secret may stand in one: parameters are copied to manifests and to the record."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _holds_no_secret(cls, value: object) -> object:
        for text in _texts(value):
            # The name alone of a database's user is no secret; before a web address it may be a token.
            if any(":" in user or scheme.startswith("http") for scheme, user in _USERINFO.findall(text)):
                raise ValueError(
                    f"an address holds a password, {_COPIED}, and name the address in the environment "
                    "(MLFLOW_TRACKING_URI, AWS_ENDPOINT_URL) or the key alone (OPENAI_API_KEY)"
                )
            if _SECRET.search(text):
                raise ValueError(
                    f"a command sets a key or a password, {_COPIED}, for it runs in the environment of ost"
                )
        return value


class Execution(Section):
    """How a machine's memory and cores are used. Results depend on it by rounding at most."""

    batch_tokens: Count | None = None
    """Tokens, padding counted, that go through a model at once in a pass without gradients; with gradients, a share of
    them. Null: what suits the device. Halved where memory runs out."""
    encoders: int | None = Field(default=None, ge=0)
    """Processes that encode samples ahead of their use; 0: none but the one that uses them. Null: none on a CPU, and as
    many as cores allow beside an accelerator."""
    compile: Literal["auto", "always", "never"] = "auto"
    """Whether `lookahead` and `transposed` try the decoder's blocks through torch.compile, and keep to it where it is
    faster. `auto`: on an accelerator, for a pool of 20,000 samples or more."""


class Data(Section):
    """Where the three sample sets lie (local paths, or `s3://` addresses), and what a sample may look like."""

    pool: str = "world/pool.parquet"
    anchors: str = "world/anchors.parquet"
    benchmark: str = "world/benchmark.parquet"
    added_anchors: str | None = None
    """Further anchors, a path or `s3://` address, taken in with those of `anchors`; `ost anchors add` writes and names
    it. Null: none."""
    truth: str | None = "world/truth.parquet"
    """Table `id, wrong` about the pool, read by the audit alone; null where nobody knows."""
    max_tokens: Count = 128
    """Longest sample in tokens, image tokens included; longer ones are quarantined, never cut."""
    max_pixels: Count = 16_777_216
    """Largest image that is decoded, in pixels; larger ones are quarantined undecoded."""
    max_image_tokens: Count | None = None
    """Most tokens that one image may take: the processors' own resolution setting is lowered until none takes more,
    and saved with the checkpoints. Null: as the checkpoints have it."""
    train_on: Literal["all", "last"] = "all"
    """Which of an assistant's turns are learned and scored, in pool, anchors and benchmark alike: all, or the last."""
    columns: dict[Column, str] = {}
    """Our name of a field → the source's own, where that is none that is known, such as {messages: dialogue}."""
    image_roots: tuple[str, ...] = ()
    """Folders beside the sources' own in which images may lie, or into which links may lead."""

    @field_validator("image_roots", mode="before")
    @classmethod
    def _one_is_a_list(cls, folders: object) -> object:
        return (folders,) if isinstance(folders, str) else folders


class Models(Section):
    """Target and proxy: a hub name, a local folder, or `builtin` for the tiny ones of the built-in world (Qwen3-VL;
    `builtin-llava` for another family)."""

    target: str = BUILTIN
    proxy: str = BUILTIN
    judge: str | None = None
    """The model of the arm `judge`: as above, or the name by which `judge.server` knows it; `builtin` is one that was
    trained on right answers to all tasks. Null: the base target judges."""
    allow_cross_family: bool = False
    """Accept a proxy of another architecture family than the target's."""


class Warmup(Section):
    """The proxy's short training on the pool before it scores (paper, proxy checkpoint study)."""

    fraction: Share = 0.05
    """Share of an SFT run's steps; the paper found 5 % best. 0: the proxy scores as it is."""
    learning_rate: Rate | None = None
    """Peak rate; a proxy, being smaller than the target, takes a larger one. Null: what suits its size, see
    docs/training.md."""
    lora_rank: int = Field(default=0, ge=0)
    """Rank of the LoRA adapter that is trained, and scored, in place of the proxy's weights; 0 for the weights."""


class Lookahead(Section):
    """The proxy's training on all anchors by the scoring method `lookahead`."""

    start: Start = "auto"
    """Weights that it starts from: those of the `warm` proxy, or of the `base` that was warmed up, which never saw the
    pool. auto: the base where it is known, as it is in a pipeline, else the warm proxy."""
    steps: Count | None = None
    """How many, on all anchors (on fewer of them, as many passes); null: as many as give anchors that were left out the
    lowest loss."""
    most_steps: Count = 100
    """Most steps that are tried in looking for that number."""
    batch_size: Count = 20
    """Anchors of a step, of which each has its turn."""
    learning_rate: Rate | None = None
    """Null: what suits the proxy's size, see docs/training.md."""
    offset: Rate = 0.05
    """c of the relative loss reduction (L0 − L1) / (L0 + c), in nats."""

    def from_base(self, base: str | Path | None) -> bool:
        """Whether the training of a proxy with this base starts there."""
        return self.start == "base" or (self.start == "auto" and base is not None)


class Score(Section):
    """Utility scoring."""

    method: Method = "lookahead"
    """`lookahead`: many steps on the anchors, two forward passes. By the paper's one step: `gradient`, a forward and a
    backward pass, for all tasks and folds at once; `transposed`, two forward passes, any layer, but one utility over
    all anchors; `exact`, the simulated step itself, slow."""
    optimizer: Optimizer = "auto"
    """Whose step is simulated; `adam` preconditions it by the second moment that the warm-up ended with. auto: adam
    where the proxy brings that, else sgd. `lookahead` trains by Adam from a fresh state unless this is sgd."""
    layers: Layers = "all"
    """Weights that move: all, language, last:N (decoder blocks) or head. `transposed` and `lookahead` compute once what
    lies below them; a head that shares its table with the input embedding gets one of its own in last:N and head."""
    lookahead: Lookahead = Lookahead()
    step: Rate | None = None
    """`exact`: the step size η. `transposed`: the length ε of the step along the unit anchor gradient. `gradient` takes
    none. Null: 1e-3, or, for `transposed`, the shortest that the check passes with: a short step drowns in rounding,
    a long one is curved, and where the two cross hangs on the model's size."""
    reduction: Reduction = "mean"
    """How a sample's token losses become its loss; it sets the length bias of the ranking."""
    detail: Detail | None = None
    """How finely utilities are resolved over the anchors: total, groups (tasks), or folds of each task, which give a
    standard error. Left out: total for `transposed` and `lookahead`, which pay passes for each, else folds."""
    folds: typing.Annotated[int, Field(ge=2)] = 5
    """Parts of each task's anchors that a standard error is taken over, and that `lookahead` leaves out in turn to see
    how many steps to take."""
    toxic_q: Fraction = 0.1
    """False-discovery rate at which a sample is called toxic."""
    sketch: int = Field(default=256, ge=0)
    """Numbers, a square, by which each sample is told from others in choosing for breadth: of a sketch of its gradient
    (`gradient`), or at most of its mean hidden state before the answer (`transposed`, `lookahead`); 0 for none."""
    checks: typing.Annotated[int, Field(ge=0)] | None = None
    """Random pool samples that the run is checked on, against `exact` in float64; 0 leaves the checks out. Null: 200,
    or 20 for a proxy of more than 50 million weights on a CPU, where 200 would take longer than many a pool."""
    precision: Precision = "auto"
    """Arithmetic: fp32, bf16, or mixed: bf16, but for the modules whose weights move. In the last two, weights that do
    not move are held in bf16. auto: on an accelerator the fastest of them that the check passes with, else fp32."""
    shard_size: Count = 1000
    """Samples scored and published at a time; a killed run loses no more."""
    visual_gain: bool = False
    """Whether a score table of the pipeline or of `ost score` has a column `visual_gain`: what a sample's image takes
    off its loss by the warm proxy, in nats (ost/baselines/visual_gain.py). A forward pass more a sample, and another
    without its images."""

    @field_validator("sketch")
    @classmethod
    def _is_square(cls, sketch: int) -> int:
        if math.isqrt(sketch) ** 2 != sketch:
            raise ValueError("a sketch has a square number of numbers, such as 64 or 256")
        return sketch

    @property
    def length(self) -> float:
        """The step in force, where none is set or found."""
        return self.step or 1e-3

    @property
    def sketches(self) -> int:
        """Numbers of a sketch in force: `exact` keeps none."""
        return 0 if self.method == "exact" else self.sketch

    @property
    def resolution(self) -> Detail:
        """The detail in force."""
        return self.detail or ("total" if self.method in ("transposed", "lookahead") else "folds")

    @model_validator(mode="after")
    def _lookahead_knows_no_tasks(self) -> "Score":
        if self.method == "lookahead" and self.detail == "groups":
            raise ValueError("lookahead walks on all tasks' anchors together: set score.detail to total or folds")
        return self


class Select(Section):
    """How a subset is chosen from scores."""

    strategy: str = "cover"
    """How `one-step` and `lookahead` choose. `top`: by rank. `quota`: by rank within each task, to the pool's mix.
    `vote`: by the mean rank over the anchors' tasks. For breadth, of the best part: `draw`, at random; `spread`,
    passing over near-duplicates of better ones (ost/selection/spread.py); `cover`, those that stand for the others and
    are likely right (ost/selection/cover.py)."""
    unit: Unit = "sample"
    """What is kept or not: a whole sample, or each turn: then a sample is kept by its rank all the same, and those of
    its turns are masked that are wrong by the scores (ost/selection/turns.py). `turn` needs scores that tell turns
    apart, as `lookahead` and `transposed` do."""
    by: Ranking = "auto"
    """What ranks: utility, utility_relative (to the sample's own loss), or utility_per_token, which counts what
    training on a sample costs. auto: utility_relative where the scores have it, else utility."""
    among: Fraction | None = None
    """Share of the pool, the best by rank, that draw, spread and cover choose among. Null: from the scores, see
    ost/selection/purity.py."""
    purity: Fraction = 0.85
    """Expected share of right samples in that part where `among` is null. Fewer are right where many wrong samples
    score as right ones do."""
    clean_below: Share = 0.05
    """Share of toxic samples below which a pool counts as clean: then rank says little about harm and narrows the mix,
    so what is kept is drawn at random among the samples that are not toxic. As large a share as `purity` must be like
    trusted samples, where the scores tell: with few anchors no test finds harm. 0: never."""


class SFT(Section):
    """Supervised fine-tuning of the target."""

    method: Literal["full", "lora"] = "full"
    """Which weights are trained: those of `layers` themselves, or a LoRA adapter of rank `lora_rank` beside each of
    their linear ones, which is kept without its base."""
    layers: Literal["language", "all"] = "language"
    """The text decoder with its output head, or everything: a vision tower and what projects from it stay as they are
    unless this is `all`."""
    lora_rank: Count = 32
    """The scale is alpha / rank = 2."""
    steps: Count | None = None
    """Optimizer steps of Full-SFT; protocol B gives every arm as many, protocol A as many epochs. Null: `epochs`."""
    epochs: Rate = 1.0
    """Passes of Full-SFT over the pool, where `steps` is null."""
    batch_size: Count = 32
    """Samples of an optimizer step; how many go through the model at once follows from memory."""
    learning_rate: Rate | None = None
    """Peak rate. Null: what suits the target's size and the method, see docs/training.md."""
    warmup_ratio: Share = 0.05
    weight_decay: float = Field(default=0.0, ge=0.0)
    gradient_checkpointing: Literal["auto", "always", "never"] = "auto"
    """Whether activations are computed anew in the backward pass instead of being kept. `auto`: on an accelerator."""
    command: str | None = None
    """A trainer of your own in place of this one: a command that finds the subset in {data}, in the form
    `command_form`, and the target in {model}, and leaves the model, or an adapter, in {out}. It may also ask for
    {steps}, {batch_size}, {learning_rate} and {seed}."""
    command_form: Literal["trl", "llamafactory", "ms-swift", "qwen", "internvl", "webdataset"] = "trl"

    @field_validator("command")
    @classmethod
    def _asks_for_what_there_is(cls, command: str | None) -> str | None:
        if command is not None:
            _check_command(command, ASKED, "it finds the subset in {data}, the target in {model}", "its model")
        return command

    def steps_over(self, samples: int) -> int:
        """Optimizer steps of Full-SFT on a pool of so many samples."""
        return self.steps or max(1, math.ceil(self.epochs * samples / self.batch_size))


class Evaluate(Section):
    """Benchmark evaluation by greedy generation."""

    metric: str | dict[str, str] = "auto"
    """How answers are compared with references (docs/evaluation.md): exact, choice, number, anls, vqa, contains, math,
    final, or python:MODULE.FUNCTION for your own; or by task, such as {docvqa: anls}. auto: for each task what its
    references ask for, also for those that are not named."""
    max_new_tokens: Count | None = None
    """Longest answer in tokens. Null: twice the longest reference, at least 16, at most 1,024; more for a model that
    reasons first."""
    suite: Literal["lmms-eval"] | None = None
    """Public benchmarks in place of `data.benchmark`: tasks by name, run by lmms-eval in an environment of your own.
    Metric and longest answer are then its tasks'."""
    suite_tasks: tuple[typing.Annotated[str, Field(pattern=r"^[^\s,]+$")], ...] = ()
    """Their names, such as mmmu_val; a group's name stands for its tasks."""
    suite_command: str = LMMS_EVAL
    """The line that runs them on {model}, a folder of whole weights with its processor, and leaves the log of the
    {tasks}' samples in {out}: name the Python of your environment, and the model class that lmms-eval has for it."""

    @field_validator("suite_tasks", mode="before")
    @classmethod
    def _names_are_a_list(cls, names: object) -> object:
        return tuple(name.strip() for name in names.split(",")) if isinstance(names, str) else names

    @field_validator("suite_command")
    @classmethod
    def _asks_for_what_there_is(cls, command: str) -> str:
        _check_command(command, SUITE_ASKED, "it finds the model in {model}, runs {tasks}", "the samples' log")
        return command

    @model_validator(mode="after")
    def _suite_has_tasks(self) -> "Evaluate":
        if self.suite and not self.suite_tasks:
            raise ValueError(f"{self.suite} runs tasks by name: name some in evaluate.suite_tasks, such as [mmmu_val]")
        return self


class Judge(Section):
    """LLM-as-a-Judge: how the model `models.judge` is asked."""

    server: str | None = None
    """Address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1; null to judge in this process. Its key
    is taken from OPENAI_API_KEY."""
    mode: JudgeMode = "answer"
    """answer: it answers for itself, and a sample stays if its answer matches; grade: it is shown the answer."""
    max_tokens: Count = 16
    """Longest reply."""
    concurrency: Count = 8
    """Requests to a server at the same time."""
    requests_per_minute: int = Field(default=0, ge=0)
    """Most requests a minute to a server; 0 for no limit."""


class Deita(Section):
    """DEITA: complexity times quality as a language model rates them, then an embedding-diversity filter."""

    rater: str | None = None
    """Causal LM that rates: a hub name, a local folder or a GGUF file; null for SmolLM2 from its PyPI package."""
    embedder: str | None = None
    """Sentence encoder; null for MiniLM from its PyPI package."""
    threshold: Share = 0.9
    """Cosine with a kept sample from which on a sample counts as a repetition."""


class Less(Section):
    """LESS: Adam-LoRA gradient features, projected, and their cosine with the anchors'."""

    lora_rank: Count = 16
    dimensions: Count = 4096
    """Numbers of a projected gradient, a square."""


class Holdout(Section):
    """Reference models trained on the anchors, which CoLoR-Filter and RHO-LOSS compare losses with."""

    epochs: Count = 10
    """Passes over the anchors, in batches of `sft.batch_size` and at `warmup.learning_rate`."""


class Tov(Section):
    """Train on Validation: a short training of the warm proxy on the anchors, at `warmup.learning_rate`."""

    epochs: Count = 1
    """Passes over the anchors, in batches of `sft.batch_size`."""
    change: Change = "reduction"
    """What ranks a sample: what its loss falls by, or, as `magnitude`, how much its tokens' losses change, whichever
    way."""


class Tacs(Section):
    """TACS: a path on the anchors by an adapter of rank 1 on the base proxy, at `warmup.learning_rate`."""

    most_steps: Count = 20
    """Longest path that is tried, in steps on all anchors."""


class InContext(Section):
    """In-context approximation of the loss of a model trained on the anchors."""

    demonstrations: Count = 4
    """Anchors that stand before each sample, as earlier turns of its conversation."""


class Settings(Section):
    """Everything that scoring, selection, training and evaluation of one curation are told."""

    seed: int = Field(default=0, ge=0)
    data: Data = Data()
    models: Models = Models()
    warmup: Warmup = Warmup()
    score: Score = Score()
    select: Select = Select()
    sft: SFT = SFT()
    evaluate: Evaluate = Evaluate()
    judge: Judge = Judge()
    deita: Deita = Deita()
    less: Less = Less()
    holdout: Holdout = Holdout()
    tov: Tov = Tov()
    tacs: Tacs = Tacs()
    in_context: InContext = InContext()


def _texts(value: object) -> Iterator[str]:
    """All strings of a setting, but for those of sections, which are looked at for themselves."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for one in (*value, *value.values()) for text in _texts(one))
    elif isinstance(value, tuple):
        yield from (text for one in value for text in _texts(one))


def _check_command(command: str, known: Sequence[str], finds: str, leaves: str) -> None:
    """Raise ValueError for a command of the user's that asks for more than is known, or not for the first three."""
    try:
        command.format(**dict.fromkeys(known, ""))
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        have = ", ".join(f"{{{name}}}" for name in known)
        raise ValueError(f"it asks for {error}; it can have {have}, and other braces are written twice") from None
    if missing := [name for name in known[:3] if f"{{{name}}}" not in command]:
        raise ValueError(f"it has no {{{missing[0]}}}: {finds}, and leaves {leaves} in {{out}}")


def parse_section(section: type[Model], raw: dict, source: str = "the settings") -> Model:
    """Validate the mapping of one section; raises ConfigError naming every problem at once."""
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        lines = [f"  {_explain(problem, section)}" for problem in error.errors()]
        raise ConfigError(f"{source} has {len(lines)} problem(s):\n" + "\n".join(lines)) from None


def _explain(problem: dict, section: type[BaseModel]) -> str:
    location = [str(part) for part in problem["loc"]]
    name = ".".join(location) or "params"
    if problem["type"] == "extra_forbidden":
        known = _known_keys(section, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.0)
        return f"{name}: unknown key; did you mean `{near[0]}`? Known here: {', '.join(known)}"
    found = _SECRET.sub(r"\1…", without_userinfo(repr(problem["input"])))
    if problem["type"] == "tuple_type":
        return f"{name}: a list is needed, such as [{problem['input']}] (found {found})"
    return f"{name}: {problem['msg'].removeprefix('Value error, ')} (found {found})"


def _known_keys(section: type[BaseModel], location: list[str]) -> list[str]:
    for part in location:
        section = section.model_fields[part].annotation
    return sorted(section.model_fields)

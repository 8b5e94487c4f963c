"""The commands of `ost` that work on files alone: look at a pool, score it, choose from it, give the subset out."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli.options import named, with_keys
from ost.errors import ConfigError
from ost.settings import Data, Execution, Lookahead, Score, Select, Warmup, parse_section

Pool = Annotated[
    str,
    typer.Argument(
        help="JSON, JSONL, Parquet, WebDataset tars (.gz, .zst too), a folder of them, a `datasets` folder or hub name."
    ),
]
Output = Annotated[Path, typer.Option("--out", "-o", callback=named, dir_okay=False, help="Parquet file to write.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Longest sample in tokens; longer ones are left out.")]
Roots = Annotated[
    list[str] | None, typer.Option("--image-root", help="Folder in which images may lie as well; repeatable.")
]
Columns = Annotated[
    list[str] | None, typer.Option("--column", help="OURS=THEIRS, such as messages=dialogue; repeatable.")
]
TrainOn = Annotated[
    Literal["all", "last"], typer.Option(help="The assistant's turns that are learned and scored: all, or the last.")
]
ExportForm = Literal["same", "ids", "trl", "llamafactory", "ms-swift", "qwen", "internvl", "webdataset"]
"""Names of the forms of `ost.export`, which takes too long to load for a command's help."""


def check(
    pool: Pool,
    model: Annotated[
        str | None,
        typer.Option(help="Target, a folder or hub name: its processor counts tokens; no weights are loaded."),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", callback=named, dir_okay=False, help="Write what was found; `-` prints it alone."),
    ] = None,
    whole: Annotated[bool, typer.Option("--all", help="Look at every record, not at the first 1,000.")] = False,
    max_tokens: MaxTokens = 4096,
    train_on: TrainOn = "all",
    image_roots: Roots = None,
    columns: Columns = None,
) -> None:
    """Say what would become of a pool, and write nothing: forms, lengths, image sizes, what is left out and why."""
    from flows.cli.check import check_source

    check_source(pool, _data(max_tokens, train_on, image_roots, columns), model, json_file, whole)


@with_keys
def score(
    pool: Pool,
    *,
    anchors: Annotated[str, typer.Option(help="Trusted samples, in any of the same forms; about a hundred.")],
    proxy: Annotated[str, typer.Option(help="The model that scores: a local folder or a hub name.")],
    out: Output,
    warmup_steps: Annotated[
        int, typer.Option(min=0, help="Steps that the proxy is trained on the pool first; 0: it is warmed up already.")
    ] = 0,
    warmup_learning_rate: Annotated[
        float | None, typer.Option(help="Peak rate of that training; else what suits the proxy's size.")
    ] = None,
    warmup_lora_rank: Annotated[
        int,
        typer.Option(min=0, help="Rank of an adapter that is trained, and scored, in place of all weights; 0: none."),
    ] = 0,
    base: Annotated[
        str | None,
        typer.Option(help="What the proxy was warmed up from; lookahead then starts there, and ranks more sharply."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Steps on the anchors (lookahead); else as many as help anchors that were left out."),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Rate of the training on the anchors (lookahead); else what suits the proxy's size."),
    ] = None,
    settings: Annotated[
        Score,
        {
            "method": "lookahead: many steps on the anchors; by one step: gradient: a forward and a backward pass; "
            "transposed: two forward passes; exact: the paper's.",
            "layers": "Weights that move: all, language, last:N or head.",
            "optimizer": "Whose step is simulated; auto: adam for a proxy that this pipeline warmed up.",
            "step": "Step length ε (transposed) or step size η (exact).",
            "reduction": "How token losses become a sample's loss.",
            "precision": "fp32; bf16; or mixed: bf16, but for the modules whose weights move. auto: on an accelerator "
            "the fastest that ranks alike, else fp32.",
            "sketch": "Numbers that `ost select` tells samples apart by in choosing for breadth; 0: none.",
            "checks": "Random samples to check against float64 and against another anchor set, else 200, or 20 with a "
            "large proxy on a CPU; 0: none.",
            "toxic_q": "False-discovery rate of the toxic flag.",
            "visual_gain": "Also tell what each sample's image takes off its loss, in a column visual_gain.",
        },
    ],
    execution: Annotated[
        Execution,
        {
            "batch_tokens": "Tokens, padding counted, that go through the proxy at once; else 1,024 on a CPU, 16,384 "
            "on an accelerator. Halved where memory runs out.",
            "encoders": "Processes that encode samples ahead of their use; else none on a CPU, and beside an "
            "accelerator one for each core but two, at most 14.",
            "compile": "Whether lookahead and transposed try torch.compile; auto: on an accelerator, for large pools.",
        },
    ],
    max_tokens: MaxTokens = 4096,
    train_on: TrainOn = "all",
    image_roots: Roots = None,
    columns: Columns = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Folder for what a later run takes over: shards, warm proxy, scores; else OUT.work."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read and decode the pool.")] = 2,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; the same number gives the same bytes.")] = 1,
) -> None:
    """Score a pool: for each sample, would training on it lower the loss on the anchors?

    The proxy should have had a short training on the pool (--warmup-steps, about 5 % of what a fine-tuning takes): one
    that has never seen such data says little. A run that was stopped goes on where it stood.
    """
    from flows.cli.score import score_files

    warmup = {"learning_rate": warmup_learning_rate, "lora_rank": warmup_lora_rank}
    ahead = parse_section(Lookahead, {"steps": steps, "learning_rate": learning_rate}, "the training on the anchors")
    score_files(
        (pool, anchors),
        (proxy, base),
        out,
        work or out.with_suffix(".work"),
        _data(max_tokens, train_on, image_roots, columns),
        (parse_section(Warmup, warmup, "the warm-up"), warmup_steps),
        settings.model_copy(update={"lookahead": ahead}),
        execution,
        workers,
        threads,
    )


@with_keys
def select(
    scores: Annotated[Path, typer.Argument(help="Score table that `ost score` wrote.")],
    *,
    out: Output,
    fraction: Annotated[float, typer.Option(help="Share of the pool to keep.")] = 0.2,
    settings: Annotated[
        Select,
        {
            "strategy": "top: by rank; quota: within each task; vote: over the anchors' tasks; for breadth, among the "
            "best: draw: at random; spread: no near-duplicates; cover: those that stand for the others.",
            "unit": "sample, or turn: of a kept sample the turns are masked that are wrong by the table beside SCORES.",
            "by": "What ranks: utility; relative to the sample's loss, which is auto where the scores have it; or with "
            "what training on it costs.",
            "among": "Share of the pool, the best, that draw, spread and cover choose among; else by --purity.",
            "purity": "Expected share of right samples in that part.",
            "clean_below": "Share of toxic samples below which the pool counts as clean, and is drawn from.",
        },
    ],
    seed: Annotated[int, typer.Option(help="Of any draw.")] = 0,
) -> None:
    """Choose a part of a scored pool; every sample left out is given a reason."""
    from flows.cli.score import select_file

    select_file(scores, out, fraction, settings, seed)


def export(
    selection: Annotated[Path, typer.Argument(help="A selection, such as selections/lookahead-20.parquet.")],
    form: Annotated[
        ExportForm,
        typer.Option(
            help="same: your own records, byte for byte, in their files' form; ids: which they are, with rank and "
            "utility; or what a trainer takes, with the settings that it needs."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", callback=named, help="Folder to write.")],
    data: Annotated[
        Path, typer.Option(help="Sample set that was chosen from; `ost score` leaves one in OUT.work.")
    ] = Path("data/pool"),
    source: Annotated[
        str | None, typer.Option(help="Your own pool, for the form `same`; else what params.yaml names.")
    ] = None,
    scores: Annotated[Path, typer.Option(help="Score table, for the form `ids`; left out where there is none.")] = Path(
        "scores/lookahead.parquet"
    ),
    images: Annotated[
        Literal["copy", "leave"], typer.Option(help="With `same`: copy the images beside the records, or leave them.")
    ] = "copy",
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read what was written again, and tell what the trainer's loader would lose."),
    ] = False,
    limits: Annotated[
        list[str] | None,
        typer.Option(
            "--limit", help="With --verify: the trainer's own option, such as cutoff_len=4096; else its default."
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="With `ids`: list what was left out as well.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace what an earlier export left in the folder.")] = False,
) -> None:
    """Give the chosen subset out: as your own records, or in the form that your trainer takes."""
    from flows.cli.export import export_selection, limits_of, verify_export

    told = limits_of(form, limits or [])
    written = export_selection(
        selection, data, form, out, source, scores, images=images, everything=everything, overwrite=overwrite
    )
    if verify:
        verify_export(written, told)


def _data(max_tokens: int, train_on: str, image_roots: list[str] | None, columns: list[str] | None) -> Data:
    """The settings of reading that the options ask for; raises ConfigError for one that is none."""
    pairs = [column.partition("=") for column in columns or ()]
    if wrong := next((ours for ours, equals, _ in pairs if not equals), None):
        raise ConfigError(f"--column takes OURS=THEIRS, such as messages=dialogue; found {wrong!r}")
    told = {"columns": {ours: theirs for ours, _, theirs in pairs}, "image_roots": tuple(image_roots or ())}
    return parse_section(Data, told | {"max_tokens": max_tokens, "train_on": train_on}, "the command line")

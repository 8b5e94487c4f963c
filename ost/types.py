"""Shape letters and the two callables that travel through the library.

Shapes, used in every docstring: B batch, T tokens, V vocabulary, N pool, A anchors, G anchor groups (tasks), K subset;
in scoring also D anchor cells (folds of the groups) and L rows of an activation.
"""

from typing import Literal, Protocol

Method = Literal["exact", "gradient", "transposed", "lookahead"]
Start = Literal["auto", "base", "warm"]
Optimizer = Literal["auto", "sgd", "adam"]
Detail = Literal["total", "groups", "folds"]
Arithmetic = Literal["fp32", "mixed", "bf16"]
"""What a model computes in: fp32; bf16; or mixed, bf16 but for modules whose weights move, which compute in fp32."""
Precision = Literal["auto", Arithmetic]
Ranking = Literal["auto", "utility", "utility_relative", "utility_per_token"]
Unit = Literal["sample", "turn"]
JudgeMode = Literal["answer", "grade"]
Reduction = Literal["mean", "sum"]
Change = Literal["reduction", "magnitude"]
"""Of a loss: what it falls by, or its absolute change."""
TrainingProtocol = Literal["A", "B"]
"""How long a target is trained on a subset: A, as many epochs as Full-SFT; B, as many steps."""
Column = Literal[
    *("messages", "conversations", "texts", "prompt", "completion", "query", "response", "context", "answers"),
    *("images", "image", "system", "history", "id", "task"),
]
"""Our name of a field that a source may call otherwise (ost/formats/fields.py)."""
Device = Literal["auto", "cpu", "cuda"]


class Progress(Protocol):
    """Called as long work advances; what draws the bar (a terminal, a log, nothing) is the caller's affair."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def silent(done: int, total: int, note: str = "") -> None:
    """The progress callback that shows nothing."""

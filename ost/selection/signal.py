"""Signal: whether scores tell right samples from wrong ones at all, which every claim about a pool rests on."""

import json
from dataclasses import asdict, dataclass

import pyarrow as pa

TELLS = 0.65
"""Least share of the anchors that must be told from their wrong doubles. On the built-in worlds 0.68 and more of them
are by proxies that can read the images, 0.85 and more where the pool does harm, and about half by those that cannot."""
BY_CHANCE = 0.01
"""Significance at which that must differ from a half."""
REMEDY = (
    "Name more anchors, take a stronger proxy or warm it up for longer (warmup.fraction), or move other layers "
    "(score.layers)"
)
WALK_REMEDY = (
    "Mend that training first: how long it is (score.lookahead.steps, or score.lookahead.most_steps where their number "
    "is looked for), or its rate (score.lookahead.learning_rate)"
)
"""What to do where the anchors lose by the training on them: a longer warm-up would only set its mark higher."""
KEY = b"signal"
"""Of the metadata of a score table."""


@dataclass(frozen=True)
class Signal:
    """How held-out anchors fare beside their doubles, the same with each other's answers, which are known to be wrong.

    A walk may help anchors that it has not seen, and wrong samples as much: by teaching how answers look, whatever they
    say. The gain alone tells no signal, then. It takes a trained proxy that knows right from wrong, and a ranking that
    shows it: where the warm proxy differs too little from that, what it knows does not rank.
    """

    pairs: int
    """Anchors that another answer was found for."""
    knows: float
    """Share of them whose own answer the proxy, trained on the others where steps are taken, finds likelier, by token,
    than the other answer;
    as in the next, ties count half, and it is 0.5 without any."""
    ranks: float
    """Share of them that rank above their doubles."""
    p: float
    """One-sided p-value of that, by the signed ranks of the differences (Wilcoxon, 1945); 1 without any."""
    gain: float | None = None
    gain_se: float = 0.0
    """Mean loss, in nats, that held-out anchors gain from steps on the others, and its standard error; None where no
    steps are taken."""

    @property
    def tells(self) -> bool:
        """Whether the scores tell enough for a claim about the pool."""
        return min(self.knows, self.ranks) >= TELLS and self.p < BY_CHANCE

    @property
    def warnings(self) -> list[str]:
        """That they do not, what was looked at, and what to do; empty where they do."""
        if self.tells:
            return []
        if not self.pairs:
            return [
                f"nobody knows whether the scores tell right from wrong: {self._gained}no two anchors of a kind have "
                "different answers to try it on; so nothing is said of harm or purity. Name more anchors"
                + (f". {WALK_REMEDY}" if self._lost else "")
            ]
        return [
            f"the scores cannot tell right from wrong: {self._gained}of {self.pairs} anchors the proxy finds "
            f"{self.knows:.0%} likelier with their own answer than with another anchor's, and {self.ranks:.0%} rank "
            f"higher with it (chance is 50%; {TELLS:.0%} is needed, beyond chance at {BY_CHANCE:.0%}); so nothing is "
            f"said of harm or purity. {WALK_REMEDY if self._lost else REMEDY}"
        ]

    @property
    def _lost(self) -> bool:
        """Whether anchors left out lose by the steps on the others."""
        return self.gain is not None and self.gain <= 0

    @property
    def _gained(self) -> str:
        """What steps on the other anchors did for those left out, to be read on; empty where none are taken."""
        if self.gain is None:
            return ""
        found = f"{abs(self.gain):.2f} ± {self.gain_se:.2f} nats"
        if self._lost:
            return (
                "the training on the anchors ended worse than the warm proxy (anchors left out have a mean loss "
                f"{found} higher by the proxy trained on the others than by the warm one), and "
            )
        return f"anchors left out gained {found} from training on the others, but "

    def onto(self, scores: pa.Table) -> pa.Table:
        """A score table that carries this, in the metadata of its schema."""
        return scores.replace_schema_metadata({**(scores.schema.metadata or {}), KEY: json.dumps(asdict(self))})


def signal_of(scores: pa.Table) -> Signal | None:
    """The signal of a score table; None where it was not looked for."""
    found = (scores.schema.metadata or {}).get(KEY)
    return None if found is None else Signal(**json.loads(found))


def may_claim(scores: pa.Table) -> bool:
    """Whether a score table may say anything of harm and purity: its signal tells, or was not looked for."""
    signal = signal_of(scores)
    return signal is None or signal.tells

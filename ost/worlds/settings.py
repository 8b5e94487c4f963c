"""Settings of the built-in worlds: how their pools come to be wrong, and how their tiny models are pretrained."""

from typing import Annotated, Literal

from pydantic import Field

from ost.settings import Count, Rate, Section, Share

WorldName = Literal["handmath", "easy-vqa", "wordmath", "multi-turn"]
Width = Annotated[int, Field(ge=32, multiple_of=32)]


class World(Section):
    """The built-in world: samples whose pool was answered by a faulty teacher."""

    name: WorldName = "handmath"
    """handmath: arithmetic on handwritten digits; easy-vqa: a third party's questions about shapes and colours;
    wordmath: arithmetic in words, text only; multi-turn: conversations of two to four of handmath's questions."""
    pool: Count = 8000
    anchors: Count = 100
    benchmark: Count = 2000
    errors: Literal["teacher", "rules", "chance"] = "teacher"
    """Who writes the answers: a small model trained on wrong labels, the rules that made those labels, or chance,
    which deals right answers among the questions of a kind: no direction (with `wrong_share`).
    """
    misread: Share = 0.65
    """Chance that a confusable digit (1, 3, 5, 9) is misread in a wrong label."""
    wrong_operation: Share = 0.12
    """Chance that a wrong label applies another operation than the one asked for."""
    wrong_share: Share | None = None
    """Share of the pool's answers that is wrong: they are put right, or made wrong by rule, at random until it is.
    Null: as the teacher wrote them. 0: a clean pool."""
    anchor_tasks: tuple[str, ...] | None = None
    """Kinds of question that the anchors are drawn from; null for all. Less than all is a biased anchor set."""
    teacher_steps: Count = 900
    temperature: Rate = 0.7
    """Sampling temperature of the faulty teacher when it writes the pool's answers."""

    @property
    def has_turns(self) -> bool:
        """Whether samples of the pool have several answers, of which some may be right and others wrong."""
        return self.name == "multi-turn"


class Base(Section):
    """Pretraining of the built-in world's base models, on clean samples of some tasks."""

    tasks: tuple[str, ...] | None = None
    """Kinds of question that the bases learn; null for those that the world is made for."""
    target_steps: Count = 800
    proxy_steps: Count = 800
    judge_steps: Count = 800
    """Of the built-in judge: its strength."""
    target_width: Width = 128
    """Hidden size; feed-forward layers grow with it."""
    proxy_width: Width = 96
    judge_width: Width = 128
    batch_size: Count = 32
    learning_rate: Rate = 2e-3

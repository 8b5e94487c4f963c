"""What the anchors ask and what they do not: questions worth answering, answers taken in, anchors that are doubtful."""

from ost.anchors.added import Added, add_anchors
from ost.anchors.coverage import Gap, gaps, suggested, uncovered
from ost.anchors.doubt import Doubtful, contradicted, doubt_words
from ost.anchors.sheet import Answered, question_id, question_of, read_answers, write_sheet
from ost.anchors.suggestions import suggestions

__all__ = [
    "Added",
    "Answered",
    "Doubtful",
    "Gap",
    "add_anchors",
    "contradicted",
    "doubt_words",
    "gaps",
    "question_id",
    "question_of",
    "read_answers",
    "suggested",
    "suggestions",
    "uncovered",
    "write_sheet",
]

"""Utility scoring: for every pool sample, would one gradient step on it lower the loss on the anchors?"""

from ost.scoring.methods import METHODS
from ost.scoring.score import score, score_file
from ost.scoring.scored import Scored, read_scores
from ost.scoring.shards import Job

__all__ = ["METHODS", "Job", "Scored", "read_scores", "score", "score_file"]

"""Utility scoring: for every pool sample, would one gradient step on it lower the loss on the anchors?"""

from ost.scoring.engine import METHODS, Scored
from ost.scoring.score import read_scores, score, score_file
from ost.scoring.shards import Job

__all__ = ["METHODS", "Job", "Scored", "read_scores", "score", "score_file"]

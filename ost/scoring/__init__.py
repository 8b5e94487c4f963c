"""Utility scoring: for every pool sample, would one gradient step on it lower the loss on the anchors?"""

from ost.scoring.score import METHODS, Scored, read_scores, score

__all__ = ["METHODS", "Scored", "read_scores", "score"]

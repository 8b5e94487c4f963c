"""Supervised fine-tuning: batches of any size within memory, by one process or several, that a kill does not undo."""

from ost.training.loop import Moments, Trained, train
from ost.training.recipe import Recipe, usual_rate
from ost.training.saved import Saved

__all__ = ["Moments", "Recipe", "Saved", "Trained", "train", "usual_rate"]

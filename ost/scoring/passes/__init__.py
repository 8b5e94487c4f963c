"""Passes of a model over a batch: losses of samples, weights that move, and what two passes have in common."""

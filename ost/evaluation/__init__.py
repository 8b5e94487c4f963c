"""Evaluation: a model answers a benchmark greedily (generate.py), and metrics/ says how right each answer is."""

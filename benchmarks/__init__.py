"""Benchmarks: each measures side by side, in one run, and writes figures that the documents quote."""

"""Audits: what scores and selections say beside the truth, beside the pool, and beside an earlier run."""

"""What is remembered of runs: in MLflow, its registry and the workspace."""

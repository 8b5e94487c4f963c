"""Environment variables that keep Prefect and MLflow from writing between a run's own progress."""

import os

QUIET = {
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
"""Also how long Prefect's server may take to start: its default, 20 seconds, is too short on a busy machine."""


def quiet(**more: str) -> None:
    """Set these variables, and `more`, in this process, for what is imported after; those that are set stay."""
    for name, value in (QUIET | more).items():
        os.environ.setdefault(name, value)

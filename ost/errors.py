"""Errors that a user can act on: each says what was found and what to do next."""


class OSTError(Exception):
    """Base of every error that OST raises on purpose; the command prints it without a traceback."""


class ConfigError(OSTError):
    """`params.yaml` (or a keyword) holds something OST does not know or cannot use."""


class DataError(OSTError):
    """A pool, anchor set or benchmark cannot be used as it is."""


class ModelError(OSTError):
    """A checkpoint cannot be loaded, or proxy and target do not belong together."""


class TrainingError(OSTError):
    """Training produced something that must not be used, such as a loss that is not finite."""


class EvaluationError(OSTError):
    """A suite of benchmarks failed on a model, or left nothing that can be read."""


class WorkspaceError(OSTError):
    """A stage was asked to run where its inputs, or the workspace itself, are missing."""

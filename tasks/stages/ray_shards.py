"""Where shards are scored: on this machine's devices, or on Ray through Prefect's Ray task runner."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from ost.errors import ConfigError
from ost.models import resolve_device
from ost.scoring.methods.scorer import Scorer
from ost.scoring.shards import Job, Runner, run_here, score_shard
from tasks.quiet import QUIET, quiet
from tasks.settings import Compute
from tasks.slots import Slots
from tasks.stages.slot_shards import SlotRunner, worker_scorer

NO_LOGS = {"PREFECT_LOGGING_TO_API_ENABLED": "false"}
"""Shards' logs stay out of the server's database."""
LOCAL = "local"
"""A Ray of this machine, started for the run and stopped behind it."""


def runner(compute: Compute, slots: Slots | None = None) -> Runner:
    """What `compute.ray` asks for, None for the stage's own process; raises ConfigError where Ray is not installed.

    `slots`: devices of this machine that shards may be scored on.
    """
    if compute.ray is None:
        return SlotRunner(slots) if slots and len(slots.devices.names) > 1 else run_here
    try:
        import prefect_ray  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"compute.ray is {compute.ray!r}, but {error.name} is missing: pip install 'ost-pipeline[ray]', or set "
            "compute.ray to null"
        ) from error
    return RayRunner(compute)


class RayRunner:
    """Maps shards on Ray as tasks of a Prefect flow: on a local Ray, `ray_workers` at a time.

    Machines of a cluster need this package, and the workspace under the same path. A worker prepares its scorer once.
    Where shards need an accelerator, each task asks Ray for one, and its process sees no other.
    """

    def __init__(self, compute: Compute):
        self.compute = compute

    def __call__(self, job: Job, shards: Sequence[Sequence[int]], scorer: Scorer | None = None) -> Iterator[int]:
        """Score the shards; yields the size of each as it is published. Raises what a shard raised.

        `scorer`: of this process, which scores none.
        """
        if shards:
            with _prefect_server() as address:
                yield from self._map(job, shards, address)

    def _map(self, job: Job, shards: Sequence[Sequence[int]], server: str) -> Iterator[int]:
        from prefect import flow, task
        from prefect.futures import as_completed
        from prefect_ray import RayTaskRunner
        from prefect_ray.context import remote_options
        from ray.exceptions import RayTaskError

        @task(name="score shard", persist_result=False)
        def one(positions: list[int]) -> int:
            return score_shard(job, positions, worker_scorer(job))

        @flow(name="score shards", task_runner=RayTaskRunner(**self._cluster(server)), persist_result=False)
        def every() -> Iterator[int]:
            with remote_options(**_needs(job)):
                futures = [one.submit([int(at) for at in shard]) for shard in shards]
            for future in as_completed(futures):
                yield future.result()

        try:
            yield from every()
        except RayTaskError as error:
            raise error.cause from None  # what the shard itself raised

    def _cluster(self, server: str) -> dict[str, Any]:
        """How the task runner reaches Ray."""
        environment = {"PREFECT_API_URL": server, **QUIET, **NO_LOGS}
        environment |= {"OMP_NUM_THREADS": str(self.compute.threads), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        shared = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": {"env_vars": environment}}
        if self.compute.ray != LOCAL:
            return {"address": self.compute.ray, "init_kwargs": shared}
        return {"init_kwargs": shared | {"num_cpus": self.compute.ray_workers, "include_dashboard": False}}


def _needs(job: Job) -> dict[str, int]:
    """What a task asks of Ray, which by itself would end a process that has an accelerator after each shard."""
    return {"num_gpus": 1, "max_calls": 0} if resolve_device(job.device).type == "cuda" else {}


@contextlib.contextmanager
def _prefect_server() -> Iterator[str]:
    """The API that flow and workers report to: the one that PREFECT_API_URL names, or one for the time of the run."""
    quiet(**NO_LOGS)
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, PREFECT_API_URL, temporary_settings

    if address := PREFECT_API_URL.value():
        yield address
        return
    with tempfile.TemporaryDirectory() as folder:
        # A database of its own: another server's SQLite, such as the flow's around this stage, would lock.
        database = {PREFECT_API_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{folder}/prefect.db"}
        with (
            temporary_settings(database),
            SubprocessASGIServer() as server,
            temporary_settings({PREFECT_API_URL: server.api_url}),
        ):
            yield server.api_url

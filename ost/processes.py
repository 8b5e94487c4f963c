"""Pools of processes that work for this one, and never longer than it lives."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor


def process_pool(count: int, preloaded: str, prepare: Callable[..., None] | None = None, *args) -> ProcessPoolExecutor:
    """So many processes, forked from one that has loaded the module `preloaded` once for all of them.

    `prepare` is called with `args` in each as it starts.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preloaded])
    return ProcessPoolExecutor(count, context, _begin, (prepare, args))


def _begin(prepare: Callable[..., None] | None, args: tuple) -> None:
    end_with_parent()
    if prepare:
        prepare(*args)


def end_with_parent() -> None:
    """Let this process, which `multiprocessing` started, end with the one that asked for it, however that ends."""

    def watch() -> None:
        multiprocessing.parent_process().join()  # not the fork server, which goes on as long as its children do
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

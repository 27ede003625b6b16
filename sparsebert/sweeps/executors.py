"""Where runs are trained: in this process, in several on this machine, or on a Dask cluster.

Each is a `concurrent.futures.Executor` which also says how many runs it works on at once (`workers`), how
many it should be given (`capacity`), and on what `device`.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from sparsebert.errors import InputError, first_line

EXECUTORS = ("inline", "processes", "dask")


@contextmanager
def open_executor(
    kind: str = "inline", workers: int | None = None, scheduler: str | None = None
) -> Iterator[Executor]:
    """The executor of that kind, shut down at the end; after an interruption without waiting for its runs.

    `workers` is for `processes` (default: `default_workers()`), `scheduler` the address that `dask` needs.
    Raises `InputError` for an option that does not go with the kind, and for a scheduler out of reach.
    """
    if kind not in EXECUTORS:
        raise InputError(f"unknown executor '{kind}'. Known: {', '.join(EXECUTORS)}")
    if workers is not None and kind != "processes":
        raise InputError(f"--workers goes with --executor processes, and the executor is {kind}")
    if scheduler is not None and kind != "dask":
        raise InputError(f"--scheduler goes with --executor dask, and the executor is {kind}")
    if kind == "dask":
        with _client(scheduler) as client, DaskExecutor(client) as executor:
            yield executor
        return
    executor = InlineExecutor() if kind == "inline" else ProcessesExecutor(workers or default_workers())
    try:
        yield executor
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def default_workers() -> int:
    """One process for each GPU; on a processor up to four, since small models use several cores badly."""
    import torch

    return torch.cuda.device_count() or min(4, _cores())


def _cores() -> int:
    """Cores that this process may use, which a cluster's scheduler may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class InlineExecutor(Executor):
    """Calls at once, in this process: a submitted future is done."""

    workers = capacity = 1

    @property
    def device(self) -> str | None:
        from sparsebert.machine import device_name  # imports torch, which is for workers to do

        return device_name()

    def submit(self, function: Callable, /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class WorkerDied(RuntimeError):
    """The process that made a run is gone, and what it had not saved with it."""


class ProcessesExecutor(ThreadPoolExecutor):
    """Processes that share the cores, or the GPUs in turn. The death of one ends its own run alone.

    A `ProcessPoolExecutor` gives up all its calls when one of its processes dies, so each process is a pool
    of its own, led by a thread: started when it is first called, and again after it died. The processes end
    with the one that made them, however that ends.
    """

    def __init__(self, workers: int):
        self.workers = self.capacity = workers
        self.threads = max(1, _cores() // workers)
        self._own, self._gpus = threading.local(), itertools.cycle(_gpus() or [None])
        self._processes: list[tuple[ProcessPoolExecutor, int]] = []
        super().__init__(workers, initializer=lambda: vars(self._own).update(gpu=next(self._gpus), pool=None))

    @property
    def device(self) -> str | None:
        return re.sub(r"\d+ threads", f"{self.threads} threads", InlineExecutor().device)

    def submit(self, function: Callable, /, *args: Any, **kwargs: Any) -> Future:
        return super().submit(self._lead, function, *args, **kwargs)

    def _lead(self, function: Callable, *args: Any, **kwargs: Any) -> Any:
        try:
            self._own.pool = self._own.pool or self._start(self._own.gpu)
            return self._own.pool.submit(function, *args, **kwargs).result()
        except BrokenProcessPool:
            self._own.pool = None
            raise WorkerDied("the process of this run died: killed, or out of memory") from None

    def _start(self, gpu: str | None) -> ProcessPoolExecutor:
        # Processes are spawned, not forked: torch's threads do not survive a fork.
        spawn = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(1, spawn, _start_worker, (self.threads, gpu))
        # It is born with Ctrl-C blocked: before `_start_worker` it would end in a traceback.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            born = pool.submit(os.getpid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._processes.append((pool, born.result()))
        return pool

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures)
        for pool, _ in self._processes:
            pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            if process.pid in [pid for _, pid in self._processes]:
                process.terminate()


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    return (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))).split(",")[:count]


def _start_worker(threads: int, gpu: str | None) -> None:
    # Ctrl-C reaches all processes; the first one ends the others, in an orderly way, which cleans up.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1) if threading.main_thread().is_alive() else None)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # torch reads it when it is imported
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """End this worker when the process that started it is gone, however that one ended."""
    multiprocessing.parent_process().join()
    os._exit(1)


class ClusterGone(RuntimeError):
    """The cluster no longer answers; nobody works on the runs that it was given."""


class DaskExecutor(Executor):
    """The workers of a Dask cluster; Dask hands the run of a worker that died to another one.

    `client` is a `distributed.Client`. A worker makes one run at a time and gives it all its threads.
    """

    device = None  # which is not known

    def __init__(self, client: Any):
        self._client, self._pool = client, client.get_executor(pure=False)

    @property
    def workers(self) -> int:
        try:
            return max(1, len(self._client.nthreads()))
        except OSError:
            raise ClusterGone from None

    @property
    def capacity(self) -> int:
        return 2 * self.workers  # what waits tells a cluster that can grow to do so

    def submit(self, function: Callable, /, *args: Any, **kwargs: Any) -> Future:
        return self._pool.submit(_on_dask_worker, function, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.shutdown(wait=wait)


_ALONE = threading.Lock()  # seeds and the hook into attention belong to the whole process


def _on_dask_worker(function: Callable, *args: Any, **kwargs: Any) -> Any:
    import torch
    from distributed import get_worker

    with _ALONE:
        torch.set_num_threads(get_worker().state.nthreads)
        return function(*args, **kwargs)


@contextmanager
def _client(scheduler: str | None) -> Iterator[Any]:
    try:
        from distributed import Client
    except ImportError:
        raise InputError(
            "Dask is not installed: in a clone of the project, write pip install '.[cluster]'"
        ) from None
    if not scheduler:
        raise InputError("--executor dask needs --scheduler tcp://HOST:PORT, the address of Dask's scheduler")
    if not re.fullmatch(r"\S+://\S+|[^\s:/]+:\d+", scheduler):
        raise InputError(f"--scheduler {scheduler}: write an address such as tcp://HOST:8786")
    try:
        client = Client(scheduler, timeout="20s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(f"no Dask scheduler answers at '{scheduler}' ({first_line(error)})") from None
    with client:
        yield client

"""Who does the tasks: one after the other here, processes beside this one, or a Ray cluster."""

import os
from collections.abc import Iterator, Sequence
from functools import partial

from clkd_core.errors import ConfigError
from clkd_core.evaluation.config import JudgeConfig
from clkd_core.evaluation.inputs import Task
from clkd_core.evaluation.judging.outcome import Outcome
from clkd_core.evaluation.judging.work import Work, perform
from clkd_core.evaluation.workers.cluster import run_on_ray
from clkd_core.evaluation.workers.local import run_local

ENGINES = ("local", "ray")


def run_tasks(
    tasks: Sequence[Task], config: JudgeConfig, *, engine: str, workers: int | None
) -> Iterator[tuple[Task, Outcome]]:
    """Do the tasks, in any order; their outcomes do not depend on who does them.

    Args:
        tasks: at least one.
        config: how they are judged.
        engine: one of :data:`ENGINES`.
        workers: tasks under way at a time; None: as many as there are cores, or one on a GPU.

    Raises:
        ConfigError: no such engine, or it is not there.
        ClkdError: a task failed, or its worker died too often; names it.
    """
    works, names = [task.work for task in tasks], [task.name for task in tasks]
    call = partial(perform, config=config)
    if engine == "ray":
        gpus = int(config.device.startswith("cuda"))
        done = run_on_ray(works, call, names, workers=workers, cpus=config.threads, gpus=gpus)
    elif engine == "local":
        count = workers or default_workers(config)
        done = (
            run_local(works, call, names, workers=count)
            if min(count, len(tasks)) > 1
            else _run_here(works, config)
        )
    else:
        raise ConfigError(f"engine is {engine!r}, expected one of {list(ENGINES)}")
    for index, outcome in done:
        yield tasks[index], outcome


def default_workers(config: JudgeConfig) -> int:
    """As many as the cores have threads for; one on a GPU, or where time is measured."""
    if config.timed or config.device.startswith("cuda"):
        return 1
    return max(1, len(os.sched_getaffinity(0)) // config.threads)


def _run_here(works: Sequence[Work], config: JudgeConfig) -> Iterator[tuple[int, Outcome]]:
    import torch  # workers load it for themselves

    threads = torch.get_num_threads()
    try:
        for index, work in enumerate(works):
            yield index, perform(work, config)
    finally:
        torch.set_num_threads(threads)

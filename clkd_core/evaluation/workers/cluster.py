"""An existing Ray cluster: every task is a Ray task, tried again where its worker is lost.

The set or the bags, and the checkpoint, must be found under the same path by every machine.
"""

import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from clkd_core.errors import ClkdError, ConfigError
from clkd_core.evaluation.workers.attempt import MAX_LOSSES, Result, attempt, refuse_lost

T = TypeVar("T")
R = TypeVar("R")

_log = logging.getLogger(__name__)

_KNOCK_S = 5.0


def run_on_ray(
    items: Sequence[T],
    call: Callable[[T], R],
    names: Sequence[str],
    *,
    workers: int | None,
    cpus: int = 1,
    gpus: int = 0,
) -> Iterator[tuple[int, R]]:
    """Call for every item on the cluster that is running here.

    Args:
        items: what is called for.
        call: a function of an installed module, or a ``functools.partial`` of one.
        names: of the items, for people.
        workers: tasks under way at a time; None: as many as the cluster has room for.
        cpus: that a task takes.
        gpus: that a task takes.

    Yields:
        (index of the item, what the call returned) as they are done.

    Raises:
        ConfigError: Ray is not installed, or no cluster is running.
        ClkdError: what a call raised, or an item's worker was lost too often.
        RuntimeError: a call failed for another reason; holds its traceback.
    """
    ray = _import_ray()
    ours = not ray.is_initialized()
    if ours:
        _join_cluster(ray)
    under_way: dict[Any, int] = {}
    try:

        def task(item: T) -> Result[R]:
            return attempt(call, item)

        remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=MAX_LOSSES - 1)(task)
        room = workers or _room(ray, cpus, gpus)
        todo = iter(range(len(items)))
        while True:
            for index in todo:
                under_way[remote.remote(items[index])] = index
                if len(under_way) >= room:
                    break
            if not under_way:
                return
            done, _ = ray.wait(list(under_way), num_returns=1)
            for reference in done:
                index = under_way.pop(reference)
                yield index, _value(ray, reference, names[index])
    finally:
        for reference in under_way:
            ray.cancel(reference, force=True)
        if ours:
            ray.shutdown()


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as err:
        raise ConfigError(
            f"--engine ray needs the package ray ({err}): pip install 'clkd-drive[ray]'"
        ) from err
    return ray


def _join_cluster(ray: Any) -> None:
    try:
        _refuse_dead_cluster()
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError) as err:
        raise ConfigError(
            f"--engine ray found no running cluster ({' '.join(str(err).split())[:100]}): start "
            "one with `ray start --head`, or set RAY_ADDRESS to one"
        ) from err
    _log.info("Ray cluster with %s CPUs", f"{ray.cluster_resources().get('CPU', 0):g}")


def _refuse_dead_cluster() -> None:
    """Knock before Ray does: it would wait minutes for a cluster that is gone.

    The address of the last one stays on disk when its processes are killed.

    Raises:
        ConnectionError: nobody answers where Ray would look.
    """
    try:
        from ray._private.services import canonicalize_bootstrap_address
    except ImportError:  # not part of Ray's interface: then it is Ray that waits
        return
    address = canonicalize_bootstrap_address("auto") or ""
    host, _, port = address.rpartition(":")
    if "/" in host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_S).close()
    except OSError as err:
        raise ConnectionError(f"nobody answers at {address}") from err


def _room(ray: Any, cpus: int, gpus: int) -> int:
    """How many tasks the cluster can do at a time."""
    has = ray.cluster_resources()
    room = int(has.get("CPU", 0) // cpus)
    return max(1, min(room, int(has.get("GPU", 0) // gpus)) if gpus else room)


def _value(ray: Any, reference: Any, name: str) -> Any:
    try:
        result: Result[Any] = ray.get(reference)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as err:
        _log.warning("%s", " ".join(str(err).split())[:200])
        refuse_lost(name, MAX_LOSSES)
        raise
    except ray.exceptions.RayError as err:
        reason = str(err).strip().splitlines()[-1]  # of a traceback: what was raised
        raise ClkdError(f"task {name}: Ray failed: {reason[:300]}") from err
    return result.value()

"""One way to write a step for both worlds: inside a flow run it is a Prefect task, elsewhere a plain call.

So the same functions run with a server that shows them, and without one where there is none to show them to.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker

P = ParamSpec("P")
R = TypeVar("R")


def in_flow_run() -> bool:
    """Whether a Prefect flow run is under way here."""
    return FlowRunContext.get() is not None


def flush(timeout_s: float = 30) -> bool:
    """Sends Prefect's server what is left to say of the runs of this process; whether all was said in time.

    States of tasks travel as events in the background. Left to the end of the interpreter, they may meet a loop that is
    being taken down, and a task that has ended stays `Running` in the UI.
    """
    left = [worker.drain_all(timeout=timeout_s)[1] for worker in (EventsWorker, APILogWorker)]
    return not any(left)


def step(
    *,
    name: str,
    run_name: str,
    retries: int = 0,
    retry_delay_s: float = 10,
    retry_on: tuple[type[Exception], ...] = (OSError,),
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Makes a function a Prefect task where a flow runs; nothing is cached, the warehouse's files say what is done.

    Args:
        run_name: template over the function's parameters.
        retry_on: what may pass, as trouble with disks and networks does; any other error is final at once.
    """

    def may_pass(task: Any, run: Any, state: Any) -> bool:
        try:
            state.result()
        except Exception as error:
            return isinstance(error, retry_on)
        return False

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        tracked = task(
            name=name,
            task_run_name=run_name,
            retries=retries,
            retry_delay_seconds=retry_delay_s,
            retry_condition_fn=may_pass,
            cache_policy=NO_CACHE,
            persist_result=False,
        )(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return (tracked if in_flow_run() else function)(*args, **kwargs)

        return call

    return wrap

"""Runs a step over a window of shards: what Prefect sees of curation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from prefect.utilities.annotations import quote

from curation.engine.local import run_shards
from curation.engine.pool import Pool
from curation.engine.work import Work
from tasks.progress import Progress
from tasks.tracking import in_flow_run, step
from warehouse.ledger import Ledger

MAX_TASK_RUNS = 500
"""More in one flow run and Prefect's server falls behind."""


@dataclass(frozen=True)
class Window:
    """A run of shards, and its place among the others of its step."""

    number: int
    count: int
    shards: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What a run over some windows did."""

    rows: Counter[str]
    """Rows written, by table."""
    failures: Counter[str]
    """Units whose process did not live to tell, by cause."""


@dataclass(frozen=True)
class Engine:
    """What every window of a run shares."""

    ledger: Ledger
    isolated: Pool
    """Workers that fork for every unit, and must therefore never have run anything else: a fork of a process whose
    libraries have started threads may hang."""
    keeping: Pool
    """Workers that keep their models from one unit to the next."""
    run_id: str
    retry_failed: bool = False


def windows(shards: Sequence[str], size: int, *, steps: int = 1) -> list[Window]:
    """Windows of `size` shards, or larger ones where `steps` over them would make too many task runs."""
    most = max(1, MAX_TASK_RUNS // steps)
    size = max(size, -(-len(shards) // most))
    parts = [tuple(shards[i : i + size]) for i in range(0, len(shards), size)]
    return [Window(n, len(parts), part) for n, part in enumerate(parts, 1)]


def run_windows(work: Work, engine: Engine, over: Iterable[Window]) -> Outcome:
    """Runs a step over all windows, one after the other; each has the whole pool."""
    total = Outcome(Counter(), Counter())
    for window in over:
        hidden = quote(engine) if in_flow_run() else engine
        outcome = run_window(work.step.name, window, work, hidden)
        total.rows.update(outcome.rows)
        total.failures.update(outcome.failures)
    return total


@step(name="window", run_name="{step_name} {window.number}/{window.count}", retries=2)
def run_window(step_name: str, window: Window, work: Work, engine: Engine) -> Outcome:
    """Settles all that a step has to settle in a window; what is done already costs nothing."""
    progress = Progress(step_name)
    progress(window.number - 1, window.count)
    tally = run_shards(
        work,
        engine.ledger,
        window.shards,
        engine.isolated if work.isolated else engine.keeping,
        run_id=engine.run_id,
        retry_failed=engine.retry_failed,
        progress=_over_window(window, progress),
    )
    if window.number == window.count:
        progress.finish()
    rows: Counter[str] = Counter()
    for of_shard in tally.committed.values():
        rows.update(of_shard)
    return Outcome(rows, Counter(tally.failures))


def _over_window(window: Window, progress: Progress) -> Callable[[int, int], None]:
    """Turns the engine's units of one shard after another into the share of all windows that is done."""
    finished = 0

    def tell(done: int, units: int) -> None:
        nonlocal finished
        share = min(finished + done / units, len(window.shards)) / len(window.shards)
        progress(window.number - 1 + share, window.count)
        if done == units:
            finished += 1

    return tell

"""What commands share: options, progress on standard error, results on standard output, and how errors end them."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from flows.settings import Settings
    from warehouse.plan import Plan

T = TypeVar("T")

Warehouse = Annotated[
    str | None, typer.Option("--warehouse", "-w", help="Folder or object-store prefix of the tables.")
]
WarehouseArgument = Annotated[str, typer.Argument(metavar="W", help="A warehouse: folder or prefix.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON (docs/commands.md).")]
Workers = Annotated[int | None, typer.Option(help="Worker processes; default: one per core.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Try again what failed for good before.")]
Profile = Annotated[str | None, typer.Option(help="Models and filters: embedded or published.")]
Config = Annotated[
    Path | None, typer.Option(help="Settings file; default: cutroom.toml in the working directory.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Any setting by its name, as clips.min_s=1; repeatable."
    ),
]


def flags_of(settings: Sequence[str] | None, **flags: Any) -> dict[str, Any]:
    """What was given on the command line, nested by section; None stands for not given."""
    from flows.settings import nest, parse_set

    given = {name: value for name, value in flags.items() if value is not None and value != []}
    return nest(dict(parse_set(text) for text in settings or ()) | given)


def flags_on(config: Path | None, settings: Sequence[str] | None, **flags: Any) -> dict[str, Any]:
    """Flags of a command that needs a warehouse; it may also stand in the settings file or the environment."""
    from flows.settings import load_settings

    given = flags_of(settings, **flags)
    require(load_settings(given, toml=config), "warehouse", "use --warehouse")
    return given


def require(settings: Settings, name: str, how: str) -> None:
    """Raises SettingsError unless a setting was given somewhere."""
    from warehouse.errors import SettingsError

    if name not in settings.model_fields_set:
        raise SettingsError(
            f"no {name} is given: {how}, or set `{name}` in cutroom.toml or CUTROOM_{name.upper()}"
        )


def emit(result: Mapping[str, Any], as_json: bool, show: Callable[[], None]) -> None:
    """Prints a result: as JSON with its documented keys, or for people."""
    if as_json:
        print(json.dumps(result, default=str))
    else:
        show()


def warn_of_embedded(plan: Plan) -> None:
    """Says on standard error which tables mean nothing because embedded models filled them."""
    from curation.pipeline import of_embedded_models

    if tables := of_embedded_models(plan):
        warn(
            f"{', '.join(tables)} are of the embedded models, which know the sample reel alone: on other footage they "
            "mean nothing"
        )


def table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints rows as a table on standard output; columns in the order in which they first come."""
    from rich.console import Console
    from rich.table import Column, Table

    columns = list(dict.fromkeys(name for row in rows for name in row))
    drawn = Table(*(Column(name, overflow="fold") for name in columns), title=title, title_justify="left")
    for row in rows:
        drawn.add_row(*(_cell(row.get(name)) for name in columns))
    Console(width=None if sys.stdout.isatty() else 200).print(drawn)


def states(title: str, counts: Mapping[str, Mapping[str, int]], new_rows: Mapping[str, int]) -> None:
    """Prints how the ids of some tables stand, and what the command added."""
    from tasks.artifacts import by_cause

    table(title, [{"table": name, **by_cause(of_table)} for name, of_table in counts.items()])
    rows = sum(new_rows.values())
    print(f"{rows} new rows" if rows else "nothing to do: everything had been done with these settings")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Bars:
    """Draws one bar per step on standard error; where that is no terminal, a line now and then."""

    LINE_S = 10.0
    """Least time between two lines of one step."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TaskID,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
        )

        self.console = Console(stderr=True)
        columns = (
            TextColumn("{task.description:<18}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
        )
        self.progress = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self._bars: dict[str, TaskID] = {}
        self._said: dict[str, tuple[float, float]] = {}

    def update(self, label: str, done: float, total: float) -> None:
        """Moves a step's bar."""
        if label not in self._bars:
            self._bars[label] = self.progress.add_task(label, total=total)
        self.progress.update(self._bars[label], completed=done, total=total)
        if not self.console.is_terminal:
            self._say(label, done / total)

    def _say(self, label: str, share: float) -> None:
        said_s, said = self._said.get(label, (0.0, 0.0))
        now = time.monotonic()
        if said < 1 and (share >= 1 or now - said_s >= self.LINE_S):
            self._said[label] = now, share
            self.note(f"{label}: {'done' if share >= 1 else f'{share:.0%}'}")

    def note(self, text: str) -> None:
        """Prints a sentence above the bars."""
        self.console.print(text, highlight=False, soft_wrap=True)


@contextmanager
def progress() -> Iterator[Bars]:
    """Shows the progress of the steps that run in the block."""
    from tasks.progress import listening

    bars = Bars()
    with bars.progress, listening(bars):
        yield bars


def as_flow(flow: Any) -> Callable[..., Any]:
    """A flow as it is to be called here: as a flow run where Prefect has a server to show it, else as a plain function.

    A throwaway server would take longer to start than most commands, and show nothing.
    """
    from prefect.settings import get_current_settings

    return _told(flow) if get_current_settings().api.url else flow.fn


def _told(flow: Any) -> Callable[..., Any]:
    """The flow, after which the server knows how each of its tasks ended."""
    from tasks.progress import note
    from tasks.tracking import flush

    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return flow(*args, **kwargs)
        finally:
            if not flush():
                note(
                    "Prefect's server does not take in the last states of tasks: its pages may show them running"
                )

    return run


def prepare_process() -> None:
    """Sets what libraries read when they are loaded, unless it is set."""
    # Prefect's log lines would tear the bars apart, and errors end the command with a message of its own.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # Beside any other load, threads that spin while they wait made torch 20 times as slow.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def warn(message: str) -> None:
    """Says what the user should know, on standard error."""
    print(f"cutroom: {message}", file=sys.stderr)


def fail(message: str, code: int) -> None:
    """Ends the command."""
    print(f"cutroom: {message}", file=sys.stderr)
    sys.exit(code)

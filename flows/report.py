"""The report of a warehouse and the runs that were trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from screen.report import build_report
from warehouse.errors import SettingsError
from warehouse.ledger import Ledger
from warehouse.plan import Plan
from warehouse.run_folder import RUN
from warehouse.store import Store


def write_report(warehouse: str, out: Path | None, runs: Sequence[Path] | None, title: str) -> Path:
    """Writes the page and returns where it lies.

    Args:
        out: by default ``report.html`` in the warehouse, which must then be a local folder.
        runs: folders of training runs; by default all in the warehouse's ``runs``, in the order of their beginning.
    """
    store = Store(warehouse)
    if out is None and not store.is_local:
        raise SettingsError(f"{warehouse} is no local folder; name the report's file with --output")
    if out is not None and out.is_dir():
        raise SettingsError(
            f"--output {out} is a folder; name the report's file, such as {out / 'report.html'}"
        )
    found = runs if runs is not None else _runs(store)
    page = build_report(
        Ledger(store, Plan.load(store)), out or Path(store.root) / "report.html", runs=found, title=title
    )
    return page.resolve()


def _runs(store: Store) -> list[Path]:
    if not store.is_local:
        return []
    described = Path(store.root).glob(f"runs/*/{RUN}")
    return [path.parent for path in sorted(described, key=lambda path: path.stat().st_mtime)]

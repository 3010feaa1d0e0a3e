"""Commands that look into a warehouse and change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from flows import console
from flows.console import Json, WarehouseArgument

if TYPE_CHECKING:
    from warehouse.audit import Audit


def audit(warehouse: WarehouseArgument, json: Json = False) -> None:
    """Prove that every source, video and clip is in exactly one state; exit 1 if not."""
    from warehouse.audit import audit as run_audit
    from warehouse.ledger import Ledger
    from warehouse.plan import Plan
    from warehouse.store import Store

    store = Store(warehouse)
    result = run_audit(Ledger(store, Plan.load(store)))
    console.emit(result.as_json(), json, lambda: _show_audit(result))
    if not result.balanced:
        raise typer.Exit(1)


def _show_audit(result: Audit) -> None:
    rows = []
    for name, count in result.tables.items():
        numbers = count.as_json()
        causes = ", ".join(f"{n} {cause}" for cause, n in numbers.pop("causes").items())
        rows.append({"table": name, **numbers, "causes": causes})
    console.table("balanced" if result.balanced else "NOT balanced", rows)
    for problem in result.problems:
        print(problem)


COMMANDS = (audit,)

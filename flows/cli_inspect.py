"""Commands that look into a warehouse and change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows import console
from flows.console import Json, WarehouseArgument

if TYPE_CHECKING:
    from warehouse.audit import Audit
    from warehouse.ledger import Ledger


def audit(
    warehouse: WarehouseArgument,
    deep: Annotated[bool, typer.Option("--deep", help="Also check every page of every file.")] = False,
    json: Json = False,
) -> None:
    """Prove that every source, video and clip is in exactly one state; exit 1 if not."""
    from warehouse.audit import audit as run_audit

    result = run_audit(_ledger(warehouse), deep=deep)
    console.emit(result.as_json(), json, lambda: _show_audit(result))
    if not result.balanced:
        raise typer.Exit(1)


def check_captions(
    warehouse: WarehouseArgument,
    sample: Annotated[int, typer.Option(min=2, help="Most clips that are looked at.")] = 2000,
    least: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of captions that must fit their own clip best.")
    ] = 0.8,
    json: Json = False,
) -> None:
    """Check that captions fit their own clips better than other clips' captions do; exit 1 if not."""
    from dataclasses import asdict

    from curation.captions.fit import check_captions as run_check

    ledger = _ledger(warehouse)
    console.warn_of_embedded(ledger.plan)
    found = run_check(ledger, sample)
    unchecked = [f"{fit.of}: {why}" for fit in found if (why := fit.unchecked())]
    bad = [fit for fit in found if not fit.unchecked() and not fit.fits(least)]
    result = {"fits": not (bad or unchecked), "captions": [asdict(fit) for fit in found]}
    verdict = "DO NOT fit" if bad else "were NOT all held against" if unchecked else "fit"
    console.emit(result, json, lambda: console.table(f"captions {verdict} their clips", result["captions"]))
    if bad:
        console.fail(
            f"{', '.join(fit.of for fit in bad)}: in fewer than {least:.0%} of the pairs a clip's own caption is nearer "
            "to it than another clip's; 50% is what captions dealt out at random reach. Rows may have slipped, or the "
            "captioner or the CLIP model does not know this footage (embedded ones know the sample reel alone)",
            1,
        )
    if unchecked:
        console.fail(
            f"{'; '.join(unchecked)}: nothing was checked there; `cutroom audit` says what failed", 1
        )


def explain(
    warehouse: WarehouseArgument,
    clip: Annotated[str, typer.Argument(metavar="CLIP", help="A clip's id, or the beginning of it.")],
    json: Json = False,
) -> None:
    """Tell a clip's whole life: source, scores, thresholds, captions, and what it went into."""
    from curation.selection.explained import explain as run_explain
    from warehouse.lineage_text import render

    explanation = run_explain(_ledger(warehouse), clip)
    console.emit(explanation.as_json(), json, lambda: print(render(explanation)))


def report(
    warehouse: WarehouseArgument,
    output: Annotated[
        Path | None, typer.Option(help="HTML file; default: report.html in the warehouse.")
    ] = None,
    run: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of a training run, repeatable; default: all in the warehouse."),
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "Cutroom",
    json: Json = False,
) -> None:
    """Write one self-contained HTML page about a warehouse and what was trained on it."""
    from flows.report import write_report

    page = write_report(warehouse, output, run, title)
    console.emit({"report": str(page)}, json, lambda: print(page))


def networks(json: Json = False) -> None:
    """List the networks that have a name: their size, whom they follow, and whose files they read."""
    from dataclasses import asdict

    from models.networks import NETWORKS, describe

    found = {name: asdict(describe(name)) for name in NETWORKS}
    rows = [
        {
            "network": name,
            "parameters": f"{told['parameters'] / 1e6:.2f} M",
            "per sample": f"{told['flops_per_sample'] / 1e9:.1f} GFLOP",
            "follows": told["follows"],
        }
        for name, told in found.items()
    ]
    console.emit(found, json, lambda: console.table("networks", rows))


def _ledger(warehouse: str) -> Ledger:
    import curation.annotators.registry  # noqa: F401 (knows the tables of one's own annotators)
    from warehouse.ledger import Ledger
    from warehouse.plan import Plan
    from warehouse.store import Store

    store = Store(warehouse)
    return Ledger(store, Plan.load(store))


def _show_audit(result: Audit) -> None:
    rows = []
    for name, count in result.tables.items():
        numbers = count.as_json()
        causes = ", ".join(f"{n} {cause}" for cause, n in numbers.pop("causes").items())
        rows.append({"table": name, **numbers, "causes": causes})
    console.table("balanced" if result.balanced else "NOT balanced", rows)
    for problem in result.problems:
        print(problem)


COMMANDS = (audit, check_captions, explain, report, networks)

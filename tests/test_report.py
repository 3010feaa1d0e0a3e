"""The report: what it says is what the tables hold, and it is one page that asks for nothing and runs nothing."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from markupsafe import escape
from report_page import Page, build_page, copy_of, ledger, page, section
from warehouse_builder import HOSTILE_NAME, STEPS, build_warehouse

from warehouse.audit import audit
from warehouse.ledger import Ledger
from warehouse.plan import Plan, Step
from warehouse.store import Store

__all__ = ["ledger", "page"]


def test_the_page_asks_for_nothing_and_runs_nothing(page: Page) -> None:
    for tag, attrs in page.elements:
        for name, value in attrs.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "srcset", "poster", "action", "data"):
                assert value.startswith(("data:", "#")), (tag, name, value[:80])
    assert not {"script", "link", "iframe", "object", "base", "form"} & {t for t, _ in page.elements}
    assert "url(" not in page.source and "@import" not in page.source
    (policy,) = [m for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy["content"]


def test_names_and_words_of_strangers_are_shown_as_they_are(page: Page) -> None:
    assert HOSTILE_NAME in page.words
    assert "<script" not in page.source.lower()
    assert str(escape(HOSTILE_NAME)) in page.source
    assert "returned no boxes <b>" in page.words
    assert not page.all("b") or "returned no boxes <b>" not in page.source


def test_headings_landmarks_and_names_for_those_who_do_not_see_it(page: Page) -> None:
    levels = [int(t[1]) for t, _ in page.elements if t in ("h1", "h2", "h3")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert [len(page.all(t)) for t in ("main", "nav", "html")] == [1, 1, 1]
    assert page.all("html")[0]["lang"] == "en"
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert max(Counter(ids).values()) == 1
    targets = [a["href"][1:] for a in page.all("a")]
    assert set(targets) <= set(ids) and len(targets) > 8
    assert all(i["alt"] for i in page.all("img"))
    assert all(s["role"] == "img" and s["aria-label"] for s in page.all("svg"))
    for each in page.all("section"):
        assert each["aria-labelledby"] in ids
    assert len(page.all("caption")) == len(page.all("table")) - 1
    assert "width=device-width" in page.source and "prefers-color-scheme: dark" in page.source


def test_the_same_warehouse_gives_the_same_page(ledger: Ledger, page: Page, tmp_path: Path) -> None:
    assert build_page(ledger, tmp_path).source == page.source


def test_the_summary_counts_what_the_audit_counts(ledger: Ledger, page: Page) -> None:
    counts = audit(ledger).tables
    split = audit(ledger).selections["default"]
    assert f"{counts['sources'].expected} sources came in" in page.words
    assert f"{split['in']} clips, of which the selection default kept {split['kept']}" in page.words
    assert " balanced " in page.words and "does not balance" not in page.words


def test_every_failure_and_every_skip_is_counted_with_its_cause(ledger: Ledger, page: Page) -> None:
    for name, count in audit(ledger).tables.items():
        rows = ledger.read_all(name)
        for state in ("failed", "skipped"):
            where = section(page, state)
            causes = (
                Counter(rows.filter(pl.col("state") == state)["cause"]) if "state" in rows.columns else {}
            )
            for cause, n in causes.items():
                assert re.search(rf"{cause}\b.*?\b{n}\b.*?\b{name}\b", where), (name, state, cause, n)
            assert sum(causes.values()) == getattr(count, state)
            others = set(rows.filter(pl.col("state") != state)["cause"].drop_nulls()) if causes else set()
            assert not [c for c in others - set(causes) if c in where]
    assert "gone.mp4" in section(page, "failed") and "there is no such file" in page.words
    assert "notes.txt" in section(page, "skipped")


def test_seconds_add_up_to_the_footage(ledger: Ledger, page: Page) -> None:
    glance = page.source.split("What became of every second")[1]
    grown = [float(g) for g in re.findall(r"flex-grow:([0-9.]+)", glance.split("</div>")[0])]
    done = ledger.read_all("videos").filter(pl.col("state") == "done")
    assert sum(grown) == pytest.approx(done["duration_s"].sum(), abs=0.01)
    clips = ledger.read_all("clips").join(ledger.read_all("verdicts"), on="clip_id")
    assert grown[0] == pytest.approx(clips.filter("kept")["duration_s"].sum(), abs=0.001)


def test_a_warehouse_that_does_not_balance_says_so_and_names_what_is_wrong(
    ledger: Ledger, tmp_path: Path
) -> None:
    copy = copy_of(ledger, tmp_path)
    part = next(iter(copy.parts("summaries").values()))[0]
    Path(copy.store.path(part.path)).unlink()
    page = build_page(copy, tmp_path / "out")
    assert "not balanced" in page.words and "does not balance" in page.words
    assert re.search(r"Not settled yet: summaries \d", page.words)


def steps_to(last: str) -> list[Step]:
    """The steps of a curation up to one of this name."""
    names = [step.name for step in STEPS]
    return list(STEPS[: names.index(last) + 1])


@pytest.mark.parametrize("last", [None, "assign", "cut"])
def test_a_warehouse_that_is_not_finished_has_a_page(tmp_path: Path, last: str | None) -> None:
    """From nothing at all over sources and shards to clips without a score."""
    full = build_warehouse(tmp_path / "full", videos=2)
    keep = {t for s in (steps_to(last) if last else ()) for t in s.writes}
    for table in set(full.plan.keys) - keep:
        shutil.rmtree(Path(full.store.root, table))
    shutil.rmtree(Path(full.store.root, "selections"))
    page = build_page(full, tmp_path)
    assert "nothing has been selected yet" in page.words
    assert "Not trained yet" in section(page, "training")
    if last != "cut":
        assert "There is no clip yet" in section(page, "scores")
    else:
        assert "not judged" in page.words


def test_a_plan_without_annotators_has_a_page(tmp_path: Path) -> None:
    store = Store(tmp_path / "warehouse")
    plan = Plan.of(steps_to("cut"))
    plan.save(store)
    page = build_page(Ledger(store, plan), tmp_path)
    assert "No clip has a caption" in page.words and "0 sources came in" in page.words

"""The report of a built warehouse, read as a browser would, for tests."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from warehouse_builder import build_warehouse

from screen.report import build_report
from warehouse.ledger import Ledger
from warehouse.store import Store

VOID = {"meta", "img", "br", "rect", "line", "path"}


class Page(HTMLParser):
    """The page as a browser would see it: elements with attributes, text, and whether every tag is closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert self.open == [], f"left open: {self.open}"
        self.words = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]} at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return build_warehouse(tmp_path_factory.mktemp("report") / "warehouse")


@pytest.fixture(scope="module")
def page(ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return build_page(ledger, tmp_path_factory.mktemp("page"))


def build_page(ledger: Ledger, folder: Path, runs: tuple[Path, ...] = ()) -> Page:
    return Page(build_report(ledger, folder / "report.html", runs=runs, title="A title & more"))


def copy_of(ledger: Ledger, folder: Path) -> Ledger:
    return Ledger(Store(shutil.copytree(ledger.store.root, folder / "warehouse")), ledger.plan)


def section(page: Page, id_: str) -> str:
    """The words of one section."""
    inside = re.search(rf'<section id="{id_}".*?</section>', page.source, re.DOTALL)
    text = re.sub(r"<[^>]*>", " ", inside[0])
    return " ".join(text.split())

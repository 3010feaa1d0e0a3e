"""What a language model's server was asked for summaries: requests, tokens, and their price."""

from __future__ import annotations

from dataclasses import dataclass, fields

import polars as pl

from warehouse.ledger import Ledger

TABLE = "summaries"
"""Whose rows say it, each of what was asked for it."""


@dataclass(frozen=True)
class Spent:
    """What some answers took. Missing is None: a server that counts no tokens, tokens that have no price."""

    requests: int = 0
    """Requests that were sent, those that were refused included."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    nano_usd: int | None = None
    """Billionths of a US dollar: whole, since they are sums and no score."""

    @property
    def usd(self) -> float | None:
        """The price in US dollars."""
        return None if self.nano_usd is None else self.nano_usd / 1e9

    def as_json(self) -> dict[str, float | None]:
        """As commands print it."""
        tokens = {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}
        return {"requests": self.requests, **tokens, "usd": self.usd}

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(_sum(getattr(self, f.name), getattr(other, f.name)) for f in fields(Spent)))

    def __str__(self) -> str:
        """``12 requests, 1,200 prompt tokens, 240 completion tokens, 0.0048 USD``, less what is not known."""
        counted = [(self.requests, "requests"), (self.prompt_tokens, "prompt tokens")]
        counted.append((self.completion_tokens, "completion tokens"))
        told = [f"{count:,} {name}" for count, name in counted if count is not None]
        return ", ".join(told if self.usd is None else [*told, f"{self.usd:.4f} USD"])


def _sum(a: int | None, b: int | None) -> int | None:
    known = [n for n in (a, b) if n is not None]
    return sum(known) if known else None


def spent(ledger: Ledger, run_id: str | None = None) -> Spent | None:
    """What the summaries of the plan took, or those that one run wrote; None where no server was asked.

    Rows that a retry replaced count too: they were paid for. What a worker had asked when it was killed is not known.
    """
    if TABLE not in ledger.plan.keys:
        return None
    names = [field.name for field in fields(Spent)]
    parts = [part.path for of_shard in ledger.parts(TABLE).values() for part in of_shard]
    wanted = [p for p in parts if run_id in (None, ledger.store.read_metadata(p)["cutroom.run"])]
    rows = [pl.from_arrow(ledger.store.read_table(path, names)) for path in wanted]
    asked = pl.concat(rows).filter(pl.col("requests").is_not_null()) if rows else None
    if asked is None or asked.is_empty():
        return None
    return Spent(*(asked[n].sum() if asked[n].count() else None for n in names))

"""Which results count: steps declared as data, keys derived from them, and the plan that names the keys.

A plan is one small file per resolved configuration, ``plans/<plan>.json``, with ``plans/current.json`` pointing at the
one that `audit`, `explain` and the trainer follow. Results of other plans stay where they are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from warehouse.errors import WarehouseError
from warehouse.schema import TABLES
from warehouse.store import Store

CURRENT = "plans/current.json"
"""The file by which a folder is known as a warehouse: it names the plan that counts."""
WEIGHTS = "@weights"
"""Key of a step's settings under which it tells apart weights of one name; no identifier, so no field of a config."""

FACTS = "@facts"
"""Key of a step's settings under which it tells what follows from them, for readers of the plan; no part of a key."""


def digest(value: Any, length: int = 16) -> str:
    """Hex digest of any JSON-like value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be part of a key; use plain values")


def key_settings(config: Any) -> Any:
    """A config as plain values, less the fields that change how fast rows come but never what they say.

    Those carry ``in_key: False`` in their field's metadata.
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return config
    fields = [f for f in dataclasses.fields(config) if f.metadata.get("in_key", True)]
    return {f.name: key_settings(getattr(config, f.name)) for f in fields}


@dataclass(frozen=True)
class Step:
    """What a step reads, writes and depends on. The last table written is the one whose rows say what is settled."""

    name: str
    version: int
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    config: Any = None
    """A frozen dataclass or plain values: all of what, if changed, makes other rows."""

    @property
    def ledger_table(self) -> str:
        return self.writes[-1]


def resolve_keys(steps: Iterable[Step]) -> dict[str, str]:
    """Keys of all tables that the steps write.

    Raises:
        WarehouseError: a step reads a table that no earlier step writes, or two steps write the same.
    """
    keys: dict[str, str] = {}
    for step in steps:
        missing = [t for t in step.reads if t not in keys]
        doubled = [t for t in step.writes if t in keys]
        unknown = [t for t in step.writes if t not in TABLES]
        if missing or doubled or unknown:
            raise WarehouseError(
                f"step {step.name!r} does not fit the plan: reads {missing or 'nothing'} that no earlier step writes, "
                f"writes {doubled or 'nothing'} that another writes, {unknown or 'nothing'} that the schema lacks"
            )
        for table in step.writes:
            read = {t: keys[t] for t in step.reads}
            keys[table] = digest([table, step.version, _by_content(step.config), read])
    return keys


def _by_content(config: Any) -> Any:
    """A step's settings with digests in place of the names of weights, which a path may be typed in many ways for."""
    if not isinstance(config, Mapping) or not isinstance(digests := config.get(WEIGHTS), Mapping):
        return config

    def named(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: named(inner) for name, inner in value.items()}
        return digests.get(value, value) if isinstance(value, str) else value

    return {name: named(value) for name, value in config.items() if name not in (WEIGHTS, FACTS)}


def without_notes(config: Mapping[str, Any]) -> dict[str, Any]:
    """A step's settings less what the plan adds to them."""
    return {name: value for name, value in config.items() if name not in (WEIGHTS, FACTS)}


@dataclass(frozen=True)
class Plan:
    """The keys that count, and the resolved configuration that led to them."""

    keys: Mapping[str, str]
    reads: Mapping[str, tuple[str, ...]]
    """Which tables each table was computed from."""
    config: Mapping[str, Any]

    @classmethod
    def of(cls, steps: Iterable[Step]) -> Plan:
        steps = list(steps)
        config = {s.name: json.loads(json.dumps(s.config, default=_plain)) for s in steps}
        return cls(resolve_keys(steps), {t: s.reads for s in steps for t in s.writes}, config)

    @property
    def plan_id(self) -> str:
        return digest([dict(self.keys), dict(self.config)])

    @property
    def selection_path(self) -> str:
        """Where the thresholds of the plan's selection are frozen, from the root of the store."""
        return f"selections/{self.config['select']['name']}.{self.keys['verdicts']}.json"

    def save(self, store: Store) -> None:
        """Writes the plan and makes it the current one."""
        body = {"keys": dict(self.keys), "reads": dict(self.reads), "config": dict(self.config)}
        path = f"plans/{self.plan_id}.json"
        if not store.exists(path):
            store.write_bytes(path, json.dumps(body, indent=2, sort_keys=True).encode())
        if not store.exists(CURRENT) or _current_id(store) != self.plan_id:
            store.write_bytes(CURRENT, json.dumps({"plan": self.plan_id}).encode())

    @classmethod
    def current(cls, store: Store) -> Plan | None:
        """The plan that counts; None where the store is no warehouse yet."""
        return cls.load(store) if store.exists(CURRENT) else None

    @classmethod
    def load(cls, store: Store, plan_id: str | None = None) -> Plan:
        """Reads a plan, by default the current one.

        Raises:
            WarehouseError: there is none.
        """
        if plan_id is None and not store.exists(CURRENT):
            raise WarehouseError(
                f"{store.uri} is no warehouse: it holds no plan; run `cutroom curate` on it first"
            )
        body = json.loads(store.read_bytes(f"plans/{plan_id or _current_id(store)}.json"))
        return cls(body["keys"], {k: tuple(v) for k, v in body["reads"].items()}, body["config"])


def _current_id(store: Store) -> str:
    return str(json.loads(store.read_bytes(CURRENT))["plan"])

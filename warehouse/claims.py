"""Claims: at most one run works on a thing at a time, with no server and on any store.

A claim is a small file ``claims/<thing>/<owner>``. Whoever writes one and then finds no other live one beside it holds
the thing; whoever finds another withdraws and tries again. With a store whose listings show every earlier write (a
local folder, S3, GCS) two owners can never both find themselves alone. A claim is alive while its file is young by
the store's own clock, or, on the same machine, while its process lives; a holder renews its file while it works.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator

from warehouse import owner
from warehouse.store import Entry, Store

LEASE_S = 120.0


def _is_alive(entry: Entry, own: Entry) -> bool:
    """Whether another's claim still counts, seen at the moment when `own` was written."""
    alive = owner.is_alive(entry.name)
    return own.modified_s - entry.modified_s < LEASE_S if alive is None else alive


@contextlib.contextmanager
def claim(store: Store, thing: str, *, wait_s: float = 0.0) -> Iterator[bool]:
    """Holds `thing` while the block runs; yields False, holding nothing, if another held it for `wait_s` seconds."""
    folder, deadline = f"claims/{thing}", time.monotonic() + wait_s
    path = f"{folder}/{owner.new_name()}"
    while not (held := _try(store, folder, path)) and time.monotonic() < deadline:
        time.sleep(random.uniform(0.02, 0.3))
    if not held:
        yield False
        return
    stop = threading.Event()
    renewing = threading.Thread(target=_renew, args=(store, path, stop), daemon=True)
    renewing.start()
    try:
        yield True
    finally:
        stop.set()
        renewing.join()
        store.delete(path)


def _try(store: Store, folder: str, path: str) -> bool:
    store.write_bytes(path, b"")
    entries = store.list(folder)
    own = next(e for e in entries if e.path == path)
    others = [e for e in entries if e.path != path]
    if any(_is_alive(e, own) for e in others):
        store.delete(path)
        return False
    for dead in others:
        store.delete(dead.path)
    return True


def _renew(store: Store, path: str, stop: threading.Event) -> None:
    while not stop.wait(LEASE_S / 4):
        store.write_bytes(path, b"")

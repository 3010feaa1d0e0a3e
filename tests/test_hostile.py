"""Broken and hostile files: each ends failed with a cause that a person understands, or curated right.

All of them go through one run of the steps that read footage, in worker processes with a time limit; each has a row of
the parametrised test.
"""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from footage import write_video
from hostile import COUNT, MAKERS, film

from curation.cuts.boundaries import CutConfig
from curation.cuts.clips import ClipConfig
from curation.engine.local import run_shards
from curation.engine.pool import Pool
from curation.footage.grid_frames import GridFrame
from curation.footage.media import CAUSES, MediaLimits, content_hash
from curation.ingest import ASSIGN, GIVE, ShardSize, assign, give
from curation.ingest import HashWork as Hash
from curation.pipeline import PRELOAD
from curation.scan import ScanConfig, scan_video
from curation.scan_work import CutWork, ScanWork
from warehouse.audit import audit
from warehouse.errors import MediaError
from warehouse.ledger import Ledger
from warehouse.plan import Plan
from warehouse.store import Store

LIMITS = MediaLimits(max_frames=500)
TIMEOUT_S = 30.0
DONE = "done"
EXPECTED: dict[str, str] = {
    "truncated, index first": "truncated",
    "no index": "invalid_data",
    "index cut off": "invalid_data",
    "wrong extension": DONE,
    "zero bytes": "empty",
    "text": "invalid_data",
    "random": "invalid_data",
    "huge y4m": "invalid_data",
    "huge png": "limit_size",
    "gif bomb": "zero_frames",
    "gif of many frames": "limit_frames",
    "m3u8, local": "playlist",
    "m3u8, remote, named mp4": "playlist",
    "ffconcat": "playlist",
    "concat": "invalid_data",
    "sdp": "playlist",
    "mpd": "playlist",
    "symlink loop": "not_found",
    "dangling link": "not_found",
    "fifo": "unreadable",
    "device": "unreadable",
    "socket": "unreadable",
    "folder": DONE,
    "newline in the name": DONE,
    "emoji in the name": DONE,
    "leading dash": DONE,
    "percent in the name": DONE,
    "name that is no UTF-8": DONE,
    "address in the name": DONE,
    "permission denied": "unreadable",
    "duration too long": DONE,
    "endless duration": DONE,
    "matroska, too long": "truncated",
    "matroska, endless": "limit_duration",
    "no time scale": DONE,
    "size changes": DONE,
    "no keyframe at the start": DONE,
    "no pts": DONE,
    "negative pts": DONE,
    "backward pts": "bad_timestamps",
    "a leap of days": "limit_duration",
    "sound alone": "no_video_stream",
    "cover alone": "no_video_stream",
    "two video streams": DONE,
    "empty edit list": "zero_frames",
    "1x1": DONE,
    "odd sides": DONE,
    "single frame": DONE,
    "broken in the middle": "corrupt",
    "unknown codec": "no_decoder",
    "encrypted": "no_decoder",
    "all zeros": "zero_frames",
    "changes": "changed",
    "vanishes": "unreadable",
    "vanishes early": "unreadable",
}
WHOLE = (
    "wrong extension",
    "folder",
    "no pts",
    "negative pts",
    "two video streams",
    "odd sides",
    "1x1",
    "empty edit list",
)
"""Kinds that lose no frame."""


@pytest.fixture(scope="module")
def visits() -> Iterator[tuple[int, list[Any]]]:
    """A port of this machine, and who came to it."""
    came: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def welcome() -> None:
            while True:
                try:
                    connection, address = server.accept()
                except OSError:
                    return
                came.append(address)
                connection.close()

        threading.Thread(target=welcome, daemon=True).start()
        yield server.getsockname()[1], came
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, visits: tuple[int, list[Any]]) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hostile")
    made = {}
    for number, (kind, make) in enumerate(MAKERS.items()):
        (folder := root / f"{number:02d}").mkdir()
        made[kind] = make(folder)
        if made[kind].suffix in (".m3u8", ".mp4") and "remote" in kind:
            text = made[kind].read_text().replace("PORT", str(visits[0]))
            made[kind].write_text(text)
    return made


def process(root: Path, files: dict[str, Path]) -> Ledger:
    """Lists, hashes, scans and cuts; some files change or vanish on the way."""
    hashing, scanning = Hash(LIMITS, timeout_s=TIMEOUT_S), ScanWork(ScanConfig(), LIMITS, timeout_s=TIMEOUT_S)
    cutting = CutWork(CutConfig(), ClipConfig())
    plan = Plan.of([GIVE, hashing.step, ASSIGN, scanning.step, cutting.step])
    store = Store(root)
    plan.save(store)
    ledger = Ledger(store, plan)
    groups = give(ledger, [str(p) for p in files.values()], run_id="test").groups
    files["vanishes early"].unlink()
    with Pool(2, store.scratch(), PRELOAD) as pool:
        run_shards(hashing, ledger, groups, pool, run_id="test")
        film(files["changes"], 20)
        files["vanishes"].unlink()
        shards = assign(ledger, ShardSize(), run_id="test")
        run_shards(scanning, ledger, shards, pool, run_id="test")
        run_shards(cutting, ledger, shards, pool, run_id="test")
    return ledger


@pytest.fixture(scope="module")
def outcomes(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The last row of each kind: of its video where its bytes could be read, else of its source."""
    started = time.monotonic()
    ledger = process(tmp_path_factory.mktemp("warehouse") / "w", files)
    assert time.monotonic() - started < 8 * TIMEOUT_S
    found = audit(ledger)
    assert found.balanced, [str(p) for p in found.problems]
    sources = {r["uri"]: r for r in ledger.read_all("sources").iter_rows(named=True)}
    videos = {r["video_id"]: r for r in ledger.read_all("videos").iter_rows(named=True)}
    rows = {}
    for kind, path in files.items():
        path = path / "inside.mp4" if kind == "folder" else path
        source = sources[str(path).encode("utf-8", "backslashreplace").decode()]
        rows[kind] = videos.get(source["video_id"], source)
    return rows


@pytest.mark.parametrize("kind", MAKERS)
def test_each_ends_with_a_cause_or_right(outcomes: dict[str, dict[str, Any]], kind: str) -> None:
    if kind == "permission denied" and os.geteuid() == 0:
        pytest.skip("root may read everything")
    row = outcomes[kind]
    assert (row["cause"] or row["state"]) == EXPECTED[kind], row
    if row["state"] == DONE:
        assert row["num_frames"] > 0 and row["duration_s"] > 0
        assert kind not in WHOLE or row["num_frames"] == COUNT
        return
    assert row["cause"] in CAUSES.keys() | {"not_found", "changed"}
    assert len(row["detail"].split()) >= 4
    assert row["state"] == ("skipped" if row["cause"].startswith("limit_") else "failed")


def test_facts_of_odd_but_right_files(outcomes: dict[str, dict[str, Any]]) -> None:
    done = {k: row for k, row in outcomes.items() if row["state"] == DONE}
    size = {k: (row["width"], row["height"], row["num_frames"]) for k, row in done.items()}
    assert size["1x1"] == (1, 1, COUNT)
    assert size["odd sides"] == (17, 33, COUNT)
    assert size["two video streams"] == (64, 64, COUNT)
    assert size["single frame"] == (64, 48, 1)
    assert size["no keyframe at the start"][2] == COUNT - 12, "what follows the next keyframe"
    assert size["no time scale"][2] == 2, "all others have the times of these"


def test_nobody_came_to_the_address_of_a_playlist(
    outcomes: dict[str, dict[str, Any]], visits: tuple[int, list[Any]]
) -> None:
    port, came = visits
    assert came == []
    socket.create_connection(("127.0.0.1", port)).close()
    time.sleep(0.2)
    assert len(came) == 1, "the address does answer"


BROKEN = {
    "audio_only.mp4": "no_video_stream", "bitflips.mp4": "377 frames", "corrupted_h264.mp4": "49 frames",
    "glitch_armwrestling.mp4": "280 frames", "html_error_page.mp4": "invalid_data", "invalid_nalu.mp4": "29 frames",
    "missing_stsd.mp4": "30 frames", "no_timescale_green.mp4": "170 frames", "res_change.h264": "96 frames",
    "resolution_switch_errors.264": "6 frames", "truncated_moov_first.mp4": "truncated",
    "truncated_moov_lost.mp4": "invalid_data", "zero_bytes.webm": "empty",
}  # fmt: skip


def outcome(path: Path) -> str:
    """What a scan in this process makes of a file."""
    try:
        content_hash(path)
        return f"{scan_video(path, limits=LIMITS).num_frames} frames"
    except MediaError as error:
        return error.cause


@pytest.mark.parametrize("name", BROKEN)
def test_real_broken_files(test_data: Path, name: str) -> None:
    assert outcome(test_data / "broken" / name) == BROKEN[name]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (Path.unlink, None),
        (lambda p: p.write_bytes(b""), "truncated"),
        (lambda p: os.truncate(p, 3000), "truncated"),
    ],
    ids=["vanishes", "emptied", "cut off"],
)
def test_a_file_that_changes_or_vanishes_while_it_is_decoded(
    tmp_path: Path, change: Callable[[Path], object], found: str | None
) -> None:
    """Noise, since more than a buffer of it is left to read when the first frame has been seen."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 120, 160, 3)).astype(np.uint8)
    path = write_video(tmp_path / "a.mp4", list(noise), codec="libx264", options={"g": "12", "crf": "1"})
    seen: list[GridFrame] = []

    def spool(frame: GridFrame) -> None:
        if not seen:
            change(path)
        seen.append(frame)

    if found is None:
        assert scan_video(path, ScanConfig(), spool, LIMITS).num_frames == 60
    else:
        with pytest.raises(MediaError) as raised:
            scan_video(path, ScanConfig(), spool, LIMITS)
        assert raised.value.cause == found
    assert seen


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _children() -> set[str]:
    return set(Path("/proc/self/task", str(os.getpid()), "children").read_text().split())


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_nothing_leaks(files: dict[str, Path]) -> None:
    """All of them in this process, four times: the same outcomes, no descriptor, child or memory more."""
    paths = {k: p for k, p in files.items() if not k.startswith(("changes", "vanishes", "folder"))}
    first = {k: outcome(p) for k, p in paths.items()}
    gc.collect()
    before = _open_files(), _resident_bytes(), threading.active_count()
    children = _children()
    for _ in range(3):
        assert {k: outcome(p) for k, p in paths.items()} == first
    gc.collect()
    assert _open_files() <= before[0]
    assert threading.active_count() <= before[2]
    assert _children() <= children
    assert _resident_bytes() - before[1] < 48 << 20

"""Near-duplicates against made fingerprints, against families of real footage, and against new encodings of it."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from footage import write_video
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.annotators.base import Clip, Done, GridFrame
from curation.annotators.fingerprints import FingerprintsAnnotator, FingerprintsConfig
from curation.cuts.boundaries import CutConfig, merge_cuts
from curation.cuts.clips import ClipConfig, spans
from curation.scan import ScanConfig, scan_video
from curation.selection import duplicates
from curation.selection.duplicates import DuplicateConfig, Fingerprint, likeness, near_duplicates, ranked
from curation.selection.perceptual_hash import mirrored, turned
from warehouse.errors import SettingsError

CONFIG = DuplicateConfig()
FAMILIES = ("bbb_", "goldeneye_", "dovi_")
PLAIN = ["black_25s.mp4", "psd_delayed_start.mp4", "psd_fades.mp4"]
"""Black or plain grey from end to end: there is nothing in them to recognise."""
CODECS = {
    "x264": ("libx264", {"crf": "35", "preset": "veryfast"}),
    "mpeg4": ("mpeg4", {"flags": "+qscale", "global_quality": str(118 * 12)}),
}


def fingerprint(
    seed: int, *, frames: int = 6, video: str | None = None, place: int = 0, flips: int = 0, colour: int = 0
) -> Fingerprint:
    """A random clip of its own video; `flips` bits of every frame and `colour` levels away from that of the seed.

    More flips flip the same bits and further ones; the third band stays whole, so that clips of one seed are compared.
    """
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 1 << 63, frames, np.uint64)
    colours = rng.integers(50, 200, (frames, 8, 8, 3))
    for bit in np.random.default_rng([seed, 1]).permutation(42)[:flips].tolist():
        hashes ^= np.uint64(1 << bit)
    name = video or f"video {seed}.{place}"
    rank = (place, f"{seed}.{place}")
    return Fingerprint(f"{seed}.{place}", name, rank, hashes, (colours + colour).astype(np.uint8).tobytes())


def copies_of(
    clips: Iterable[Fingerprint], config: DuplicateConfig, kept: Collection[str] = ()
) -> dict[str, str]:
    """The clip that is kept instead, by the id of each that falls by its hash."""
    found = near_duplicates(clips, config, kept)
    assert all(copy.by == "hash" for copy in found.values())
    return {clip_id: copy.of for clip_id, copy in found.items()}


def part(clip: Fingerprint, frames: slice, place: int) -> Fingerprint:
    """Some frames of a clip, as a clip of another video."""
    colours = np.frombuffer(clip.colours, np.uint8).reshape(-1, 8, 8, 3)[frames].tobytes()
    name = f"part of {clip.clip_id}"
    return Fingerprint(name, name, (place, name), clip.hashes_N[frames], colours)


def test_the_best_is_kept_and_every_other_names_it() -> None:
    group = [fingerprint(0, place=place, flips=place) for place in range(3)]
    assert copies_of([*group, fingerprint(1)], CONFIG) == {"0.1": "0.0", "0.2": "0.0"}


def test_bits_and_colours_must_both_be_near_and_clips_of_one_video_never_count() -> None:
    best = fingerprint(0)
    for other, expected in (
        (fingerprint(0, place=1, flips=2, colour=6), True),
        (fingerprint(0, place=1, colour=7), False),
        (fingerprint(0, place=1, video=best.video_id), False),
        (fingerprint(1, place=1), False),
    ):
        assert bool(copies_of([best, other], CONFIG)) is expected, other
    assert likeness(best, fingerprint(0, place=1, flips=10), CONFIG) == 10
    assert likeness(best, fingerprint(0, place=1, flips=11), CONFIG) is None


def test_three_fifths_of_the_shorter_clip_must_be_in_the_longer_one() -> None:
    long, stranger = fingerprint(0, frames=12), fingerprint(1, frames=12)
    assert copies_of([long, part(long, slice(3, 8), 1)], CONFIG)
    for shared, expected in ((3, True), (2, False)):
        half = part(long, slice(0, shared), 1)
        rest = part(stranger, slice(0, 5 - shared), 1)
        mixed = Fingerprint(
            "mixed", "mixed", (1,), np.append(half.hashes_N, rest.hashes_N), half.colours + rest.colours
        )
        assert (likeness(long, mixed, CONFIG) is not None) is expected
        assert likeness(mixed, long, CONFIG) == likeness(long, mixed, CONFIG)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_turned_or_mirrored_copy_is_found_if_its_colours_are_alike(quarters: int, mirror: bool) -> None:
    clip = fingerprint(0)
    colours = np.rot90(np.frombuffer(clip.colours, np.uint8).reshape(-1, 8, 8, 3), quarters, axes=(1, 2))
    hashes = turned(clip.hashes_N)[quarters]
    if mirror:
        hashes, colours = mirrored(hashes), colours[:, :, ::-1]
    copy = Fingerprint("copy", "copy", (1,), hashes, colours.tobytes())
    assert copies_of([clip, copy], CONFIG) == {"copy": clip.clip_id}
    if mirror or quarters:
        askew = Fingerprint("askew", "askew", (1,), hashes, clip.colours)
        assert copies_of([clip, askew], CONFIG) == {}


clips = st.lists(
    st.builds(
        fingerprint,
        st.integers(0, 3),
        frames=st.sampled_from([3, 4]),
        video=st.sampled_from([None, None, "one", "two"]),
        place=st.integers(0, 20),
        flips=st.integers(0, 14),
        colour=st.sampled_from([0, 4, 8]),
    ),
    max_size=14,
    unique_by=lambda c: c.clip_id,
)


@settings(deadline=None)
@given(clips, st.randoms(use_true_random=False))
def test_neither_the_order_of_clips_nor_an_interruption_changes_a_verdict(
    found: list[Fingerprint], shuffle: random.Random
) -> None:
    whole = copies_of(found, CONFIG)
    mixed = shuffle.sample(found, len(found))
    assert copies_of(mixed, CONFIG) == whole
    judged = {c.clip_id for c in mixed[: len(mixed) // 2]}
    kept = judged - whole.keys()
    left = [c for c in found if c.clip_id in kept or c.clip_id not in judged]
    later = copies_of(left, CONFIG, kept)
    assert later == {i: k for i, k in whole.items() if i not in judged}
    by_id = {c.clip_id: c for c in found}
    for fallen, keeper in whole.items():
        assert keeper not in whole and by_id[keeper].rank < by_id[fallen].rank
        assert likeness(by_id[fallen], by_id[keeper], CONFIG) is not None


def test_an_interruption_does_not_change_which_clip_is_named() -> None:
    best, between, last = (fingerprint(0, place=place, flips=flips) for place, flips in enumerate((0, 7, 12)))
    assert copies_of([best, between, last], CONFIG) == {"0.1": "0.0"}, "the last is too far from the best"
    assert copies_of([best, between, last], CONFIG, kept={"0.2"}) == {"0.1": "0.0"}, "though it is nearer"


def test_the_best_is_the_longest_then_the_largest_then_the_sharpest_then_the_first() -> None:
    base = {"video_id": "v", "duration_s": 4.2, "width": 640, "height": 360, "sharpness": 5.0}
    base |= {"hashes": [1], "colours": bytes(192)}
    changes = {
        "longest": {"duration_s": 5.1, "width": 320, "sharpness": None},
        "largest": {"duration_s": 3.9, "width": 1280, "sharpness": 1.0},
        "sharpest": {"sharpness": 6.0},
        "a": {},
        "b": {},
        "unknown": {"sharpness": None},
    }
    rows = [base | {"clip_id": name} | change for name, change in changes.items()]
    assert [c.clip_id for c in sorted(ranked(rows[::-1]), key=lambda c: c.rank)] == list(changes)


def test_what_was_kept_before_stays_and_the_better_newcomer_falls() -> None:
    old, better = fingerprint(0, place=5), fingerprint(0, place=1)
    assert copies_of([old, better], CONFIG) == {"0.5": "0.1"}
    assert copies_of([old, better], CONFIG, kept={"0.5"}) == {"0.1": "0.5"}


def test_a_clip_is_compared_with_few_others_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []

    def counting(a: Fingerprint, b: Fingerprint, config: DuplicateConfig) -> float | None:
        compared.append((a.clip_id, b.clip_id))
        return likeness(a, b, config)

    monkeypatch.setattr(duplicates, "likeness", counting)
    many = [fingerprint(seed) for seed in range(4000)]
    copies = [fingerprint(seed, place=1, flips=1) for seed in range(0, 4000, 10)]
    assert len(copies_of([*many, *copies], CONFIG)) == len(copies)
    assert len(copies) <= len(compared) < 2 * len(copies)


ONE_BIT_A_BAND = np.uint64(1 << 20 | 1 << 21 | 1 << 62)


@pytest.mark.parametrize(("frames", "short"), [(1, 1), (3, 1), (3, 3), (16, 1), (16, 3)])
@pytest.mark.parametrize("short_comes_first", [True, False])
def test_a_clip_of_few_frames_is_found_with_a_bit_off_in_every_band(
    frames: int, short: int, short_comes_first: bool
) -> None:
    long = fingerprint(0, frames=frames, place=1)
    few = part(long, slice(0, short), 0 if short_comes_first else 2)
    off = replace(few, hashes_N=few.hashes_N ^ ONE_BIT_A_BAND)
    strangers = [fingerprint(seed, frames=seed) for seed in range(1, 6)]
    pair = {long.clip_id: off.clip_id} if short_comes_first else {off.clip_id: long.clip_id}
    assert copies_of([long, off, *strangers], CONFIG) == pair


@pytest.mark.parametrize("frames", [1, 6])
def test_flipped_bands_lead_to_few_that_are_compared(frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def counting(a: Fingerprint, b: Fingerprint, config: DuplicateConfig) -> float | None:
        compared.append(a.clip_id)
        return likeness(a, b, config)

    monkeypatch.setattr(duplicates, "likeness", counting)
    many = [fingerprint(seed, frames=1) for seed in range(3000)]
    long = [fingerprint(seed, frames=frames) for seed in range(3000, 4000)]
    assert copies_of([*many, *long], CONFIG) == {} and len(compared) < 10


@pytest.mark.parametrize(
    "wrong", [{"max_bits": 40}, {"min_share": 0.0}, {"min_share": 1.2}, {"min_cosine": 0.0}]
)
def test_settings_that_compare_nothing_are_refused(wrong: dict) -> None:
    with pytest.raises(SettingsError, match=r"expected (0 to 31|above 0 to 1)"):
        DuplicateConfig(**wrong)


def clips_of(path: Path, *, cut: bool = True) -> Iterator[Fingerprint]:
    """The clips of a video as curation finds them, or the whole of it as one."""
    frames: list = []
    config = ScanConfig() if cut else ScanConfig(level_fps=(), evidence=False, flow_fps=0.5)
    result = scan_video(path, config, frames.append)
    found = [(int(result.signals.pts[0]), result.signals.end_pts)]
    if cut:
        cuts = merge_cuts(result.signals, CutConfig())
        parts = spans(result.signals, cuts, ClipConfig())
        found = [(s.start_pts, s.end_pts) for s in parts if s.reason is None]
    annotator = FingerprintsAnnotator(FingerprintsConfig(max_frames=200))
    tick_s = float(result.signals.time_base)
    pixels = -result.probe.display_size[0] * result.probe.display_size[1]
    for number, (start, end) in enumerate(found):
        grid = tuple(GridFrame(f.pts, f.jpeg) for f in frames if start <= f.pts < end)
        (outcome,) = annotator.annotate([Clip("", "", start, end, tick_s, None, grid, {})])
        if isinstance(outcome, Done):
            name = f"{path.name}#{number}"
            rank = (-round((end - start) * tick_s), pixels, name)
            hashes = np.array(outcome.columns["hashes"], np.uint64)
            yield Fingerprint(name, path.name, rank, hashes, outcome.columns["colours"])


def encode_again(source: Path, target: Path, codec: str) -> Path:
    """The video at half its size, upright, in another codec and at a low quality."""
    name, options = CODECS[codec]
    pts: list[int] = []
    pictures = []
    with av.open(str(source)) as container:
        stream = container.streams.video[0]
        for frame in container.decode(stream):
            width, height = (max(16, side // 4 * 2) for side in (frame.width, frame.height))
            rgb = frame.reformat(width=width, height=height, format="rgb24").to_ndarray()
            pictures.append(np.rot90(rgb, round(frame.rotation / 90) % 4))
            at = round(1000 * frame.pts * stream.time_base)
            pts.append(max(at, pts[-1] + 1) if pts else at)
    start, same = pts[0], [p for p in pictures if p.shape == pictures[0].shape]
    assert len(same) == len(pictures)
    return write_video(
        target, pictures, [p - start for p in pts], time_base=Fraction(1, 1000), codec=name, options=options
    )


def family(name: str) -> str:
    """What a video shows, as far as its name tells."""
    return next((f for f in FAMILIES if name.startswith(f)), name)


def check_only_families(instead: Mapping[str, str], names: Sequence[str]) -> None:
    """Each group is of one family, and each member of a family but one is in a group."""
    for fallen, keeper in instead.items():
        assert family(fallen.split("#")[0]) == family(keeper.split("#")[0]), (fallen, keeper)
    met = {clip.split("#")[0] for pair in instead.items() for clip in pair}
    assert met >= {name for name in names if name.startswith(FAMILIES)}


def test_the_families_of_real_footage_are_found_and_nothing_else(test_data: Path) -> None:
    names = ["bbb_480p_30s.mp4", "bbb_vvc10.mp4", "bbb_square_vp9.webm", "bear.mp4", "bikes.mp4", "cups.mp4"]
    names += [
        "goldeneye_rotated90.mp4",
        "goldeneye_vfr_drop3.mp4",
        "dovi_av1_10bit.mp4",
        "dovi_hevc_10bit.mp4",
    ]
    found = [c for name in names for c in clips_of(test_data / "videos" / name, cut=False)]
    assert len(found) == len(names)
    check_only_families(copies_of(found, CONFIG), names)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    "video", ["bear.mp4", "flower_timelapse.webm", "keyboard_rot90.mov", "portrait_4k60.mp4"]
)
def test_a_new_encoding_is_found(test_data: Path, tmp_path: Path, video: str, codec: str) -> None:
    source = test_data / "videos" / video
    copy = encode_again(source, tmp_path / "copy.mkv", codec)
    found = [*clips_of(source, cut=False), *clips_of(copy, cut=False)]
    assert copies_of(found, CONFIG) == {"copy.mkv#0": f"{video}#0"}


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("codec", CODECS)
def test_of_all_real_footage_every_new_encoding_is_found_and_of_the_rest_the_families_alone(
    test_data: Path, tmp_path: Path, codec: str
) -> None:
    sources = sorted(p for p in (test_data / "videos").iterdir() if p.suffix != ".srt")
    assert len(sources) == 60
    originals = [c for path in sources for c in clips_of(path)]
    check_only_families(copies_of(originals, CONFIG), [c.video_id for c in originals])
    missed = []
    for path in sources:
        copy = encode_again(path, tmp_path / f"{path.stem}.{codec}.mkv", codec)
        again = list(clips_of(copy))
        instead = copies_of([*originals, *again], CONFIG)
        met = {*instead, *instead.values()}  # an end that the encoder moved can make the copy the longer one
        missed += [c.clip_id for c in again if c.clip_id not in met]
        shown = [
            {family(clip.replace(copy.name, path.name).split("#")[0]) for clip in p} for p in instead.items()
        ]
        assert all(len(families) == 1 for families in shown), instead
        whole = [*clips_of(path, cut=False), *clips_of(copy, cut=False)]
        if not copies_of(whole, CONFIG):
            missed.append(path.name)
        copy.unlink()
    assert missed == PLAIN

"""The generated reel against what other code reads from its pixels and files."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import av
import cv2
import numpy as np
import pytest

from curation.reel.sample_reel import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    Shot,
    appeal,
    make_film,
    make_reel,
    plan_film,
    random_shots,
    read_truth,
    render,
)


def decode(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def coloured(frame):
    """Centre x, centre y and root of the area of the saturated pixels, in pixels."""
    saturation = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)[..., 1]
    y, x = np.nonzero(saturation > 110)
    return x.mean(), y.mean(), np.sqrt(len(x))


@pytest.fixture(scope="module")
def reel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reel")
    return folder, make_reel(folder, num_films=2, shots_per_film=11, seed=5, num_workers=2)


def test_every_kind_of_shot_is_drawn():
    shots = random_shots(2000, seed=0)
    for field, known in (
        ("shape", SHAPES),
        ("colour", COLOURS),
        ("motion", MOTIONS),
        ("background", BACKGROUNDS),
    ):
        counts = Counter(getattr(shot, field) for shot in shots)
        assert set(counts) == set(known)
        assert min(counts.values()) > 2000 / len(known) / 2
    assert len(SHAPES) >= 8 and len(COLOURS) >= 8 and len(MOTIONS) >= 6


def test_render_follows_from_the_shot_alone():
    for shot in random_shots(8, seed=3):
        first = render(shot, 64, 5)
        assert first.shape == (5, 64, 64, 3) and first.dtype == np.uint8
        assert np.array_equal(first, render(replace(shot), 64, 5))
    noisy = Shot("star", "red", "left", "noisy")
    assert not np.array_equal(render(noisy, 64, 1), render(replace(noisy, seed=1), 64, 1))


def test_a_shot_looks_the_same_at_every_size():
    for shot in random_shots(24, seed=4):
        small = render(shot, 64, 3)[1].astype(float)
        scaled = cv2.resize(render(shot, 256, 3)[1], (64, 64), interpolation=cv2.INTER_AREA)
        assert np.abs(small - scaled).mean() < 6


@pytest.mark.parametrize("shape", SHAPES)
def test_motion_is_what_the_caption_says(shape):
    for motion, (dx, dy, growth) in {
        "left": (-1, 0, 0),
        "right": (1, 0, 0),
        "up": (0, -1, 0),
        "down": (0, 1, 0),
        "growing": (0, 0, 1),
        "shrinking": (0, 0, -1),
        "still": (0, 0, 0),
    }.items():
        frames = render(Shot(shape, "blue", motion, "textured"), 128, 5)
        x, y, root = np.subtract(coloured(frames[-1]), coloured(frames[0]))
        assert np.allclose([x, y], np.array([dx, dy]) * 0.26 * 128, atol=5)
        assert np.sign(np.round(root / 6)) == growth
        assert (motion == "still") == np.array_equal(frames[0], frames[-1])


def test_spinning_turns_and_round_shapes_cannot():
    frames = render(Shot("star", "red", "spinning", "plain"), 128, 5)
    assert np.allclose(coloured(frames[0]), coloured(frames[-1]), atol=3)
    assert (coloured(frames[0])[2] ** 2) * 0.1 < np.count_nonzero(
        np.ptp(frames.astype(int), axis=0).max(axis=-1) > 60
    )
    with pytest.raises(ValueError, match="spinning ring"):
        Shot("ring", "red", "spinning", "plain")
    with pytest.raises(ValueError, match="unknown 'mauve'"):
        Shot("ring", "mauve", "still", "plain")


def test_captions_name_what_is_shown():
    shot = Shot("heart", "pink", "up", "noisy", text="AB")
    assert shot.caption == "a pink heart moving up on a noisy background with text"
    assert shot.image_caption == "a pink heart on a noisy background with text"


def test_appeal_falls_with_every_fault():
    best = Shot("star", "red", "still", "plain", size=0.55)
    assert appeal(best, 0.5) == pytest.approx(10)
    worse = [
        replace(best, blur=0.03),
        replace(best, text="AB"),
        replace(best, text="AB\nCD"),
        replace(best, saturation=0.75),
        replace(best, offset=0.06),
    ]
    assert all(appeal(shot, 0.5) < 9.9 for shot in worse)
    assert appeal(worse[2], 0.5) < appeal(worse[1], 0.5)
    assert appeal(replace(best, motion="left"), 0.0) < appeal(replace(best, motion="left"), 0.5)


def test_truth_is_read_back_and_tiles_every_film(reel):
    folder, films = reel
    assert read_truth(folder) == films
    for film in films:
        pieces = sorted(
            [(span.start, span.end) for span in film.spans] + [(g.start, g.end) for g in film.gradual]
        )
        assert pieces[0][0] == 0 and pieces[-1][1] == film.num_frames
        assert all(left[1] == right[0] for left, right in pairwise(pieces))


def test_files_hold_the_frames_that_the_truth_tells(reel):
    folder, films = reel
    for film in films:
        frames = decode(folder / film.file)
        assert frames.shape == (film.num_frames, film.side_px, film.side_px, 3)
        steps = np.abs(np.diff(frames[:, ::4, ::4].astype(np.int16), axis=0)).mean(axis=(1, 2, 3))
        for cut in film.cuts:
            assert steps[cut - 1] > 15
        for span in film.spans:
            within = steps[span.start : span.end - 1]
            assert within.max(initial=0) < 8
            if span.shot is None:
                assert frames[span.start : span.end].max() < 24
            elif span.fault == "static":
                assert within.mean() < 0.5
        for gradual in film.gradual:
            darkest = frames[gradual.start : gradual.end].mean(axis=(1, 2, 3)).min()
            assert (darkest < 12) == (gradual.kind == "fade")


def test_scenedetect_finds_the_cuts_of_the_truth(reel):
    from scenedetect import ContentDetector, detect

    folder, films = reel
    for film in films:
        scenes = detect(str(folder / film.file), ContentDetector(threshold=27, min_scene_len=2))
        found = {scene[0].frame_num for scene in scenes[1:]}
        assert set(film.cuts) <= found
        near_gradual = {frame for g in film.gradual for frame in range(g.start - 1, g.end + 2)}
        assert found - set(film.cuts) <= near_gradual


def test_faults_come_in_their_shares_and_show():
    films = [plan_film("a.mp4", 20, seed=seed) for seed in range(40)]
    spans = [span for film in films for span in film.spans if span.shot is not None]
    counts = Counter(span.fault for span in spans)
    assert all(
        0.03 < counts[fault] / len(spans) < 0.15 for fault in ("static", "covered", "blurred", "short")
    )
    assert 0.6 < counts[None] / len(spans) < 0.75
    assert any(span.shot is None for film in films for span in film.spans)
    assert all((span.shot.motion == "still") == (span.fault == "static") for span in spans)
    assert all((span.end - span.start < 15) == (span.fault == "short") for span in spans)

    def sharpness(span):
        return cv2.Laplacian(cv2.cvtColor(render(span.shot, 128, 1)[0], cv2.COLOR_RGB2GRAY), cv2.CV_64F).var()

    blurred = [sharpness(span) for span in spans if span.fault == "blurred"]
    clean = [sharpness(span) for span in spans[:200] if span.fault is None]
    assert max(blurred) < min(clean)


def test_the_same_seed_writes_the_same_bytes(reel, tmp_path):
    folder, films = reel
    make_film(films[1], tmp_path)
    assert (tmp_path / films[1].file).read_bytes() == (folder / films[1].file).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [films[1].file]
    assert plan_film("film_000.mp4", 11, seed=1) != films[0]

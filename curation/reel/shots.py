"""Single shots of generated footage whose truth is known: one coloured shape, one motion, one background.

A shot is described by a frozen `Shot` and drawn by `render`, a function of the description alone. Everything is laid out
in fractions of the frame's side, so that a shot drawn at 256 pixels and scaled down looks as if drawn small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

BACKGROUNDS = ("plain", "textured", "noisy")

# Named colours in RGB, far apart in hue, and in lightness where two hues are neighbours.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 24, 32),
    "orange": (250, 136, 8),
    "yellow": (246, 228, 24),
    "green": (30, 168, 56),
    "cyan": (20, 208, 220),
    "blue": (36, 70, 232),
    "purple": (132, 44, 204),
    "pink": (252, 92, 178),
}

# How a motion reads in a caption.
MOTIONS: dict[str, str] = {
    "left": "moving left",
    "right": "moving right",
    "up": "moving up",
    "down": "moving down",
    "growing": "growing",
    "shrinking": "shrinking",
    "spinning": "spinning",
    "still": "standing still",
}

# Radius of each outline over half the shot's `size`: thin shapes are drawn larger, so that areas are alike.
_RADIUS = {
    "circle": 0.84,
    "square": 0.98,
    "triangle": 1.12,
    "star": 1.12,
    "cross": 1.0,
    "ring": 0.96,
    "heart": 1.0,
    "moon": 1.14,
}
SHAPES = tuple(_RADIUS)
ROUND = frozenset({"circle", "ring"})  # turning them shows nothing, so they never spin

_TRAVEL = 0.13  # a moving shape goes from this far before the middle to this far behind it
_SWELL = 0.7  # a growing shape starts at this share of its size
_TURN_RAD = math.radians(150)
_TINT = 0.10  # saturation of a background: enough to tell two apart, far below any shape's
_CONTRAST = 34  # grey levels between a shape and its background
_GRAIN = 128  # grains of noise along a side, whatever the frame's size in pixels
_SLATE = 512  # pixels of the canvas that text is written on
_SHIFT = 4  # sub-pixel bits of cv2.fillPoly


@dataclass(frozen=True)
class Shot:
    """What one shot shows. Lengths are fractions of the frame's side.

    `size` is the shape's diameter at its largest, `offset` how far it is off the middle across its path, `level` the
    background's mean grey (0-255), `tint_deg` the background's faint hue, `saturation` 1 for the pure colour and 0 for
    grey, `blur` the sigma of a Gaussian over the finished frame. `text` is burnt in: one line below, several lines over
    the whole frame.
    """

    shape: str
    colour: str
    motion: str
    background: str
    size: float = 0.55
    offset: float = 0.0
    level: int = 128
    tint_deg: float = 0.0
    saturation: float = 1.0
    blur: float = 0.0
    text: str | None = None
    duration_s: float = 3.0
    seed: int = 0

    def __post_init__(self) -> None:
        for value, known in (
            (self.shape, SHAPES),
            (self.colour, COLOURS),
            (self.motion, MOTIONS),
            (self.background, BACKGROUNDS),
        ):
            if value not in known:
                raise ValueError(f"unknown {value!r} in a shot: expected one of {', '.join(known)}")
        if self.motion == "spinning" and self.shape in ROUND:
            raise ValueError(f"a spinning {self.shape} looks still: choose another motion or shape")

    @property
    def image_caption(self) -> str:
        """What a single frame shows; motion cannot be seen in it."""
        return f"a {self.colour} {self.shape} on a {self.background} background{self._text_words}"

    @property
    def caption(self) -> str:
        """What the whole shot shows."""
        return f"a {self.colour} {self.shape} {MOTIONS[self.motion]} on a {self.background} background{self._text_words}"

    @property
    def _text_words(self) -> str:
        return "" if self.text is None else " with text"


def random_shots(n: int, seed: int) -> list[Shot]:
    """`n` shots drawn independently: every shape, colour and background alike often, a few blurred or with text."""
    rng = np.random.default_rng(seed)
    return [random_shot(rng) for _ in range(n)]


def random_shot(rng: np.random.Generator, levels: tuple[int, int] = (28, 225)) -> Shot:
    """One shot drawn from `rng`, its background within `levels` and never as bright as its shape."""
    shape = str(rng.choice(SHAPES))
    colour = str(rng.choice(list(COLOURS)))
    motions = [motion for motion in MOTIONS if not (motion == "spinning" and shape in ROUND)]
    contrasting = [level for level in range(*levels) if abs(level - luma(colour)) >= _CONTRAST]
    return Shot(
        shape=shape,
        colour=colour,
        motion=str(rng.choice(motions)),
        background=str(rng.choice(BACKGROUNDS)),
        size=float(rng.uniform(0.48, 0.62)),
        offset=float(rng.uniform(-0.06, 0.06)),
        level=int(rng.choice(contrasting)),
        tint_deg=float(rng.uniform(0, 360)),
        saturation=float(rng.uniform(0.75, 1.0)),
        blur=float(rng.uniform(0.02, 0.045)) if rng.random() < 0.08 else 0.0,
        text=random_text(rng, covering=rng.random() < 0.5) if rng.random() < 0.15 else None,
        duration_s=float(rng.uniform(2, 4)),
        seed=int(rng.integers(2**31)),
    )


def luma(colour: str) -> float:
    """Brightness of a named colour, 0-255 (BT.601)."""
    return float(np.dot(COLOURS[colour], (0.299, 0.587, 0.114)))


def random_text(rng: np.random.Generator, *, covering: bool) -> str:
    """Letters and digits to burn in: one short line, or with `covering` four lines that fill the frame."""
    letters = list("ABCDEFGHKLMNPRSTUVWXYZ2345679")
    return "\n".join("".join(rng.choice(letters, 8 if covering else 10)) for _ in range(4 if covering else 1))


def render(shot: Shot, size: int, num_frames: int) -> np.ndarray:
    """Frames of `shot` from its beginning to its end, evenly spaced: uint8 RGB, (num_frames, size, size, 3)."""
    moments = np.linspace(0, 1, num_frames) if num_frames > 1 else np.array([0.5])
    return render_moments(shot, size, moments)


def render_moments(shot: Shot, size: int, moments: np.ndarray) -> np.ndarray:
    """Frames of `shot` at `moments` (0 its beginning, 1 its end): uint8 RGB, (len(moments), size, size, 3)."""
    rng = np.random.default_rng(shot.seed)
    tilt = math.radians(rng.uniform(-8, 8))
    paint = np.broadcast_to(_paint(shot, rng), (size, size, 3)).copy()
    backdrop = _backdrop(shot, size, rng)
    lettering = None if shot.text is None else _lettering(shot.text, size)
    frames = np.empty((len(moments), size, size, 3), np.uint8)
    for frame, moment in zip(frames, moments, strict=True):
        picture = _over(paint, _mask(shot, size, float(moment), tilt), backdrop)
        if lettering is not None:
            picture = _over(*lettering, picture)
        if shot.blur > 0:
            picture = cv2.GaussianBlur(picture, (0, 0), shot.blur * size, borderType=cv2.BORDER_REPLICATE)
        frame[:] = picture
    return frames


def _over(above: np.ndarray, opacity: np.ndarray, below: np.ndarray) -> np.ndarray:
    return cv2.blendLinear(above, below, opacity, 1 - opacity)


def placement(shot: Shot, moment: float) -> tuple[float, float, float, float]:
    """Centre x and y, diameter (fractions of the side) and turn (radians) of the shape at `moment` in [0, 1]."""
    x = y = 0.5
    diameter, turn = shot.size, 0.0
    along = _TRAVEL * (2 * moment - 1)
    match shot.motion:
        case "left":
            x, y = x - along, y + shot.offset
        case "right":
            x, y = x + along, y + shot.offset
        case "up":
            x, y = x + shot.offset, y - along
        case "down":
            x, y = x + shot.offset, y + along
        case "growing":
            diameter *= _SWELL + (1 - _SWELL) * moment
        case "shrinking":
            diameter *= 1 - (1 - _SWELL) * moment
        case "spinning":
            turn = _TURN_RAD * moment
        case _:
            x += shot.offset
    return x, y, diameter, turn


def appeal(shot: Shot, moment: float) -> float:
    """How well a frame pleases, on the project's own scale from 1 to 10: sharp, centred, saturated, textless is best."""
    x, y, diameter, _ = placement(shot, moment)
    penalty = 80 * min(shot.blur, 0.045) + 8 * math.hypot(x - 0.5, y - 0.5) + 8 * (1 - shot.saturation)
    penalty += 5 * max(0.0, 0.5 - diameter)
    if shot.text is not None:
        penalty += 3.0 if "\n" in shot.text else 1.5
    return max(1.0, 10.0 - penalty)


@cache
def outline(shape: str) -> tuple[np.ndarray, ...]:
    """Closed curves of `shape`, (points, 2) with y down, centred, reaching the unit circle; a second one is a hole."""
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    match shape:
        case "circle":
            curves = [circle]
        case "ring":
            curves = [circle, 0.52 * circle]
        case "square":
            curves = [_spokes([1.0] * 4, math.pi / 4)]
        case "triangle":
            curves = [_spokes([1.0] * 3, -math.pi / 2)]
        case "star":
            curves = [_spokes([1.0, 0.42] * 5, -math.pi / 2)]
        case "cross":
            arm = np.array([[-0.36, -1], [0.36, -1], [0.36, -0.36]])
            curves = [np.concatenate([arm @ _rotation(quarter * math.pi / 2).T for quarter in range(4)])]
        case "heart":
            x = 16 * np.sin(angle) ** 3
            y = -(13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle) - np.cos(4 * angle))
            curves = [np.stack([x, y], axis=1)]
        case "moon":
            bite = np.linspace(-1.9, 1.9, 49)  # the part of the unit circle left of a second, shifted circle
            tip = np.array([math.cos(math.pi - 1.9), math.sin(1.9)])
            centre = 0.6
            radius = math.hypot(tip[0] - centre, tip[1])
            sweep = math.atan2(tip[1], tip[0] - centre)
            inner = np.linspace(sweep, 2 * math.pi - sweep, 49)
            outer_arc = np.stack([-np.cos(bite), np.sin(bite)], axis=1)
            inner_arc = np.stack([centre + radius * np.cos(inner), radius * np.sin(inner)], axis=1)
            curves = [np.concatenate([outer_arc, inner_arc])]
        case _:
            raise ValueError(f"unknown shape {shape!r}: expected one of {', '.join(SHAPES)}")
    moments = cv2.moments(curves[0].astype(np.float32))
    middle = np.array([moments["m10"], moments["m01"]]) / moments["m00"]
    reach = np.linalg.norm(curves[0] - middle, axis=1).max()
    return tuple((curve - middle) / reach for curve in curves)


def _spokes(radii: list[float], first_rad: float) -> np.ndarray:
    angle = first_rad + np.arange(len(radii)) * 2 * np.pi / len(radii)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1) * np.array(radii)[:, None]


def _rotation(angle_rad: float) -> np.ndarray:
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    return np.array([[cos, -sin], [sin, cos]])


def _mask(shot: Shot, size: int, moment: float, tilt_rad: float) -> np.ndarray:
    """Share of each pixel that the shape covers: float32 (size, size) in [0, 1]."""
    x, y, diameter, turn = placement(shot, moment)
    radius = diameter / 2 * _RADIUS[shot.shape]
    return fill(shot.shape, size, (x, y), radius, tilt_rad + turn)


def fill(shape: str, size: int, centre: tuple[float, float], radius: float, angle_rad: float) -> np.ndarray:
    """Share of each pixel that `shape` covers (lengths in fractions of the side): float32 (size, size) in [0, 1]."""
    canvas = size * _oversampling(size)
    turned = [curve @ _rotation(angle_rad).T * radius + centre for curve in outline(shape)]
    points = [np.round((curve * canvas - 0.5) * 2**_SHIFT).astype(np.int32) for curve in turned]
    drawn = cv2.fillPoly(np.zeros((canvas, canvas), np.uint8), points, 255, cv2.LINE_8, _SHIFT)
    return cv2.resize(drawn, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _oversampling(size: int) -> int:
    return 2 if size >= 192 else 4


def _paint(shot: Shot, rng: np.random.Generator) -> np.ndarray:
    pure = np.array(COLOURS[shot.colour], np.float32)
    muted = pure * shot.saturation + pure.mean() * (1 - shot.saturation)
    return np.clip(muted * rng.uniform(0.92, 1.04) + 0.5, 0, 255).astype(np.uint8)


def _backdrop(shot: Shot, size: int, rng: np.random.Generator) -> np.ndarray:
    """The background: uint8 (size, size, 3), almost grey."""
    hue = np.radians(shot.tint_deg + np.array([0, -120, -240]))
    tint = 1 + _TINT * np.cos(hue)
    steps = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    across, down = np.meshgrid(steps, steps)
    match shot.background:
        case "plain":
            slope = rng.uniform(-16, 16, 2)
            relief = slope[0] * across + slope[1] * down
        case "textured":
            relief = _texture(across, down, rng)
        case _:
            grain = rng.normal(0, 20, (_GRAIN, _GRAIN)).astype(np.float32)
            how = cv2.INTER_AREA if size < _GRAIN else cv2.INTER_LINEAR
            relief = cv2.resize(grain, (size, size), interpolation=how)
    return np.clip((shot.level + relief)[..., None] * tint + 0.5, 0, 255).astype(np.uint8)


def _texture(across: np.ndarray, down: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Stripes, checks or ripples of one period, turned at random."""
    angle = rng.uniform(0, np.pi)
    u = across * np.cos(angle) + down * np.sin(angle)
    v = down * np.cos(angle) - across * np.sin(angle)
    pitch = 2 * np.pi * rng.uniform(4, 8)
    pattern = int(rng.integers(3))
    wave = (np.sin(pitch * u), np.sin(pitch * u) * np.sin(pitch * v), np.sin(pitch * np.hypot(u, v)))[pattern]
    return rng.uniform(18, 28) * np.tanh(2 * wave)


def _lettering(text: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Picture of white letters with a dark rim, uint8 (size, size, 3), and their opacity, float32 (size, size)."""
    canvas = _SLATE  # one size for all: the font's weight follows from the stroke in pixels
    ink = np.zeros((canvas, canvas), np.uint8)
    lines = text.split("\n")
    stroke = 8 if len(lines) > 1 else 5
    for number, line in enumerate(lines):
        (width, height), _ = cv2.getTextSize(line, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)
        scale = canvas * min(0.84 / width, 0.16 / height)
        middle = 0.9 if len(lines) == 1 else (number + 0.5) / len(lines)
        origin = (round((canvas - width * scale) / 2), round(canvas * middle + height * scale / 2))
        cv2.putText(ink, line, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, stroke, cv2.LINE_AA)
    pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * stroke + 1, 2 * stroke + 1))
    rim, ink = (
        cv2.resize(sheet, (size, size), interpolation=cv2.INTER_AREA) for sheet in (cv2.dilate(ink, pen), ink)
    )
    grey = (245.0 * ink / np.maximum(rim, 1)).clip(0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2), rim.astype(np.float32) / 255

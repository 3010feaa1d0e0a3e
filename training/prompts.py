"""What a prompt may ask for besides its text: pieces with texts of their own, and frames that are given.

The grammar is Open-Sora's (1.1 to 1.3): `|0| a text |2| another` gives the pieces of a longer video their texts, and a
prompt may end in JSON with `reference_path`, files with ";" between them, and `mask_strategy`, tuples of up to six
numbers with ";" between them that say which frames of which file go where. Unlike there, what cannot be read or does
not fit is an error, and nothing is cut to fit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from torch import Tensor

from models.given_frames import Given, release_of
from warehouse.errors import SettingsError

_KEYS = ("reference_path", "mask_strategy")


@dataclass(frozen=True)
class Placement:
    """Frames of a file that are given to one piece of the video; one that is negative counts from the end."""

    loop: int = 0
    """Of which piece."""
    reference: int = 0
    """Of which file."""
    reference_start: int = 0
    """Its first frame."""
    target_start: int = 0
    """Where in the piece it goes."""
    length: int = 1
    """How many frames."""
    edit_ratio: float = 0.0
    """0 keeps the frames as they are, 1 makes them anew (`models.given_frames.release_of`)."""

    def starts(self, name: str, there: int, here: int) -> tuple[int, int]:
        """First latent frame in the file `name`, which has `there` of them, and in a piece of `here`.

        Raises SettingsError where the frames do not fit into both.
        """
        source = self.reference_start + (there if self.reference_start < 0 else 0)
        target = self.target_start + (here if self.target_start < 0 else 0)
        if not (0 <= source <= there - self.length and 0 <= target <= here - self.length):
            raise SettingsError(
                f"{self} does not fit: {name} has {there} latent frames and the piece {here}; expected both to hold "
                f"{self.length} from the starts on"
            )
        return source, target


@dataclass(frozen=True)
class Request:
    """A prompt that was read: texts by the piece that they begin at, files, and what is given of them."""

    texts: tuple[tuple[int, str], ...]
    references: tuple[str, ...] = ()
    placements: tuple[Placement, ...] = ()

    def text(self, loop: int) -> str:
        """The text of a piece: the last that began."""
        return [text for first, text in self.texts if first <= loop][-1]

    def check_loops(self, loops: int) -> None:
        """Raises SettingsError where the request asks for a piece that a video of `loops` pieces does not have."""
        last = max([first for first, _ in self.texts] + [placement.loop for placement in self.placements])
        if last >= loops:
            raise SettingsError(f"piece {last} is asked for, but the video has {loops}, counted from 0")

    def check_fit(self, references: Mapping[str, Tensor], num_frames: int) -> None:
        """Raises SettingsError where given frames lie outside of their file (latents (C, T, H, W)) or of the piece."""
        for placement in self.placements:
            name = self.references[placement.reference]
            placement.starts(name, references[name].shape[1], num_frames)


def read_prompt(prompt: str, reference_path: str = "", mask_strategy: str = "") -> Request:
    """A request; what stands in the prompt's own JSON goes before the arguments. Raises SettingsError."""
    text, own = _split(prompt)
    files = own.get("reference_path", reference_path)
    references = tuple(part.strip() for part in files.split(";")) if files.strip() else ()
    if not all(references):
        raise SettingsError(
            f"reference_path {files!r} has an empty entry; expected files with ';' between them"
        )
    strategy = own.get("mask_strategy", mask_strategy)
    placements = tuple(_placement(part, strategy) for part in strategy.split(";")) if strategy.strip() else ()
    if references and not placements:
        raise SettingsError(
            f"reference_path {files!r} has no mask_strategy; '0' begins the video with the first file's first frame"
        )
    for placement in placements:
        if placement.reference >= len(references):
            raise SettingsError(
                f"mask_strategy {strategy!r} takes frames of file {placement.reference}, but reference_path names "
                f"{len(references)}, counted from 0"
            )
    return Request(_texts(text), references, placements)


def _split(prompt: str) -> tuple[str, dict[str, str]]:
    """The prompt without the JSON that it ends in, and that."""
    start = prompt.find("{")
    if start < 0 or not prompt.rstrip().endswith("}"):
        return prompt.strip(), {}
    try:
        own = json.loads(prompt[start:])
    except ValueError as error:
        raise SettingsError(f"the prompt ends in {prompt[start:]!r}, which is no JSON: {error}") from error
    if unknown := set(own) - set(_KEYS):
        raise SettingsError(
            f"the prompt's JSON has {', '.join(sorted(unknown))}; expected {' and '.join(_KEYS)}"
        )
    if wrong := [name for name, value in own.items() if not isinstance(value, str)]:
        raise SettingsError(f"the prompt's {wrong[0]} is {own[wrong[0]]!r}, expected text")
    return prompt[:start].strip(), own


def _texts(text: str) -> tuple[tuple[int, str], ...]:
    if not re.match(r"\|\s*\d+\s*\|", text):
        return ((0, text),)
    parts = re.split(r"\|\s*(\d+)\s*\|", text)[1:]
    found = tuple((int(loop), part.strip()) for loop, part in zip(parts[::2], parts[1::2], strict=True))
    firsts = [loop for loop, _ in found]
    if firsts[0] != 0 or firsts != sorted(set(firsts)) or not all(part for _, part in found):
        raise SettingsError(
            f"the prompt {text!r} has texts for the pieces {firsts}: expected 0 first, rising numbers, and a text for each"
        )
    return found


def _placement(part: str, strategy: str) -> Placement:
    given = [one.strip() for one in part.split(",")]
    named = fields(Placement)
    if len(given) > len(named):
        raise SettingsError(
            f"mask_strategy {strategy!r}: {part!r} has {len(given)} numbers, expected at most 6"
        )
    values = {}
    for field, text in zip(named, given, strict=False):
        kind = float if field.name == "edit_ratio" else int
        try:
            values[field.name] = kind(text)
        except ValueError as error:
            raise SettingsError(
                f"mask_strategy {strategy!r}: {field.name} is {text!r}, expected a number; the six are "
                f"{', '.join(each.name for each in named)}"
            ) from error
    found = Placement(**values)
    if min(found.loop, found.reference) < 0 or found.length < 1 or not 0 <= found.edit_ratio <= 1:
        raise SettingsError(
            f"mask_strategy {strategy!r}: {part!r} is {found}; expected loop and reference from 0, length from 1, and "
            f"edit_ratio from 0 to 1"
        )
    return found


def given_of(
    requests: Sequence[Request], loop: int, references: dict[str, Tensor], like_BCTHW: Tensor, sigmas: Tensor
) -> Given:
    """What a piece is given, one request a clip; `references`: latents (C, T, H, W) by file. Raises SettingsError."""
    given = Given.none(like_BCTHW)
    for clip, request in enumerate(requests):
        for placement in request.placements:
            if placement.loop == loop:
                name = request.references[placement.reference]
                given = _placed(given, clip, placement, name, references[name], sigmas)
    return given


def _placed(
    given: Given, clip: int, placement: Placement, name: str, frames_CTHW: Tensor, sigmas: Tensor
) -> Given:
    source, target = placement.starts(name, frames_CTHW.shape[1], given.latents_BCTHW.shape[2])
    release = release_of(placement.edit_ratio, sigmas)
    return given.with_frames(clip, target, frames_CTHW[:, source : source + placement.length], release)

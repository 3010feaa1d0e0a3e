"""A recipe: every setting of one training stage in one frozen value.

A recipe is returned by a function (training.recipes) and varied with `dataclasses.replace` or by name
(`with_settings`); unknown names and values of another type are errors. Paths are no part of it: the same
recipe on the same data is the same training wherever the files lie.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from models.attention import Kernel
from models.frame_masks import GivenRatios
from models.joined_frames import Joining
from models.networks import NETWORKS, NetworkConfig
from models.recompute import Recompute
from models.transformer_config import TransformerConfig
from models.video_unet import VideoUNetConfig
from training.objective import Objective
from warehouse.errors import SettingsError

T = TypeVar("T")


_LEAST = {
    "warmup_samples": 0,
    "shuffle_window": 1,
    "data_workers": 0,
    "log_every_steps": 1,
    "evaluate_every_steps": 0,
    "evaluate_clips": 0,
    "checkpoint_every_steps": 1,
    "keep_checkpoints": 1,
}
"""Least values of settings that count something."""


@dataclass(frozen=True)
class Recipe:
    """Every setting of a stage (module docstring). What depends on two settings is checked here by both their names.

    Raises SettingsError for values out of range, or that exclude one another.
    """

    stage: str
    """Name of the stage; it opens the name of the run's folder."""
    network: NetworkConfig
    """Shape of the network: a UNet, which with `temporal` off is an image network, or a diffusion transformer. By
    name (`with_settings`) any of `models.networks`."""
    single_frames: bool
    """Train on one frame of each clip, another in every epoch, instead of on the whole clip."""
    num_samples: int
    """Clips (or frames) to train on, repeats counted."""
    batch_size: int
    """Clips in one optimiser step over all ranks."""
    lr: float
    """Highest learning rate of AdamW."""
    lr_decay: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate goes to 0 by the end, after the warm-up."""
    warmup_samples: int = 0
    """Samples over which the learning rate rises linearly from 0."""
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    grad_clip: float = 1.0
    """Largest norm of the gradient; 0 turns clipping off."""
    objective: Objective = field(default_factory=Objective)
    """What the network is trained to say (`training.objective`); by a name alone ("flow") also with `with_settings`."""
    p_mean: float = -1.2
    """Mean of ln sigma; for edm and flow, since others have steps of their own."""
    p_std: float = 1.0
    """Standard deviation of ln sigma; for edm and flow."""
    text_dropout: float = 0.15
    """Share of clips whose text is replaced by the null text."""
    given: GivenRatios = field(default_factory=GivenRatios)
    """Shares of clips some of whose frames are given, so that the network learns to go on from frames."""
    joining: Joining = field(default_factory=Joining)
    """How a network with `condition_channels` is shown the frames that it continues, or fills in between."""
    ema_decay: float = 0.9999
    """Highest decay of the moving average of the weights; it warms up as (1 + n) / (10 + n)."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    attention: Kernel = "auto"
    """Kernel that computes attention; "auto" leaves it to torch, and another one that cannot run is an error."""
    recompute: Recompute = "none"
    """What blocks compute again in the backward pass instead of keeping it: nothing, all but matrix products,
    convolutions and attention, or whole blocks. The weights come out the same."""
    recompute_keep_first: int = 0
    """Blocks, from the input on, that compute nothing again."""
    seed: int = 0
    """Of the initial weights, the order of the data and all noise."""
    shuffle_window: int = 8
    """Row groups whose clips are shuffled together."""
    data_workers: int = 0
    """Processes that read ahead; 0 reads in the training process. The data's order does not depend on it."""
    log_every_steps: int = 20
    evaluate_every_steps: int = 0
    """Steps between evaluations on held-out clips; 0 evaluates at the end alone."""
    evaluate_clips: int = 64
    """Held-out clips (at most) in one evaluation."""
    checkpoint_every_steps: int = 500
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        _check(self.batch_size >= 1, f"batch_size is {self.batch_size}, expected at least 1")
        _check(
            self.num_samples >= self.batch_size,
            f"num_samples is {self.num_samples}, expected at least batch_size, {self.batch_size}",
        )
        _check(
            0 <= self.text_dropout < 1, f"text_dropout is {self.text_dropout}, expected 0 or more, below 1"
        )
        _check(0 <= self.ema_decay < 1, f"ema_decay is {self.ema_decay}, expected 0 or more, below 1")
        _check(
            self.lr > 0 and self.p_std > 0, f"lr is {self.lr} and p_std {self.p_std}, expected both above 0"
        )
        for name, least in _LEAST.items():
            _check(
                getattr(self, name) >= least, f"{name} is {getattr(self, name)}, expected at least {least}"
            )
        unet = isinstance(self.network, VideoUNetConfig)
        _check(
            not (self.single_frames and unet and self.network.temporal),
            "single_frames is on, but network.temporal too: a network trained on single frames never trains its "
            "temporal layers; turn one off",
        )
        _check(
            not (self.single_frames and self.given.any()),
            "single_frames is on, but given has shares too: of a single frame nothing is left to make",
        )
        _check(
            self.objective.name != "iddpm" or self.network.says_variance,
            "objective is iddpm, whose network says a variance too: choose a transformer with network.out_channels twice "
            "network.in_channels, or another objective, which UNets learn as well",
        )
        _check(
            self.objective.name != "iddpm" or not self.given.any(),
            "objective is iddpm, but given has shares too: expected none, or another objective",
        )
        _check_channels(self.network)
        if isinstance(self.network, VideoUNetConfig):
            _check_joined(self.network, self.single_frames, self.given)

    @property
    def num_steps(self) -> int:
        """Optimiser steps; samples that fill no batch are left out."""
        return self.num_samples // self.batch_size

    def digest(self) -> str:
        """Hash of every setting."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """Text that `training.recipes.recipe_from` reads back from a file as the same recipe."""
        return json.dumps(asdict(self), indent=1)


def _check_channels(network: NetworkConfig) -> None:
    told = network.latent_channels
    said = network.out_channels if isinstance(network, TransformerConfig) else told
    _check(
        said in (told, 2 * told),
        f"network.out_channels is {said}, expected network.in_channels, {told}, or twice as many",
    )


def _check_joined(network: VideoUNetConfig, single_frames: bool, given: GivenRatios) -> None:
    added, numbers = network.condition_channels, network.num_numbers
    _check(
        added in (0, network.latent_channels),
        f"network.condition_channels is {added}, expected 0, or network.latent_channels, {network.latent_channels}, for a "
        f"network that is shown frames; masks of inpainting are not trained",
    )
    _check(
        not network.missing_size or (added > 0 and len(network.missing_size) == 2),
        f"network.missing_size is {network.missing_size}, expected none, or height and width of latents with "
        f"network.condition_channels {network.latent_channels}",
    )
    _check(
        numbers <= 3,
        f"network.num_numbers is {numbers}, but no dataset tells more than frame rate, motion and the noise on what is "
        f"shown: expected at most 3; networks that are told an elevation are sampled alone",
    )
    expected = "3 (frame rate, motion, noise on what is shown)" if added else "2 (frame rate, motion) or 0"
    _check(
        numbers == 3 if added else numbers in (0, 2),
        f"network.num_numbers is {numbers} with network.condition_channels {added}, expected {expected}",
    )
    _check(
        not (added and single_frames),
        "single_frames is on, but network.condition_channels too: of a single frame that is shown nothing is left to make",
    )
    _check(
        not (added and given.any()),
        "network.condition_channels is set, but given has shares too: frames are shown in one way or the other",
    )


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise SettingsError(f"recipe: {message}")


def with_settings(value: T, settings: Mapping[str, Any], where: str = "recipe") -> T:
    """A copy with some settings changed; nested ones as a mapping or with dotted names ("network.width").

    A network is also changed by name, as "stdit-xl-2", and then further by dotted names, and so is an objective.
    Raises SettingsError for an unknown name or a value of another type.
    """
    types = get_type_hints(type(value))
    nested: dict[str, dict[str, Any]] = {}
    changes: dict[str, Any] = {}
    for name, given in settings.items():
        head, _, rest = name.partition(".")
        if head not in types:
            raise SettingsError(f"{where} has no setting {head!r}; it has {', '.join(sorted(types))}")
        if types[head] == NetworkConfig and not rest:
            changes[head] = network_with(getattr(value, head), given, f"{where}.{head}")
        elif is_dataclass(getattr(value, head)):
            if types[head] is Objective and isinstance(given, str) and not rest:
                given = {"name": given}
            if not rest and not isinstance(given, Mapping):
                raise SettingsError(f"{where}.{head} is {given!r}, expected its settings by name")
            nested.setdefault(head, {}).update({rest: given} if rest else given)
        elif rest:
            raise SettingsError(f"{where}.{head} is a single value and has no setting {rest!r}")
        else:
            changes[head] = _typed(given, types[head], f"{where}.{head}")
    for head, inner in nested.items():
        base = changes.get(head, getattr(value, head))
        changes[head] = with_settings(base, inner, f"{where}.{head}")
    return replace(value, **changes)


def network_with(network: NetworkConfig, given: Any, where: str) -> NetworkConfig:
    """The network of a name, the one that a mapping describes, or `network` with the settings of a mapping.

    A mapping that holds all that a transformer must be told describes one. Raises SettingsError.
    """
    if isinstance(given, str):
        if given not in NETWORKS:
            raise SettingsError(f"{where} is {given!r}, expected one of {', '.join(NETWORKS)}")
        return NETWORKS[given].config
    if not isinstance(given, Mapping):
        raise SettingsError(f"{where} is {given!r}, expected its settings by name, or the name of a network")
    needed = {each.name for each in fields(TransformerConfig) if each.default is MISSING}
    return with_settings(NETWORKS["dit-s-2"].config if needed <= set(given) else network, given, where)


def _typed(given: Any, expected: Any, where: str) -> Any:
    """`given` as the type of its field: numbers widen to float, lists become tuples, nothing else changes."""
    if get_origin(expected) in (Union, UnionType):
        if given is None:
            return None
        (expected,) = (kind for kind in get_args(expected) if kind is not NoneType)
    if get_origin(expected) is tuple:
        if not isinstance(given, list | tuple):
            raise SettingsError(f"{where} is {given!r}, expected a list")
        inner = get_args(expected)
        if inner[-1] is not Ellipsis and len(given) != len(inner):
            raise SettingsError(f"{where} is {given!r}, expected {len(inner)} values")
        return tuple(_typed(each, inner[0], where) for each in given)
    if get_origin(expected) is Literal:
        if given not in get_args(expected):
            raise SettingsError(f"{where} is {given!r}, expected one of {', '.join(get_args(expected))}")
        return given
    if expected is float and type(given) is int:
        return float(given)
    if type(given) is not expected:
        raise SettingsError(f"{where} is {given!r}, expected {expected.__name__}")
    return given


def read_settings(path: Path) -> dict[str, Any]:
    """Settings in a JSON file."""
    try:
        settings = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(settings, dict):
        raise SettingsError(f"{path} holds {type(settings).__name__}, expected settings by name")
    return settings


def parse_setting(text: str) -> tuple[str, Any]:
    """name=value of a command line; the value is read as JSON, or else as plain text."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise SettingsError(f"setting {text!r} is not name=value, as lr=1e-4 is")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value

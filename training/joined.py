"""The frames that a network is shown of the clips that it trains on (`models.joined_frames`).

All is decided where batches are read: which frames, the noise on them, and for which clips they are dropped. What
follows on batches, training and evaluation, does not know of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from models.joined_frames import Joining, Scaling, noised, places
from models.video_unet import VideoUNetConfig
from training.draws import draw_joined
from training.recipe import Recipe
from warehouse.errors import SettingsError
from warehouse.reader import PackedDataset


@dataclass(frozen=True)
class Joined:
    """Fields of a `training.data.Batch`."""

    joined_BCFHW: Tensor
    joined_sigma_B: Tensor
    silent_B: Tensor


@dataclass(frozen=True)
class Joiner:
    """Shows the network of a recipe frames of clips whose latents had this scaling."""

    recipe: Recipe
    scaling: Scaling

    @classmethod
    def of(cls, recipe: Recipe, dataset: PackedDataset) -> Joiner | None:
        """None for a network that is shown no frames. Raises SettingsError where the dataset's clips do not fit one."""
        network, manifest = recipe.network, dataset.manifest
        if not isinstance(network, VideoUNetConfig) or not places(network, 1):
            return None
        _check_fit(network, {name: manifest.latent_shape(name) for name in manifest.buckets}, dataset.uri)
        if not manifest.latent_scaling:
            raise SettingsError(
                f"{dataset.uri} does not tell how its latents were scaled, which a network with condition_channels needs: "
                f"it is of an earlier version; encode and pack it again"
            )
        return cls(recipe, Scaling(**manifest.latent_scaling))

    def training(self, latents_BCTHW: Tensor, position: int, rank: int) -> Joined:
        """Of one rank's slice of the batch at a position."""
        key = (self.recipe.seed, "joined", position)
        return self._joined(latents_BCTHW, self.recipe.joining, key, self.recipe.batch_size, rank)

    def held_out(self, latents_BCTHW: Tensor, position: int) -> Joined:
        """The same noise in every call, and nothing dropped."""
        always = replace(self.recipe.joining, dropout=0.0, dropout_with_text=0.0)
        key = (self.recipe.seed, "held out, joined", position)
        return self._joined(latents_BCTHW, always, key, len(latents_BCTHW), 0)

    def _joined(
        self, latents_BCTHW: Tensor, joining: Joining, key: tuple[int | str, ...], batch_size: int, rank: int
    ) -> Joined:
        shown_BCFHW = latents_BCTHW[:, :, places(self.recipe.network, latents_BCTHW.shape[2])]
        drawn = draw_joined(joining, key, batch_size, rank, tuple(shown_BCFHW.shape))
        frames_BCFHW = self.scaling.undone(noised(shown_BCFHW, drawn.sigma_B, drawn.noise_BCFHW))
        frames_BCFHW = frames_BCFHW.masked_fill(drawn.drop_B[:, None, None, None, None], 0.0)
        return Joined(frames_BCFHW, drawn.sigma_B, drawn.drop_text_B)


def _check_fit(network: VideoUNetConfig, latents: Mapping[str, tuple[int, ...]], uri: str) -> None:
    """`latents`: frames, channels, height and width by bucket. Still pictures may be among the clips, as one frame."""
    shown = len(places(network, 2))
    if max(num_frames for num_frames, *_ in latents.values()) <= shown:
        raise SettingsError(
            f"{uri} has clips of {', '.join(latents)} alone, expected some of more latent frames than the {shown} that "
            f"the network is shown: encode longer ones"
        )
    for bucket, (_, _, *size) in latents.items():
        if network.missing_size and network.missing_size != tuple(size):
            raise SettingsError(
                f"network.missing_size is {network.missing_size}, but clips of {bucket} in {uri} have latents of "
                f"{tuple(size)}: set it to this, and encode clips in one size"
            )

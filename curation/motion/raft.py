"""RAFT optical flow (Teed and Deng 2020) through torchvision's networks, with weights from a local file.

SVD scored its high-quality set with RAFT at 800 x 450 (appendix). Here a picture of another shape keeps its shape and gets
that area, so nothing is stretched. Checkpoints hold torchvision's keys, or, for the small network, those of its authors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from warehouse.errors import WeightsError

if TYPE_CHECKING:
    import torch
    from torch import nn

SIZE = (800, 450)
"""(width, height) of the pictures that SVD gave to RAFT."""
_MULTIPLE = 8
_LEAST_PX = 128
"""Four levels of correlations at an eighth of the size leave nothing of shorter sides."""
_AUTHORS_KEYS = (
    (r"^module\.", ""),
    (r"^fnet\.", "feature_encoder."),
    (r"^cnet\.", "context_encoder."),
    (r"^(\w+_encoder)\.conv1\.", r"\1.convnormrelu.0."),
    (r"^(\w+_encoder)\.conv2\.", r"\1.conv."),
    (r"(layer\d\.\d)\.conv(\d)\.", r"\1.convnormrelu\2.0."),
    (r"^update_block\.encoder\.convc(\d)\.", r"update_block.motion_encoder.convcorr\1.0."),
    (r"^update_block\.encoder\.convf(\d)\.", r"update_block.motion_encoder.convflow\1.0."),
    (r"^update_block\.encoder\.conv\.", "update_block.motion_encoder.conv.0."),
    (r"^update_block\.gru\.", "update_block.recurrent_block.convgru1."),
)
"""From the names in the authors' files to torchvision's, applied in order."""


def load_raft(path: str | Path) -> nn.Module:
    """torchvision's raft_small or raft_large, whichever the checkpoint fits, in evaluation mode on the CPU.

    Raises:
        WeightsError: there is no such file, or it does not hold the weights of either.
    """
    import torch
    from torchvision.models.optical_flow import raft_large, raft_small

    from models.tensor_files import load_tensors

    path = Path(path).expanduser()
    if not path.is_file():
        raise WeightsError(
            f"RAFT's weights {path} are missing; expected a checkpoint of torchvision's raft_small or raft_large, or "
            "the authors' raft-small.pth"
        )
    try:
        state = _torchvision_keys(load_tensors(path))
        features = state["feature_encoder.conv.weight"].shape[0]
        with torch.device("meta"):  # no time is spent on random weights
            network = raft_small() if features == 128 else raft_large()
        network.load_state_dict(state, assign=True)
    except Exception as error:
        raise WeightsError(
            f"{path} does not hold RAFT's weights: {error}; expected torchvision's keys, or raft-small.pth of its "
            "authors"
        ) from error
    return network.eval()


def _torchvision_keys(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {_renamed(key): value for key, value in state.items()}


def _renamed(key: str) -> str:
    for pattern, replacement in _AUTHORS_KEYS:
        key = re.sub(pattern, replacement, key)
    return key


def raft_flow(
    network: nn.Module, rgb0_HW3: NDArray[np.uint8], rgb1_HW3: NDArray[np.uint8], num_updates: int = 12
) -> NDArray[np.float32]:
    """Flow [H, W, 2] from one RGB picture to the next of the same size: to the right and down, in its pixels.

    Pictures are padded at their edges to a multiple of 8 and at least 128 px a side; the padding's flow is cut off.
    """
    import torch

    height, width = rgb0_HW3.shape[:2]
    device = next(network.parameters()).device
    with torch.inference_mode():
        pair = [_prepared(rgb).to(device) for rgb in (rgb0_HW3, rgb1_HW3)]
        top, left = _before(height), _before(width)
        flow_2HW = network(*pair, num_flow_updates=num_updates)[-1][0]
        inside = flow_2HW[:, top : top + height, left : left + width]
        return inside.permute(1, 2, 0).float().cpu().numpy()


def _prepared(rgb_HW3: NDArray[np.uint8]) -> torch.Tensor:
    """float32 (1, 3, H, W) in [-1, 1], padded."""
    import torch

    height, width = rgb_HW3.shape[:2]
    top, left = _before(height), _before(width)
    bottom, right = _padded(height) - height - top, _padded(width) - width - left
    padded = cv2.copyMakeBorder(rgb_HW3, top, bottom, left, right, cv2.BORDER_REPLICATE)
    return torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 127.5 - 1


def _padded(side: int) -> int:
    return max(_LEAST_PX, -(-side // _MULTIPLE) * _MULTIPLE)


def _before(side: int) -> int:
    """Half of a side's padding."""
    return (_padded(side) - side) // 2


def fit_area(rgb_HW3: NDArray[np.uint8], size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """The picture in its own shape with the area of `size` (width, height)."""
    height, width = rgb_HW3.shape[:2]
    scale = (size[0] * size[1] / (height * width)) ** 0.5
    target = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(rgb_HW3, target, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)

"""STDiT2 and STDiT3 beside their formulas, written out over the names of Open-Sora's files.

The reference is slow and plain: tokens (B, T, S, C) in float64, attention as an explicit softmax over tokens of one
frame or one position, text without its masked tokens, rotations as complex numbers, and both modulations of every block
computed where frames are given.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.layouts import pixart_original, stdit3_original
from models.transformers import DiffusionTransformer
from models.weight_names import write_weights
from tests.small_networks import SMALL_NETWORKS, inputs_of, randomised

HEADS = 4


class Reference:
    """A network as a file's tensors."""

    def __init__(self, file: dict[str, Tensor], rotary_first: bool) -> None:
        self.file = {name: value.double() for name, value in file.items()}
        self.rotary_first = rotary_first

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.file[f"{name}.weight"].T + self.file[f"{name}.bias"]

    def embedder(self, name: str, value: Tensor) -> Tensor:
        angle = value.double()[..., None] * torch.exp(-math.log(10_000) * torch.arange(128).double() / 128)
        h = self.linear(f"{name}.mlp.0", torch.cat([angle.cos(), angle.sin()], dim=-1))
        return self.linear(f"{name}.mlp.2", h * h.sigmoid())

    def normed(self, name: str, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self.file[f"{name}.weight"]

    def attention(self, name: str, x_NC: Tensor, rotary: bool) -> Tensor:
        """One sequence attends to itself."""
        q, k, v = (z.unflatten(-1, (HEADS, -1)) for z in self.linear(f"{name}.qkv", x_NC).chunk(3, dim=-1))
        for step in ("rotate", "norm") if self.rotary_first else ("norm", "rotate"):
            if step == "norm":
                q, k = self.normed(f"{name}.q_norm", q), self.normed(f"{name}.k_norm", k)
            elif rotary:
                q, k = rotated(q), rotated(k)
        weights = (torch.einsum("nhc,mhc->hnm", q, k) / q.shape[-1] ** 0.5).softmax(-1)
        return self.linear(f"{name}.proj", torch.einsum("hnm,mhc->nhc", weights, v).flatten(1))

    def cross(self, name: str, x_NC: Tensor, text_LC: Tensor) -> Tensor:
        q = self.linear(f"{name}.q_linear", x_NC).unflatten(-1, (HEADS, -1))
        k, v = (
            z.unflatten(-1, (HEADS, -1)) for z in self.linear(f"{name}.kv_linear", text_LC).chunk(2, dim=-1)
        )
        weights = (torch.einsum("nhc,mhc->hnm", q, k) / q.shape[-1] ** 0.5).softmax(-1)
        return self.linear(f"{name}.proj", torch.einsum("hnm,mhc->nhc", weights, v).flatten(1))

    def mlp(self, name: str, x: Tensor) -> Tensor:
        h = torch.nn.functional.gelu(self.linear(f"{name}.fc1", x), approximate="tanh")
        return self.linear(f"{name}.fc2", h)


def rotated(x_NHC: Tensor) -> Tensor:
    frequency = 10_000.0 ** (-torch.arange(0, x_NHC.shape[-1], 2).double() / x_NHC.shape[-1])
    turn = torch.exp(1j * torch.arange(len(x_NHC))[:, None] * frequency)
    pairs = torch.view_as_complex(x_NHC.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turn[:, None]).flatten(-2)


def normalised(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()


def positions(rows: int, columns: int, width: int, side: int) -> Tensor:
    """(rows, columns, width) for latents on a square whose scale is 1 at `side` latents."""
    scale, base = 2 * (rows * columns) ** 0.5 / side, round((rows * columns) ** 0.5)
    frequency = 10_000.0 ** (-torch.arange(0, width // 2, 2).double() / (width // 2))

    def wave(length: int) -> Tensor:
        angle = (torch.arange(length).double() / scale * base / length)[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    down, across = wave(rows)[:, None].expand(-1, columns, -1), wave(columns)[None].expand(rows, -1, -1)
    return torch.cat([across, down], dim=-1)


def over(axis: str, function, x_TSC: Tensor) -> Tensor:
    if axis == "space":
        return torch.stack([function(frame, False) for frame in x_TSC])
    return torch.stack([function(position, True) for position in x_TSC.unbind(1)], dim=1)


def stdit(ref: Reference, version: int, x_CTHW: Tensor, time, told, clip: int) -> Tensor:
    """One clip through STDiT2 or STDiT3, with text of its own length."""
    kernel = ref.file["x_embedder.proj.weight"]
    width = len(kernel)
    bias = ref.file["x_embedder.proj.bias"]
    tokens = torch.nn.functional.conv3d(x_CTHW.double(), kernel, bias, stride=(1, 2, 2)).transpose(0, 1)
    rows, columns = tokens.shape[-2:]
    x = (tokens.permute(0, 2, 3, 1) + positions(rows, columns, width, 64)).flatten(1, 2)
    num_frames = len(x)
    fps = ref.embedder("fps_embedder", told.numbers_BN[clip, 0])
    info, temporal = torch.zeros(width).double(), fps
    if version == 2:
        sides = ref.embedder("csize_embedder", told.size_B3[clip, :2]).flatten()
        info = torch.cat([sides, ref.embedder("ar_embedder", told.size_B3[clip, 2])])
        temporal = temporal + ref.embedder("fl_embedder", torch.tensor(num_frames))
    else:
        info, temporal = info + fps, None
    text = told.text_BLD[clip][told.mask_BL[clip]].double()
    text = ref.linear("y_embedder.y_proj.fc1", text)
    text = ref.linear("y_embedder.y_proj.fc2", torch.nn.functional.gelu(text, approximate="tanh"))
    noisy, clean = (ref.embedder("t_embedder", value) for value in (time, torch.tensor(0.0)))
    given_T = torch.zeros(num_frames, dtype=torch.bool) if told.given_BT is None else told.given_BT[clip]
    per_frame = torch.where(given_T[:, None], clean, noisy)  # (T C)

    def numbers(block: str, added: Tensor, count: int) -> list[Tensor]:
        value = per_frame + added
        value = ref.linear(block, value * value.sigmoid()).unflatten(-1, (count, -1))
        return [value[:, index, None] for index in range(count)]

    def modulated(table: str, shared: list[Tensor]) -> list[Tensor]:
        return [ref.file[table][index] + value for index, value in enumerate(shared)]

    shared = numbers("t_block.1", info, 6)
    own = numbers("t_block_temp.1", temporal, 3) if version == 2 else None
    for index in range(4):
        name, axis = f"blocks.{index}", "space"
        if version == 3:
            axis = "time" if index % 2 else "space"
            name = f"{'temporal' if index % 2 else 'spatial'}_blocks.{index // 2}"
        shift, scale, gate, shift2, scale2, gate2 = modulated(f"{name}.scale_shift_table", shared)
        h = normalised(x) * (1 + scale) + shift
        x = x + gate * over(axis, lambda z, r, name=name: ref.attention(f"{name}.attn", z, r), h)
        if version == 2:
            shift, scale, gate = modulated(f"{name}.scale_shift_table_temporal", own)
            h = normalised(x) * (1 + scale) + shift
            x = x + gate * over("time", lambda z, r, name=name: ref.attention(f"{name}.attn_temp", z, r), h)
        x = x + ref.cross(f"{name}.cross_attn", x.flatten(0, 1), text).unflatten(0, (num_frames, -1))
        x = x + gate2 * ref.mlp(f"{name}.mlp", normalised(x) * (1 + scale2) + shift2)
    told_last = per_frame + (info if version == 3 else given_T[:, None] * info)
    shift, scale = (ref.file["final_layer.scale_shift_table"][i] + told_last[:, None] for i in range(2))
    out = ref.linear("final_layer.linear", normalised(x) * (1 + scale) + shift)
    out = out.unflatten(1, (rows, columns)).unflatten(-1, (2, 2, -1))  # T h w p q C
    return out.permute(5, 0, 1, 3, 2, 4).flatten(4).flatten(2, 3)


@torch.no_grad()
@pytest.mark.parametrize("given", [False, True], ids=["all generated", "some given"])
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("columns", [8, 12], ids=["square", "wide"])
def test_stdit_is_its_formulas(version, given, columns):
    config = SMALL_NETWORKS[f"stdit{version}"].config
    network = randomised(DiffusionTransformer(config)).double()
    layout = (pixart_original if version == 2 else stdit3_original)(config)
    reference = Reference(write_weights(network, layout, (3, 8, 8)), rotary_first=version == 2)
    x_BCTHW, time_B, told = inputs_of(f"stdit{version}")
    x_BCTHW = torch.cat([x_BCTHW, x_BCTHW.flip(4)], dim=4)[..., :columns].double()
    told = replace(told, text_BLD=told.text_BLD.double())
    if given:
        told = replace(told, given_BT=torch.tensor([[True, False, False], [False, True, True]]))
    time_BT = (time_B * 20)[:, None].expand(-1, 3)
    time_BT = time_BT if told.given_BT is None else time_BT.masked_fill(told.given_BT, 0)
    found = network(x_BCTHW, time_BT if given else time_B * 20, told)
    for clip in range(2):
        expected = stdit(reference, version, x_BCTHW[clip], time_B[clip] * 20, told, clip)
        assert expected.std() > 0.1
        torch.testing.assert_close(found[clip], expected, atol=1e-5, rtol=1e-5)

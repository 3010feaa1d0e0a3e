"""Networks that also say how much noise a step back shall add (Nichol and Dhariwal 2021, "IDDPM").

They say twice as many channels: the prediction, and for each of its numbers a share v. The variance of the step lies
between the two that are right for data of no variance and of unit variance, by logarithms: (1 + v) / 2 of the way.

All is written in data plus sigma times noise. There a step from one level to the next is known by the two levels
alone, so a walk over fewer steps (`Discrete.respaced`) needs nothing else: its variances are those of its own steps.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log

import torch
from torch import Tensor

from models.conditioning import Conditioning
from models.edm import Network, at_least_float32, noisy, per_clip
from models.noise import Discrete
from models.samplers import Noise, level_pairs
from warehouse.errors import SettingsError

VarianceDenoiser = Callable[[Tensor, float], tuple[Tensor, Tensor]]
"""(x, sigma) to the clean latents and the share v, both of x's shape."""
BIN = 2 / 255
"""Width of the bins of the decoder's likelihood: what one level of 8 bits is in data between -1 and 1."""


def variance_bounds(sigma: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
    """Variances of the step from `sigma` to `following` for data of no variance, and of unit variance (float64).

    They are beta-tilde and beta of DDPM (Ho et al. 2020, section 3.2) over the share of the data's power that is left
    after the step.
    """
    before, after = sigma.double().square(), following.double().square()
    left = 1 - after / before
    return after * left, left * (1 + after) / (1 + 1 / before)


def log_variance(share: Tensor, small: Tensor, large: Tensor) -> Tensor:
    """Between the logarithms of the bounds (IDDPM, eq. 15); v of -1 is the small one, 1 the large one."""
    place = ((share + 1) / 2).to(torch.promote_types(share.dtype, torch.float32))
    return torch.lerp(small.log().to(place), large.log().to(place), place)


def without_variance(network: Network) -> Network:
    """The network without its shares, for all that asks for a prediction alone."""
    return lambda x, c_noise_B, conditioning: network(x, c_noise_B, conditioning).chunk(2, dim=1)[0]


def ancestral(denoise: VarianceDenoiser, x: Tensor, sigmas: Tensor, noise: Noise) -> Tensor:
    """DDPM's walk with learned variances over falling levels that end at 0.

    Raises SettingsError where the denoiser says no variances.
    """
    for sigma, following in level_pairs(sigmas):
        said = denoise(x, sigma)
        if isinstance(said, Tensor):
            raise SettingsError(
                "sampler is 'iddpm' and the network says no variances: expected one that was trained to "
                "(models.guidance.guided_with_variance), or sampler 'ddpm'"
            )
        clean, share = said
        if following == 0:
            return clean
        bounds = variance_bounds(torch.tensor(sigma), torch.tensor(following))
        deviation = (log_variance(share, *bounds) / 2).exp().to(x)
        x = clean + (following / sigma) ** 2 * (x - clean) + deviation * noise(x)
    return x


def bound_bits(
    sigmas: Tensor,
    step_B: Tensor,
    x0: Tensor,
    x: Tensor,
    clean: Tensor,
    share: Tensor,
    bin_width: float = BIN,
) -> Tensor:
    """One term of the variational bound for each clip (B,), in bits a number (Ho et al. 2020, eq. 5).

    `sigmas`: rising levels. `x`: the data at the level of step `step_B`. `clean`, `share`: what was said of it. Step
    0 costs the data itself, in bins of `bin_width`; the others the divergence of the step back from the true one.
    """
    following = torch.where(step_B > 0, sigmas[(step_B - 1).clamp(min=0)], 0)
    small_B, large_B = variance_bounds(sigmas[step_B], following)
    # The first step back has no small variance; it takes that of the second, as IDDPM's authors do.
    floor = variance_bounds(sigmas[1], sigmas[0])[0] / (1 + sigmas[0].square())
    small_B = torch.where(step_B > 0, small_B, floor)
    learned = log_variance(share.float(), per_clip(small_B, x), per_clip(large_B, x))
    moved = per_clip(1 - (following / sigmas[step_B]).square(), x)
    nats = _divergence(moved * (x0 - clean), per_clip(small_B.log(), x), learned)
    # The other cost is computed of harmless numbers where it does not count, so that no gradient is NaN.
    last = per_clip(step_B == 0, x)
    decoded = _bin_cost(torch.where(last, x0 - clean, 0), torch.where(last, learned, 0), bin_width)
    return torch.where(last, decoded, nats).flatten(1).mean(1) / log(2)


def hybrid_losses(
    preconditioning: Discrete,
    network: Network,
    x0: Tensor,
    noise: Tensor,
    step_B: Tensor,
    conditioning: Conditioning,
    bound_weight: float = 1e-3,
) -> Tensor:
    """Loss of every clip (B,), float32: the squared error, plus `bound_weight` times the whole bound (IDDPM, eq. 16).

    The bound of all steps is estimated from the drawn one. It trains the shares alone: the prediction is held fixed
    in it.
    """
    sigmas = preconditioning.sigmas.to(x0.device)
    sigma_B = sigmas[step_B].to(at_least_float32(x0))
    x = noisy(x0, noise, sigma_B)
    prediction, share = preconditioning.predict(network, x, sigma_B, conditioning).float().chunk(2, dim=1)
    error = prediction - preconditioning.target(x0, noise, sigma_B).float()
    x0, x = at_least_float32(x0), at_least_float32(x)
    clean = preconditioning.compose(x, sigma_B, prediction.detach())
    bound = bound_bits(sigmas, step_B, x0, x, clean, share)
    return error.square().flatten(1).mean(1) + bound_weight * len(sigmas) * bound.float()


def _divergence(difference: Tensor, log_true: Tensor, log_said: Tensor) -> Tensor:
    """Of two normal distributions, in nats, from the first (the true one) to the second."""
    ratio = (log_true - log_said).exp() + difference.square() * (-log_said).exp()
    return (log_said - log_true + ratio - 1) / 2


def _bin_cost(difference: Tensor, log_said: Tensor, width: float) -> Tensor:
    """Nats of the bin around the data under a normal distribution that is `difference` away."""
    deviation = (log_said / 2).exp()
    high = torch.special.log_ndtr((width / 2 - difference.abs()) / deviation)
    low = torch.special.log_ndtr((-width / 2 - difference.abs()) / deviation)
    return -(high + torch.log1p(-(low - high).exp()))

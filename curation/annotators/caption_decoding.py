"""From next-token scores to token sequences: beam search over a batch of images; one beam is greedy search.

Shapes: B sequences, N images, K beams, L tokens so far, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from warehouse.errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

    NextLogits = Callable[[Tensor, Tensor], Tensor]
    """(images_B, tokens_BL) to logits_BV: `images_B` says which image each sequence describes."""


@dataclass(frozen=True)
class DecodingConfig:
    """How a caption is searched for."""

    num_beams: int = 1
    """Sequences that are followed at once; 1 always takes the likeliest token."""
    min_tokens: int = 1
    """The caption may not end before it has as many tokens."""
    max_tokens: int = 24
    """A caption that has not ended after as many tokens is cut there."""
    repetition_penalty: float = 1.0
    """Log-probabilities of tokens that a caption already has are multiplied by this (CTRL, Keskar et al. 2019,
    section 4.1, on log-probabilities); 1 for models with few words, which must repeat an article."""

    def __post_init__(self) -> None:
        if self.num_beams < 1 or not 0 <= self.min_tokens < self.max_tokens or self.repetition_penalty < 1:
            raise SettingsError(
                f"decoding needs num_beams >= 1, 0 <= min_tokens < max_tokens and repetition_penalty >= 1; got {self}"
            )


@dataclass(frozen=True)
class Decoded:
    """One caption in tokens."""

    tokens: tuple[int, ...]
    """Without the start and the end token."""
    mean_log_prob: float
    """Mean of the model's own log-probabilities of the tokens, the end token included."""
    truncated: bool
    """It reached `max_tokens` before it ended."""


@dataclass
class _Beams:
    """The K sequences being written for each of the N images that are not settled yet."""

    images_N: Tensor
    tokens_NKL: Tensor
    scores_NK: Tensor
    """Sum of the penalised log-probabilities, by which beams are ranked; -inf for a beam that is not in use."""
    log_probs_NK: Tensor
    """Sum of the model's own log-probabilities."""

    def keep(self, chosen_N: Tensor) -> _Beams:
        return _Beams(
            self.images_N[chosen_N],
            self.tokens_NKL[chosen_N],
            self.scores_NK[chosen_N],
            self.log_probs_NK[chosen_N],
        )


@dataclass(frozen=True)
class _Candidates:
    """The best continuations of an image's beams, best first; twice as many as beams, as half of them may end."""

    beams_NC: Tensor
    tokens_NC: Tensor
    scores_NC: Tensor
    log_probs_NC: Tensor
    ends_NC: Tensor


def decode(
    next_logits: NextLogits,
    num_images: int,
    start_id: int,
    end_id: int,
    config: DecodingConfig,
    *,
    banned_ids: Collection[int] = (),
    device: str = "cpu",
) -> list[Decoded]:
    """The best caption of each image. Without gradients.

    An image is settled once as many of its captions have ended as it has beams. The one of highest penalised
    log-probability per token wins, and one that was cut only where none has ended. `banned_ids` (padding, start) are
    never written.
    """
    import torch

    with torch.no_grad():
        beams = _first_beams(num_images, start_id, config.num_beams, device)
        ended: list[list[tuple[float, Decoded]]] = [[] for _ in range(num_images)]
        for length in range(config.max_tokens):
            forbidden = [*banned_ids, end_id] if length < config.min_tokens else [*banned_ids]
            candidates = _candidates(beams, next_logits, end_id, forbidden, config)
            for image, caption in _ended(beams, candidates, config.num_beams):
                ended[image].append(caption)
            beams = _continue(beams, candidates, config.num_beams)
            waiting = [
                i for i, image in enumerate(beams.images_N.tolist()) if len(ended[image]) < config.num_beams
            ]
            beams = beams.keep(torch.tensor(waiting, dtype=torch.long, device=device))
            if not waiting:
                break
        for image, caption in _cut(beams):
            ended[image] = ended[image] or [caption]
        return [max(captions, key=lambda scored: scored[0])[1] for captions in ended]


def _first_beams(num_images: int, start_id: int, num_beams: int, device: str) -> _Beams:
    import torch

    scores_NK = torch.full((num_images, num_beams), -torch.inf, device=device)
    scores_NK[:, 0] = 0  # the others would only repeat the first
    return _Beams(
        torch.arange(num_images, device=device),
        torch.full((num_images, num_beams, 1), start_id, dtype=torch.long, device=device),
        scores_NK,
        torch.zeros((num_images, num_beams), device=device),
    )


def _candidates(
    beams: _Beams, next_logits: NextLogits, end_id: int, forbidden: list[int], config: DecodingConfig
) -> _Candidates:
    import torch

    num_images, num_beams, _ = beams.tokens_NKL.shape
    logits_BV = next_logits(beams.images_N.repeat_interleave(num_beams), beams.tokens_NKL.flatten(0, 1))
    log_probs_NKV = torch.log_softmax(logits_BV.float(), -1).unflatten(0, (num_images, num_beams))
    steps_NKV = _penalised(log_probs_NKV, beams.tokens_NKL, config.repetition_penalty)
    steps_NKV[..., forbidden] = -torch.inf
    totals_NV = (beams.scores_NK[..., None] + steps_NKV).flatten(1)
    scores_NC, where_NC = totals_NV.topk(min(2 * num_beams, totals_NV.shape[1]))
    beams_NC = where_NC // logits_BV.shape[1]
    tokens_NC = where_NC % logits_BV.shape[1]
    log_probs_NC = beams.log_probs_NK.gather(1, beams_NC) + log_probs_NKV.flatten(1).gather(1, where_NC)
    return _Candidates(beams_NC, tokens_NC, scores_NC, log_probs_NC, tokens_NC == end_id)


def _penalised(log_probs_NKV: Tensor, tokens_NKL: Tensor, penalty: float) -> Tensor:
    return log_probs_NKV.scatter(2, tokens_NKL, log_probs_NKV.gather(2, tokens_NKL) * penalty)


def _ended(beams: _Beams, candidates: _Candidates, num_beams: int) -> list[tuple[int, tuple[float, Decoded]]]:
    """Captions that end here, of those that would have been among the beams; with their image and rank."""
    num_tokens = beams.tokens_NKL.shape[2]  # the start token counts for the end token
    found = []
    reachable_NC = candidates.ends_NC & candidates.scores_NC.isfinite()
    for n, c in reachable_NC[:, :num_beams].nonzero().tolist():
        tokens = beams.tokens_NKL[n, candidates.beams_NC[n, c], 1:].tolist()
        mean_log_prob = candidates.log_probs_NC[n, c].item() / num_tokens
        rank = candidates.scores_NC[n, c].item() / num_tokens
        found.append((int(beams.images_N[n]), (rank, Decoded(tuple(tokens), mean_log_prob, truncated=False))))
    return found


def _continue(beams: _Beams, candidates: _Candidates, num_beams: int) -> _Beams:
    """The best candidates that do not end, as the next beams."""
    import torch

    scores_NK, best_NK = candidates.scores_NC.masked_fill(candidates.ends_NC, -torch.inf).topk(num_beams)
    from_NK = candidates.beams_NC.gather(1, best_NK)
    tokens_NK = candidates.tokens_NC.gather(1, best_NK)
    so_far_NKL = beams.tokens_NKL.gather(1, from_NK[..., None].expand(-1, -1, beams.tokens_NKL.shape[2]))
    return _Beams(
        beams.images_N,
        torch.cat([so_far_NKL, tokens_NK[..., None]], 2),
        scores_NK,
        candidates.log_probs_NC.gather(1, best_NK),
    )


def _cut(beams: _Beams) -> list[tuple[int, tuple[float, Decoded]]]:
    """The best unfinished caption of each image."""
    num_tokens = beams.tokens_NKL.shape[2] - 1
    cut = []
    for n, image in enumerate(beams.images_N.tolist()):
        tokens = tuple(beams.tokens_NKL[n, 0, 1:].tolist())
        rank = beams.scores_NK[n, 0].item() / num_tokens
        cut.append(
            (image, (rank, Decoded(tokens, beams.log_probs_NK[n, 0].item() / num_tokens, truncated=True)))
        )
    return cut

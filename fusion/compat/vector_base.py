"""Settings, parameters and look-ups of :class:`fusion.compat.vector_quantize_pytorch.VectorQuantize`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .codebook import LOW_PRECISION, Codebook
from .vector_layout import Layout, split_heads
from .vector_search import scaled

__all__ = ["QuantizerBase"]

# Arguments that are not supported, and the only value of each that is taken: the default.
_DEFAULTS = {
    "sync_affine_param": False,
    "affine_param": False,
    "affine_param_batch_decay": 0.99,
    "affine_param_codebook_decay": 0.9,
}


class QuantizerBase(nn.Module):
    """The constructor's arguments are those of :class:`VectorQuantize`, which has what runs in a step."""

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        codebook_dim: int | None = None,
        heads: int = 1,
        separate_codebook_per_head: bool = False,
        decay: float = 0.8,
        eps: float = 1e-5,
        freeze_codebook: bool = False,
        kmeans_init: bool = False,
        kmeans_iters: int = 10,
        sync_kmeans: bool = True,
        use_cosine_sim: bool = False,
        layernorm_after_project_in: bool = False,
        threshold_ema_dead_code: float = 0,
        channel_last: bool = True,
        accept_image_fmap: bool = False,
        accept_3d_fmap: bool = False,
        commitment_weight: float = 1.0,
        commitment_use_cross_entropy_loss: bool = False,
        orthogonal_reg_weight: float = 0.0,
        orthogonal_reg_active_codes_only: bool = False,
        orthogonal_reg_max_codes: int | None = None,
        codebook_diversity_loss_weight: float = 0.0,
        codebook_diversity_temperature: float = 100.0,
        stochastic_sample_codes: bool = False,
        sample_codebook_temp: float = 1.0,
        straight_through: bool = False,
        rotation_trick: bool | None = None,
        directional_reparam: bool = False,
        directional_reparam_variance: float = 5e-3,
        sync_codebook: bool | None = None,
        sync_affine_param: bool = False,
        ema_update: bool | None = None,
        vq_bridge: nn.Module | None = None,
        manual_ema_update: bool = False,
        learnable_codebook: bool | None = None,
        in_place_codebook_optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        manual_in_place_optimizer_update: bool = False,
        affine_param: bool = False,
        affine_param_batch_decay: float = 0.99,
        affine_param_codebook_decay: float = 0.9,
        sync_update_v: float = 0.0,
        return_zeros_for_masked_padding: bool = True,
        route_gradients_to_input: bool = True,
    ) -> None:
        super().__init__()
        given = locals()
        for name, default in _DEFAULTS.items():
            if given[name] != default:
                raise NotImplementedError(
                    f"VectorQuantize: {name}={given[name]!r} is not supported here, only {name}={default!r}"
                )
        other = directional_reparam or vq_bridge is not None
        ema_update = not other if ema_update is None else ema_update
        learnable = other if learnable_codebook is None else learnable_codebook
        rotation_trick = (not directional_reparam and dim > 1) if rotation_trick is None else rotation_trick
        _check(
            (straight_through + rotation_trick + directional_reparam > 1)
            and "at most one of straight_through, rotation_trick (on unless it is False) and directional_reparam",
            (learnable and use_cosine_sim) and "a learnable codebook excludes use_cosine_sim=True",
            (learnable and ema_update) and "a learnable codebook excludes ema_update=True; pass ema_update=False",
            (learnable and straight_through) and "a learnable codebook excludes straight_through=True",
            (vq_bridge is not None and not learnable) and "vq_bridge needs learnable_codebook=True",
            (directional_reparam and threshold_ema_dead_code == 0)
            and "directional_reparam needs threshold_ema_dead_code above 0",
            not 0 <= sync_update_v <= 1 and f"sync_update_v must be in 0..1, got {sync_update_v}",
            (sync_update_v > 0 and not learnable) and "sync_update_v needs learnable_codebook=True",
            (accept_image_fmap and accept_3d_fmap) and "accept_image_fmap and accept_3d_fmap exclude each other",
        )
        self.dim, self.codebook_size, self.heads = dim, codebook_size, heads
        self.separate_codebook_per_head = separate_codebook_per_head
        inner = dim if codebook_dim is None else codebook_dim
        width = inner * heads
        self.has_projections = width != dim
        self.project_in: nn.Module = nn.Identity()
        self.project_out: nn.Module = nn.Identity()
        if self.has_projections:
            self.project_in = nn.Linear(dim, width)
            if layernorm_after_project_in:
                self.project_in = nn.Sequential(self.project_in, nn.LayerNorm(width))
            self.project_out = nn.Linear(width, dim)
        self.eps, self.freeze_codebook, self.use_cosine_sim = eps, freeze_codebook, use_cosine_sim
        self.channel_last, self.accept_image_fmap, self.accept_3d_fmap = channel_last, accept_image_fmap, accept_3d_fmap
        self.commitment_weight = commitment_weight
        self.has_commitment_loss = commitment_weight > 0 and not directional_reparam
        self.commitment_use_cross_entropy_loss = commitment_use_cross_entropy_loss
        self.orthogonal_reg_weight = orthogonal_reg_weight
        self.orthogonal_reg_active_codes_only = orthogonal_reg_active_codes_only
        self.orthogonal_reg_max_codes = orthogonal_reg_max_codes
        self.codebook_diversity_loss_weight = codebook_diversity_loss_weight
        self.codebook_diversity_temperature = codebook_diversity_temperature
        self.rotation_trick, self.directional_reparam = rotation_trick, directional_reparam
        self.directional_reparam_variance = directional_reparam_variance
        self._gradient = "rotation" if rotation_trick else "straight-through"
        self._gradient = "directional" if directional_reparam else self._gradient
        self.learnable_codebook, self.sync_update_v = learnable, sync_update_v
        self.return_zeros_for_masked_padding = return_zeros_for_masked_padding
        self.route_gradients_to_input = route_gradients_to_input
        self._samples = stochastic_sample_codes or straight_through
        sample = {
            "stochastic": stochastic_sample_codes,
            "straight_through": straight_through,
            "temperature": sample_codebook_temp,
        }
        self._codebook = Codebook(
            *(inner, codebook_size, heads if self.separate_codebook_per_head else 1),
            kmeans_init=kmeans_init,
            kmeans_iters=kmeans_iters,
            cosine=use_cosine_sim,
            decay=decay,
            eps=eps,
            threshold=threshold_ema_dead_code,
            learnable=learnable or orthogonal_reg_weight > 0,
            ema_update=ema_update,
            manual_ema_update=manual_ema_update,
            sync=sync_codebook,
            sync_kmeans=sync_kmeans,
            sample=sample,
            bridge=vq_bridge,
        )
        self.manual_in_place_optimizer_update = manual_in_place_optimizer_update
        self.in_place_codebook_optimizer: torch.optim.Optimizer | None = None
        if in_place_codebook_optimizer is not None:
            self.in_place_codebook_optimizer = in_place_codebook_optimizer(self._codebook.parameters())

    @property
    def ema_update(self) -> bool:
        """Whether the codes are moving averages of the vectors that choose them."""
        return self._codebook.ema_update

    @property
    def codebook(self) -> Tensor:
        """The codes, (K, D), or (heads, K, D) with ``separate_codebook_per_head``. Assigning copies into them."""
        return self._codebook.embed if self.separate_codebook_per_head else self._codebook.embed[0]

    @codebook.setter
    def codebook(self, codes: Tensor) -> None:
        if codes.shape != self.codebook.shape:
            raise ValueError(f"VectorQuantize: the codebook is {tuple(self.codebook.shape)}, not {tuple(codes.shape)}")
        with torch.no_grad():
            self.codebook.copy_(codes)

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        """Codes (B, ...) of :meth:`forward` -> vectors of the codebook, before ``project_out``; zero where -1.

        Returns:
            (B, ..., D), of several heads (B, ..., heads D) or, where they share a codebook, (B, ..., heads, D) as
            there; the last dimension comes second where the features of x do.

        Raises:
            IndexError: codes outside -1..K-1.
        """
        found = self._look_up(indices)
        return self._places_last(found.flatten(-2) if self.heads > 1 and self.separate_codebook_per_head else found)

    def get_output_from_indices(self, indices: Tensor) -> Tensor:
        """Codes as :meth:`forward` gives them -> what it gives for them, (B, ..., dim) or (B, dim, ...)."""
        found, missing = self._look_up(indices), (indices == -1)[..., None]
        if self.heads > 1:
            found, missing = found.flatten(-2), missing.all(-2)
        return self._places_last(self.project_out(found).masked_fill(missing, 0))

    def _look_up(self, indices: Tensor) -> Tensor:
        """(B, ...) -> (B, ..., D), or (B, ..., heads) -> (B, ..., heads, D)."""
        books, missing = self._codebook.embed, indices == -1
        kept = indices.masked_fill(missing, 0)
        if len(books) == 1:
            found = F.embedding(kept, books[0])
        else:
            found = torch.stack([F.embedding(kept[..., i], book) for i, book in enumerate(books)], -2)
        return found.masked_fill(missing[..., None], 0)

    def _places_last(self, x: Tensor) -> Tensor:
        first = not self.channel_last or self.accept_image_fmap or self.accept_3d_fmap
        return x.movedim(-1, 1) if first else x

    def _layout(self, x: Tensor) -> Layout:
        flags = {"image": self.accept_image_fmap, "volume": self.accept_3d_fmap}
        return Layout.of(x, self.dim, channel_last=self.channel_last, **flags)

    def _project(self, vectors: Tensor) -> Tensor:
        """(B, N, dim) -> (h, B', N, D), what is compared with codes; float32 where it was in half precision."""
        x: Tensor = self.project_in(vectors)
        x = x.float() if x.dtype in LOW_PRECISION else x
        x = split_heads(x, self.heads, self.separate_codebook_per_head)
        return scaled(x) if self.use_cosine_sim else x

    def _mask_of_heads(self, mask: Tensor, vectors: Tensor) -> Tensor:
        """(B, N) -> (h, B', N)."""
        shared = vectors.shape[1] // max(1, len(mask))  # heads that share a codebook
        return mask.repeat_interleave(shared, 0).expand(vectors.shape[:-1])


def _check(*faults: str | bool) -> None:
    for fault in faults:
        if fault:
            raise ValueError(f"VectorQuantize: {fault}")

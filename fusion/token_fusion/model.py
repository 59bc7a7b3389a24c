"""The token-fusion model: one transformer over the tokens of all modalities, visible or asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data.tiles import TileBatch
from ..data.year import part_of_year
from ..kernels import RelativeAttention
from ..layers import Encoding, TransformerBlock
from ..layers.constants import Constants
from .config import TokenFusionConfig
from .embedding import CodeTables, PlaceEmbedding, relation_buckets
from .tile_tokenizer import TileTokenizer
from .tokens import Tokens

__all__ = ["Encoded", "Encoding", "TokenFusion"]


@dataclass
class Encoded:
    """What the model knows of every modality of B tiles, in the light of the others.

    Attributes:
        names: the M modalities, in the order of the model.
        tokens: (M, B, 1, D) mean of a modality's visible tokens, 0 where it is missing.
        valid: (M, B) bool.
    """

    names: tuple[str, ...]
    tokens: Tensor
    valid: Tensor


class TokenFusion(Constants):
    """Task-agnostic fusion of images and series by masked prediction of discrete tokens.

    Every token of the layout has a slot in the sequence. A visible one is the embedding of its code; a hidden one is
    a learned mask vector; to both is added what its place is. Attention looks at visible tokens only, so hidden
    slots are questions that influence nothing: the same blocks encode what is seen and answer what is asked.

    Source: the objective and the use of discrete tokens are of Basile et al., "Quantizing Space and Time"
    (arXiv 2510.23118), whose architecture is not public; this one is our choice (docs/token_fusion.md).
    """

    relation_place: Tensor  # (N,)

    def __init__(self, config: TokenFusionConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = TileTokenizer(config)
        layout = self.tokenizer.layout
        ordinal = {name: part.ordinal for name, part in self.tokenizer.by_name().items()}
        bucket, place = relation_buckets(layout)
        self.codes = CodeTables(layout, ordinal, config.dim)
        self.place = PlaceEmbedding(layout, config.dim)
        self.mask = nn.Parameter(torch.randn(config.dim))
        self.blocks = nn.ModuleList(
            TransformerBlock(
                RelativeAttention(config.dim, config.heads, bucket, dropout=config.dropout),
                config.dim,
                config.mlp_dim,
                config.dropout,
                rate,
            )
            for rate in torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist()
        )
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.register_index("relation_place", lambda: place)

    def requires_grad_(self, requires_grad: bool = True) -> TokenFusion:
        """The tokenizer stays fixed."""
        super().requires_grad_(requires_grad)
        self.tokenizer.requires_grad_(False)
        return self

    # Tokens in, scores out.

    def tokenize(self, batch: TileBatch) -> Tokens:
        """The tokens of B tiles. Any subset of the modalities may be given, and any tile may miss any of them."""
        return self.tokenizer.encode(batch)

    def embed(self, tokens: Tokens, visible: Tensor) -> Tensor:
        """Embeddings (B, N, D) before the blocks; ``visible`` (B, N) bool, observed tokens only.

        Raises:
            ValueError: a token is to be visible that was not observed.
        """
        if not torch.compiler.is_exporting() and bool((visible & ~tokens.observed).any()):
            raise ValueError("TokenFusion: visible tokens must be observed ones (codes >= 0)")
        known = self.codes(tokens.codes)
        return torch.where(visible[..., None], known, self.mask) + self.place()

    def run(self, embedded: Tensor, visible: Tensor, slots: Tensor | None = None) -> Tensor:
        """The blocks: embeddings (B, N, D) and which are visible (B, N) -> (B, N, D).

        Args:
            slots: (S,) only these tokens of the layout are in the sequence, and the result is (B, S, D); all that
                are visible must be among them. What is left out changes nothing for the rest.
        """
        place = self.relation_place
        if slots is not None:
            embedded, visible, place = embedded[:, slots], visible[:, slots], place[slots]
        x = embedded
        for block in self.blocks:
            x = block(x, key_position=place, valid=visible)
        return self.norm(x)

    def hidden(self, tokens: Tokens, visible: Tensor, slots: Tensor | None = None) -> Tensor:
        """States (B, N, D), or (B, S, D) of ``slots``."""
        return self.run(self.embed(tokens, visible), visible, slots)

    def logits(self, hidden: Tensor, name: str) -> Tensor:
        """States (B, N_m, D) of a modality's tokens -> scores (B, N_m, K), -inf for codes a channel does not have."""
        part, table = self.tokenizer.part(name), self.codes[name]
        channel = part.places.channel.to(hidden.device)
        rows = self.to_scores(hidden)
        by_channel = [rows[:, channel == c] @ weight.T for c, weight in enumerate(table)]
        size = part.sizes.to(hidden.device)[channel]  # (N_m,)
        unknown = torch.arange(table.shape[1], device=hidden.device) >= size[:, None]
        return torch.cat(by_channel, 1).masked_fill(unknown, -math.inf)

    def predict(self, tokens: Tokens, visible: Tensor, name: str) -> Tensor:
        """Scores (B, N_m, K) of all tokens of a modality, given the visible ones."""
        part = tokens.layout.part(name)
        needed = visible.any(0)
        needed[part] = True
        slots = needed.nonzero()[:, 0]
        first = int(needed[: part.start].sum())
        hidden = self.hidden(tokens, visible, slots)[:, first : first + part.stop - part.start]
        return self.logits(hidden, name)

    def to_scores(self, hidden: Tensor) -> Tensor:
        """States scaled so that their products with the code tables are scores.

        Of the order of three at the start: with one, a narrow distribution over hundreds of bins is hard to reach.
        """
        return hidden * (3 / math.sqrt(self.config.dim))

    # Representations.

    def forward(self, batch: TileBatch) -> Encoding:
        """Encodes B tiles from all that was observed of them."""
        return self.summarise(*self._states(self.tokenize(batch)))

    def summarise(self, states: Tensor, visible: Tensor) -> Encoding:
        """States (B, N, D) and which tokens were visible (B, N) -> the encoding of B tiles.

        A patch is the mean over modalities of their tokens of that patch, or of the whole tile where a modality has
        none of it; the summary is the mean over modalities of the means of their tokens.
        """
        weight = visible.to(states.dtype)
        means, valid = self._means(states, weight)  # (M, B, D), (M, B)
        patches = means[:, :, None].expand(-1, -1, self.config.patches, -1).clone()
        position = self.tokenizer.layout.position.to(states.device)
        onto = nn.functional.one_hot(position, self.config.patches + 1)[:, 1:].to(states.dtype)  # (N, P)
        for m, part in enumerate(self.tokenizer.layout.slices.values()):
            count = weight[:, part] @ onto[part]  # (B, P)
            own = torch.einsum("bnd,bn,np->bpd", states[:, part], weight[:, part], onto[part])
            patches[m] = torch.where(count[..., None] > 0, own / count.clamp_min(1)[..., None], patches[m])
        share = (valid / valid.sum(0).clamp_min(1)).to(states.dtype)  # (M, B)
        return Encoding(torch.einsum("mbd,mb->bd", means, share), torch.einsum("mbpd,mb->bpd", patches, share))

    def pooled(self, states: Tensor, visible: Tensor, slots: Tensor) -> Tensor:
        """Summaries (..., D) of states (..., S, D) of the tokens ``slots`` (S,), some of them visible (..., S)."""
        modality = self.tokenizer.layout.modality.to(states.device)[slots]
        onto = nn.functional.one_hot(modality, len(self.config.modalities)).to(states.dtype)  # (S, M)
        weight = visible.to(states.dtype)
        count = weight @ onto  # (..., M)
        means = torch.einsum("...sd,...s,sm->...md", states, weight, onto) / count.clamp_min(1)[..., None]
        return means.sum(-2) / (count > 0).sum(-1, keepdim=True).clamp_min(1)

    def encode(self, batch: TileBatch) -> Encoded:
        """Every modality of B tiles as one vector."""
        states, seen = self._states(self.tokenize(batch))
        means, valid = self._means(states, seen.to(states.dtype))
        return Encoded(self.tokenizer.layout.names, means[:, :, None], valid)

    def encode_seasons(self, batch: TileBatch, parts: int) -> tuple[tuple[str, ...], Tensor, Tensor]:
        """What the tokens of each of ``parts`` parts of the year say in the light of all of them.

        Returns:
            names of the M modalities, mean states (M, S, B, 1, D) of the visible tokens in a part, or of the whole year
            where there is none, and of tokens without a date the same in every part; and which tiles have which
            modality (M, B) bool.
        """
        states, seen = self._states(self.tokenize(batch))
        time = self.tokenizer.layout.time.to(states.device)  # (N,) NaN without a date
        season = part_of_year(time, parts)
        year, valid = self._means(states, seen.to(states.dtype))  # (M, B, D), (M, B)
        tokens = []
        for part in range(parts):
            means, there = self._means(states, (seen & ((season == part) | time.isnan())).to(states.dtype))
            tokens.append(torch.where(there[..., None], means, year))
        return self.tokenizer.layout.names, torch.stack(tokens, 1)[:, :, :, None], valid

    def every_token(self, batch: TileBatch) -> tuple[Tensor, Tensor]:
        """States (B, N, D) of all tokens of the layout, and which were observed (B, N) bool."""
        return self._states(self.tokenize(batch))

    def _states(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """States (B, N, D) of everything observed, and what that is (B, N)."""
        seen = tokens.observed
        return self.hidden(tokens, seen), seen

    def _means(self, states: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Mean state (M, B, D) of each modality's tokens with weight (B, N), and which modalities have any (M, B)."""
        means, valid = [], []
        for part in self.tokenizer.layout.slices.values():
            count = weight[:, part].sum(1)  # (B,)
            total = torch.einsum("bnd,bn->bd", states[:, part], weight[:, part])
            means.append(total / count.clamp_min(1)[:, None])
            valid.append(count > 0)
        return torch.stack(means), torch.stack(valid)

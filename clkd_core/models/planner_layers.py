"""How the planner's queries read the scene."""

import torch.nn.functional as F  # noqa: N812  # the name everybody knows
from torch import Tensor, nn


class QueryLayer(nn.Module):
    """Queries read the scene's tokens once; they do not read each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_norm, self.token_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.feed = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )

    def forward(self, queries: Tensor, tokens: Tensor, readable: Tensor) -> Tensor:
        """Queries (B, V, E), tokens (B, S, E), readable (B, S) bool; returns (B, V, E)."""
        query = self._split(self.query(self.query_norm(queries)))
        key, value = self.key_value(self.token_norm(tokens)).chunk(2, dim=-1)
        read = F.scaled_dot_product_attention(
            query, self._split(key), self._split(value), attn_mask=readable[:, None, None]
        )
        queries = queries + self.out(read.transpose(1, 2).flatten(2))
        fed: Tensor = queries + self.feed(queries)
        return fed

    def _split(self, rows: Tensor) -> Tensor:
        """(B, N, E) to (B, heads, N, E / heads)."""
        return rows.reshape(*rows.shape[:2], self.heads, -1).transpose(1, 2)

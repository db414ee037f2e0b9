"""Six views pooled into one: the gated attention of EM-VLM4AD."""

import torch
from torch import Tensor, nn


class GatedPooling(nn.Module):
    """A weighted sum of views, each view's weight from all of its patches.

    ``a_i = softmax_i(w^T (tanh(Z v_i) * sigmoid(G v_i)))`` with ``v_i`` the flattened patch
    features of view i (Gopalkrishnan et al. 2024, after Ilse et al. 2018, Eq. 9). Their released
    ``w`` has a bias, which cancels in the softmax; ours has none.
    """

    def __init__(self, view_size: int, width: int) -> None:
        """Build it with fresh weights.

        Args:
            view_size: P * D, numbers that describe a view.
            width: rows of Z and G; theirs have 128.
        """
        super().__init__()
        self.value = nn.Linear(view_size, width, bias=False)  # Z
        self.gate = nn.Linear(view_size, width, bias=False)  # G
        self.score = nn.Linear(width, 1, bias=False)  # w

    def weights(self, features: Tensor, present: Tensor) -> Tensor:
        """How much of each view there is in the sum.

        Args:
            features: (B, C, P, D), any float dtype; the softmax is computed in float32.
            present: (B, C) bool.

        Returns:
            (B, C) float32, zero where a view is missing; sums to 1 over C, or to 0 where all are.
        """
        views = features.flatten(2)  # (B, C, P * D)
        scores = self.score(torch.tanh(self.value(views)) * torch.sigmoid(self.gate(views)))
        scores = scores.squeeze(-1).float()
        # Not -inf, whose softmax is NaN where every view is missing.
        scores = scores.masked_fill(~present, torch.finfo(scores.dtype).min)
        return torch.softmax(scores, dim=-1) * present

    def forward(self, features: Tensor, present: Tensor) -> Tensor:
        """(B, C, P, D) and (B, C) bool to (B, P, D); zero where every view is missing."""
        weights = self.weights(features, present).to(features.dtype)
        return (features * weights[:, :, None, None]).sum(dim=1)

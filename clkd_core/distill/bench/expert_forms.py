"""Ways to compute a feed-forward layer of experts: all of them, or only those that tokens use.

Every form of a kind computes the same from the same weights. The layers are those of the models,
from transformers and :mod:`clkd_core.models.moe`; the forms that were not taken stand here, as
fast as we could write them.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, T5Config
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.t5.modeling_t5 import T5DenseActDense

from clkd_core.models.moe import FullMoeFfn, LoraMoeFfn, MoeConfig, RoutedLoraLinear

MOE = MoeConfig()
"""What students have unless their config says otherwise: 4 experts, 2 used, rank 8."""

DENSE = "dense"
LORA_ALL = "lora, all experts"
LORA_TOKENS = "lora, tokens gathered by expert"
LORA_WEIGHTS = "lora, A and B gathered by token"
FULL_ALL = "full, all experts"
FULL_STACKED = "full, all in batched products"
FULL_WIDE = "full, all as one wide layer"
FULL_TOKENS = "full, tokens gathered by expert"

BASES: Mapping[str, str] = MappingProxyType(
    {
        LORA_TOKENS: LORA_ALL,
        LORA_WEIGHTS: LORA_ALL,
        FULL_STACKED: FULL_ALL,
        FULL_WIDE: FULL_ALL,
        FULL_TOKENS: FULL_ALL,
        LORA_ALL: DENSE,
        FULL_ALL: DENSE,
    }
)
"""What a form's time is divided by: its kind with all experts computed, and that by dense."""

COPIES = 16
"""Dense layers whose weights together are what all forms hold; in training twice as much."""

Linear = Callable[[nn.Module, Tensor], Tensor]
Parts = Sequence[Tensor | None]


@dataclass(frozen=True, kw_only=True)
class FfnSize:
    """Of a preset's feed-forward layers."""

    preset: str
    hidden: int
    inner: int
    family: Literal["llama", "t5"] = "llama"
    """``llama``: SiLU with a gate, three matrices; ``t5``: ReLU, two."""

    @property
    def parameters(self) -> int:
        """Of one dense layer."""
        return (3 if self.family == "llama" else 2) * self.hidden * self.inner


SIZES = (
    FfnSize(preset="nano", hidden=128, inner=352),
    FfnSize(preset="t5-small", hidden=512, inner=2048, family="t5"),
    FfnSize(preset="senna-smollm2", hidden=576, inner=1536),
    FfnSize(preset="senna-3.5b", hidden=4096, inner=11008),
)


class ExpertForms:
    """One size's layers with weights that differ between experts, and every form of them."""

    def __init__(
        self, size: FfnSize, dtype: torch.dtype, device: torch.device, *, keeps_stacked: bool
    ) -> None:
        """Build the layers.

        Args:
            size: of them.
            dtype: of weights and tokens.
            device: of both.
            keeps_stacked: hold the experts' weights once more in the order in which the stacked
                forms want them, as inference could; training has to put them together each time.
        """
        width, experts, top_k = size.hidden, MOE.ffn_experts, MOE.ffn_top_k
        self.dense = _build_dense(size, device)
        self.full = FullMoeFfn(self.dense, width=width, experts=experts, top_k=top_k)
        copied = copy.deepcopy(self.dense)
        self.lora = LoraMoeFfn(
            copied, width=width, experts=experts, top_k=top_k, rank=MOE.lora_rank
        )
        with torch.no_grad():
            for layer in _lora_layers(self.lora):
                nn.init.normal_(layer.up.weight, std=0.02)
            for expert in self.full.experts:
                for parameter in expert.parameters():
                    parameter.add_(0.02 * torch.randn_like(parameter))
        for module in (self.dense, self.full, self.lora):
            module.to(device=device, dtype=dtype)
        self._stacked: Parts | None = None
        self._wide: Parts | None = None
        if keeps_stacked:
            with torch.no_grad():
                self._stacked, self._wide = self._stack(), self._widen()

    def forms(self) -> dict[str, tuple[Callable[[Tensor], Tensor], nn.Module]]:
        """By name: from (1, T, E) to (1, T, E), and the module whose weights it uses."""
        return {
            DENSE: (self.dense, self.dense),
            LORA_ALL: (self.lora, self.lora),
            LORA_TOKENS: (self._lora_by_tokens, self.lora),
            LORA_WEIGHTS: (self._lora_by_weights, self.lora),
            FULL_ALL: (self._full_all, self.full),
            FULL_STACKED: (self._full_stacked, self.full),
            FULL_WIDE: (self._full_wide, self.full),
            FULL_TOKENS: (self._full_by_tokens, self.full),
        }

    def _full_all(self, x: Tensor) -> Tensor:
        self.full.gathers = False
        return torch.as_tensor(self.full(x))

    def _full_by_tokens(self, x: Tensor) -> Tensor:
        self.full.gathers = True
        return torch.as_tensor(self.full(x))

    def _lora_by_tokens(self, x: Tensor) -> Tensor:
        """A_i and B_i only for the tokens that use expert i; tokens in order of their experts."""
        weights = self.lora.route(x)[0]
        uses = weights.T > 0
        expert, token = uses.nonzero(as_tuple=True)
        counts, share = uses.sum(dim=1).tolist(), weights[token, expert, None].to(x.dtype)

        def linear(layer: nn.Module, tokens: Tensor) -> Tensor:
            assert isinstance(layer, RoutedLoraLinear)
            parts = zip(
                torch.split(tokens.index_select(0, token), counts),
                torch.split(share, counts),
                torch.split(layer.down.weight, layer.rank),
                torch.split(layer.up.weight, layer.rank, dim=1),
                strict=True,
            )
            deltas = [functional.linear(functional.linear(t, a) * s, b) for t, s, a, b in parts]
            return torch.as_tensor(layer.dense(tokens)).index_add(0, token, torch.cat(deltas))

        return _compute(self.lora.ffn, x[0], linear)[None]

    def _lora_by_weights(self, x: Tensor) -> Tensor:
        """For every token the A_i and B_i of its own experts, then one small product each."""
        values, chosen = self.lora.route(x)[0].topk(MOE.ffn_top_k)
        share = values.to(x.dtype).repeat_interleave(MOE.lora_rank, dim=-1)

        def linear(layer: nn.Module, tokens: Tensor) -> Tensor:
            assert isinstance(layer, RoutedLoraLinear)
            experts = (MOE.ffn_experts, layer.rank, -1)
            down = layer.down.weight.view(experts)[chosen].flatten(1, 2)  # (T, k * rank, in)
            up = layer.up.weight.T.view(experts)[chosen].flatten(1, 2)  # (T, k * rank, out)
            low = torch.bmm(down, tokens[..., None])[..., 0] * share
            return torch.as_tensor(layer.dense(tokens)) + torch.bmm(low[:, None], up)[:, 0]

        return _compute(self.lora.ffn, x[0], linear)[None]

    def _full_stacked(self, x: Tensor) -> Tensor:
        """(N, T, E) times (N, E, F) in one call, and back."""
        weights = self.full.route(x)[0]
        gate, up, down = self._stack() if self._stacked is None else self._stacked
        assert up is not None and down is not None
        outputs = _act(x @ up, None if gate is None else x @ gate) @ down  # (N, T, E)
        return (outputs * weights.T[..., None].to(outputs.dtype)).sum(dim=0, keepdim=True)

    def _full_wide(self, x: Tensor) -> Tensor:
        """One layer of N times the inner width; the weights of the mixture scale its inside."""
        weights = self.full.route(x)
        gate, up, down = self._widen() if self._wide is None else self._wide
        assert up is not None and down is not None
        gated = None if gate is None else functional.linear(x, gate)
        inner = _act(functional.linear(x, up), gated).view(*weights.shape, -1)
        scaled = inner * weights[..., None].to(inner.dtype)
        return functional.linear(scaled.flatten(-2), down)

    def _stack(self) -> Parts:
        return tuple(
            torch.stack([weight.T for weight in weights]) if weights else None
            for weights in _matrices(self.full.experts)
        )

    def _widen(self) -> Parts:
        gates, ups, downs = _matrices(self.full.experts)
        return torch.cat(gates) if gates else None, torch.cat(ups), torch.cat(downs, dim=1)


def _build_dense(size: FfnSize, device: torch.device) -> nn.Module:
    with device:
        if size.family == "t5":
            config: Any = T5Config
            layer: nn.Module = T5DenseActDense(
                config(d_model=size.hidden, d_ff=size.inner, dropout_rate=0.0)
            )
            return layer
        sizes = LlamaConfig(  # heads are of attention, but must divide the width all the same
            hidden_size=size.hidden, intermediate_size=size.inner, num_attention_heads=1
        )
        mlp: Any = LlamaMLP
        llama: nn.Module = mlp(sizes)
        return llama


def _compute(ffn: nn.Module, tokens: Tensor, linear: Linear) -> Tensor:
    """A dense layer's arithmetic with another way to apply its linear layers."""
    gate, up, down = _names(ffn)
    gated = None if gate is None else linear(ffn.get_submodule(gate), tokens)
    return linear(ffn.get_submodule(down), _act(linear(ffn.get_submodule(up), tokens), gated))


def _act(inner: Tensor, gated: Tensor | None) -> Tensor:
    return functional.relu(inner) if gated is None else functional.silu(gated) * inner


def _names(ffn: nn.Module) -> tuple[str | None, str, str]:
    """Of gate, up and down."""
    return (None, "wi", "wo") if hasattr(ffn, "wi") else ("gate_proj", "up_proj", "down_proj")


def _matrices(experts: nn.ModuleList) -> list[list[Tensor]]:
    """The experts' gates, ups and downs; no gates where there are none."""
    names = _names(experts[0])
    return [
        [] if name is None else [expert.get_parameter(f"{name}.weight") for expert in experts]
        for name in names
    ]


def _lora_layers(lora: LoraMoeFfn) -> list[RoutedLoraLinear]:
    return [layer for layer in lora.ffn.children() if isinstance(layer, RoutedLoraLinear)]

"""Mixtures of experts: the dense MoE-adapter (Eq. 1-2) and the routed MoE-FFN.

Both start as the dense module they replace: adapter experts are copies whose weights sum to 1,
``lora`` experts are low-rank deltas that start at zero, ``full`` experts are copies whose top-k
weights are renormalised to 1. What the routing leaves out is computed or not on purpose, as
``clkd bench experts`` measures it:

- ``lora``: all experts, always, as two thin products beside the shared layer. Gathering tokens
  by expert, or A_i and B_i by token, was faster nowhere on a CPU: it took longer, or, for one
  token of a layer so large that its deltas weigh nothing, as long.
- ``full``: many tokens, or a single one, go only to their own experts (:func:`pays_to_gather`),
  which saves up to the share of the experts that a token passes by. Few tokens go to all: where
  layers are small, finding out who goes where takes longer than the arithmetic that it saves.
  All experts' weights in one product beat gathering at nano's size only, and must be held twice
  to do so.
- Captured graphs and GPUs compute all: shapes stay static there, and nothing waits for the host
  to learn how many tokens an expert has. On a GPU this was not measured.
- :class:`MoeAdapter` computes all: Eq. 1-2 uses all.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

ExpertKind = Literal["lora", "full"]


@dataclass(frozen=True, kw_only=True)
class MoeConfig:
    """Where the experts are, how many, and of which kind.

    Raises:
        ValueError: a number is out of its range.
    """

    adapter_experts: int = 4
    """N of Eq. 1-2 around the visual adapter; 1 keeps it dense."""
    adapter_top_k: int | None = None
    """Experts per visual token; null mixes all N as in Eq. 2."""
    ffn_experts: int = 4
    """Experts per feed-forward layer of the language model; 1 keeps it dense."""
    ffn_top_k: int = 2
    """Experts used per token, their weights renormalised to 1."""
    ffn_kind: ExpertKind = "lora"
    """``lora``: low-rank deltas on the shared layer; ``full``: copies of the layer."""
    lora_rank: int = 8
    """Rank of each delta."""
    balance_weight: float = 0.01
    """Weight of the load-balancing loss."""
    router_z_weight: float = 1e-3
    """Weight of the router z-loss."""

    def __post_init__(self) -> None:
        if self.adapter_experts < 1 or self.ffn_experts < 1 or self.lora_rank < 1:
            raise ValueError("adapter_experts, ffn_experts and lora_rank must be at least 1")
        if not 1 <= self.ffn_top_k <= max(self.ffn_experts, 1):
            raise ValueError(f"ffn_top_k is {self.ffn_top_k}, expected 1..{self.ffn_experts}")
        if self.adapter_top_k is not None and not 1 <= self.adapter_top_k <= self.adapter_experts:
            raise ValueError(
                f"adapter_top_k is {self.adapter_top_k}, expected 1..{self.adapter_experts}"
            )


class Routing(NamedTuple):
    """What a router decided in the latest forward pass; N experts, k of them used."""

    logits: Tensor
    """(..., N) float32."""
    weights: Tensor
    """(..., N) float32, zero where an expert is not used; sums to 1 over N."""


class Routed(nn.Module):
    """A module with a router whose latest decisions can be looked at."""

    router: nn.Linear
    top_k: int | None
    """Experts used per token; None: all of them."""

    def __init__(self, *, width: int, experts: int, top_k: int | None) -> None:
        super().__init__()
        self.router = _build_router(width, experts)
        self.top_k = top_k
        self.routing: Routing | None = None
        self.valid: Tensor | None = None
        """Bool, of the tokens' shape: False for padding and missing views. Whoever calls the
        module sets it; it changes what is counted, not what is computed."""

    def route(self, x: Tensor) -> Tensor:
        """(..., N) float32 weights for tokens (..., E), kept for whoever looks."""
        logits = self.router(x).float()
        self.routing = Routing(logits, mixture_weights(logits, self.top_k))
        return self.routing.weights

    def counted(self) -> tuple[Routing, Tensor]:
        """The latest routing, and the mask of tokens that count.

        Raises:
            ValueError: there was no forward pass yet, or ``valid`` is of another one.
        """
        if self.routing is None:
            raise ValueError("the router has decided nothing yet, expected a forward pass first")
        tokens = self.routing.weights.shape[:-1]
        if self.valid is None:
            return self.routing, torch.ones(
                tokens, dtype=torch.bool, device=self.router.weight.device
            )
        if self.valid.shape != tokens:
            raise ValueError(f"valid is {tuple(self.valid.shape)}, expected {tuple(tokens)}")
        return self.routing, self.valid


def mixture_weights(logits: Tensor, top_k: int | None) -> Tensor:
    """Softmax over experts; all but the ``top_k`` largest set to zero and the rest renormalised.

    Args:
        logits: (..., N), any float dtype; computed in float32.
        top_k: None keeps all.

    Returns:
        (..., N) float32 that sums to 1 over N.
    """
    weights = torch.softmax(logits.float(), dim=-1)
    if top_k is None or top_k == logits.shape[-1]:
        return weights
    values, chosen = weights.topk(top_k, dim=-1)
    kept = torch.zeros_like(weights).scatter(-1, chosen, values)
    return kept / kept.sum(dim=-1, keepdim=True)


def load_balance_loss(routing: Routing, valid: Tensor) -> Tensor:
    """N times the sum over experts of (share of choices) x (mean probability); 1 when even.

    Fedus et al. 2021 (Switch Transformers), Eq. 4, with top-k choices counted 1/k each.

    Args:
        routing: over tokens (B, L).
        valid: (B, L) bool, False for padding.

    Returns:
        () float32; 0.0 when no token is valid.
    """
    chosen = (routing.weights > 0).float()
    share = _mean_over_valid(chosen / chosen.sum(dim=-1, keepdim=True), valid)
    probability = _mean_over_valid(torch.softmax(routing.logits, dim=-1), valid)
    return share.shape[0] * (share * probability).sum()


def router_z_loss(routing: Routing, valid: Tensor) -> Tensor:
    """Mean squared log-sum-exp of the router's logits (Zoph et al. 2022, ST-MoE, Eq. 5).

    Args:
        routing: over tokens (B, L).
        valid: (B, L) bool, False for padding.

    Returns:
        () float32; 0.0 when no token is valid.
    """
    squares = torch.logsumexp(routing.logits, dim=-1, keepdim=True).square()
    return _mean_over_valid(squares, valid).squeeze(0)


def expert_usage(routing: Routing, valid: Tensor) -> Tensor:
    """(N,) mean weight of each expert over the valid tokens; sums to 1."""
    return _mean_over_valid(routing.weights, valid)


def _mean_over_valid(values: Tensor, valid: Tensor) -> Tensor:
    """(B, L, N) to (N,); a masked mean rather than a gather, so that shapes stay static."""
    kept = valid[..., None].float()
    return (values * kept).flatten(0, -2).sum(dim=0) / kept.sum().clamp(min=1.0)


class MoeAdapter(Routed):
    """Eq. 1-2: ``sum_i W_i Expert_i(x_v)`` with ``W = softmax(FC(x_v))`` per visual token."""

    def __init__(
        self, dense: nn.Module, *, width: int, experts: int, top_k: int | None = None
    ) -> None:
        super().__init__(width=width, experts=experts, top_k=top_k)
        self.experts = nn.ModuleList(copy.deepcopy(dense) for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) visual tokens to (..., E)."""
        return _mix(self.experts, x, self.route(x))


class RoutedLoraLinear(nn.Module):
    """A shared linear layer plus the routed sum of low-rank deltas: ``Wx + sum_i w_i B_i A_i x``.

    The form of LoRAMoE (Dou et al. 2024, Eq. 4). All A_i are one matrix and all B_i another, so
    the deltas cost two thin products however many experts there are.
    """

    def __init__(self, dense: nn.Linear, *, experts: int, rank: int) -> None:
        super().__init__()
        self.dense = dense
        self.rank = rank
        self.down = nn.Linear(dense.in_features, experts * rank, bias=False)
        self.up = nn.Linear(experts * rank, dense.out_features, bias=False)
        nn.init.normal_(self.down.weight, std=1.0 / math.sqrt(dense.in_features))
        nn.init.zeros_(self.up.weight)
        self.weights: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """The shared layer's, whose dtype T5 asks for."""
        return self.dense.weight

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out); :class:`LoraMoeFfn` has put the routing weights in place."""
        assert self.weights is not None  # set by the router before the layer runs
        low = self.down(x)
        scale = self.weights.to(low.dtype).repeat_interleave(self.rank, dim=-1)
        return torch.as_tensor(self.dense(x) + self.up(low * scale))


class LoraMoeFfn(Routed):
    """Any FFN with every linear layer of it given routed low-rank experts; one router for all."""

    def __init__(self, dense: nn.Module, *, width: int, experts: int, top_k: int, rank: int):
        super().__init__(width=width, experts=experts, top_k=top_k)
        self.ffn = dense
        for name, child in list(dense.named_children()):
            if isinstance(child, nn.Linear):
                setattr(dense, name, RoutedLoraLinear(child, experts=experts, rank=rank))

    def forward(self, x: Tensor) -> Tensor:
        """(..., E) to (..., E)."""
        weights = self.route(x)
        for layer in self.ffn.children():
            if isinstance(layer, RoutedLoraLinear):
                layer.weights = weights
        return torch.as_tensor(self.ffn(x))


GATHER_FROM = 100_000_000
"""Tokens times parameters of one expert, from which gathering beat computing all experts in every
case of ``clkd bench experts`` on a CPU, float32 and bfloat16, forward and backward."""


class FullMoeFfn(Routed):
    """Copies of an FFN, mixed per token by their renormalised top-k weights."""

    gathers: bool | None = None
    """Whether tokens go only to their own experts; None: where that pays. Both ways compute the
    same, but only computing all experts has shapes that do not depend on the tokens."""

    def __init__(self, dense: nn.Module, *, width: int, experts: int, top_k: int) -> None:
        super().__init__(width=width, experts=experts, top_k=top_k)
        self.experts = nn.ModuleList(copy.deepcopy(dense) for _ in range(experts))
        self._expert_size = sum(parameter.numel() for parameter in dense.parameters())

    def forward(self, x: Tensor) -> Tensor:
        """(..., E) to (..., E)."""
        gathers = self._gathers(x) if self.gathers is None else self.gathers
        return (_mix_gathered if gathers else _mix)(self.experts, x, self.route(x))

    def _gathers(self, x: Tensor) -> bool:
        if x.device.type != "cpu" or _is_captured():
            return False
        tokens = x.shape[:-1].numel()
        experts, top_k = len(self.experts), self.top_k or len(self.experts)
        return pays_to_gather(tokens, self._expert_size, experts=experts, top_k=top_k)


def pays_to_gather(tokens: int, expert_size: int, *, experts: int, top_k: int) -> bool:
    """Whether sending tokens to their own experts only is faster than sending them to all.

    Args:
        tokens: in one call.
        expert_size: parameters of one expert.
        experts: how many there are.
        top_k: how many a token uses.
    """
    if top_k >= experts:
        return False
    # One token of generated text: some experts are not called at all.
    return tokens * top_k < experts or tokens * expert_size >= GATHER_FROM


def _mix_gathered(experts: nn.ModuleList, x: Tensor, weights: Tensor) -> Tensor:
    """The same as :func:`_mix`; an expert computes only tokens whose weight for it is not 0."""
    flat, weights = x.flatten(0, -2), weights.flatten(0, -2)
    uses = weights.T != 0  # (N, tokens); not > 0, which would swallow NaN
    expert, token = uses.nonzero(as_tuple=True)  # by expert
    parts = torch.split(flat.index_select(0, token), uses.sum(dim=1).tolist())
    # In training also those without a token: a gradient of zero is not the same as none.
    all_called = torch.is_grad_enabled() or not len(token)
    outputs = torch.cat(
        [each(part) for each, part in zip(experts, parts, strict=True) if all_called or len(part)]
    )
    outputs = outputs * weights[token, expert, None].to(outputs.dtype)
    mixed = outputs.new_zeros(len(flat), outputs.shape[-1]).index_add(0, token, outputs)
    return mixed.view(*x.shape[:-1], outputs.shape[-1])


def _is_captured() -> bool:
    """By torch.compile, torch.export (is_compiling covers both), or the older tracer."""
    traced: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return torch.compiler.is_compiling() or traced


def _mix(experts: nn.ModuleList, x: Tensor, weights: Tensor) -> Tensor:
    outputs = torch.stack([expert(x) for expert in experts], dim=-1)  # (..., E, N)
    return (outputs * weights[..., None, :].to(outputs.dtype)).sum(dim=-1)


MoeFfn = LoraMoeFfn | FullMoeFfn


def build_moe_ffn(dense: nn.Module, *, width: int, config: MoeConfig) -> MoeFfn:
    """Wrap ``dense`` in experts; it computes the same until it is trained."""
    experts, top_k = config.ffn_experts, config.ffn_top_k
    if config.ffn_kind == "full":
        return FullMoeFfn(dense, width=width, experts=experts, top_k=top_k)
    return LoraMoeFfn(dense, width=width, experts=experts, top_k=top_k, rank=config.lora_rank)


def iter_moe_ffns(model: nn.Module) -> Iterator[MoeFfn]:
    """All routed FFNs of a model, in the order of its modules."""
    for module in model.modules():
        if isinstance(module, (LoraMoeFfn, FullMoeFfn)):
            yield module


class RouterTerms(NamedTuple):
    """The routers' own losses and how the experts were used, means over a model's layers."""

    losses: Tensor
    """(2,) float32: load-balancing and z-loss of the routed FFNs; zero for a dense model."""
    ffn_usage: tuple[float, ...]
    """Mean weight of each FFN expert; empty without such experts."""
    adapter_usage: tuple[float, ...]
    """Mean weight of each adapter expert; empty without."""


def router_terms(model: nn.Module) -> RouterTerms:
    """Read the routers of a model that has just computed something."""
    ffns = [moe.counted() for moe in iter_moe_ffns(model)]
    adapters = [moe.counted() for moe in model.modules() if isinstance(moe, MoeAdapter)]
    losses = torch.zeros(2, device=next(model.parameters()).device)
    if ffns:
        balance = torch.stack([load_balance_loss(*seen) for seen in ffns]).mean()
        router_z = torch.stack([router_z_loss(*seen) for seen in ffns]).mean()
        losses = torch.stack([balance, router_z])
    return RouterTerms(losses, _mean_usage(ffns), _mean_usage(adapters))


@torch.no_grad()
def _mean_usage(seen: Sequence[tuple[Routing, Tensor]]) -> tuple[float, ...]:
    if not seen:
        return ()
    return tuple(torch.stack([expert_usage(*one) for one in seen]).mean(dim=0).tolist())


def _build_router(width: int, experts: int) -> nn.Linear:
    router = nn.Linear(width, experts, bias=False)
    # Not zero: ties would send every token to the same experts and give copies equal gradients.
    nn.init.normal_(router.weight, std=1.0 / math.sqrt(width))
    return router


def forget_routing(model: nn.Module) -> None:
    """Let go of what a model's routers decided last: it may hold a whole graph of gradients."""
    for module in model.modules():
        if isinstance(module, Routed):
            module.routing = module.valid = None
        elif isinstance(module, RoutedLoraLinear):
            module.weights = None


def count_idle_parameters(model: nn.Module) -> int:
    """Parameters that a token does not use: those of the experts outside its top-k."""
    idle = 0
    for moe in model.modules():
        if isinstance(moe, FullMoeFfn) and moe.top_k is not None:
            per_expert = sum(p.numel() for p in moe.experts[0].parameters())
            idle += (len(moe.experts) - moe.top_k) * per_expert
        elif isinstance(moe, LoraMoeFfn):
            idle += _idle_lora_parameters(moe)
        elif isinstance(moe, MoeAdapter) and moe.top_k is not None:
            per_expert = sum(p.numel() for p in moe.experts[0].parameters())
            idle += (len(moe.experts) - moe.top_k) * per_expert
    return idle


def _idle_lora_parameters(moe: LoraMoeFfn) -> int:
    experts = moe.router.out_features
    idle_share = 1.0 - (moe.top_k or experts) / experts
    layers = [layer for layer in moe.ffn.children() if isinstance(layer, RoutedLoraLinear)]
    deltas = sum(layer.down.weight.numel() + layer.up.weight.numel() for layer in layers)
    return round(deltas * idle_share)

"""Time the ways to compute a feed-forward layer of experts, in one interleaved run.

`clkd bench experts --out FILE`: for the layers of every preset and as many tokens as real prompts
have (one: a token of generated text), the dense layer, all experts computed, and only those that
tokens use, for `lora` and `full`, in float32 and bfloat16, forward alone and with its gradients.
Brackets hold the time over that of all experts, or for all experts over dense; a star marks what
clkd_core.models.moe does. The JSON holds every time, so that each ratio can be computed again.
"""

import argparse
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clkd_core.errors import ConfigError
from clkd_core.files import write_text_atomic

if TYPE_CHECKING:  # torch takes seconds, --help does not need it
    import torch
    from torch import Tensor, nn

    from clkd_core.distill.bench.expert_forms import ExpertForms, FfnSize
    from clkd_core.distill.bench.measure import Ratio, Times

FORMAT_VERSION = 1

PRESETS = ("nano", "t5-small", "senna-smollm2", "senna-3.5b")
TOKENS = (1, 64, 350, 800)
"""A token of an answer; the prompts of nano, t5-small and Senna's 128 visual tokens a view."""
DTYPES = ("float32", "bfloat16")
MODES = ("forward", "forward and backward")

LEAST_ROUNDS = 3
_UNCOUNTED = 3
"""Rounds of a case that only warm it up, or say how many are affordable."""
_ROUND_IN_DENSE = 45
"""What a round of all forms takes, in calls of the dense layer; only to know what not to start."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One size, precision and number of tokens, with or without gradients."""

    preset: str
    dtype: str
    mode: str
    tokens: int
    times: "Times"
    """By form, milliseconds."""
    ratios: "Sequence[Ratio]"
    chosen: tuple[str, ...]
    """The forms that the models compute here, one of each kind."""

    @property
    def ratio_of(self) -> dict[str, float]:
        """By form: median of the rounds' own ratios."""
        return {ratio.of: ratio.paired.value for ratio in self.ratios}


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A case that was not measured."""

    preset: str
    dtype: str
    mode: str
    tokens: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured, and how long at most."""

    device: "torch.device"
    rounds: int
    limit_s: float
    tokens: Sequence[int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words of ``clkd bench experts``."""
    add = parser.add_argument
    add("--out", type=Path, required=True, help="JSON file")
    add("--sizes", nargs="+", choices=PRESETS, default=list(PRESETS), help="default: all")
    add("--tokens", nargs="+", type=int, default=list(TOKENS), help=f"default {list(TOKENS)}")
    add("--rounds", type=int, default=20, help="of a case at most, default %(default)s")
    add("--limit-s", type=float, default=60.0, help="of a case [s], default %(default)s")
    add("--device", default="auto", help="auto, cpu or cuda[:N]")
    add("--threads", type=int, help="of torch; default torch's own")


def run(args: argparse.Namespace) -> int:
    """Benchmark, print the tables, write the file; 0.

    Raises:
        ConfigError: a number is out of its range, or there is no such device.
    """
    for name, least in (("rounds", LEAST_ROUNDS), ("limit_s", 0), ("threads", 1)):
        if (given := getattr(args, name)) is not None and given < least:
            raise ConfigError(f"{name} is {given}, expected at least {least}")
    if min(args.tokens) < 1:
        raise ConfigError(f"tokens is {min(args.tokens)}, expected at least 1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in training, before torch comes
    import torch

    from clkd_core.distill.bench.expert_forms import SIZES
    from clkd_core.distill.setup import pick_device

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    plan = Plan(
        device=pick_device(args.device),
        rounds=args.rounds,
        limit_s=args.limit_s,
        tokens=args.tokens,
    )
    results = list(measure([size for size in SIZES if size.preset in args.sizes], plan))
    about = _describe_run(plan)
    write_text_atomic(args.out, json.dumps(describe(results, about), indent=1) + "\n")
    for line in format_results(results, about):
        print(line)
    print(f"wrote {args.out}")
    return 0


def measure(sizes: "Sequence[FfnSize]", plan: Plan) -> "Iterator[Case | Skipped]":
    """Every case of these sizes, one after the other."""
    import torch

    from clkd_core.distill.bench.expert_forms import ExpertForms

    for size in sizes:
        for name in DTYPES:
            dtype = getattr(torch, name)
            for mode in MODES:
                labels = {"preset": size.preset, "dtype": name, "mode": mode}
                trains = mode != MODES[0]
                if reason := _lacks_room(size, dtype, plan, trains=trains):
                    yield from (
                        Skipped(**labels, tokens=tokens, reason=reason) for tokens in plan.tokens
                    )
                    continue
                torch.manual_seed(0)
                forms = ExpertForms(size, dtype, plan.device, keeps_stacked=not trains)
                for tokens in plan.tokens:
                    _log.info("%s, %d tokens", ", ".join(labels.values()), tokens)
                    x = torch.randn(1, tokens, size.hidden, dtype=dtype, device=plan.device)
                    calls = _calls(forms, x.requires_grad_(trains), trains=trains)
                    yield _measure_case(labels, size, calls, tokens, plan)


def describe(results: "Sequence[Case | Skipped]", about: dict[str, Any]) -> dict[str, Any]:
    """What the JSON file holds."""
    return {
        "format_version": FORMAT_VERSION,
        **about,
        "cases": [_case_values(case) for case in results if isinstance(case, Case)],
        "skipped": [asdict(case) for case in results if isinstance(case, Skipped)],
    }


def format_results(results: "Sequence[Case | Skipped]", about: dict[str, Any]) -> list[str]:
    """Lines for a terminal: a table for each size, precision and mode."""
    lines = [f"device: {about['device']}; {about['threads']} threads"]
    lines += [f"experts: {about['experts']}; milliseconds, median of rounds"]
    groups: dict[str, list[Case | Skipped]] = {}
    for result in results:
        title = f"{result.preset}, {result.dtype}, {result.mode}"
        groups.setdefault(title, []).append(result)
    for title, group in groups.items():
        lines += ["", *_table(title, [case for case in group if isinstance(case, Case)])]
        skipped = [case for case in group if isinstance(case, Skipped)]
        lines += [f"  {case.tokens} tokens: not measured, {case.reason}" for case in skipped]
    return lines


def _table(title: str, cases: Sequence[Case]) -> list[str]:
    import numpy as np

    lines = [f"{title:36}" + "".join(f"{case.tokens:>10} tokens" for case in cases)]
    for form in cases[0].times if cases else ():
        line = f"  {form:34}"
        for case in cases:
            ratio = case.ratio_of.get(form)
            over = "" if ratio is None else f"({ratio:.2f})"
            star = "*" if form in case.chosen else " "
            line += f"{float(np.median(case.times[form])):8.2f}{over:>8}{star}"
        lines.append(line.rstrip())
    return lines


def _measure_case(
    labels: dict[str, str],
    size: "FfnSize",
    calls: dict[str, Callable[[int], object]],
    tokens: int,
    plan: Plan,
) -> "Case | Skipped":
    from clkd_core.distill.bench.expert_forms import BASES, DENSE
    from clkd_core.distill.bench.measure import compute_ratio, time_interleaved

    dense_s = min(_seconds(calls[DENSE]) for _ in range(2))
    least_s = dense_s * _ROUND_IN_DENSE * (LEAST_ROUNDS + _UNCOUNTED)
    if least_s > plan.limit_s:
        reason = f"would take about {least_s:.0f} s, limit_s is {plan.limit_s:g}"
        return Skipped(**labels, tokens=tokens, reason=reason)
    round_s = sum(_seconds(call) for call in calls.values())
    affordable = int(plan.limit_s / round_s) - _UNCOUNTED
    rounds = max(LEAST_ROUNDS, min(plan.rounds, affordable))
    times = time_interleaved(calls, rounds, seed=0, device=plan.device)
    ratios = [
        compute_ratio(f"{of} / {over}", times, of=of, over=over, goal=None)
        for of, over in BASES.items()
    ]
    return Case(
        **labels,
        tokens=tokens,
        times=times,
        ratios=ratios,
        chosen=_chosen(size, tokens, on_cpu=plan.device.type == "cpu"),
    )


def _chosen(size: "FfnSize", tokens: int, *, on_cpu: bool) -> tuple[str, str]:
    from clkd_core.distill.bench.expert_forms import FULL_ALL, FULL_TOKENS, LORA_ALL, MOE
    from clkd_core.models.moe import pays_to_gather

    experts, top_k = MOE.ffn_experts, MOE.ffn_top_k
    pays = pays_to_gather(tokens, size.parameters, experts=experts, top_k=top_k)
    return LORA_ALL, FULL_TOKENS if on_cpu and pays else FULL_ALL


def _calls(
    forms: "ExpertForms", x: "Tensor", *, trains: bool
) -> dict[str, Callable[[int], object]]:
    """What is timed, by form; each is called with the number of a round."""
    call = _call_and_derive if trains else _call
    return {name: partial(call, form, used, x) for name, (form, used) in forms.forms().items()}


def _call(form: "Callable[[Tensor], Tensor]", _: "nn.Module", x: "Tensor", __: int) -> None:
    import torch

    with torch.inference_mode():
        form(x)


def _call_and_derive(
    form: "Callable[[Tensor], Tensor]", used: "nn.Module", x: "Tensor", _: int
) -> None:
    import torch

    torch.autograd.grad(form(x).sum(), (x, *used.parameters()), allow_unused=True)


def _seconds(call: Callable[[int], object]) -> float:
    start_s = time.perf_counter()
    call(0)
    return time.perf_counter() - start_s


def _lacks_room(size: "FfnSize", dtype: "torch.dtype", plan: Plan, *, trains: bool) -> str:
    """Why the forms do not fit into memory; empty where they do."""
    import psutil
    import torch

    from clkd_core.distill.bench.expert_forms import COPIES, MOE

    gathered = MOE.ffn_top_k * MOE.lora_rank * (size.hidden + size.inner) * 3
    values = COPIES * size.parameters + gathered * max(plan.tokens)
    need = values * dtype.itemsize * (2 if trains else 1)
    if plan.device.type == "cuda":
        free = int(torch.cuda.mem_get_info(plan.device)[0])
    else:
        free = int(psutil.virtual_memory().available)
    if need <= free:
        return ""
    return f"needs {need / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free"


def _case_values(case: Case) -> dict[str, Any]:
    import numpy as np

    return {
        "preset": case.preset,
        "dtype": case.dtype,
        "mode": case.mode,
        "tokens": case.tokens,
        "chosen": list(case.chosen),
        "forms": [
            {"name": name, "p50_ms": float(np.median(times)), "times_ms": times.tolist()}
            for name, times in case.times.items()
        ],
        "ratios": [asdict(ratio) for ratio in case.ratios],
    }


def _describe_run(plan: Plan) -> dict[str, Any]:
    import torch

    from clkd_core.distill.bench.expert_forms import MOE, SIZES
    from clkd_core.distill.record.versions import collect_versions

    versions = collect_versions(str(plan.device))
    return {
        "device": versions.pop("device"),
        "threads": torch.get_num_threads(),
        "versions": versions,
        "created": datetime.now(timezone.utc).astimezone().isoformat(timespec="seconds"),
        "experts": f"{MOE.ffn_experts}, {MOE.ffn_top_k} used, lora rank {MOE.lora_rank}",
        "sizes": [asdict(size) for size in SIZES],
    }

"""What coarsening costs: matching and transfer against sorted edges and dense operators, and a level change against a
step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from accelerator.multilevel import (
    HeavyEdge,
    MultilevelNetwork,
    carry_optimizer_state,
    create_fno_hierarchy,
    create_network_hierarchy,
)
from benchmarks.measure import Timings, interleaved
from domain.cross.model.mlp import MLP
from domain.cv.model.cnn import CNN
from domain.physics.model.fno import FNO

WIDTHS = {1024: 9, 4096: 5}  # with the number of rounds
BAR = 8.0
BATCH = 32


def run() -> str:
    """The section of the report, as Markdown."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return f"{_coarsening()}\n\n{_level_change()}"
    finally:
        torch.set_num_threads(threads)


class SortedDense:
    """Heavy-edge matching by sorting all edges, transfer by dense operators: the plain implementation.

    Args:
        model: Linear, ReLU, Linear, ReLU, Linear.
    """

    def __init__(self, model: nn.Sequential) -> None:
        self.layers = [layer for layer in model if isinstance(layer, nn.Linear)]

    def match(self) -> list[Tensor]:
        """The coarse unit of each unit of the two hidden layers."""
        return [sorted_matching(torch.cat([layer.weight, layer.bias[:, None]], 1)) for layer in self.layers[:2]]

    def transfer(self, parents: list[Tensor]) -> None:
        """Restrict every layer, W_c = R W P, and prolongate it, W = P W_c R."""
        first, middle, last = self.layers
        (r1, p1), (r2, p2) = (_dense(parent, len(parent) // 2) for parent in parents)
        coarse = [r1 @ first.weight, r1 @ first.bias, r2 @ middle.weight @ p1, r2 @ middle.bias, last.weight @ p2]
        fine = [p1 @ coarse[0], p1 @ coarse[1], p2 @ coarse[2] @ r1, p2 @ coarse[3], coarse[4] @ r2]
        for target, value in zip(
            [first.weight, first.bias, middle.weight, middle.bias, last.weight], fine, strict=True
        ):
            target.copy_(value)


def sorted_matching(features: Tensor) -> Tensor:
    """Greedy heaviest-edge matching: all edges sorted by cosine, each taken if both its ends are free."""
    n = len(features)
    unit = features / features.norm(dim=1, keepdim=True)
    i, j = torch.triu_indices(n, n, 1)
    order = (unit @ unit.T)[i, j].argsort(descending=True)
    parent, pairs = [-1] * n, 0
    for piece in order.split(2**16):  # to make no list of the edges that come after the last pair
        for a, b in zip(i[piece].tolist(), j[piece].tolist(), strict=True):
            if parent[a] < 0 and parent[b] < 0:
                parent[a] = parent[b] = pairs
                pairs += 1
        if pairs == n // 2:
            break
    return torch.tensor(parent)


def _dense(parent: Tensor, coarse: int) -> tuple[Tensor, Tensor]:
    prolongation = nn.functional.one_hot(parent, coarse).float()
    return prolongation.T / 2, prolongation


def _coarsening() -> str:
    rows = []
    for width, rounds in WIDTHS.items():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 8))
        with torch.no_grad():
            rows += _compared(model, width, rounds)
    return "\n".join(
        [
            "Matching and transfer of a network 64-n-n-8 (random weights, ReLU, single precision, one thread): both "
            "hidden layers are matched to n/2 units, every tensor is restricted and prolongated. *Sorted, dense* sorts "
            "all edges, walks over them in Python and multiplies by dense R and P. Median seconds, and the speed-up "
            f"round by round, median (least–largest); bar: {BAR:g}.",
            "",
            "| n | | matching | transfer | both | speed-up |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            "Without a sketch the pairs are those of the sorted edges, and most of the time is the product of the "
            "features with themselves, of which half is computed. The sketch compares random projections to 128 "
            "dimensions; where similarities are as close as those of random weights it finds other pairs.",
        ]
    )


def _compared(model: nn.Sequential, width: int, rounds: int) -> list[str]:
    example, plain = torch.randn(2, 64), SortedDense(model)
    generator = torch.Generator().manual_seed(0)
    matchings = {"heavy edge": HeavyEdge(), "heavy edge, sketch=128": HeavyEdge(sketch=128)}
    hierarchies = {
        name: create_network_hierarchy(model, example, levels=2, matching=matching, generator=generator)
        for name, matching in matchings.items()
    }

    def own(name: str, network: MultilevelNetwork) -> Callable[[], float]:
        def seconds() -> float:
            both = _seconds(lambda: (network.restrict(0, rematch=True), network.prolongate(0, keep=0)))
            transfer = _seconds(lambda: (network.restrict(0), network.prolongate(0, keep=0)))
            parts[name].append((both - transfer, transfer))
            return both

        return seconds

    def sorted_dense() -> float:
        begin = time.perf_counter()
        parents = plain.match()
        middle = time.perf_counter()
        plain.transfer(parents)
        end = time.perf_counter()
        parts["sorted, dense"].append((middle - begin, end - middle))
        return end - begin

    candidates = {"sorted, dense": sorted_dense} | {name: own(name, network) for name, network in hierarchies.items()}
    parts: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    timings = interleaved({name: _from(model, state, candidate) for name, candidate in candidates.items()}, rounds)
    return [_row(width, name, parts[name], timings) for name in candidates]


def _from(model: nn.Module, state: dict[str, Tensor], candidate: Callable[[], float]) -> Callable[[], float]:
    """The candidate, each time from the same weights: prolongated ones are equal in pairs."""

    def seconds() -> float:
        model.load_state_dict(state)
        return candidate()

    return seconds


def _row(width: int, name: str, parts: list[tuple[float, float]], timings: Timings) -> str:
    matching, transfer = (sorted(part)[len(part) // 2] for part in zip(*parts, strict=True))
    least, median, most = timings.ratio("sorted, dense", name)
    speed_up = "1" if name == "sorted, dense" else f"{median:.1f} ({least:.1f}–{most:.1f})"
    return f"| {width} | {name} | {matching:.3f} | {transfer:.3f} | {timings.median(name):.3f} | {speed_up} |"


def _level_change(rounds: int = 15) -> str:
    torch.manual_seed(0)
    grid = torch.randn(BATCH, 1, 32, 32)
    cases = {
        "mlp 1024-1024": (create_network_hierarchy, MLP((1, 32, 32), (1, 32, 32), hidden=(1024, 1024)), grid),
        "cnn": (create_network_hierarchy, CNN((1, 32, 32), (10,)), grid),
        "fno": (create_fno_hierarchy, FNO((1, 32, 32), (1, 32, 32)), grid),
    }
    rows = []
    for name, (create, model, example) in cases.items():
        network = create(model, example, levels=3)
        added = sum(network.parameters[1:]) / network.parameters[0]
        timings = interleaved(_changes(network, example), rounds)
        ratios = [timings.ratio(way, "step") for way in ("down", "up")]
        cells = [f"{median:.2f} ({least:.2f}–{most:.2f})" for least, median, most in ratios]
        rows.append(f"| {name} | {timings.median('step') * 1e3:.1f} | {' | '.join(cells)} | {added:.0%} |")
    return "\n".join(
        [
            "A change of level between the two finest of three, Adam's state included (down: restriction; up: "
            f"prolongation with keep = 0.5), in steps of the fine level (forward, backward, Adam; batch {BATCH}, 32² "
            "grids): median (least–largest), bar: 1. And what the two coarse levels add to the fine one's parameters "
            "(and, where each level keeps its optimizer, to its state), bar: 60 %.",
            "",
            "| | a fine step, ms | down | up | added |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )


def _changes(network: MultilevelNetwork, example: Tensor) -> dict[str, Callable[[], float]]:
    fine, coarse = (torch.optim.Adam(level.parameters(), lr=1e-6) for level in network.levels[:2])

    def step() -> float:
        def body() -> None:
            fine.zero_grad()
            network.levels[0](example).square().mean().backward()
            fine.step()

        return _seconds(body)

    def down() -> float:
        def body() -> None:
            network.restrict(0)
            carry_optimizer_state(fine, coarse, network, 0, 1)

        return _seconds(body)

    def up() -> float:
        def body() -> None:
            network.prolongate(0)
            carry_optimizer_state(coarse, fine, network, 1, 0)

        return _seconds(body)

    return {"step": step, "down": down, "up": up}


def _seconds(body: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    body()
    return time.perf_counter() - begin

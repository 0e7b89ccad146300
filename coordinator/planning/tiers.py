"""Tiers from what links cost: devices that talk cheaply among themselves are one tier.

Three ways: communities of cheap links (Louvain), the spectrum of the affinity matrix, and repeated minimum cuts.
Louvain and minimum cuts need networkx, which the extra `tiers` brings; groups that free links join need nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from tiermesh.errors import Unsupported

if TYPE_CHECKING:
    import networkx as nx

Method = Literal["equal-costs", "louvain", "spectral", "min-cut"]
Prices = Mapping[tuple[str, str], float]

SEED: Final = 1


def detect(
    devices: Sequence[str],
    prices: Prices,
    costs: Mapping[str, float],
    *,
    method: Method = "equal-costs",
    count: int = 2,
) -> list[list[str]]:
    """Group devices into tiers, lowest first: a tier costs less per device than those above it.

    `prices` are those of links by (from, to), 0 where absent; `costs` per hour by device. `count` is how many tiers
    there are, for the methods that must be told.

    Raises:
        Unsupported: the method's library is not installed.
    """
    match method:
        case "equal-costs":
            groups = _equal_costs(devices, prices)
        case "louvain":
            groups = _louvain(devices, prices)
        case "spectral":
            groups = _spectral(devices, prices, count)
        case "min-cut":
            groups = _min_cut(devices, prices, count)
    return sorted(
        (sorted(group) for group in groups),
        key=lambda group: (sum(costs.get(d, 0.0) for d in group) / len(group), group),
    )


def _price(prices: Prices, a: str, b: str) -> float:
    """What traffic between two devices costs at most, in either direction."""
    return max(prices.get((a, b), 0.0), prices.get((b, a), 0.0))


def _equal_costs(devices: Sequence[str], prices: Prices) -> list[set[str]]:
    """The connected groups of devices between which traffic is free."""
    groups: list[set[str]] = []
    left = set(devices)
    while left:
        group, waiting = set[str](), [min(left)]
        while waiting:
            device = waiting.pop()
            group.add(device)
            near = {d for d in left - group if _price(prices, device, d) == 0}
            waiting += sorted(near - set(waiting))
        groups.append(group)
        left -= group
    return groups


def _halves(nx: Any, graph: nx.Graph[str], group: set[str]) -> tuple[float, list[set[str]]]:
    weight, halves = nx.stoer_wagner(graph.subgraph(group))
    return float(weight), [set(half) for half in halves]


def _weakest(cut: tuple[float, int, list[set[str]]]) -> tuple[float, int]:
    return cut[0], cut[1]


def _graph(devices: Sequence[str], prices: Prices) -> nx.Graph[str]:
    """Devices, joined the more strongly the cheaper their link is."""
    try:
        import networkx as nx
    except ImportError as error:
        raise Unsupported(
            "tiers cannot be found this way", why=str(error), fix="pip install 'tiermesh[tiers]'"
        ) from None
    graph: nx.Graph[str] = nx.Graph()
    graph.add_nodes_from(sorted(devices))
    top = max(prices.values(), default=0.0) or 1.0
    for a in devices:
        for b in devices:
            if a < b:
                graph.add_edge(a, b, weight=1.0 / (0.01 + _price(prices, a, b) / top))
    return graph


def _louvain(devices: Sequence[str], prices: Prices) -> list[set[str]]:
    graph = _graph(devices, prices)
    import networkx as nx

    return [set(group) for group in nx.community.louvain_communities(graph, seed=SEED)]


def _spectral(devices: Sequence[str], prices: Prices, count: int) -> list[set[str]]:
    """K-means on the first eigenvectors of the normalised Laplacian (Ng, Jordan and Weiss, 2001)."""
    import numpy as np
    from scipy.cluster.vq import kmeans2  # pyright: ignore[reportUnknownVariableType]

    names = sorted(devices)
    if len(names) <= count:
        return [{name} for name in names]
    top = max(prices.values(), default=0.0) or 1.0
    affinity = np.array([[1.0 / (0.01 + _price(prices, a, b) / top) for b in names] for a in names])
    np.fill_diagonal(affinity, 0.0)
    scale = 1 / np.sqrt(affinity.sum(axis=1))
    _, vectors = np.linalg.eigh(affinity * scale[:, None] * scale[None, :])
    rows = vectors[:, -count:]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found: Any = kmeans2(rows, rows[_far_apart(rows, count)], minit="matrix", iter=50)
    labels = [int(label) for label in found[1]]
    groups = [{n for n, at in zip(names, labels, strict=True) if at == i} for i in range(count)]
    return [group for group in groups if group]


def _far_apart(rows: Any, count: int) -> list[int]:
    """Rows to begin with: the first, then again and again the one that is farthest from those taken."""
    import numpy as np

    taken = [0]
    while len(taken) < count:
        near = np.min([((rows - rows[i]) ** 2).sum(axis=1) for i in taken], axis=0)
        taken.append(int(near.argmax()))
    return taken


def _min_cut(devices: Sequence[str], prices: Prices, count: int) -> list[set[str]]:
    """Cut the group with the weakest cut, until there are `count` (Stoer and Wagner, 1997)."""
    graph = _graph(devices, prices)
    import networkx as nx

    groups: list[set[str]] = [set(devices)]
    while len(groups) < min(count, len(devices)):
        cuts: list[tuple[float, int, list[set[str]]]] = []
        for i, group in enumerate(groups):
            if len(group) > 1:
                weight, halves = _halves(nx, graph, group)
                cuts.append((weight / min(map(len, halves)), i, halves))
        _, i, halves = min(cuts, key=_weakest)
        groups[i : i + 1] = halves
    return groups

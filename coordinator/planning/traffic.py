"""Traffic in the program: what it costs, and what links and radios can carry."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from coordinator.planning.instance import Instance
from coordinator.planning.network import NetworkLink, gib_per_hour, mbps
from coordinator.planning.solver import Program


class Traffic:
    """Gathers what flows over each link entry and radio, and bounds it; prices go to `cost` at once."""

    def __init__(self, instance: Instance, program: Program, cost: list[tuple[int, float]]) -> None:
        self._instance, self._program, self._cost = instance, program, cost
        self._over_entry: defaultdict[tuple[int, float], list[tuple[int, float]]]
        self._over_entry = defaultdict(list)
        self._over_radio: defaultdict[tuple[int, str], list[tuple[int, float]]]
        self._over_radio = defaultdict(list)

    def use(
        self, link: NetworkLink, column: int, rate: float, source: int | None, target: int | None
    ) -> None:
        """Account for `rate` bytes per second x `column` between sites (None is outside the fleet)."""
        if not link.allowed:
            self._program.row([(column, 1.0)], upper=0.0)
            return
        if link.price_per_gib:
            self._cost.append((column, link.price_per_gib * gib_per_hour(rate)))
        if link.entry is not None and link.capacity_mbps is not None:
            self._over_entry[link.entry, link.capacity_mbps].append((column, mbps(rate)))
        if source is None or source != target or not self._instance.sites[source].local:
            for site, way in ((source, "up"), (target, "down")):
                if site is not None and self._instance.has_radio(self._instance.sites[site]):
                    self._over_radio[site, way].append((column, mbps(rate)))

    def bound(self, used: Mapping[int, list[int]]) -> None:
        """Keep all of it within capacity; `used` are the columns that count the devices of each class."""
        for (_, capacity), terms in self._over_entry.items():
            self._program.row(terms, upper=capacity)
        for (site, way), terms in self._over_radio.items():
            device_class = self._instance.classes[self._instance.sites[site].classes[0]]
            like = device_class.like
            limit = like.uplink_mbps if way == "up" else like.downlink_mbps
            if limit is not None:
                devices = [(column, -limit) for column in used[device_class.index]]
                self._program.row([*terms, *devices], upper=0.0)

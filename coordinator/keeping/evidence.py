"""What is known of a running workflow's mesh just now, as evidence for what keeps it from its SLO. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.fleet.lifecycle import DeviceState
from coordinator.fleet.state import Device, Fleet
from coordinator.keeping.load_monitor import LoadMonitor
from coordinator.replanning.causes import Condition, Evidence, LinkTimes, Slowness
from coordinator.sessions.link_quality import LinkQuality
from coordinator.telemetry.drift import Drift, Key, key_of
from coordinator.telemetry.watching import Observed


def evidence_of(
    fleet: Fleet,
    measuring: LoadMonitor,
    drifts: Mapping[Key, Drift],
    newest: Mapping[str, Observed],
    links: Mapping[str, LinkQuality] | None = None,
) -> Evidence:
    """The evidence of a workflow.

    Args:
        fleet: the mesh; the workflow runs in it.
        measuring: what was measured of it.
        drifts: see `LoadMonitor.drifts`.
        newest: what each device (by id) said last.
        links: of devices (by id), where they are known better than by what was said last.
    """
    devices = [fleet.devices[d] for d in fleet.running[measuring.problem.name].devices]
    said = {device.name: newest[device.id] for device in devices if device.id in newest}
    known = links or {}
    found = {
        d.name: link
        for d in devices
        if (link := known.get(d.id) or (said[d.name].link if d.name in said else None))
    }
    planned, dispersion = measuring.dispersions()
    return Evidence(
        slowness=slowness_of(measuring, drifts),
        devices={device.name: _condition(device, said.get(device.name)) for device in devices},
        links={name: LinkTimes(link.rtt_ms, link.least_ms) for name, link in found.items()},
        load=measuring.load(),
        planned_dispersion=planned,
        dispersion=dispersion,
        burn=measuring.burn(),
    )


def slowness_of(measuring: LoadMonitor, drifts: Mapping[Key, Drift]) -> list[Slowness]:
    """Of each replica, measured over planned device time, with an interval of 95 %."""
    found: list[Slowness] = []
    for replica in measuring.plan.replicas:
        one = drifts.get(key_of(replica))
        planned = measuring.corrections.get(key_of(replica))
        if one is not None and one.overall is not None:
            of = planned.overall.ratio if planned and planned.overall else 1.0
            found.append(Slowness(replica.id, replica.device, one.overall.over(of)))
    return found


def _condition(device: Device, said: Observed | None) -> Condition:
    sample = said.sample if said is not None else None
    is_silent = said is not None and sample is None
    return Condition(
        host=device.host,
        state=DeviceState.SUSPECT.value if is_silent else device.state.value,
        why=said.why if said is not None and is_silent else device.why,
        temperature_celsius=sample.temperature_celsius if sample is not None else 0.0,
        cpu_percent=sample.cpu_percent if sample is not None else 0.0,
    )

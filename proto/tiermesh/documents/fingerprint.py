"""The fingerprint: what a device is, as its agent found it. Facts that do not change while it runs."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from tiermesh import ids
from tiermesh.documents.reading import Document, to_plain


class Cpu(Document, frozen=True, kw_only=True):
    """The processor. `features` are the instruction sets that runtimes care for."""

    model: str
    architecture: str
    cores_physical: int
    cores_logical: int
    features: list[str] = []
    max_mhz: float | None = None


class Accelerator(Document, frozen=True, kw_only=True):
    """A GPU, NPU or other unit that a runtime can use."""

    name: str
    kind: str
    memory_bytes: int | None = None
    driver: str | None = None


class Runtime(Document, frozen=True, kw_only=True):
    """An inference runtime, or why it cannot be used here. One that comes with the agent has no version."""

    name: str
    version: str | None = None
    providers: list[str] = []
    unavailable: str | None = None


class Interface(Document, frozen=True, kw_only=True):
    """A network interface that is up. `networks` are those that its addresses lie in, ``10.0.0.0/24``."""

    name: str
    addresses: list[str]
    networks: list[str] = []
    speed_mbps: int | None = None
    loopback: bool = False
    wireless: bool = False


class Emulation(Document, frozen=True, kw_only=True):
    """This device only pretends: after each batch it waits (slowdown - 1) x the computing time."""

    slowdown: float


class Fingerprint(Document, frozen=True, kw_only=True):
    """Static facts of a device.

    `host` is equal for agents on one physical machine: they compete for it, so they are profiled one at a time.
    `cpu_quota_cores` is how many cores' worth of time its cgroups let it take, where they limit that. Sizes in bytes.
    `modules` are importable Python packages that stage code may require, with versions.
    """

    schema: Literal["tiermesh.fingerprint/1"] = "tiermesh.fingerprint/1"
    host: str
    os: str
    python: str
    agent_version: str
    cpu: Cpu
    memory_bytes: int
    disk_bytes: int
    accelerators: list[Accelerator] = []
    runtimes: list[Runtime] = []
    modules: dict[str, str] = {}
    interfaces: list[Interface] = []
    power: Literal["mains", "battery", "unknown"] = "unknown"
    temperature_sensors: list[str] = []
    cpu_quota_cores: Annotated[float, Meta(gt=0)] | None = None
    threads: int
    emulated: Emulation | None = None

    @property
    def device_class(self) -> str:
        """The digest of all that decides speed; a profile holds while this stays equal.

        Runtimes count by their versions: one that comes with the agent, or is not installed, tells no devices apart,
        so an agent that knows one more runtime keeps the profiles of the others.
        """
        deciding = (
            self.cpu,
            self.memory_bytes,
            self.accelerators,
            [runtime for runtime in self.runtimes if runtime.version is not None],
            self.threads,
            self.emulated,
        )
        # Devices without a quota keep the class, and so the profiles, that they had before quotas were known.
        quota = () if self.cpu_quota_cores is None else (self.cpu_quota_cores,)
        return ids.digest_value(to_plain((*deciding, *quota)))

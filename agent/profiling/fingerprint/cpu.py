"""The processor: its model, cores and the instruction sets that inference runtimes care for."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agent.host_facts import HostFacts
from agent.profiling.fingerprint import reading
from tiermesh.documents.fingerprint import Cpu

# As /proc/cpuinfo writes them.
_X86_FEATURES: Final = frozenset(
    {"sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni"}
    | {"avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"}
)
# asimd is NEON of 64-bit Arm, asimddp its products of int8, asimdhp and fphp half precision.
_ARM_FEATURES: Final = frozenset(
    {"neon", "vfpv4", "asimd", "asimddp", "asimdhp", "fphp", "i8mm", "bf16", "sve", "sve2", "sme"}
)
# By implementer and part number, from the makers' manuals: an Arm names itself by number only.
_ARM_CORES: Final = {
    ("0x41", "0xc07"): "Cortex-A7",
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd09"): "Cortex-A73",
    ("0x41", "0xd0a"): "Cortex-A75",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd41"): "Cortex-A78",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd49"): "Neoverse-N2",
    ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x4e", "0x003"): "Denver 2",
    ("0x4e", "0x004"): "Carmel",
}


_TOOL_SECONDS: Final = 5.0


def probe(proc: Path, sys: Path, facts: HostFacts, run: Callable[[], str] | None = None) -> Cpu:
    """The processor: its cores as the system counts them, its name and features as Linux describes them.

    `run` gives its name on a system without /proc/cpuinfo.
    """
    lines = list(reading.fields(proc / "cpuinfo"))
    logical, clock = facts.logical_cores() or 1, facts.clock()
    return Cpu(
        model=_model(lines, proc) or (run or _named_by_the_system)() or "unknown",
        architecture=platform.machine(),
        cores_physical=facts.physical_cores() or logical,
        cores_logical=logical,
        features=_features(lines),
        # The hardware's limit; psutil tells the one of now, which heat and settings lower.
        max_mhz=_max_mhz(sys) or (clock.limit_mhz if clock is not None else None),
    )


def _named_by_the_system() -> str:
    """Such as ``Apple M2`` (macOS), or ``Intel64 Family 6 Model 154 Stepping 3, GenuineIntel`` (Windows)."""
    tool = shutil.which("sysctl") if platform.system() == "Darwin" else None
    if tool is None:
        return platform.processor()
    words = [tool, "-n", "machdep.cpu.brand_string"]
    done = subprocess.run(  # noqa: S603 - a fixed command
        words, capture_output=True, text=True, timeout=_TOOL_SECONDS, check=False
    )
    return done.stdout.strip() or platform.processor()


def _model(lines: list[tuple[str, str]], proc: Path) -> str:
    """The marketing name on x86; on Arm the board, where known, and its kinds of cores."""
    known = dict(reversed(lines))
    if "model name" in known and "CPU part" not in known:
        return known["model name"]
    board = reading.text(proc / "device-tree" / "model")
    cores = ", ".join(dict.fromkeys(_arm_cores(lines)))
    return f"{board} ({cores})" if board and cores else board or cores or known.get("Hardware", "")


def _arm_cores(lines: list[tuple[str, str]]) -> list[str]:
    implementers = [value for name, value in lines if name == "CPU implementer"]
    parts = [value for name, value in lines if name == "CPU part"]
    pairs = zip(implementers, parts, strict=False)
    return [_ARM_CORES.get((who, part), f"Arm core {who}/{part}") for who, part in pairs]


def _features(lines: list[tuple[str, str]]) -> list[str]:
    """What every core has: on a processor of unlike cores a thread may run on any."""
    per_core = [set(value.split()) for name, value in lines if name in ("flags", "Features")]
    known = _X86_FEATURES | _ARM_FEATURES
    return sorted(known.intersection(*per_core)) if per_core else []


def _max_mhz(sys: Path) -> float | None:
    files = reading.entries(sys / "devices/system/cpu", "cpu[0-9]*/cpufreq/cpuinfo_max_freq")
    fastest = max((khz for file in files if (khz := reading.number(file))), default=None)
    return fastest / 1000 if fastest is not None else None

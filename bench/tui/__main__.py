"""What the TUI costs: CPU, keyboard and first paint with 10, 100 and 1,000 devices that report every second.

    python bench/tui [--seconds 15]

The app runs as a process of its own on a terminal of 120 x 40 that this one reads. CPU is what that process used
while it was watched, in percent of one core, the making of the samples included. A key is timed from the write to the
terminal's answer.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import pty
import select
import statistics
import struct
import sys
import termios
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LINES, COLUMNS = 40, 120
KEYS = 20
START_S = 10.0
SETTLE_S = 3.0


class Terminal:
    """The app on a pseudo terminal."""

    def __init__(self, *arguments: str) -> None:
        self.began = time.monotonic()
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ |= {
                "TERM": "xterm-256color",
                "COLORTERM": "truecolor",
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto")]),
            }
            os.execv(sys.executable, [sys.executable, str(HERE / "feed.py"), *arguments])  # noqa: S606
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))

    def read(self, seconds: float) -> bytes:
        """What comes within so many seconds."""
        until = time.monotonic() + seconds
        said = b""
        while (left := until - time.monotonic()) > 0:
            if select.select([self._fd], [], [], left)[0]:
                said += os.read(self._fd, 65_536)
        return said

    def until(self, text: bytes, limit_s: float) -> float:
        """Seconds from the start until `text` is shown."""
        said = b""
        while text not in said:
            if time.monotonic() - self.began > limit_s:
                raise SystemExit(f"nothing was shown within {limit_s:g} s: {said[-500:]!r}")
            said += self.read(0.01)
        return time.monotonic() - self.began

    def press(self, key: bytes) -> float:
        """Seconds until the terminal answers a key."""
        self.read(0.05)
        begun = time.monotonic()
        os.write(self._fd, key)
        select.select([self._fd], [], [], 2.0)
        return time.monotonic() - begun

    def cpu_s(self) -> float:
        """CPU seconds that the app has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        """Quit it."""
        os.write(self._fd, b"q")
        with contextlib.suppress(OSError):  # it closes the terminal
            self.read(1.0)
        os.waitpid(self.pid, 0)


def measure(devices: int, seconds: float, *, still: bool = False) -> dict[str, float]:
    """One size, on the screen of the fleet."""
    terminal = Terminal(str(devices), *(["still"] if still else []))
    first_paint_s = terminal.until(b"tiermesh", START_S)
    terminal.read(0.5)
    terminal.press(b"1")
    terminal.read(SETTLE_S)
    before, begun = terminal.cpu_s(), time.monotonic()
    terminal.read(seconds)
    cpu = (terminal.cpu_s() - before) / (time.monotonic() - begun)
    keys = sorted(terminal.press((b"\x1b[B", b"\x1b[A")[i % 2]) for i in range(KEYS))
    terminal.end()
    return {
        "devices": 0 if still else devices,
        "cpu_percent": 100 * cpu,
        "first_paint_s": first_paint_s,
        "key_ms_p50": 1_000 * statistics.median(keys),
        "key_ms_worst": 1_000 * keys[-1],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=15.0, help="watched for so long (default: 15)"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = [measure(count, args.seconds) for count in (10, 100, 1_000)]
    rows.append(measure(1_000, args.seconds, still=True))
    if args.json:
        print(json.dumps(rows))
        return
    print(f"{'reporting':>10} {'CPU':>8} {'first paint':>12} {'key p50':>9} {'worst':>9}")
    for row in rows:
        print(
            f"{row['devices']:>10} {row['cpu_percent']:>6.1f} % {row['first_paint_s']:>10.2f} s"
            f" {row['key_ms_p50']:>6.1f} ms {row['key_ms_worst']:>6.1f} ms"
        )


if __name__ == "__main__":
    main()

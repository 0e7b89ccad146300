"""What a process that runs stage code may take: memory, and the pictures that it decodes."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from tiermesh import limits

CHECKOUT = Path(__file__).parents[3]
STAGE = CHECKOUT / "variants" / "ocr-detect" / "stage"


def ran(code: str, *words: str) -> str:
    path = os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "proto"), str(STAGE)])
    found = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


def a_png(side: int) -> bytes:
    """A black picture of one bit a pixel: small on disk, whatever its side."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    pack = zlib.compressobj(9)
    rows = bytes(1 + side // 8) * 100
    body = b"".join(pack.compress(rows) for _ in range(side // 100)) + pack.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    magic = b"\x89PNG\r\n\x1a\n"
    return magic + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


DECODE = """
import sys
from pathlib import Path
from agent.model_host import process
process.bound_decoders()
from ocr_detect import Detect
code = Detect({}, {})
payload = {"name": "huge", "image": Path(sys.argv[1]).read_bytes()}
try:
    print(len(code.items(payload)))
except Exception as error:
    print(type(error).__name__, error)
# Not ru_maxrss, which counts what the process that started this one had.
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) // 1024)
"""


def test_a_small_file_that_claims_to_be_a_huge_picture_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="decoding needs OpenCV")
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of memory is read from /proc")
    huge, small = tmp_path / "huge.png", tmp_path / "small.png"
    huge.write_bytes(a_png(16_000))
    small.write_bytes(a_png(1_600))
    assert huge.stat().st_size < 100_000
    assert limits.PICTURE_PIXELS < 16_000**2
    why, peak_mb = ran(DECODE, str(huge)).rsplit("\n", 1)
    assert "error" in why, "a request fails, and no more"
    assert int(peak_mb) < 400, "768 MB would be the picture"
    assert ran(DECODE, str(small)).startswith("1\n")


def test_what_an_operator_allows_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCV_IO_MAX_IMAGE_PIXELS", "7")
    code = "import os; from agent.model_host import process; process.bound_decoders()"
    assert ran(f"{code}; print(os.environ['OPENCV_IO_MAX_IMAGE_PIXELS'])") == "7"


CONFINED = """
import sys
from agent.model_host import process
process.confine(int(sys.argv[1]))
try:
    print(len(bytes(600 * 2**20)))
except MemoryError:
    print("MemoryError")
print(open("/proc/self/oom_score_adj").read())
"""


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="needs Linux")
def test_a_process_takes_a_share_of_the_devices_memory(tmp_path: Path) -> None:
    assert ran(CONFINED, str(2**29)).split() == ["MemoryError", "500"]
    assert ran(CONFINED, str(2**32)).split() == [str(600 * 2**20), "500"]
    assert ran(CONFINED, "0").split() == [str(600 * 2**20), "500"]

"""The script of docs/python-client.md does what the page says."""

from __future__ import annotations

import asyncio
import re
import sys

import pytest

from tests.agents import CHECKOUT
from tests.integration.coordinator.test_api import WORKFLOW


def script():
    text = (CHECKOUT / "docs" / "python-client.md").read_text()
    (found,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return found


@pytest.mark.slow
async def test_the_script_goes_from_devices_to_a_served_plan(two, folder, environment):
    (folder / "read.yaml").write_text(WORKFLOW)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script(), "read.yaml", *(agent.address for agent in two)),
        cwd=folder,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = (told.decode() for told in await process.communicate())
    assert process.returncode == 0, err
    assert out.startswith("ready: cam-1 hub-1\n")
    assert "generation 1 committed" in out
    assert two[0].generations == {"read": 1}


def test_it_is_short():
    assert len([line for line in script().splitlines() if line.strip()]) <= 24

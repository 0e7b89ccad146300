"""Problems with boxes that are paid by the hour, and functions that are paid by use."""

from __future__ import annotations

from collections.abc import Sequence

from tiermesh.documents.problem import (
    Arrivals,
    Asks,
    BatchTime,
    MapRates,
    Problem,
    ProblemDevice,
    ProblemEdge,
    ProblemLink,
    ProblemProfile,
    ProblemStage,
    Serverless,
)

BURSTY = Arrivals(map=MapRates(D0=[[-92.0, 2.0], [0.5, -30.5]], D1=[[90.0, 0.0], [0.0, 30.0]]))
"""Three times as many requests in one second of five."""
TERMS = Serverless(usd_per_gb_second=1.66667e-05, usd_per_call=2e-07)
BOX = ((1, 0.02), (4, 0.05), (8, 0.09))
FUNCTION = ((1, 0.04), (4, 0.1), (8, 0.18))


def batches(times: Sequence[tuple[int, float]]) -> list[BatchTime]:
    return [BatchTime(batch_size=size, mean=mean) for size, mean in times]


def overflowing(
    rate: float,
    price: float,
    *,
    boxes: int = 3,
    p95: float | None = None,
    arrivals="poisson",
    terms: Serverless | None = TERMS,
    box=BOX,
    function=FUNCTION,
    usable: float = 0.9,
) -> Problem:
    """One model stage: `boxes` equal devices at `price` an hour, and functions of 2048 MB where there are `terms`."""
    devices = [
        ProblemDevice(
            name="box", tier="edge", count=boxes, price_per_hour=price, usable_share=usable
        )
    ]
    profiles = [ProblemProfile(stage="read", variant="v", device="box", batches=batches(box))]
    if terms is not None:
        devices.append(ProblemDevice(name="lambda", tier="cloud", serverless=terms))
        profiles.append(
            ProblemProfile(
                stage="read",
                variant="v",
                device="lambda",
                memory_mb=2048,
                batches=batches(function),
            )
        )
    return Problem(
        name="overflowing",
        tiers=["edge", "cloud"],
        devices=devices,
        links=[ProblemLink(source="photos", target="cloud", rtt_ms=20)],
        stages=[
            ProblemStage(
                name="photos", kind="source", rate_rps=rate, external=True, arrivals=arrivals
            ),
            ProblemStage(name="read", kind="model", variants=["v"]),
        ],
        edges=[ProblemEdge(source="photos", target="read", bytes_per_item=1e4)],
        profiles=profiles,
        asks=Asks(latency_s={"p95": p95} if p95 is not None else {}),
    )

"""`agent run`: one device's agent, from its state folder to its open ports, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

import grpc.aio

from agent import discovery
from agent.config import Config
from agent.control import ControlService
from agent.identity import Identity
from agent.profiling import fingerprint as fingerprints
from agent.profiling.service import ProfilingService
from agent.rollout.activate import Activation, AssignmentFolder
from agent.rollout.artifacts import ArtifactsService
from agent.rollout.commands import RunningCommands
from agent.rollout.garbage import Collector
from agent.rollout.store import Store
from agent.serving.clock import Clock
from agent.serving.supervisor import WorkerSettings, WorkerSupervisor
from agent.stopping import stop_on_signals, stop_with_stdin
from agent.telemetry import EventLog, Sampler
from tiermesh import PROTOCOL_VERSION, __version__, wire
from tiermesh.documents.fingerprint import Fingerprint
from tiermesh.documents.reading import encode_json
from tiermesh.errors import TiermeshError
from tiermesh.v1 import (
    control_pb2_grpc,
    device_pb2,
    device_pb2_grpc,
    profiling_pb2_grpc,
    rollout_pb2_grpc,
)

log = logging.getLogger(__name__)


class DeviceService(device_pb2_grpc.DeviceServicer):
    """`tiermesh.v1.Device`: who this device is."""

    def __init__(
        self,
        config: Config,
        identity: Identity,
        fingerprint: Fingerprint,
        data_address: str,
        activation: Activation,
    ) -> None:
        self._config = config
        self._identity = identity
        self._fingerprint = encode_json(fingerprint)
        self._data_address = data_address
        self._activation = activation

    async def Describe(  # noqa: N802 - the name in the .proto
        self,
        request: device_pb2.DescribeRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> device_pb2.DescribeReply:
        """Identity, price, fingerprint, and what runs; refuses a coordinator of another protocol."""
        if request.protocol_version != PROTOCOL_VERSION:
            await wire.abort(context, _other_protocol(request))
        return device_pb2.DescribeReply(
            protocol_version=PROTOCOL_VERSION,
            agent_version=__version__,
            device_id=self._identity.device_id,
            name=self._identity.name,
            tier=self._config.tier,
            price_per_hour=self._config.price_per_hour,
            usable_share=self._config.usable_share,
            data_address=self._data_address,
            fingerprint=self._fingerprint,
            generations=self._activation.node.generations,
        )


def _other_protocol(request: device_pb2.DescribeRequest) -> TiermeshError:
    return TiermeshError(
        f"this agent speaks protocol {PROTOCOL_VERSION}, the coordinator {request.protocol_version}",
        why=f"agent {__version__}, coordinator {request.coordinator_version or 'unknown'}",
        fix="Upgrade the older of the two",
        protocol_version=PROTOCOL_VERSION,
    )


@contextlib.asynccontextmanager
async def running(config: Config) -> AsyncGenerator[str]:
    """An agent that serves while the context lasts; gives its control address.

    Raises:
        TiermeshError: the state folder is damaged or in use, or a port is taken.
    """
    async with contextlib.AsyncExitStack() as stack:
        yield await _start(config, stack)


async def _start(config: Config, stack: contextlib.AsyncExitStack) -> str:
    credentials = config.credentials
    if credentials.warning:
        log.warning("%s", credentials.warning)
    identity = stack.enter_context(
        Identity.load_or_create(
            config.state_folder,
            config.name,
            host=config.host,
            control_port=config.port,
            data_port=config.data_port,
        )
    )
    config.data_folder.mkdir(parents=True, exist_ok=True)
    store = Store(config.state_folder / "artifacts")
    await asyncio.to_thread(store.sweep)
    fingerprint = await asyncio.to_thread(
        partial(fingerprints.take, folder=config.state_folder),
        config.threads,
        config.slowdown if config.slowdown > 1 else None,
    )
    events = EventLog(time.time)
    data_address = wire.join_address(config.host, identity.data_port)
    supervisor = WorkerSupervisor(
        WorkerSettings(
            device=identity.device_id,
            data_address=data_address,
            data_folder=str(config.data_folder),
            state_folder=str(config.state_folder),
            store=str(config.state_folder / "artifacts"),
            threads=fingerprint.threads,
            memory_bytes=fingerprint.memory_bytes,
            slowdown=config.slowdown,
            credentials=credentials,
            batch_log=config.batch_log,
        ),
        next_epoch=identity.next_epoch,
        on_event=events.add,
    )
    stack.push_async_callback(supervisor.close)
    assignments = AssignmentFolder(config.state_folder / "assignments")
    collector = Collector(
        store,
        lambda: [*assignments.kept(), *activation.prepared()],
        clock=time.time,
    )
    artifacts = ArtifactsService(store, collector, credentials=credentials)
    activation = Activation(
        identity.device_id,
        assignments,
        supervisor,
        store.has,
        stopped=artifacts.collect_soon,
        credentials=credentials,
    )
    supervisor.on_set_aside = activation.set_aside_soon
    commands = RunningCommands(activation)
    stack.push_async_callback(commands.close)
    # Rates are differences of samples: setting the device's clock must not change them.
    sampler = Sampler(
        clock=Clock(),
        generations=lambda: activation.node.generations,
        fill=supervisor.fill,
        also=events.tell_repeats,
    )
    control = ControlService(
        identity.device_id,
        commands,
        events,
        sampler.sample,
        tenure=identity.tenure,
        keep_tenure=identity.keep_tenure,
        boot=uuid.uuid4().hex,
        clock=time.monotonic,
    )
    server = wire.server(credentials)
    device_pb2_grpc.add_DeviceServicer_to_server(
        DeviceService(config, identity, fingerprint, data_address, activation), server
    )
    profiling_pb2_grpc.add_ProfilingServicer_to_server(
        ProfilingService(identity.device_id, fingerprint, store), server
    )
    rollout_pb2_grpc.add_ArtifactsServicer_to_server(artifacts, server)
    control_pb2_grpc.add_ControlServicer_to_server(control, server)
    port = wire.bind(server, credentials, config.host, identity.control_port)
    await server.start()
    stack.push_async_callback(server.stop, 1.0)
    stack.callback(control.stop)
    for failure in await activation.resume():
        events.add("resume-failed", failure)
        log.error("cannot resume %s", failure)
    address = wire.join_address(config.host, port)
    if config.announce:
        advertisement = discovery.Advertisement(
            identity,
            tier=config.tier,
            mesh=config.mesh,
            host=config.host,
            port=port,
            data_address=data_address,
            credentials=credentials,
        )
        await advertisement.start()
        stack.push_async_callback(advertisement.stop)
    log.info(
        "agent %s (tier %s, id %s) listening on %s",
        identity.name,
        config.tier,
        identity.device_id,
        address,
    )
    return address


async def run(config: Config, *, exit_with_stdin: bool = False) -> None:
    """Run until SIGINT or SIGTERM; with `exit_with_stdin` also until standard input closes.

    The second ties an agent to whoever started it: however that process ends, the pipe closes.
    """
    stop = asyncio.Event()
    stop_on_signals(stop)
    if exit_with_stdin:
        stop_with_stdin(stop)
    async with running(config):
        await stop.wait()

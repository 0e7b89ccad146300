"""Every limit on what comes from outside, named with its unit."""

from typing import Final

DOCUMENT_BYTES: Final = 64 * 2**20
DOCUMENT_VALUES: Final = 1_000_000
"""Values of a YAML file, references counted as what they stand for."""
STAGES: Final = 256
VARIANTS_PER_STAGE: Final = 64
DEVICES: Final = 20_000
LANES: Final = 65_536
ITEMS_SEEN: Final = 4_096
"""Requests whose items tell how many items requests have."""
TRACE_TIMES: Final = 100_000
"""Recorded arrivals in a problem."""
TRACE_ARRIVALS: Final = 20_000_000
"""Times of one file of recorded arrivals."""
MAP_PHASES: Final = 64
NAME_CHARS: Final = 64

ARTIFACT_BYTES: Final = 16 * 2**30
ARTIFACT_CHUNK_BYTES: Final = 2**20
"""An artifact is verified by chunks of this size as it arrives, and a break costs one of them at most."""
ARTIFACT_MESSAGE_BYTES: Final = 256 * 2**10
ARTIFACT_PEERS: Final = 16
"""Peers that a device is told of at once for one artifact."""
ARTIFACT_READS: Final = 8
"""Peers that a device serves artifacts to at a time."""
ARTIFACT_PUSHES: Final = 8
"""Pushes of the coordinator under way at a time."""
ARTIFACT_PUSHES_PER_NETWORK: Final = 2
ARTIFACT_RETENTION_S: Final = 24 * 3600.0
"""What nothing needs is kept so long after its last use, unless its room is."""
ARTIFACTS_PER_ASSIGNMENT: Final = 4_096
BUNDLE_UNPACKED_BYTES: Final = 1 * 2**30
STORE_RESERVE_BYTES: Final = 64 * 2**20
"""Free disk that the artifact store never uses."""

GRPC_MESSAGE_BYTES: Final = 64 * 2**20
FRAME_BYTES: Final = 32 * 2**20
FRAMES_PER_MESSAGE: Final = 256
MESSAGE_TARGET_BYTES: Final = 256 * 2**10
"""A message stops taking more frames once it is this large, whatever the link."""
MESSAGE_MOST_BYTES: Final = 2 * 2**20
"""The same where the link takes so much in a few milliseconds: the larger a message, the less a byte of it costs."""
PICTURE_PIXELS: Final = 100_000_000
"""Of a picture that stage code decodes: 300 MB in colour."""
TENSOR_DIMENSIONS: Final = 8
TENSORS_PER_FRAME: Final = 4_096
SOURCES_PER_FRAME: Final = 256

STREAM_CREDIT_FRAMES: Final = 1_024
"""Some messages of small frames: with one at most under way, each would wait for the one before to be acknowledged."""
STREAM_CREDIT_BYTES: Final = 64 * 2**20
SOURCE_INFLIGHT_REQUESTS: Final = 1_024
SOURCE_OFFERED_REQUESTS: Final = 256
SOURCE_OFFERED_BYTES: Final = 64 * 2**20
"""Of requests that were offered from outside and are not accepted yet."""
SINK_REMEMBERED_IDS: Final = 1_000_000
REQUEST_DEADLINE_S: Final = 60.0
WARM_UP_S: Final = 60.0
"""For which a replica may be run on its samples before it serves."""

AGGREGATE_STATE_BYTES: Final = 256 * 2**20
"""State of one aggregate that is handed over to another device."""
AGGREGATE_PART_BYTES: Final = 2**20

PROFILE_SECONDS: Final = 600
PROFILE_BATCH_SIZES: Final = 32
PROFILE_POINTS: Final = 1_024
PUBLISHED_FILES: Final = 10_000
"""Files of published profiles that are imported at once."""
BATCH_SIZE: Final = 1_024
WORKER_RESTARTS_PER_MINUTE: Final = 10
BATCH_LOG_BYTES: Final = 16 * 2**20
"""Disk that a worker's log of batches takes at most, the file before it included."""
BATCH_LOG_ENTRIES_WAITING: Final = 10_000
TELEMETRY_INTERVAL_MIN_MS: Final = 100


CONTROL_MESSAGES_KEPT: Final = 1_024
"""Numbered messages of a control session, in each direction, that are sent and not yet handled."""
CONTROL_BYTES_KEPT: Final = 2 * GRPC_MESSAGE_BYTES
CONTROL_UNNUMBERED_PER_S: Final = 200
CONTROL_COMMANDS: Final = 64
"""Commands that a device works on at a time."""
CONTROL_OBSERVERS: Final = 16
DEVICE_EVENTS_KEPT: Final = 256
DEVICE_EVENT_CHARS: Final = 1_000

POISON_ENDS: Final = 3
"""Workers that may end while they run one request at one stage, before it ends in an error instead."""
SUSPECTS: Final = 1_000
BATCH_LONGEST_S: Final = 5.0
"""A batch that computes for longer, and for longer than half of its requests' deadline, hangs: its worker ends."""
STANDBY_S: Final = 600.0
"""Replicas on standby are let go of when no coordinator has named them for so long."""
WORKER_SILENT_S: Final = 10.0
"""A worker that says nothing for so long hangs: it is killed, and another is started."""
MALFORMED_MESSAGES: Final = 5
"""Messages of one device that cannot be read, within a minute, before its streams are refused for a while."""

API_PAGE: Final = 1_000
"""Entries of one page of a list that a coordinator gives its clients."""
API_CALLS: Final = 32
"""Streaming calls that a coordinator works on at a time, so that clients cannot exhaust its memory."""
API_PLANS: Final = 16
"""Plans in one call."""
API_NAMES: Final = DEVICES
"""Names of devices, kinds or addresses in one call."""
API_TEXT_CHARS: Final = 2**20
"""Of a workflow file in a call."""
API_PROGRESS_WAITING: Final = 1_024
"""Steps of progress that a client has not read yet; beyond that it misses the oldest."""
API_EVENTS_WAITING: Final = 10_000
"""Past events that a client which watches may ask for."""

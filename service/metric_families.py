"""Every family of numbers at `/metrics`: name, kind, labels, meaning; the README's table is compared with it.

Above: `metrics`, which fills them. Below: `exposition`.

What the labels may be, so that nobody can make the page grow: `model` is a model of which a version was tried to load,
or ""; `version` one that was live within the last ten minutes, or ""; `signature` is `serving_default` (every output),
`score` (the score alone), or "" for what scores nothing; `protocol` is `rest` or `grpc`; `code` is a canonical status;
`outputs` a set of outputs that a version computes.
"""

from service.exposition import Family

_REQUEST = ("model", "version", "signature", "protocol")
_BATCH = ("model", "version", "outputs")

REQUESTS = Family("convex_requests_total", "counter", (*_REQUEST, "code"), "Requests answered.")
REQUEST_SECONDS = Family(
    "convex_request_seconds", "histogram", (*_REQUEST, "code"), "Time from the whole request read to the answer ready."
)
ROWS = Family("convex_rows_total", "counter", _REQUEST, "Rows scored.")
REQUEST_BYTES = Family("convex_request_bytes_total", "counter", _REQUEST, "Size of the bodies and messages received.")
RESPONSE_BYTES = Family("convex_response_bytes_total", "counter", _REQUEST, "Size of the bodies and messages sent.")
IN_FLIGHT = Family("convex_requests_in_flight", "gauge", ("protocol",), "Requests that a thread answers now.")
HTTP_CONNECTIONS = Family("convex_http_connections", "gauge", (), "HTTP connections that are open.")
HTTP_REQUESTS = Family(
    "convex_http_requests", "gauge", (), "HTTP requests that were read whole and wait for a thread, or have one."
)
REFUSALS = Family(
    "convex_refusals_total",
    "counter",
    ("model", "protocol", "reason"),
    "Requests turned away whatever they asked: queue_full, too_many_waiting, deadline, draining, connection_limit, "
    "slow_client.",
)

QUEUE_ROWS = Family("convex_queue_rows", "gauge", _BATCH, "Rows that wait or are computed.")
QUEUE_REQUESTS = Family("convex_queue_requests", "gauge", _BATCH, "Requests whose rows wait or are computed.")
QUEUE_OLDEST = Family(
    "convex_queue_oldest_seconds", "gauge", _BATCH, "Age of the oldest of them; 0 where none waits.", "max"
)
BATCH_ROWS = Family("convex_batch_rows", "histogram", _BATCH, "Rows of a batch.")
QUEUE_SECONDS = Family(
    "convex_queue_seconds", "histogram", _BATCH, "Time that a request waited until its first row was computed."
)
COMPUTE_SECONDS = Family("convex_compute_seconds", "histogram", _BATCH, "Time that the engine took for a batch.")
DROPPED_ROWS = Family(
    "convex_dropped_rows_total",
    "counter",
    (*_BATCH, "reason"),
    "Rows that were not computed: the deadline passed, the caller went away (cancelled), the version was closed.",
)
FAILED_BATCHES = Family("convex_failed_batches_total", "counter", _BATCH, "Batches that the engine failed on.")
THREADS_REPLACED = Family(
    "convex_batch_threads_replaced_total", "counter", _BATCH, "Batch threads that died and got a successor."
)

VERSION_STATE = Family(
    "convex_version_state",
    "gauge",
    ("model", "version", "state"),
    "1 for the state in which a version is now: START, LOADING, AVAILABLE, UNLOADING, END (refused).",
)
NEWEST_VERSION = Family("convex_newest_version", "gauge", ("model",), "The newest version that is available.")
LABEL_VERSION = Family("convex_label_version", "gauge", ("model", "label"), "The version that a label means now.")
PROBLEMS = Family(
    "convex_model_problems",
    "gauge",
    ("model", "about"),
    "1 while the labels, or the policy, cannot be followed as written (`GET /models` says why), else 0.",
)
LOADS = Family(
    "convex_version_loads_total",
    "counter",
    ("model", "outcome", "rule"),
    "Attempts to load a version: available, refused (with the rule) or failed (tried again).",
)
LOAD_SECONDS = Family(
    "convex_version_load_seconds", "histogram", ("model", "outcome"), "Time that such an attempt took, warm-up and all."
)
SWAPS = Family("convex_swaps_total", "counter", ("model",), "Times that the newest available version changed.")
LAST_SWAP = Family(
    "convex_last_swap_timestamp_seconds", "gauge", ("model",), "When it last changed, in seconds since 1970."
)

DROPPED_LINES = Family(
    "convex_log_lines_dropped_total", "counter", (), "Log lines lost because whoever reads the log is too slow or gone."
)
BUILD = Family(
    "convex_build_info",
    "gauge",
    ("python", "tensorflow", "numpy", "grpcio"),
    "1; the labels are what is installed.",
    "max",
)
WORKERS = Family("convex_workers", "gauge", (), "Processes that serve now; see `--workers`.")
WORKERS_ENDED = Family(
    "convex_workers_ended_total",
    "counter",
    ("reason",),
    "Processes of several that ended unasked, to be replaced: exit, killed, stuck, silent.",
)
WORKER_REQUESTS = Family(
    "convex_worker_requests_total",
    "counter",
    ("worker",),
    "Requests answered by each process, counted from 0, and by those that it took the place of.",
)
THREADS = Family("process_threads", "gauge", (), "Threads of the process, those of native libraries too.")

ENDINGS = ("exit", "killed", "stuck", "silent")
"""Reasons of `WORKERS_ENDED`."""

ALL = tuple(value for value in list(globals().values()) if isinstance(value, Family))
"""Every family that `metrics` writes itself, in the order of the page."""

PROCESS = (
    Family("process_virtual_memory_bytes", "gauge", (), "Virtual memory size in bytes."),
    Family("process_resident_memory_bytes", "gauge", (), "Resident memory size in bytes."),
    Family("process_start_time_seconds", "gauge", (), "Start time of the process since unix epoch in seconds.", "min"),
    Family("process_cpu_seconds_total", "counter", (), "Total user and system CPU time spent in seconds."),
    Family("process_open_fds", "gauge", (), "Number of open file descriptors."),
    Family("process_max_fds", "gauge", (), "Maximum number of open file descriptors.", "min"),
)
"""What prometheus-client's process collector writes, in its own words."""


def table() -> list[tuple[str, str, str, str]]:
    """Return the rows of the README's table of metrics: name, kind, labels, meaning."""
    return [(family.name, family.kind, ", ".join(family.labels), family.meaning) for family in (*ALL, *PROCESS)]

"""What follows from a load that has ended: its version is published or refused; counted, logged and remembered.

Above: `watcher`, on whose thread it happens. Below: `loads` (what has ended), `registry` (what is live) and `retries`
(when it is tried again).
"""

import os
from collections.abc import Callable

import structlog

from service.errors import LoadFailedError, VersionRefusedError
from service.loads import Load
from service.metrics import Metrics
from service.model_version import ModelVersion
from service.registry import Registry
from service.retries import Retries

LOAD_ERROR = "load-error"
"""Rule of a version whose load failed with an error that is no verdict; it is tried again."""

_TRANSIENT_RULES = frozenset({"file-unreadable"})


class Outcomes:
    """Follows loads that ended.

    Args:
        registry: versions are published or refused there.
        retries: remembers those that failed.
        metrics: loads are counted there.
        clock: monotonic seconds.

    Thread safety: for one thread at a time.
    """

    def __init__(self, registry: Registry, retries: Retries, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._registry = registry
        self._retries = retries
        self._metrics = metrics
        self._clock = clock
        self._log = structlog.get_logger()

    def follow(self, load: Load, *, is_stopping: bool) -> bool:
        """Publish what was loaded, or refuse it; return whether it is live. The load keeps neither.

        Args:
            load: one that has ended.
            is_stopping: whether the server ends: then a failure is an interruption.
        """
        key = (load.folder.model, load.folder.version)
        live, load.live = load.live, None
        error, load.error = load.error, None
        if live is not None:
            self._publish(load, live)
        elif isinstance(error, VersionRefusedError):
            self._refuse(load, error)
        elif is_stopping:
            self._registry.refuse(*key, LOAD_ERROR, "the server ended meanwhile")
        else:
            self._fail(load, error)
        return live is not None

    def _publish(self, load: Load, live: ModelVersion) -> None:
        key, seconds = (load.folder.model, load.folder.version), self._clock() - load.began_seconds
        self._retries.forget(key)
        self._metrics.count_load(load.folder.model, "available", seconds=seconds)
        self._registry.publish(live)
        log = self._log.bind(model=load.folder.model, version=load.folder.version)
        log.info("version available", convexity=live.convexity, engine=live.engine.name, seconds=round(seconds, 3))

    def _refuse(self, load: Load, error: VersionRefusedError) -> None:
        key, now = (load.folder.model, load.folder.version), self._clock()
        if error.rule in _TRANSIENT_RULES:
            self._retries.note_failure(key, load.fingerprint, now, now - load.began_seconds)
        else:
            self._retries.note_refusal(key, load.fingerprint)
        self._metrics.count_load(load.folder.model, "refused", error.rule, now - load.began_seconds)
        self._registry.refuse(*key, error.rule, error.reason)
        log = self._log.bind(model=load.folder.model, version=load.folder.version)
        log.warning("version refused", rule=error.rule, reason=error.reason)

    def _fail(self, load: Load, error: Exception | None) -> None:
        """Refuse it for now: the disk failed, or the loading process."""
        key, now = (load.folder.model, load.folder.version), self._clock()
        pause = self._retries.note_failure(key, load.fingerprint, now, now - load.began_seconds)
        self._metrics.count_load(load.folder.model, "failed", LOAD_ERROR, now - load.began_seconds)
        self._registry.refuse(*key, LOAD_ERROR, f"{_told(error)}; it is tried again")
        log = self._log.bind(model=load.folder.model, version=load.folder.version)
        log.error("version failed to load; it is tried again", retry_in_seconds=round(pause, 1), exc_info=error)


def _told(error: Exception | None) -> str:
    """Return what may be told of an error: its class, and what the system says of a disk; never a path."""
    if isinstance(error, LoadFailedError):
        return error.told
    said = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else ""
    return type(error).__name__ + (f" ({said})" if said else "") + " while loading"

"""One live version: rows in, finite scores and gradients out.

Above the engines, the loader and the batchers that it owns; below the registry, which lends it to requests.

    >>> from service.model_version import load
    >>> load("models/tumours/1").score(rows)  # doctest: +SKIP
"""

import contextlib
import dataclasses
import itertools
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.admission import Room
from service.batch_statistics import BatchStatistics
from service.batcher import Batcher
from service.caller import Caller
from service.errors import InvalidArgumentError, OutOfRangeError, VersionRefusedError
from service.fair_queue import Limits
from service.pieces import Outputs, Request
from service.program.support_verification import check_probed_support
from service.program.verification import Probe, check_probe
from service.signature import CONTEXT, OUTPUTS, SUPPORT, Signature, are_finite

if TYPE_CHECKING:
    from service.engines import Engine
    from service.loader import LoadedVersion

_SHOWN_STEPS = 16
"""Steps of a proof in a version's status, which is asked for again and again; the version's own route tells more."""

_TURN_ROWS = 32
"""Most rows of one request in a batch while others wait too, in a tile of the engine as large as that."""


@dataclasses.dataclass(frozen=True)
class Batching:
    """How the requests of a version share its engine.

    Args:
        max_batch_rows: most rows of a batch; never less than the smallest tile of the engine.
        max_queue_rows: rows that may wait.
        max_queue_bytes: size of the rows that may wait.
        statistics: model, version, outputs -> where their batchers count.
    """

    max_batch_rows: int = 256
    max_queue_rows: int = 262144
    max_queue_bytes: int = 64 << 20
    statistics: Callable[[str, int, tuple[str, ...]], BatchStatistics] = lambda *_labels: BatchStatistics()


class ModelVersion:
    """A loaded version with the engine that computes it.

    Guarantee: what `run` and `submit` return is finite. A row whose score or gradient leaves float32 is an error that
    names it, and ends its own request only.

    Args:
        loaded: what the loader proved and verified.
        engine: what computes. One call at a time, unless it says that it is thread safe.
        batching: how requests share the engine.

    Thread safety: every method may be called from any thread.
    """

    def __init__(self, loaded: "LoadedVersion", engine: "Engine", batching: Batching = Batching()) -> None:
        self.loaded = loaded
        self.engine = engine
        self.signature: Signature = loaded.signature
        self._turn: contextlib.AbstractContextManager[Any] = (
            contextlib.nullcontext() if engine.thread_safe else threading.Lock()
        )
        model = self.signature.model
        self._room = Room(batching.max_queue_rows, batching.max_queue_bytes, model=model)
        smallest = engine.tile_rows[0]
        turn_rows = max(smallest, _TURN_ROWS // smallest * smallest)
        limits = Limits(max(batching.max_batch_rows, smallest), turn_rows)
        self._batchers = {
            outputs: Batcher(
                _computation(engine, self._turn, outputs),
                self._room,
                limits=limits,
                statistics=batching.statistics(model, self.signature.version, outputs),
                name=f"batcher-{model}-{self.signature.version}",
            )
            for outputs in self._selections()
        }

    @property
    def convexity(self) -> str:
        """Return "proved" or "unproved" (possible only with `--allow-uncertified`)."""
        return self.loaded.convexity

    @property
    def tile_rows(self) -> tuple[int, ...]:
        """Return the sizes of tiles that the engine was found to agree in with itself, ascending."""
        return self.engine.tile_rows

    @property
    def created(self) -> str:
        """Return the manifest's time of creation; empty for a version made elsewhere."""
        return "" if self.loaded.manifest is None else self.loaded.manifest.created

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Return the manifest's metrics; none for a version made elsewhere."""
        return {} if self.loaded.manifest is None else self.loaded.manifest.metrics

    def proof(self, max_steps: int = _SHOWN_STEPS) -> dict[str, Any] | None:
        """Return the certificate of the proof made at load, or None where there is none.

        Args:
            max_steps: most steps of it; `num_steps` tells how many there are, `untaken` the piecewise nodes of which
                no verification row took one branch, as many at most.
        """
        certificate, verification = self.loaded.certificate, self.loaded.verification
        if certificate is None or verification is None:
            return None
        document = dict(certificate.to_document(verification.gradient, verification.rounding_margin))
        steps = document["steps"]
        untaken = list(verification.untaken[:max_steps])
        return {**document, "steps": steps[:max_steps], "num_steps": len(steps), "untaken": untaken}

    def run(
        self, rows: NDArray[np.float32], outputs: Sequence[str], *, name: str = "instances"
    ) -> dict[str, NDArray[np.float32]]:
        """Return the wanted outputs of every row.

        Args:
            rows: float32 [n, width], finite, x and then the context; `signature.validate` made sure.
            outputs: names out of `signature.outputs`.
            name: what the caller calls the rows, for the error's location.

        Returns:
            output name -> float32 array: score [n], gradient [n, dim], support [n].

        Raises:
            OutOfRangeError: naming the first row whose wanted outputs are not all finite.
        """
        wanted = tuple(outputs)
        return self._checked_outputs(_computation(self.engine, self._turn, wanted)(rows), rows.shape[0], name)

    def submit(
        self, rows: NDArray[np.float32], outputs: tuple[str, ...], caller: Caller, *, name: str = "instances"
    ) -> dict[str, NDArray[np.float32]]:
        """Return what `run` returns, bit for bit, computed together with the rows of other requests.

        Args:
            rows: as for `run`.
            outputs: names out of `signature.outputs`, in its order.
            caller: who waits, and until when.
            name: as for `run`.

        Raises:
            OutOfRangeError: naming the first row whose wanted outputs are not all finite.
            ResourceExhaustedError: too much waits already.
            DeadlineExceededError: the deadline passed.
            CancelledError: the caller went away.
            UnavailableError: the version was closed.
        """
        return self._checked_outputs(self._batchers[outputs].submit(rows, caller), rows.shape[0], name)

    def begin(
        self,
        rows: NDArray[np.float32],
        outputs: tuple[str, ...],
        caller: Caller,
        ended: "queue.SimpleQueue[Request]",
        *,
        name: str = "instances",
    ) -> "Ticket":
        """Do what `submit` does without waiting: the ticket's request is put into `ended` when the answer is there.

        Args:
            rows: as for `run`, at least one.
            outputs: as for `submit`.
            caller: as for `submit`.
            ended: of the requests that are waited for together.
            name: as for `run`.

        Raises:
            ScoringError: as `submit`, of what is known now.
        """
        batcher = self._batchers[outputs]
        return Ticket(batcher, batcher.begin(rows, caller, ended), self._checked_outputs, name)

    def has_room(self) -> bool:
        """Whether `check_room` would let a request pass; asking counts nothing."""
        return self._room.has_room()

    def check_room(self) -> None:
        """Refuse a request whose rows are not known yet while not even one row has room.

        Raises:
            ResourceExhaustedError: too much waits already.
        """
        self._room.check()

    def trouble(self) -> str:
        """Return why the process should be replaced: the engine hangs, or batch threads keep dying; empty: all well."""
        return next(filter(None, (batcher.pulse.trouble() for batcher in self._batchers.values())), "")

    def refuse_waiting(self) -> None:
        """Refuse what waits and what comes, at once; what is computed now is answered."""
        for batcher in self._batchers.values():
            batcher.refuse_waiting()

    def close(self, timeout_seconds: float = 1.0) -> bool:
        """Refuse what waits, end the batch threads; return whether they have ended. `run` still works."""
        ended = [batcher.close(timeout_seconds) for batcher in self._batchers.values()]
        return all(ended)

    def _selections(self) -> list[tuple[str, ...]]:
        """Return every set of outputs that may be asked for."""
        outputs = self.signature.outputs
        return sorted(
            chosen for count in range(1, len(outputs) + 1) for chosen in itertools.combinations(outputs, count)
        )

    def _checked_outputs(
        self, results: dict[str, NDArray[np.float32]], num_rows: int, name: str
    ) -> dict[str, NDArray[np.float32]]:
        if all(map(are_finite, results.values())):
            return results
        finite = np.ones(num_rows, dtype=np.bool_)
        for values in results.values():
            finite &= np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        if not finite.all():
            message = (
                f"{name}[{int(np.argmin(finite))}]: score or gradient leaves float32 (3.4e38). "
                f"Send smaller numbers to model {self.signature.model}."
            )
            raise OutOfRangeError(message)
        return results

    def score(self, rows: ArrayLike, context: ArrayLike | None = None) -> NDArray[np.float32]:
        """Return the scores [n] of `rows` [n, dim]: an array, a data frame or lists of numbers.

        Args:
            rows: the rows.
            context: of each row [n, context_dim], where the model takes one.
        """
        return self.run(self._checked(rows, context), ("score",), name="rows")["score"]

    def score_and_gradient(
        self, rows: ArrayLike, context: ArrayLike | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the scores [n] and gradients [n, dim] of `rows` [n, dim], as for `score`."""
        results = self.run(self._checked(rows, context), ("score", "gradient"), name="rows")
        return results["score"], results["gradient"]

    def _checked(self, rows: ArrayLike, context: ArrayLike | None) -> NDArray[np.float32]:
        """Return a notebook's rows as the server would take them.

        Raises:
            InvalidArgumentError: not numbers of shape [n, dim], or not finite in float32; a context is missing or not
                taken.
        """
        signature = self.signature
        numbers = _numbers(rows, "rows", signature.dim)
        beside = None if context is None else _numbers(context, CONTEXT, signature.context_dim)
        return signature.validate(signature.joined(numbers, beside, name="rows"), name="rows")

    def make_ready(self) -> None:
        """Warm up and give the probe's answers again; a version that cannot is closed.

        Raises:
            VersionRefusedError: as `warm_up` and `reproduce`.
        """
        try:
            self.warm_up()
            self.reproduce(self.loaded.probe)
        except BaseException:
            self.close()
            raise

    def warm_up(self) -> None:
        """Run every selection of outputs once at the origin, so that no request pays for a first call.

        Raises:
            VersionRefusedError: rule `warm-up`, where the engine fails or answers NaN.
        """
        origin = np.zeros((1, self.signature.width), dtype=np.float32)
        for selection in self._selections():
            try:
                with self._turn:
                    results = self.engine.run(origin, selection)
            except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
                reason = f"the engine {self.engine.name} failed on the origin with {type(error).__name__}"
                raise VersionRefusedError("warm-up", reason) from error
            if any(np.isnan(values).any() for values in results.values()):
                raise VersionRefusedError("warm-up", f"the engine {self.engine.name} answers NaN on the origin")

    def reproduce(self, probe: Probe) -> None:
        """Require that this very engine, on its device, gives the probe's answers again.

        The loader compared the SavedModel on the CPU with its program; what serves may be another engine or a GPU.

        Args:
            probe: the version's probe.

        Raises:
            VersionRefusedError: rule `probe` or `support`, where an answer is off by more than 1e-5 of the largest.
        """

        def compute(outputs: tuple[str, ...], rows: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
            return _computation(self.engine, self._turn, outputs)(rows)

        def run(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            results = compute(OUTPUTS, rows)
            return results["score"], results["gradient"]

        check_probe(run, probe, self.signature.dim, self.signature.context_dim)
        if SUPPORT in self.signature.outputs and self.loaded.certificate is not None:
            check_probed_support(lambda rows: compute((SUPPORT,), rows)[SUPPORT], probe)


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Ticket:
    """One request that waits at a version's batcher beside others that are waited for together.

    Args:
        batcher: where it waits.
        request: the request there.
        check: outputs, number of rows, name -> outputs that are finite.
        name: what the caller calls the rows.
    """

    batcher: Batcher
    request: Request
    check: Callable[[Outputs, int, str], Outputs]
    name: str

    @property
    def deadline_seconds(self) -> float:
        """Monotonic time from which nobody waits for it."""
        return self.request.caller.deadline_seconds

    def look(self) -> None:
        """See `Batcher.look`."""
        self.batcher.look(self.request)

    def result(self) -> Outputs:
        """Return what `ModelVersion.submit` returns, or raise what it raises; for once, after the answer is there."""
        return self.check(self.request.outcome(), self.request.num_rows, self.name)


def _numbers(values: ArrayLike, name: str, dim: int) -> NDArray[np.float64]:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as err:
        message = f"{name}: expected numbers of shape [n, {dim}], received something else: {err}"
        raise InvalidArgumentError(message) from err


def _computation(
    engine: "Engine", turn: contextlib.AbstractContextManager[Any], outputs: tuple[str, ...]
) -> Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    """Return what a batcher calls. It holds no version: else a version would keep itself in memory."""

    def compute(rows: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        with turn:
            return engine.run(rows, outputs)

    return compute


def load(path: str | Path, engine: str = "auto") -> ModelVersion:
    """Return the version in the folder `<model>/<version>`, proved and verified: the server's way, for a notebook.

    Args:
        path: the version's folder; its name is the version, its parent's the model.
        engine: "auto", "program" or "tensorflow".

    Raises:
        VersionRefusedError: as the server would refuse it.
    """
    # Here and not above: the loader imports TensorFlow, which who only holds live versions need not have.
    from service import engines, loader

    folder = Path(path).resolve()
    loaded = loader.load(folder, model=folder.parent.name, version=int(folder.name))
    return ModelVersion(loaded, engines.create(loaded, engine))

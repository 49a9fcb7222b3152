"""A load of Predict calls by the stock client: `python -m bench.grpc_load`, a job in, its phases' results out.

One channel, calls that do not block, requests that were serialized beforehand and answers that are left as bytes where
nobody looks at them. The stock client costs several times what `http_load` does: the result says what was offered.
"""

import queue
import time
import zlib
from typing import Any

import grpc

from bench import load
from bench.load import HUNG, OK, Job, Phase, Tally
from service.protos import tensorflow_serving as protos

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_POLL_SECONDS = 0.05
_READY_SECONDS = 10.0
_FLOAT = 1


class Generator:
    """Runs a job.

    Args:
        job: what to do.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        request = protos.PredictRequest(model_spec={"name": job.model})
        tensor = request.inputs["x"]
        tensor.dtype = _FLOAT
        for size in (job.num_rows, job.dim):
            tensor.tensor_shape.dim.add(size=size)
        tensor.tensor_content = load.rows_of(job.num_rows, job.dim).tobytes()
        self._request: bytes = request.SerializeToString()
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(job.address, options=options)
        self._predict = self._channel.unary_unary(_PREDICT, None, None)
        self._ended: queue.SimpleQueue[tuple[Tally, float, float, Any]] = queue.SimpleQueue()
        self._open: dict[Any, tuple[Tally, float]] = {}
        self._current = Tally(Phase("none", 0.0), 0.0)
        self._is_closed_loop = False

    def run(self) -> list[Tally]:
        """Send everything and return what came of each phase."""
        grpc.channel_ready_future(self._channel).result(_READY_SECONDS)
        tallies = [self._run_phase(phase) for phase in self._job.phases]
        self._is_closed_loop = False
        deadline = time.monotonic() + self._job.grace_seconds
        while self._open and time.monotonic() < deadline:
            self._take(_POLL_SECONDS)
        for tally, sent in self._open.values():
            tally.note(HUNG, sent, time.monotonic())
        self._channel.close()
        return tallies

    def _run_phase(self, phase: Phase) -> Tally:
        started = time.monotonic()
        self._current = tally = Tally(phase, started)
        self._is_closed_loop = phase.rate is None
        end = started + phase.seconds
        for _ in range(phase.num_callers):
            self._ask()
        num_due = 0
        while (now := time.monotonic()) < end:
            due = end
            while phase.rate is not None and (due := started + num_due / phase.rate) <= now:
                self._ask()
                num_due += 1
            self._take(max(0.0, min(due, end, now + _POLL_SECONDS) - time.monotonic()))
        tally.stop(time.monotonic())
        return tally

    def _ask(self) -> None:
        """Send a request, if not too many are open."""
        tally = self._current
        if len(self._open) >= self._job.max_callers:
            tally.num_missed += 1
            return
        tally.num_sent += 1
        sent = time.monotonic()
        call = self._predict.future(self._request, timeout=self._job.timeout_seconds)
        self._open[call] = (tally, sent)
        call.add_done_callback(lambda call: self._ended.put((tally, sent, time.monotonic(), call)))

    def _take(self, seconds: float) -> None:
        """Count the calls that have ended; wait so long for the first."""
        try:
            ended = self._ended.get(timeout=seconds) if seconds > 0.0 else self._ended.get_nowait()
            while True:
                self._count(*ended)
                ended = self._ended.get_nowait()
        except queue.Empty:
            return

    def _count(self, tally: Tally, sent: float, now: float, call: Any) -> None:
        del self._open[call]
        code = call.code()
        is_ok = code is grpc.StatusCode.OK
        tally.note(OK if is_ok else code.name, sent, now)
        if is_ok:
            self._current.num_ok_meanwhile += 1
            tally.answers.add(_checksum(call.result()))
        if self._is_closed_loop:
            self._ask()


def _checksum(answer: bytes) -> int:
    outputs = protos.PredictResponse.FromString(answer).outputs
    return zlib.crc32(b"".join(outputs[name].SerializeToString() for name in sorted(outputs)))


if __name__ == "__main__":
    load.main(lambda job: Generator(job).run())

"""What the commander and its workers say to each other, each message a plain object that is pickled.

Above: `commander`, `member`. Below: `channel` carries them. Neither trusts less than it would trust itself: they are
one program.
"""

import dataclasses
from collections.abc import Mapping

from service.errors import VersionRefusedError
from service.lifecycle import ModelStatus
from service.numbers import Numbers
from service.settings import Settings

Key = tuple[str, int]
"""A model's name and a version's number."""


# ----------------------------------------------------------------------------------------------- from the commander
@dataclasses.dataclass(frozen=True)
class Welcome:
    """The first message; with it come the descriptors of the listening socket of REST, the counts and the moment.

    Args:
        settings: of the server.
        slot: which worker this is, from 0.
        processor: the processor that it keeps to; None: any.
        grpc_port: of gRPC, bound with SO_REUSEPORT.
    """

    settings: Settings
    slot: int
    processor: int | None
    grpc_port: int


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Make a version ready; with it comes the descriptor of its parcel.

    Args:
        serial: of this load of it, unlike every other.
        sees_gpu: whether TensorFlow sees a GPU.
    """

    serial: int
    sees_gpu: bool


@dataclasses.dataclass(frozen=True)
class Discard:
    """Let go of a version once no request holds it, and say `Released`. No state names it any more."""

    serial: int


@dataclasses.dataclass(frozen=True)
class State:
    """What is live, as far as it changed; it holds from the moment on that has its number.

    Args:
        number: one more than that of the state before.
        models: name -> status, or None for a model that is gone.
        serials: (model, version) -> serial of each version that is available or was a moment ago.
        is_scanned: whether the models folder was looked through.
        is_draining: whether the server is about to end.
    """

    number: int
    models: Mapping[str, ModelStatus | None]
    serials: Mapping[Key, int]
    is_scanned: bool
    is_draining: bool


@dataclasses.dataclass(frozen=True)
class Holds:
    """The state of that number holds now: tell those who wait for a change."""

    number: int


@dataclasses.dataclass(frozen=True)
class Count:
    """Tell your numbers, under this ticket."""

    ticket: int


@dataclasses.dataclass(frozen=True)
class Page:
    """The answer to `AskPage`."""

    ticket: int
    text: bytes


@dataclasses.dataclass(frozen=True)
class Stop:
    """Accept nothing more, finish what was accepted, and end.

    Args:
        seconds: most time for it.
    """

    seconds: float


# -------------------------------------------------------------------------------------------------- from a worker
@dataclasses.dataclass(frozen=True)
class Joined:
    """The worker has every live version and accepts."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a worker found when it made a version ready.

    Args:
        engine: name of the engine that serves it.
        tile_rows: its tiles.
        answers_sha256: of the bits of its answers to the probe's rows.
    """

    engine: str
    tile_rows: tuple[int, ...]
    answers_sha256: str


@dataclasses.dataclass(frozen=True)
class Failure:
    """An error that is no verdict, while a version was made ready: `told` for everybody, `details` for the log."""

    told: str
    details: str


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What came of `Prepare`."""

    serial: int
    outcome: Facts | VersionRefusedError | Failure


@dataclasses.dataclass(frozen=True)
class Received:
    """The state of that number is here."""

    number: int


@dataclasses.dataclass(frozen=True)
class Released:
    """The version is let go."""

    serial: int


@dataclasses.dataclass(frozen=True)
class Counted:
    """A worker's numbers.

    Args:
        ticket: of `Count`; 0 where nobody asked.
        numbers: all of them.
        trouble: why the worker should be replaced; empty: all is well.
    """

    ticket: int
    numbers: Numbers
    trouble: str = ""


@dataclasses.dataclass(frozen=True)
class AskPage:
    """Make the page of numbers, under this ticket."""

    ticket: int
    with_tensorflow_names: bool


@dataclasses.dataclass(frozen=True)
class Stopped:
    """The worker ends; `finished` says whether everything that was accepted was answered."""

    finished: bool

"""Every number and switch of the server, each with its default, unit and meaning: the one source of truth.

Below everything but `errors`. `__main__` makes flags and `--help` of it, the README's settings table is compared with
it, and `worker` hands the parts what they need. The environment is a parameter: nothing here reads the process.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from service.policies import EXPECTED, MOST_LATEST, VersionPolicy, parse_policies

ENVIRONMENT_PREFIX = "CONVEX_"

_MIB = 1 << 20
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


class SettingError(ValueError):
    """A setting that cannot be used; the text names the setting, what was received and what was expected."""

    def __init__(self, name: str, received: str, expected: str) -> None:
        """Build the sentence from its three parts."""
        super().__init__(f"{name}: received {received[:80]!r}, expected {expected}")
        self.name = name


@dataclasses.dataclass(frozen=True)
class _Kind:
    """How the text of a flag or variable becomes a value, and how that is said to a person."""

    expected: str
    parse: Callable[[str], Any]


def _integer(minimum: int, maximum: int) -> _Kind:
    def parse(text: str) -> int:
        value = int(text)
        if not minimum <= value <= maximum:
            raise ValueError
        return value

    return _Kind(f"a whole number from {minimum} to {maximum}", parse)


def _seconds(minimum: float, maximum: float) -> _Kind:
    def parse(text: str) -> float:
        value = float(text)
        if not minimum <= value <= maximum:  # also refuses NaN
            raise ValueError
        return value

    return _Kind(f"a number from {minimum:g} to {maximum:g}", parse)


def _choice(*names: str) -> _Kind:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError
        return text

    return _Kind("one of " + ", ".join(names), parse)


def _parse_switch(text: str) -> bool:
    word = text.strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError
    return word in _TRUE


def _parse_text(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError
    return text


_SWITCH = _Kind("true or false", _parse_switch)
_TEXT = _Kind("a text that is not empty", _parse_text)
_OPTIONAL_NAME = _Kind("a model name, or nothing", lambda text: text.strip() or None)
_NAMES = _Kind("model names separated by commas", lambda text: tuple(filter(None, map(str.strip, text.split(",")))))
_POLICIES = _Kind(EXPECTED, parse_policies)
_OPTIONAL_FILE = _Kind("a file, or nothing", lambda text: Path(_parse_text(text)) if text.strip() else None)
_FOLDER = _Kind("a folder", lambda text: Path(_parse_text(text)))


def _setting(default: Any, kind: _Kind, meaning: str, unit: str = "") -> Any:
    return dataclasses.field(default=default, metadata={"kind": kind, "meaning": meaning, "unit": unit})


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of one server, immutable after the start.

    Each field is a flag `--rest-port` and an environment variable `CONVEX_REST_PORT`; a flag wins over a variable, a
    variable over the default. `rows()` lists them; the fields' metadata hold meaning and unit.
    """

    models_dir: Path = _setting(  # noqa: RUF009  (makes a dataclass field of an immutable Path)
        Path("models"), _FOLDER, "folder of models: <model>/<version>/ below it"
    )
    follow_model_links: bool = _setting(
        False,
        _SWITCH,
        "a model's folder may be a link that stays below the models folder; no other link ever is followed",
    )
    default_model: str | None = _setting(
        None, _OPTIONAL_NAME, "model that `POST /score` asks; without it the only model there is"
    )
    require_models: tuple[str, ...] = _setting((), _NAMES, "models without which `/readyz` stays 503")
    latest_versions: int = _setting(
        1,
        _integer(1, MOST_LATEST),
        "the newest versions that load are kept, labelled ones beside them",
        "versions a model",
    )
    version_policy: tuple[tuple[str, VersionPolicy], ...] = _setting(
        (),
        _POLICIES,
        "versions that are kept instead: `latest:N`, `all` or `specific:V,V`; of one model by `MODEL=POLICY`, "
        "several separated by `;`",
    )
    max_live_versions: int = _setting(
        100,
        _integer(1, 10_000),
        "largest number of versions that a policy keeps, the newest of them; labelled ones beside them",
        "versions a model",
    )
    model_config_file: Path | None = _setting(  # noqa: RUF009  (as above)
        None, _OPTIONAL_FILE, "TensorFlow Serving's file of models, policies and labels; read again when it changes"
    )
    poll_interval_seconds: float = _setting(
        0.5, _seconds(0.05, 3600.0), "pause between two looks at the models folder", "seconds"
    )
    allow_uncertified: bool = _setting(
        False, _SWITCH, "serve versions without a proof of convexity too, marked `X-Convexity: unproved`"
    )
    allow_schema_change: bool = _setting(
        False, _SWITCH, "serve versions that take or answer other columns than the version that they replace"
    )
    engine: str = _setting(
        "auto",
        _choice("auto", "program", "tensorflow"),
        "what computes: the lifted program on the CPU, TensorFlow, or the better one for this machine",
    )
    allow_tf32: bool = _setting(False, _SWITCH, "let a GPU round products to TF32 (faster, 10 bits of mantissa)")
    intra_op_threads: int = _setting(
        0,
        _integer(0, 1024),
        "threads of one TensorFlow operation, or of one large call of the program engine; 0: as many as pay",
        "threads",
    )
    workers: int = _setting(
        1,
        _integer(1, 256),
        "processes that serve on the same two ports; the limits of threads, queues and connections are each one's own",
        "processes",
    )
    host: str = _setting("127.0.0.1", _TEXT, "address that both ports listen on")
    rest_port: int = _setting(8501, _integer(0, 65535), "port of REST and the page; 0: any free one")
    grpc_port: int = _setting(8500, _integer(0, 65535), "port of gRPC; 0: any free one")
    http_threads: int = _setting(32, _integer(1, 512), "threads that answer REST requests", "threads")
    grpc_threads: int = _setting(32, _integer(1, 512), "threads that answer gRPC requests", "threads")
    max_request_rows: int = _setting(65536, _integer(1, 1 << 31), "largest number of instances of a request", "rows")
    max_batch_rows: int = _setting(
        256, _integer(1, 1 << 20), "largest batch that rows of several requests are computed in", "rows"
    )
    max_queue_rows: int = _setting(
        262144, _integer(1, 1 << 31), "rows of one version that may wait; one more is 429 / RESOURCE_EXHAUSTED", "rows"
    )
    max_queue_bytes: int = _setting(
        64 * _MIB, _integer(1024, 1 << 40), "size of the rows of one version that may wait, as float32", "bytes"
    )
    max_waiting_requests: int = _setting(
        256,
        _integer(0, 1 << 20),
        "requests of a protocol that may wait for a thread; one more is 429 / RESOURCE_EXHAUSTED",
        "requests",
    )
    request_timeout_seconds: float = _setting(
        30.0,
        _seconds(0.001, 86400.0),
        "time for a request that sets no deadline; then 504 / DEADLINE_EXCEEDED",
        "seconds",
    )
    max_connections: int = _setting(
        4096, _integer(1, 1 << 20), "REST connections that are kept; one more ends the one that was idle longest"
    )
    client_timeout_seconds: float = _setting(
        10.0,
        _seconds(0.05, 3600.0),
        "time for a REST client to send a request's head, to keep to 1 KiB/s in its body, and to read of its answer; "
        "for a gRPC call's message when every thread is taken",
        "seconds",
    )
    idle_timeout_seconds: float = _setting(
        75.0, _seconds(0.05, 86400.0), "time that a REST connection may be without a request", "seconds"
    )
    max_body_bytes: int = _setting(64 * _MIB, _integer(1024, 2048 * _MIB - 1), "largest body of REST", "bytes")
    max_message_bytes: int = _setting(
        64 * _MIB, _integer(1024, 2048 * _MIB - 1), "largest gRPC message, both ways", "bytes"
    )
    tensor_content: bool = _setting(
        False, _SWITCH, "gRPC outputs in `tensor_content` (faster) instead of the `*_val` fields that TF Serving fills"
    )
    drain_delay_seconds: float = _setting(
        0.2, _seconds(0.0, 600.0), "after SIGTERM: still accepting while load balancers notice `/readyz`", "seconds"
    )
    drain_seconds: float = _setting(
        4.0, _seconds(0.0, 3600.0), "after SIGTERM: most time in all until accepted requests are given up", "seconds"
    )
    log_format: str = _setting("console", _choice("console", "json"), "lines for people, or one JSON object a line")
    access_log: bool = _setting(False, _SWITCH, "write a line for each request, probes only at the level debug")
    log_level: str = _setting(
        "info", _choice("debug", "info", "warning", "error"), "least important line that is still written"
    )

    def __post_init__(self) -> None:
        """Refuse two servers on one port."""
        if self.rest_port == self.grpc_port != 0:
            raise SettingError(
                "--grpc-port / CONVEX_GRPC_PORT", str(self.grpc_port), "a port that --rest-port does not use"
            )

    @classmethod
    def read(cls, flags: Mapping[str, str], environment: Mapping[str, str]) -> "Settings":
        """Return the settings that flags and environment variables give.

        Args:
            flags: field name -> text, for the flags that were given.
            environment: variables of the process; only those named `CONVEX_<FIELD>` are read.

        Raises:
            SettingError: naming the flag and variable, what was received and what was expected.
        """
        values: dict[str, Any] = {}
        for row in rows():
            text = flags.get(row.name, environment.get(row.variable))
            if text is None:
                continue
            try:
                values[row.name] = row.parse(text)
            except ValueError as error:
                raise SettingError(f"{row.flag} / {row.variable}", text, row.expected) from error
        return cls(**values)


@dataclasses.dataclass(frozen=True)
class SettingRow:
    """One setting as a person sees it: a line of `--help` and a row of the README's table."""

    name: str
    default: str
    unit: str
    meaning: str
    expected: str
    is_switch: bool
    parse: Callable[[str], Any] = dataclasses.field(repr=False, compare=False)

    @property
    def flag(self) -> str:
        """The flag of the command line, e.g. `--rest-port`."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable, e.g. `CONVEX_REST_PORT`."""
        return ENVIRONMENT_PREFIX + self.name.upper()


def rows() -> list[SettingRow]:
    """Return every setting in the order of the fields."""
    return [
        SettingRow(
            name=field.name,
            default=_shown(field.default),
            unit=field.metadata["unit"],
            meaning=field.metadata["meaning"],
            expected=field.metadata["kind"].expected,
            is_switch=field.metadata["kind"] is _SWITCH,
            parse=field.metadata["kind"].parse,
        )
        for field in dataclasses.fields(Settings)
    ]


def table() -> list[tuple[str, str, str, str, str]]:
    """Return the rows of the README's settings table: flag, variable, default, unit, what it does."""
    return [(row.flag, row.variable, row.default, row.unit, row.meaning) for row in rows()]


def _shown(default: object) -> str:
    if default is None or default == ():
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return str(default)

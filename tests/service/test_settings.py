"""Settings: flags over variables over defaults, and a sentence for every bad value."""

import dataclasses
from pathlib import Path

import pytest

from service.policies import EXPECTED, parse_policy
from service.settings import SettingError, Settings, rows, table


def test_read_prefers_flag_over_variable_over_default():
    """A flag wins over the environment, the environment over the default."""
    read = Settings.read({"rest_port": "1"}, {"CONVEX_REST_PORT": "2", "CONVEX_GRPC_PORT": "3", "REST_PORT": "4"})
    assert (1, 3, 32) == (read.rest_port, read.grpc_port, read.http_threads)


def test_read_gives_the_defaults_of_the_contract():
    """Without flags and variables: loopback, 8501 and 8500, latest 1, auto engine, TF32 off, proofs demanded."""
    read = Settings.read({}, {})
    assert ("127.0.0.1", 8501, 8500, 1, "auto", False, False, 64 << 20) == (
        read.host,
        read.rest_port,
        read.grpc_port,
        read.latest_versions,
        read.engine,
        read.allow_tf32,
        read.allow_uncertified,
        read.max_message_bytes,
    )


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("models_dir", "/srv/models", Path("/srv/models")),
        ("default_model", "tumours", "tumours"),
        ("default_model", "", None),
        ("require_models", "a, b,", ("a", "b")),
        ("poll_interval_seconds", "0.25", 0.25),
        ("version_policy", "latest:2; m=all", (("", parse_policy("latest:2")), ("m", parse_policy("all")))),
        ("model_config_file", "/etc/models.config", Path("/etc/models.config")),
        ("model_config_file", "", None),
        ("allow_uncertified", "TRUE", True),
        ("allow_uncertified", "0", False),
        ("engine", "program", "program"),
        ("log_format", "json", "json"),
    ],
)
def test_read_parses_every_kind(name, text, expected):
    """Text becomes the field's type: folder, name, list, seconds, switch, choice."""
    assert expected == getattr(Settings.read({name: text}, {}), name)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("rest_port", "http", "a whole number from 0 to 65535"),
        ("rest_port", "65536", "a whole number from 0 to 65535"),
        ("poll_interval_seconds", "nan", "a number from 0.05 to 3600"),
        ("engine", "gpu", "one of auto, program, tensorflow"),
        ("allow_tf32", "maybe", "true or false"),
        ("latest_versions", "0", "a whole number from 1 to 100"),
        ("models_dir", "", "a folder"),
        ("version_policy", "newest", EXPECTED),
    ],
)
def test_read_names_setting_received_and_expected(name, text, expected):
    """A bad value is an error that says which setting, what came, and what should have come."""
    row = next(row for row in rows() if row.name == name)
    with pytest.raises(SettingError) as caught:
        Settings.read({}, {row.variable: text})
    assert f"{row.flag} / {row.variable}: received {text!r}, expected {expected}" == str(caught.value)


def test_settings_refuse_one_port_for_both_protocols():
    """Two servers cannot share a port; two ephemeral ones can be asked for."""
    with pytest.raises(SettingError, match="a port that --rest-port does not use"):
        Settings.read({"rest_port": "9000", "grpc_port": "9000"}, {})
    assert Settings.read({"rest_port": "0", "grpc_port": "0"}, {}).rest_port == 0


def test_table_has_a_row_for_every_field():
    """The README's table and `--help` are made of the fields themselves: none is missing, each says what it does."""
    fields = [field.name for field in dataclasses.fields(Settings)]
    assert fields == [row.name for row in rows()]
    assert [("--" + name.replace("_", "-"), "CONVEX_" + name.upper()) for name in fields] == [
        line[:2] for line in table()
    ]
    assert all(row.meaning and row.expected for row in rows())


def test_table_gives_units_where_the_name_has_one():
    """A setting that counts seconds, bytes, rows or threads says so in its unit."""
    for row in rows():
        for unit in ("seconds", "bytes", "rows", "threads"):
            assert not row.name.endswith(unit) or unit == row.unit


def test_defaults_are_shown_as_they_are_read():
    """The default that a person sees parses back to the default."""
    for row in rows():
        if row.default:
            assert row.parse(row.default) == getattr(Settings(), row.name)

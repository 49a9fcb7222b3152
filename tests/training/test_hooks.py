"""Telling others: webhooks that answer, refuse, hang and drip; commands that end, fail and hang; no secret is shown."""

import base64
import json
import os
import sys
from pathlib import Path

import psutil
import pytest

from tests.training.local_webhook import hanging, webhook
from training import hooks
from training.hooks import Hook, Told

DOCUMENT = {"event": "published", "version": 3, "difference": 0.5, "reasons": ["a", "b"], "text": "a line\nand more"}


def tell(hook, *, timeout_seconds=20.0, pause_seconds=0.001, stop=lambda: False):
    """Tell the document."""
    return hooks.tell(
        hook,
        DOCUMENT,
        environment=os.environ,
        timeout_seconds=timeout_seconds,
        pause_seconds=pause_seconds,
        stop=stop,
    )


def python(script, *arguments):
    """Return a command that runs a script."""
    return Hook(command=(sys.executable, "-c", script, *map(str, arguments)))


def test_webhook_gets_the_document_as_json():
    """One POST to the address' path and query, with a user and password in its header."""
    with webhook() as (address, taken):
        told = tell(Hook(url=address.replace("//", "//me:p%40ss@") + "/services/token?key=1#part"))
    assert Told(True, 1, "200") == told
    ((path, headers, document),) = taken
    assert ("/services/token?key=1", DOCUMENT) == (path, document)
    assert ("application/json", "Basic " + base64.b64encode(b"me:p@ss").decode()) == (
        headers["Content-Type"], headers["Authorization"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ((503, 429, 204), Told(True, 3, "204")),
        ((500,), Told(False, 3, "500")),
        ((404, 200), Told(False, 1, "404")),
    ],
)
def test_webhook_is_tried_again_unless_it_will_not_help(statuses, expected):
    """A server that is in trouble may take it later; one that knows no such address will not."""
    with webhook(statuses) as (address, taken):
        assert expected == tell(Hook(url=address))
    assert expected.attempts == len(taken)


def test_webhook_follows_no_redirect():
    """A redirected POST would arrive without its body."""
    with webhook((302,), [("Location", "/elsewhere")]) as (address, taken):
        assert Told(False, 1, "302") == tell(Hook(url=address))
    assert ["/"] == [path for path, *_ in taken]


@pytest.mark.parametrize(
    ("first_words", "drop"),
    [(b"", b""), (b"", b"H"), (b"HTTP/1.1 ", b"2"), (b"HTTP/1.1 200 OK\r\nX: ", b"y")],
)
def test_webhook_that_hangs_or_drips_is_given_up(first_words, drop):
    """An attempt ends with its time, whatever trickles in, and what is tried again hangs again."""
    with hanging(first_words, drop) as (address, connections):
        assert Told(False, 3, "no answer within 0.1 s") == tell(Hook(url=address), timeout_seconds=0.1)
    assert 3 == len(connections)


@pytest.mark.parametrize("said", [b"", b"SSH-2.0-server\r\n"])
def test_webhook_that_speaks_no_http_is_an_answer_and_no_error(said):
    """What ends at once, or says something else, is told by the kind of error."""
    with hanging(said, b"\r\n" * 70_000) as (address, _):
        told = tell(Hook(url=address), timeout_seconds=1.0)
    assert (False, 3) == (told.told, told.attempts)


def test_webhook_that_refuses_connections_is_named_without_its_address(ephemeral_port):
    """The log says what the system says; the path, which may be a token, stands nowhere."""
    told = tell(Hook(url=f"http://127.0.0.1:{ephemeral_port}/token"))
    assert Told(False, 3, "ConnectionRefusedError (Connection refused)") == told


def test_webhook_is_not_tried_again_when_the_job_was_interrupted(ephemeral_port):
    """A signal that was held back while publishing ends the attempts."""
    told = tell(Hook(url=f"http://127.0.0.1:{ephemeral_port}"), pause_seconds=600.0, stop=lambda: True)
    assert 1 == told.attempts


def test_command_gets_the_document_and_variables(tmp_path):
    """The JSON on standard input; texts and numbers as variables; arguments that no shell reads."""
    script = (
        "import os, sys, json; json.dump([sys.stdin.read(), sys.argv[2], dict(os.environ)], open(sys.argv[1], 'w'))"
    )
    assert Told(True, 1, "exit 0") == tell(python(script, tmp_path / "told", "$HOME; *"))
    read, argument, environment = json.loads((tmp_path / "told").read_text())
    assert (DOCUMENT, "$HOME; *") == (json.loads(read), argument)
    variables = {name: value for name, value in environment.items() if name.startswith("RETRAIN_")}
    assert {
        "RETRAIN_EVENT": "published",
        "RETRAIN_VERSION": "3",
        "RETRAIN_DIFFERENCE": "0.5",
        "RETRAIN_TEXT": "a line\nand more",
    } == variables
    assert os.environ["PATH"] == environment["PATH"]


def test_command_that_fails_is_told_with_its_last_words():
    """Exit 1 is no error of the job; a listener that does not read its input is none either."""
    said = "print('x' * 999, flush=True); print('no such', file=sys.stderr, flush=True); print('channel')"
    script = f"import sys; {said}; sys.exit(1)"
    told = tell(python(script))
    assert (False, 1) == (told.told, told.attempts)
    assert told.said.startswith("exit 1: xxx")
    assert "no such" in told.said
    assert len(told.said) < 400


def test_command_that_hangs_is_killed_with_all_that_it_started(tmp_path, wait_until):
    """Neither a signal that it ignores nor a child of its own keeps the job waiting."""
    script = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open(sys.argv[1], 'w').write(str(child.pid)); time.sleep(600)"
    )
    told = tell(python(script, tmp_path / "child"), timeout_seconds=2.0)
    assert Told(False, 1, "killed after 2 s") == told
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize(("program", "said"), [("/no/such/program", "FileNotFoundError"), ("/", "PermissionError")])
def test_command_that_cannot_be_run_is_an_answer_and_no_error(program, said):
    """A program that was removed or may not be run loses no night."""
    told = tell(Hook(command=(program,)))
    assert (False, True) == (told.told, told.said.startswith(said))


def test_hook_takes_its_address_from_the_environment():
    """`$NAME` keeps a secret out of the file; without an address there, nothing is resolved."""
    hook = hooks.read("$ALERT")
    assert Hook(variable="ALERT") == hook
    assert Hook(url="https://h/t") == hook.resolved({"ALERT": "https://h/t"})
    assert [None, None, None] == [hook.resolved(given) for given in ({}, {"ALERT": ""}, {"ALERT": "rm -rf"})]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("", ""),
        ("https://h:1", "https://h:1"),
        ("https://h/", "https://h/"),
        ("https://h/s3cret", "https://h/..."),
        ("https://h?s3cret", "https://h/..."),
        ("https://s3cret@h", "https://h/..."),
        ("$NAME", "$NAME"),
        (["notify"], "notify"),
        (["notify", "s3cret"], "notify ..."),
    ],
)
def test_hook_is_shown_without_its_secrets(value, shown):
    """Host and program tell an operator which hook it was; what is secret stands in no text of it."""
    hook = hooks.read(value)
    assert shown == hook.words
    assert "s3cret" not in f"{hook}"
    assert bool(value) == bool(hook)


def test_tell_answers_no_address_when_there_is_none():
    """A hook whose variable was not looked up reaches nobody, and says so."""
    assert Told(False, 0, "there is no address") == tell(Hook(variable="X"))


@pytest.mark.parametrize(
    ("program", "expected"), [("notify", "notify"), ("./notify", "/job/notify"), ("/bin/notify", "/bin/notify")]
)
def test_program_is_named_as_other_paths_of_the_configuration(program, expected):
    """A relative path starts at the configuration's folder; a bare name is looked up on PATH."""
    assert (expected, "-q") == Hook(command=(program, "-q")).located(Path("/job")).command

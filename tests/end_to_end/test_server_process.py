"""The server as its users meet it: a process over a folder that changes, under load, ended by a signal."""

import json
import signal
from concurrent import futures

import grpc
import numpy as np

from tests.end_to_end.clients import GrpcClient, RestClient, predict, predict_request, read_response

START_SECONDS = 40.0
PICK_UP_SECONDS = 20.0
COPIES = 8000
NO_KERNEL = "there is no compiled kernel"


def clients_of(server, models):
    """Return eight clients, started: four on REST (two raw, two JSON), four on gRPC."""
    rest, rpc = server.address("rest"), server.address("grpc")
    clients = [RestClient(rest, models.rows, "small", raw=raw) for raw in (True, False, True, False)]
    clients += [GrpcClient(rpc, models.rows, "small") for _ in range(4)]
    for client in clients:
        client.start()
    return clients


def assert_answers_are_of_the_versions_they_name(clients, models):
    """Every score and gradient equals, bit for bit, what that version gives in a process without a server."""
    for client in clients:
        for version, score, gradient in client.answers:
            expected_score, expected_gradient = models.expected(version)
            np.testing.assert_array_equal(expected_score, score, strict=True)
            np.testing.assert_array_equal(expected_gradient, gradient, strict=True)


def spoil_a_byte(name):
    """Return what flips one bit in the middle of a file."""

    def spoil(folder):
        path = folder / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    return spoil


def state_of(folder):
    """Return size and time of the last change of a folder and of everything below it."""
    infos = {path: path.stat() for path in (folder, *folder.rglob("*"))}
    return {path: (info.st_size, info.st_mtime_ns, info.st_ctime_ns) for path, info in infos.items()}


def test_server_starts_without_models_and_recovers_when_one_appears(serve, models, tmp_path, wait_until):
    """On a missing folder it is alive and not ready, says 503; a version that appears makes it ready and answers."""
    models_dir = tmp_path / "models"
    server = serve(models_dir)
    wait_until(lambda: server.address("rest"), START_SECONDS)
    assert 200 == server.get("/healthz")[0]
    assert 503 == server.get("/readyz")[0]
    assert [] == server.events("version available")
    models.put(models_dir, 1)
    wait_until(server.is_ready, PICK_UP_SECONDS)
    with grpc.insecure_channel(server.address("grpc")) as channel:
        response = predict(channel)(predict_request("small", models.rows), timeout=20)
    version, score, gradient = read_response(response, models.rows)
    assert 1 == version
    np.testing.assert_array_equal(models.expected(1)[0], score, strict=True)
    np.testing.assert_array_equal(models.expected(1)[1], gradient, strict=True)
    assert 0 == server.terminate()
    assert not any("Traceback" in line for line in server.lines)


def test_server_prints_lines_that_name_its_ports(serve, models, tmp_path, wait_until):
    """Standard output is the announcement alone; standard error is JSON lines alone, none of TensorFlow's noise."""
    models.put(tmp_path, 1)
    server = serve(tmp_path)
    wait_until(server.is_ready, START_SECONDS)
    wait_until(lambda: len(server.printed) == 3)
    page, curl, call = server.printed
    assert f"http://{server.address('rest')}/" in page
    assert f"http://{server.address('rest')}/score" in curl
    assert server.address("grpc") in call
    without_kernel = [line for line in server.lines if NO_KERNEL in line]
    assert len(without_kernel) <= 1
    assert ["serving", "version available"] == sorted(
        json.loads(line)["event"] for line in server.lines if line not in without_kernel
    )


def test_server_falls_back_from_broken_versions_at_the_start(serve, models, tmp_path, wait_until):
    """Newer versions with a flipped bit or a foreign manifest are refused with the rule; the older one serves."""
    models.put(tmp_path, 1)
    models.put(tmp_path, 2, spoil=spoil_a_byte("saved_model.pb"))
    models.put(tmp_path, 3, spoil=lambda folder: (folder / "manifest.json").unlink())
    models.put(tmp_path, 4, spoil=lambda folder: (folder / "extra.txt").write_text("x"))
    server = serve(tmp_path)
    wait_until(server.is_ready, START_SECONDS)
    wait_until(lambda: server.versions("small").get(3, ("", ""))[1].startswith("manifest-missing"), PICK_UP_SECONDS)
    versions = server.versions("small")
    assert ("AVAILABLE", "") == versions[1]
    for version, rule in ((2, "file-hash"), (3, "manifest-missing"), (4, "file-unlisted")):
        state, reason = versions[version]
        assert "END" == state
        assert reason.startswith(rule)
        assert str(tmp_path) not in reason


def test_server_needs_no_write_permission_on_the_models_folder(serve, models, tmp_path, wait_until):
    """From a folder without any write permission it serves, and it writes nothing there (which binds root as well)."""
    models_dir = tmp_path / "models"
    models.put(models_dir, 1)
    for path in (models_dir, *models_dir.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        before = state_of(models_dir)
        server = serve(models_dir)
        wait_until(server.is_ready, START_SECONDS)
        assert 0 == server.terminate()
        assert before == state_of(models_dir)
    finally:
        for path in (models_dir, *models_dir.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_second_server_on_the_port_ends_with_one_line(serve, tmp_path, wait_until):
    """A port in use: exit 1 and one clear line, while the first server goes on."""
    first = serve(tmp_path)
    wait_until(lambda: first.address("rest"), START_SECONDS)
    for flag, protocol in (("--rest-port", "rest"), ("--grpc-port", "grpc")):
        second = serve(tmp_path, flag, first.address(protocol).rpartition(":")[2])
        assert 1 == second.process.wait(START_SECONDS)
        (line,) = wait_until(lambda server=second: server.lines)
        assert line.startswith(f"error: cannot listen on {first.address(protocol)}")
    assert 200 == first.get("/healthz")[0]


def test_hot_swap_loses_no_request(serve, models, tmp_path, wait_until):
    """Four new versions under eight clients on both protocols: each client sees each, in order; no request fails."""
    models.put(tmp_path, 1)
    server = serve(tmp_path)
    wait_until(server.is_ready, START_SECONDS)
    clients = clients_of(server, models)
    try:
        for version in range(2, 6):
            models.put(tmp_path, version)
            wait_until(
                lambda wanted=version: all(client.seen()[-1:] == [wanted] or client.failures for client in clients),
                PICK_UP_SECONDS,
            )
    finally:
        for client in clients:
            client.stopping.set()
        for client in clients:
            client.join(30)
    assert [] == [failure for client in clients for failure in client.failures + client.refusals]
    for client in clients:
        assert [1, 2, 3, 4, 5] == client.seen()
    assert_answers_are_of_the_versions_they_name(clients, models)
    assert ("END", "") == server.versions("small")[1]
    assert b'convex_swaps_total{model="small"} 4.0' in server.get("/metrics")[1]


def test_sigterm_under_load_loses_no_accepted_request(serve, models, tmp_path, wait_until):
    """SIGTERM under eight clients and four long requests: all that was accepted is answered, and the exit code is 0."""
    models.put(tmp_path, 1)
    server = serve(tmp_path, "--drain-delay-seconds", 0.5)
    wait_until(server.is_ready, START_SECONDS)
    many = np.tile(models.rows, (COPIES, 1))
    clients = clients_of(server, models)
    askers = [RestClient(server.address("rest"), many, "small", raw=True) for _ in range(2)]
    askers += [GrpcClient(server.address("grpc"), many, "small") for _ in range(2)]
    try:
        wait_until(lambda: all(client.answers or client.failures for client in clients), START_SECONDS)
        with futures.ThreadPoolExecutor(len(askers)) as pool:
            long_answers = [pool.submit(asker.ask) for asker in askers]
            server.process.send_signal(signal.SIGTERM)
            answers = [answer.result(20) for answer in long_answers]
        assert 0 == server.process.wait(20)
    finally:
        for client in clients:
            client.stopping.set()
            client.join(30)
        for asker in askers:
            asker.close()
    assert [] == [failure for client in clients for failure in client.failures]
    assert_answers_are_of_the_versions_they_name(clients, models)
    expected_score, expected_gradient = models.expected(1)
    for _, score, gradient in answers:
        np.testing.assert_array_equal(np.tile(expected_score, COPIES), score, strict=True)
        np.testing.assert_array_equal(np.tile(expected_gradient, (COPIES, 1)), gradient, strict=True)
    (stopped,) = server.events("stopped")
    assert stopped["finished"] is True


def test_second_signal_ends_a_draining_server_at_once(serve, tmp_path, wait_until):
    """Whoever cannot wait for the drain sends the signal again: 128 + its number."""
    server = serve(tmp_path, "--drain-delay-seconds", 60, "--drain-seconds", 60)
    wait_until(lambda: server.address("rest"), START_SECONDS)
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: server.events("draining"))
    server.process.send_signal(signal.SIGTERM)
    assert 143 == server.process.wait(20)


def test_sigterm_during_the_first_load_ends_in_time(serve, models, tmp_path, wait_until):
    """A server that is still importing TensorFlow and proving its first version ends with 0 like any other."""
    models.put(tmp_path, 1)
    server = serve(tmp_path)
    wait_until(lambda: server.address("rest"), START_SECONDS)
    assert 0 == server.terminate()
    assert not any("Traceback" in line for line in server.lines)

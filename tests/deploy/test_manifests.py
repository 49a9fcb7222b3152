"""What lies in deploy/: valid for Kubernetes, in the words of the commands, within the server's own limits."""

import re
import shlex
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from service.settings import Settings, rows
from training.__main__ import commands

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
COMPOSE = ROOT / "deploy" / "compose.yaml"
KUBERNETES_VERSION = "1.37.0"
ENTRY = (ROOT / "deploy" / "entry").read_text()
DOCUMENTS = [
    pytest.param(document, id=f"{path.stem}-{document['kind']}-{number}")
    for path in sorted(KUBERNETES.glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for number, document in enumerate(yaml.safe_load_all(path.read_text()))
]


def of_kind(kind):
    """Return the one document of a kind."""
    (found,) = [parameter.values[0] for parameter in DOCUMENTS if parameter.values[0]["kind"] == kind]
    return found


def deployed():
    """Return the pod of the Deployment and that of the CronJob."""
    return of_kind("Deployment")["spec"]["template"], of_kind("CronJob")["spec"]["jobTemplate"]["spec"]["template"]


def commands_given():
    """Yield every command that the files give to the image, as words."""
    for pod in deployed():
        for container in pod["spec"]["containers"]:
            yield container["args"]
    for service in yaml.safe_load(COMPOSE.read_text())["services"].values():
        yield service["command"]
    for line in (ROOT / "deploy" / "crontab").read_text().splitlines():
        found = re.search(r"python -m training (.*)", line)
        if found:
            yield shlex.split(found[1])


def check_command(words):
    """Raise for words that the image's entry, the server or the job would not take."""
    command, *rest = words
    if not re.search(rf"\b{command}\b[^)]*\) exec", ENTRY) and command != "serve":
        message = f"the image knows no command {command}"
        raise ValueError(message)
    known = serve_flags() if command == "serve" else {o for p in commands.commands[command].params for o in p.opts}
    unknown = [word for word in rest if word.startswith("--") and word not in known]
    if unknown:
        message = f"{command} knows no {unknown}"
        raise ValueError(message)


def serve_flags():
    """Return the flags of the server."""
    return {row.flag for row in rows()}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_manifest_is_valid_for_kubernetes(document):
    """Each document has the fields of its kind, with the types of its kind, and no other."""
    kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)


def test_checker_refuses_a_field_with_a_typing_error():
    """A port that is written wrong, which a cluster would leave out without a word, is refused."""
    document = of_kind("Deployment")
    container = document["spec"]["template"]["spec"]["containers"][0]
    spoilt = {**container, "ports": [{"name": "rest", "containerPrt": 8501}]}
    pod = {**document["spec"]["template"]["spec"], "containers": [spoilt]}
    template = {**document["spec"]["template"], "spec": pod}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            {**document, "spec": {**document["spec"], "template": template}}, KUBERNETES_VERSION, strict=True
        )


def test_kustomization_names_every_file():
    """No manifest lies there that is not applied."""
    named = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    assert sorted(path.name for path in KUBERNETES.glob("*.yaml")) == sorted([*named, "kustomization.yaml"])


@pytest.mark.parametrize("words", list(commands_given()), ids=" ".join)
def test_commands_are_those_of_the_image(words):
    """Every command and flag is one that the image takes."""
    check_command(words)


@pytest.mark.parametrize("words", [["fly"], ["serve", "--require-model", "m"], ["retrain", "a.toml", "--model-dir"]])
def test_checker_refuses_commands_that_do_not_exist(words):
    """An unknown command and a flag that is written wrong are told."""
    with pytest.raises(ValueError, match="knows no"):
        check_command(words)


def test_variables_are_settings_of_the_server():
    """Every CONVEX_ variable is one that the server reads."""
    (container,) = of_kind("Deployment")["spec"]["template"]["spec"]["containers"]
    compose = yaml.safe_load(COMPOSE.read_text())["services"]["scoring"]["environment"]
    assert {entry["name"] for entry in container["env"]} | set(compose) <= {row.variable for row in rows()}


def test_nobody_is_killed_before_the_drain_is_over():
    """The grace period is longer than the drain, which is longer than the delay before it."""
    template, _ = deployed()
    (container,) = template["spec"]["containers"]
    given = {entry["name"]: entry["value"] for entry in container["env"]}
    delay, drain = float(given["CONVEX_DRAIN_DELAY_SECONDS"]), float(given["CONVEX_DRAIN_SECONDS"])
    assert delay < drain < template["spec"]["terminationGracePeriodSeconds"]
    compose = yaml.safe_load(COMPOSE.read_text())["services"]["scoring"]
    assert Settings(models_dir=Path()).drain_seconds < float(compose["stop_grace_period"].rstrip("s"))


def test_ports_and_paths_are_those_of_the_server():
    """The ports are the server's own, and the probes ask what it answers."""
    settings = Settings(models_dir=Path())
    (container,) = of_kind("Deployment")["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {"rest": settings.rest_port, "grpc": settings.grpc_port} == ports
    probes = {name: container[name]["httpGet"]["path"] for name in container if name.endswith("Probe")}
    assert {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"} == probes
    services = [parameter.values[0] for parameter in DOCUMENTS if parameter.values[0]["kind"] == "Service"]
    labels = deployed()[0]["metadata"]["labels"]
    assert all(service["spec"]["selector"].items() <= labels.items() for service in services)


def test_only_the_job_may_write_to_the_models():
    """The server's volume is read-only and the job's is not, in both files; nobody may become root."""
    server, job = deployed()
    mounts = [
        {mount["name"]: mount.get("readOnly", False) for mount in pod["spec"]["containers"][0]["volumeMounts"]}
        for pod in (server, job)
    ]
    assert [{"models": True, "tmp": False}, {"models": False, "tmp": False}] == mounts
    for pod in (server, job):
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    assert {"scoring": ["models:/models:ro"], "nightly": ["models:/models"]} == {
        name: service["volumes"] for name, service in services.items()
    }


def test_a_second_night_never_runs_beside_the_first():
    """The job forbids itself beside itself, and is not tried again when the gate has refused."""
    job = of_kind("CronJob")["spec"]
    assert ("Forbid", 0) == (job["concurrencyPolicy"], job["jobTemplate"]["spec"]["backoffLimit"])

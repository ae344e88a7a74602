"""The image is built, its commands run in it as its user, and the services of infra/compose.yaml run from it."""

import json
import shlex
import sys
import tomllib
from functools import partial

import pytest
import yaml

from tests.prefect_server import until

from . import image
from .services import INFRA, ROOT, Services

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
HEAD = "hashkiln-head-svc"  # the service of the head in Kubernetes
PODS = (HEAD, "hashkiln-worker")  # hosts


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    if lacking := image.missing():
        pytest.skip(f"SKIPPED FOR WANT OF {lacking}")
    made = image.Image(tmp_path_factory.mktemp("image"))
    try:
        made.build()
        yield made
    finally:
        made.remove()


def test_size_and_user(built, summary):
    own = built.megabytes(image.IMAGE) - built.megabytes(image.BASE)
    summary(f"image: {own:,.0f} MB above its base of {built.megabytes(image.BASE):,.0f} MB")
    assert own < 3000
    assert built.run("id", "-u").strip() == "1000"
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert built.run("hashkiln", "--version").strip() == f"hashkiln {version}"


@pytest.mark.parametrize("login", ["-c", "-lc"])
def test_shells_find_the_programs(built, login):
    """KubeRay and `ray up` run commands by bash; a login shell sets PATH again."""
    assert built.run("bash", login, "command -v hashkiln ray").split() == ["/venv/bin/hashkiln", "/venv/bin/ray"]


def test_doctor_finds_no_fault(built):
    rows = json.loads(built.run("hashkiln", "doctor", "--json", RAY_raylet_start_wait_time_s="120"))
    assert {row["state"] for row in rows} == {"ok"}
    built.run("hashkiln", "methods", HASHKILN_TRACES="true")  # ends with an error without the extra for traces


@pytest.mark.parametrize("executor", ["inprocess", "ray"])
def test_a_version_is_published(built, executor):
    patient = {"RAY_raylet_start_wait_time_s": "120", "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "400"}
    made = built.run("hashkiln", "reindex", "--dataset", "sample", HASHKILN_EXECUTOR=executor, **patient)
    assert "Published sample__itq32 v1" in made


@pytest.fixture(scope="module")
def services(built, network):
    """The services of compose.yaml: ours from the image, each healthy."""
    services = Services(network, network.folder, more=PODS, image=built)
    services.start_all()
    return services


def ended(services, *command):
    """Run a command in a container of the driver to its end; its output."""
    log = services.folder / "run.log"
    log.unlink(missing_ok=True)
    code = services.run(*command, log=log).wait(timeout=1800)
    text = log.read_text()
    assert code == 0, f"{text[:3000]}\n…\n{text[-3000:]}"  # Ray says much when it stops
    return log.read_text()


def test_services_run_a_reindex_from_the_image(services):
    text = ended(services, "hashkiln", "doctor", "--json")
    assert all(f'"node {name} (' in text for name in ("ray-head", "ray-worker-1", "ray-worker-2", "driver"))
    assert "Published sample__itq32" in ended(services, "hashkiln", "reindex", "--dataset", "sample")


def test_the_published_pages_are_served(services):
    read = "import sys, urllib.request as u; asked = u.Request(sys.argv[1], headers={'Accept': 'text/html'}); "
    read += "print(u.urlopen(asked).read())"
    ports = {name: about["ports"] for name, about in services.services.items() if "ports" in about}
    assert ports.keys() == {"prefect", "ray-head"}
    for name, (port,) in ports.items():
        url = f"http://{name}:{port.rpartition(':')[2]}/"
        assert "<title>" in services.host("s3")(sys.executable, "-c", read, url).stdout


def test_the_prefect_worker_runs_a_deployment(services):
    ended(services, "hashkiln", "deploy", "--dataset", "sample", "--method", "lsh", "--bits", "64")
    ended(services, "prefect", "deployment", "run", "reindex/sample__lsh64", "--watch")
    assert "sample__lsh64" in ended(services, "hashkiln", "tables")


@pytest.fixture(scope="module")
def kuberay(services):
    """The cluster of infra/kuberay: a host for each pod, with the command that the operator would give it."""
    cluster = yaml.safe_load((INFRA / "kuberay" / "base" / "raycluster.yaml").read_text())["spec"]
    groups = (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    for host, group, joins in zip(PODS, groups, ("--head", f"--address={HEAD}:6379"), strict=True):
        (container,) = group["template"]["spec"]["containers"]
        asked = container["resources"]["requests"]
        own = {"num-cpus": asked["cpu"], "memory": int(asked["memory"].removesuffix("Gi")) * 2**30}
        own |= {"metrics-export-port": 8080, "dashboard-agent-listen-port": 52365}
        options = [f"--{name}={value}" for name, value in {**own, **group["rayStartParams"]}.items()]
        line = " ".join(["ulimit -n 65536; ray start", joins, "--block", *options])
        environment = services.environment("driver") | {"RAY_ADDRESS": f"{HEAD}:6379"}
        with (services.folder / f"{host}.log").open("ab") as log:
            pod = services.inside("driver", "/bin/bash", "-c", "--", line)
            services.host(host).popen(pod, log, environment, services.folder)
        until(partial(probed, services, host, container["readinessProbe"]), 300, f"a ready pod {host}")
    return cluster


def probed(services, host, probe):
    """Send a probe from outside, without Ray's token, as Kubernetes does; whether it passes."""
    url = f"http://{host}:{probe['httpGet']['port']}{probe['httpGet']['path']}"
    read = f"import urllib.request as u; u.urlopen('{url}')"
    return not services.host("prefect")(sys.executable, "-c", read, check=False).returncode


def test_probes_of_kuberay_pass(services, kuberay):
    for host, group in zip(PODS, (kuberay["headGroupSpec"], *kuberay["workerGroupSpecs"]), strict=True):
        (container,) = group["template"]["spec"]["containers"]
        assert probed(services, host, container["livenessProbe"])


def test_the_job_of_kuberay_publishes(services, kuberay):
    """The operator submits it by HTTP, as `ray job submit` does."""
    job = yaml.safe_load((INFRA / "kuberay" / "job" / "joined" / "rayjob.yaml").read_text())["spec"]
    variables = json.dumps(yaml.safe_load(job["runtimeEnvYAML"]))
    submit = ["ray", "job", "submit", "--address", f"http://{HEAD}:8265", "--runtime-env-json", variables, "--"]
    entry = shlex.split(job["entrypoint"].replace("mine", "sample"))
    assert "Published sample__itq16" in ended(services, *submit, *entry, "--bits", "16")


def test_the_command_of_a_kubernetes_job_joins_the_cluster(services, kuberay):
    pool = json.loads((INFRA / "kuberay" / "work-pool.json").read_text())
    (container,) = pool["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"]
    driver = services.host("driver")
    driver.kill()
    driver.start()
    inside = services.inside("driver", *container["command"], "hashkiln", "doctor", "--json")
    found = driver(*inside, env=services.environment("driver")).stdout
    assert all(f'"node {name} (' in found for name in ("driver", *PODS))

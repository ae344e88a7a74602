"""The deployment files of infra/ against the schemas of what reads them. `make cluster-test` runs them as well."""

import gzip
import json
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.cluster.services import SECRETS, compose

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
SCHEMAS = json.loads(gzip.decompress((Path(__file__).parent / "schemas" / "schemas.json.gz").read_bytes()))
KINDS = {
    "cpu": {"ConfigMap", "NetworkPolicy", "PodDisruptionBudget", "RayCluster"},
    "gpu": {"ConfigMap", "NetworkPolicy", "PodDisruptionBudget", "RayCluster"},
    "job": {"ConfigMap", "NetworkPolicy", "RayJob"},
}


OTHERS = {"__init__.py", ".env", "ray-token"}  # a docstring; what a user adds
WRITABLE = ["/data", "/tmp"]  # noqa: S108  # in containers; tests/cluster/test_image.py runs them so


def program(name):
    """Return the path of a program of the virtual environment or of the machine."""
    here = Path(sys.executable).with_name(name)
    if found := str(here) if here.exists() else shutil.which(name):
        return found
    return pytest.skip(f"SKIPPED FOR WANT OF {name}: install the group dev")


def check(document, kind):
    jsonschema.Draft202012Validator(SCHEMAS[kind]).validate(document)


def overlay(name):
    """Return the objects of an overlay by kind."""
    made = subprocess.run(
        [program("kubectl"), "kustomize", INFRA / "kuberay" / name], capture_output=True, text=True, timeout=300
    )
    assert made.returncode == 0, made.stderr
    return {each["kind"]: each for each in yaml.safe_load_all(made.stdout)}


def test_the_page_on_clusters_lists_each_file_with_tests_that_exist():
    listed = runpy.run_path(str(ROOT / "docs" / "deployment_files.py"))
    files = [path for path in INFRA.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.relative_to(INFRA).as_posix() for path in files} - OTHERS == listed["FILES"].keys()
    for file, name in (test.split("::") for tests in listed["FILES"].values() for test in tests):
        assert f"\ndef {name}(" in (ROOT / file).read_text(), name
    assert (ROOT / "docs" / "how-to" / "cluster.md").read_text().endswith(listed["section"]()), (
        "run docs/deployment_files.py"
    )


def test_compose_is_valid_and_has_no_default_secrets():
    check({"services": compose()}, "compose")
    for name, service in compose().items():
        assert service["deploy"]["resources"]["limits"]["memory"]
        assert ("healthcheck" in service) == (name not in ("bucket", "driver"))  # these end by themselves
        if "build" in service:
            assert (service["image"], service["read_only"]) == ("hashkiln:latest", True)
            assert service["volumes"] == WRITABLE
    text = (INFRA / "compose.yaml").read_text()
    for name in SECRETS.keys() - {"RAY_CPUS"}:
        assert f"${{{name}:-" not in text
    published = [port for service in compose().values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_a_misspelt_field_is_found():
    services = compose()
    services["s3"]["helthcheck"] = services["s3"].pop("healthcheck")
    with pytest.raises(jsonschema.ValidationError, match="helthcheck"):
        check({"services": services}, "compose")
    cluster = overlay("cpu")["RayCluster"]
    cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(jsonschema.ValidationError, match="resource"):
        check(cluster, "RayCluster")


@pytest.mark.parametrize("name", KINDS)
def test_overlays_of_kubernetes_are_valid(name):
    from ray.scripts.scripts import start as ray_start

    objects = overlay(name)
    assert objects.keys() == KINDS[name]
    for kind, each in objects.items():
        check(each, kind)
        assert each["metadata"]["namespace"] == "hashkiln"
    spec = objects["RayJob"]["spec"]["rayClusterSpec"] if name == "job" else objects["RayCluster"]["spec"]
    options = {option for parameter in ray_start.params for option in parameter.opts}
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert {f"--{parameter}" for parameter in group["rayStartParams"]} <= options
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        check_rights(pod, container)
        assert container["image"] == f"registry.example.com/hashkiln:{VERSION}{'-cuda' * (name == 'gpu')}"
        assert not [item for item in container.get("env", []) if "SECRET" in item["name"]]
        assert {"readinessProbe", "livenessProbe"} <= container.keys()
        check_rights(pod, spec["autoscalerOptions"])  # the operator makes it a container beside the head
    assert f"\nray=={spec['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()
    assert ("upgradeStrategy" in spec) == (name != "job")  # the operator refuses it in a job
    assert spec["authOptions"] == {"mode": "token", "secretName": "hashkiln-secrets"}
    wants = spec["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert ("nvidia.com/gpu" in wants) == (name == "gpu")
    assert ("HASHKILN_ENCODE_GPUS" in objects["ConfigMap"]["data"]) == (name == "gpu")


def check_rights(pod, container):
    """Check that a container fits the strictest pod security standard, and writes to volumes only."""
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    volumes = {volume["name"] for volume in pod["volumes"] if "emptyDir" in volume}
    paths = {mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] in volumes}
    assert paths == {"/dev/shm", *WRITABLE}  # noqa: S108


def test_jobs_of_the_work_pool_have_the_image_and_the_rights_of_the_cluster():
    pool = json.loads((INFRA / "kuberay" / "work-pool.json").read_text())
    assert pool["variables"]["properties"]["image"]["default"] == f"registry.example.com/hashkiln:{VERSION}"
    pod = pool["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    check_rights(pod, *pod["containers"])


def test_kubernetes_has_the_variables_of_compose():
    base = INFRA / "kuberay" / "base"
    text = "".join((base / name).read_text() for name in ("settings.env", "secrets.example.env"))
    names = set(re.findall(r"^(\w+)=", text, re.MULTILINE))
    by_others = {"AWS_ENDPOINT_URL", "RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_raylet_start_wait_time_s"}
    assert compose()["driver"]["environment"].keys() - by_others <= names


def test_ray_up_accepts_its_file():
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load((INFRA / "ray-cluster.yaml").read_text())))


def test_the_dockerfile_has_no_findings():
    # DL3008 and DL3013: versions of apt and pip, which the base image and constraints.txt decide.
    ignored = ["--ignore", "DL3008", "--ignore", "DL3013"]
    found = subprocess.run(
        [program("hadolint"), *ignored, INFRA / "docker" / "Dockerfile"], capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stdout


def test_the_image_has_every_package_and_the_scripts():
    text = (INFRA / "docker" / "Dockerfile").read_text()
    packages = {path.parent.name for path in INFRA.parent.glob("*/__init__.py")} - {"tests"}
    assert set(re.findall(r"^COPY (\w+) \1$", text, re.MULTILINE)) == packages
    assert "USER 1000" in text


@pytest.mark.parametrize("script", ["docker/driver.sh", "slurm/hashkiln.sbatch"])
def test_scripts_are_executable_and_parse(script):
    path = INFRA / script
    assert path.stat().st_mode & 0o111
    assert not subprocess.run([program("bash"), "-n", path], capture_output=True, text=True, check=False).stderr


def test_the_slurm_script_without_a_command_says_how_to_use_it():
    ran = subprocess.run([INFRA / "slurm" / "hashkiln.sbatch"], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "usage: sbatch" in ran.stderr

"""prefect.yaml as committed: deployed on a real server and run by a real worker."""

import copy
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from infra.settings import Settings
from storage.tables import iceberg
from storage.tables.table import load_table
from tests.infra.test_deployment_files import INFRA, check
from tests.prefect_server import ROOT, until
from workflows.spec import Spec

FILE, MARK = (ROOT / "prefect.yaml").read_text(), "# Template"
START = FILE.index("\n", FILE.index(MARK)) + 1
WITH_TEMPLATE = FILE[:START] + re.sub(r"^#", "", FILE[START:], flags=re.MULTILINE)
DEPLOYMENTS = {entry["name"]: entry for entry in yaml.safe_load(FILE)["deployments"]}


@pytest.fixture(scope="module")
def prefect(prefect_server):
    prefect_server.start_worker()
    prefect_server("deploy", "--all")
    return prefect_server


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_the_server_has_the_deployments_of_the_file(prefect, name):
    wanted, found = DEPLOYMENTS[name], prefect.read(f"deployments/name/{name}/{name}")
    assert (found["parameters"], set(found["tags"])) == (wanted["parameters"], set(wanted["tags"]))
    schedules = [(s["slug"], s["cron"], s["timezone"]) for s in wanted.get("schedules", [])]
    known = [(s["slug"], s["schedule"]["cron"], s["schedule"]["timezone"]) for s in found["schedules"] if s["active"]]
    assert known == schedules
    limit = wanted.get("concurrency_limit")
    assert (found["global_concurrency_limit"] or {}).get("limit") == (limit and limit["limit"])
    assert (found["concurrency_options"] or {}).get("collision_strategy") == (limit and limit["collision_strategy"])
    if schedules:
        until(lambda: prefect.runs(name, "SCHEDULED"), 300, f"runs of {name} by its schedule")


def test_the_template_is_a_deployment_of_the_flow():
    *others, mine = yaml.safe_load(WITH_TEMPLATE)["deployments"]
    assert others == list(DEPLOYMENTS.values())
    spec = Spec.model_validate(mine["parameters"]["spec"])
    assert (spec.dataset, spec.method.bits, spec.gate.floors) == ("mine", 64, {"map": 0.25})
    assert mine.keys() - {"schedules"} == DEPLOYMENTS["reindex"].keys()
    assert mine["work_pool"] == DEPLOYMENTS["reindex"]["work_pool"]


def test_the_work_pool_of_kubernetes_makes_a_valid_job(prefect):
    template = INFRA / "kuberay" / "work-pool.json"
    prefect("work-pool", "create", "kubernetes", "--type", "kubernetes", "--base-job-template", str(template))
    stored = prefect.read("work_pools/kubernetes")["base_job_template"]
    assert stored == json.loads(template.read_text())
    values = {name: about["default"] for name, about in stored["variables"]["properties"].items() if "default" in about}
    values |= {"name": "run", "command": ["prefect", "flow-run", "execute"], "env": [{"name": "A", "value": "1"}]}
    text = json.dumps(stored["job_configuration"]["job_manifest"])
    job = json.loads(re.sub(r'"\{\{ (\w+) \}\}"', lambda match: json.dumps(values[match[1]]), text))
    job["metadata"]["generateName"] = job["metadata"]["generateName"].replace("{{ name }}", "run")
    check(job, "Job")
    broken = copy.deepcopy(job)
    broken["spec"]["template"]["spec"]["containers"][0]["envfrom"] = []
    with pytest.raises(jsonschema.ValidationError, match="envfrom"):
        check(broken, "Job")


def test_reindex_publishes_a_version_and_evaluate_measures_it(prefect):
    # tests/workflows/test_deploy.py runs a deployment with Ray
    here = {"HASHKILN_EXECUTOR": "inprocess", "HASHKILN_REPORTS": "https://reports.example.com/"}
    assert prefect.run("reindex/reindex", **here)["state_type"] == "COMPLETED"
    settings = Settings(home=prefect.folder / "home")
    table = load_table(iceberg.open_catalog(settings.catalog_url, settings.warehouse_url), "sample__itq32")
    published = table.version()
    assert (published.name, published.properties["rows"]) == ("v1", "40000")
    assert sum(part.rows for part in table.parts(published.snapshot_id).values()) == 40_000
    assert Path(published.properties["report"]).read_text().startswith("<!")
    artifacts = {artifact["key"]: artifact["data"] for artifact in prefect.read("artifacts/filter", sort="KEY_ASC")}
    assert artifacts.keys() >= {f"sample--itq32-{kind}" for kind in ("metrics", "summary", "report")}
    page = f"sample__itq32/{Path(published.properties['report']).name}"
    assert artifacts["sample--itq32-report"] == f"[report](https://reports.example.com/{page})"
    assert prefect.run("evaluate/evaluate", **here)["state_type"] == "COMPLETED"


@pytest.mark.slow
def test_benchmark_measures_its_grid(prefect):
    assert prefect.run("benchmark/benchmark")["state_type"] == "COMPLETED"
    kept = list((prefect.folder / "home" / "warehouse" / "benchmark").glob("*.json"))
    assert len(kept) == 6  # three methods, two lengths, one seed

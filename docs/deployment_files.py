"""The files of infra/: the tests that run or check each. Prints the section of docs/how-to/cluster.md.

tests/infra/test_deployment_files.py fails for a file or a test that is missing here, or that does not exist.
"""

CHECKED = "tests/infra/test_deployment_files.py::test_"
CLUSTER = "tests/cluster/test_cluster.py::test_"
IMAGE = "tests/cluster/test_image.py::test_"
RAY_UP = "tests/cluster/test_ray_up.py::test_"
OVERLAYS, VARIABLES = f"{CHECKED}overlays_of_kubernetes_are_valid", f"{CHECKED}kubernetes_has_the_variables_of_compose"
SERVICES = f"{IMAGE}services_run_a_reindex_from_the_image"
FAULTS = f"{CLUSTER}the_head_is_killed_and_restarted"
TELEMETRY = "tests/infra/test_telemetry.py::test_"
FILES = {
    "compose.yaml": [FAULTS, SERVICES, f"{CHECKED}compose_is_valid_and_has_no_default_secrets"],
    "docker/Dockerfile": [f"{IMAGE}size_and_user", f"{CHECKED}the_dockerfile_has_no_findings"],
    "docker/databases.sql": [FAULTS, SERVICES],
    "docker/driver.sh": [FAULTS, f"{IMAGE}the_prefect_worker_runs_a_deployment"],
    "docker/example.env": [FAULTS, SERVICES],
    "kuberay/base/disruptionbudget.yaml": [OVERLAYS],
    "kuberay/base/kustomization.yaml": [OVERLAYS],
    "kuberay/base/networkpolicy.yaml": [OVERLAYS],
    "kuberay/base/raycluster.yaml": [
        OVERLAYS,
        f"{IMAGE}probes_of_kuberay_pass",
        f"{IMAGE}the_job_of_kuberay_publishes",
    ],
    "kuberay/base/secrets.example.env": [VARIABLES],
    "kuberay/base/settings.env": [OVERLAYS, VARIABLES],
    "kuberay/cpu/kustomization.yaml": [OVERLAYS],
    "kuberay/gpu/kustomization.yaml": [OVERLAYS],
    "kuberay/job/joined/kustomization.yaml": [OVERLAYS],
    "kuberay/job/joined/rayjob.yaml": [OVERLAYS, f"{IMAGE}the_job_of_kuberay_publishes"],
    "kuberay/job/kustomization.yaml": [OVERLAYS],
    "kuberay/work-pool.json": [
        f"{IMAGE}the_command_of_a_kubernetes_job_joins_the_cluster",
        "tests/workflows/test_deployments.py::test_the_work_pool_of_kubernetes_makes_a_valid_job",
    ],
    "slurm/hashkiln.sbatch": [f"{CLUSTER}slurm_runs_a_command_on_its_nodes"],
    "ray-cluster.yaml": [f"{RAY_UP}a_command_runs_on_the_cluster", f"{RAY_UP}the_cluster_is_stopped"],
    "prometheus.yaml": [f"{TELEMETRY}every_query_of_the_dashboard_finds_data"],
    "grafana/hashkiln.json": [
        f"{TELEMETRY}every_query_of_the_dashboard_finds_data",
        f"{TELEMETRY}grafana_knows_all_that_the_dashboard_says",
    ],
    "automations.yaml": [
        "tests/workflows/test_deploy.py::test_deploy_creates_and_updates_and_a_run_sends_its_outcome",
        "tests/workflows/test_notifications.py::test_runs_are_late_without_a_worker_and_crash_and_fall_silent",
    ],
    "cluster.py": ["tests/infra/test_executors.py::test_a_named_cluster_is_joined"],
    "executors.py": [
        "tests/infra/test_executors.py::test_the_task_of_a_killed_worker_is_retried",
        "tests/infra/test_preemption.py::test_a_task_moves_whenever_its_node_is_preempted",
    ],
    "nodes.py": ["tests/infra/test_executors.py::test_a_node_with_another_version_is_refused_by_its_name"],
    "observability.py": ["tests/infra/test_observability.py::test_work_continues_if_observers_fail"],
    "settings.py": ["tests/infra/test_executors.py::test_settings_come_from_the_environment"],
    "telemetry.py": [f"{TELEMETRY}a_task_counts_what_it_read_and_wrote_and_its_errors"],
    "training.py": ["tests/infra/test_training.py::test_a_restarted_driver_continues_the_run"],
}


def section() -> str:
    """Return the table of the files as a section of a page in Markdown."""
    rows = [f"| `{name}` | {', '.join(f'`{test}`' for test in tests)} |" for name, tests in FILES.items()]
    return f"""## The files, and the tests that run or check them

| in `infra/` | tests |
|---|---|
{chr(10).join(rows)}
"""


if __name__ == "__main__":
    print(section(), end="")

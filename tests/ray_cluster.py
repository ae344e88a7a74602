"""A Ray cluster of several nodes on this machine, each with an address of its own."""

import os
import secrets
from contextlib import contextmanager

NODE = {"num_cpus": 2, "object_store_memory": 2**28, "node_ip_address": "127.0.0.3"}
HEAD = {"num_cpus": 0, "object_store_memory": 2**28, "node_ip_address": "127.0.0.2", "include_dashboard": False}


@contextmanager
def ray_cluster(node=NODE, **settings):
    """A head without CPUs for drivers, and a worker node that may be killed, with settings of Ray's own."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # as infra.executors does for a local Ray; read on import
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**HEAD, "_system_config": settings})
    cluster.add_node(**node)
    try:
        yield cluster
    finally:
        cluster.shutdown()


if __name__ == "__main__":  # with an environment of its own, until its input ends
    with ray_cluster() as running:
        print(running.address, flush=True)
        input()

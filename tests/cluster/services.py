"""The services of infra/compose.yaml on hosts: their commands, environments, health checks and order.

What images bring is on this machine: our programs in our image, if one is given, or in the virtual environment;
PostgreSQL from Debian's packages; and SeaweedFS from its package.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
SECRETS = {
    "POSTGRES_PASSWORD": "postgres-secret",
    "S3_ACCESS_KEY": "hashkiln",
    "S3_SECRET_KEY": "s3-secret",
    "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
    "RAY_CPUS": "1",
}
VARIABLE = re.compile(r"\$\{(\w+)(?::[?-]([^}]*))?\}")


def compose():
    """Return the services of the file, with the variables of the example environment filled in."""
    text = (INFRA / "compose.yaml").read_text()
    example = dict(re.findall(r"^(\w+)=(.*)$", (INFRA / "docker" / "example.env").read_text(), re.MULTILINE))
    names = {match[1] for match in VARIABLE.finditer(text)}
    assert names == set(example), "the example environment names every variable of compose.yaml, and no other"
    return yaml.safe_load(VARIABLE.sub(lambda match: SECRETS.get(match[1], match[2] or ""), text))["services"]


class Services:
    """The running services, each on a host of its name; replicas have a number. More hosts run none of them."""

    def __init__(self, network, folder, more=(), image=None):
        self.network, self.folder, self.image, self.running = network, folder, image, {}
        if image:
            self.root, network.mounts = image.mount(network.names)
        self.services = compose()
        self.names = [
            name
            for service, about in self.services.items()
            for name in self._replicas(service, about.get("deploy", {}).get("replicas", 1))
        ]
        network.add([*(name for name in self.names if name != "bucket"), *more])

    @staticmethod
    def _replicas(service, count):
        return [service] if count == 1 else [f"{service}-{number}" for number in range(1, count + 1)]

    def service_of(self, name):
        return self.services[name if name in self.services else name.rpartition("-")[0]]

    def host(self, name):
        return self.network.hosts["driver" if name == "bucket" else name]

    def environment(self, name):
        """Return the environment of a service's container."""
        home = self.folder / name
        home.mkdir(exist_ok=True)
        own = {key: str(value) for key, value in self.service_of(name).get("environment", {}).items()}
        if self._in_image(name):
            return {**self.image.environment, **own}
        path = [str(Path(sys.executable).parent), str(INFRA / "docker"), os.environ["PATH"]]
        inherited = {key: os.environ[key] for key in ("HOME", "LANG", "PYTHONPATH") if key in os.environ}
        image = {"HASHKILN_HOME": f"{home}/data", "PREFECT_HOME": f"{home}/prefect", "RAY_USAGE_STATS_ENABLED": "0"}
        return {**inherited, "PATH": ":".join(path), **image, **own}

    def _in_image(self, name):
        return self.image and self.service_of(name)["image"].startswith("hashkiln:")

    def inside(self, name, *command):
        """Return a command for the host of a service that runs another in the service's container."""
        return self.image.command(self.root, *command) if self._in_image(name) else list(command)

    def start(self, name):
        """Start a service and wait until it is healthy."""
        about, host = self.service_of(name), self.host(name)
        command = self._command(name, about)
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = host.popen(command, log, self.environment(name), self.folder / name)
        if "healthcheck" in about:
            self.wait(name)

    def _command(self, name, about):
        image = about["image"].partition(":")[0]
        if image == "postgres":
            return self._postgres(name, about)
        if image == "chrislusf/seaweedfs":
            data = self.folder / name / "data"
            data.mkdir(parents=True, exist_ok=True)
            weed = str(Path(sys.executable).with_name("weed"))
            return [weed, *(part.replace("=/data", f"={data}") for part in about["command"])]
        assert image == "hashkiln", image
        entry = self.image.config["Entrypoint"] if self.image else []
        return self.inside(name, *entry, *about["command"])

    def _postgres(self, name, about):
        """Do what the image of PostgreSQL does: create the user and the databases in a new folder, then serve."""
        debian = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: float(place.parent.name))
        data, own = self.folder / name / "data", about["environment"]
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        if not data.exists():
            self.environment(name)
            shutil.chown(self.folder / name, "postgres")
            secret = self.folder / name / "password"
            secret.write_text(own["POSTGRES_PASSWORD"])
            shutil.chown(secret, "postgres")
            options = ["-U", own["POSTGRES_USER"], f"--pwfile={secret}", "--auth=scram-sha-256", "--no-sync"]
            subprocess.run([*user, debian / "initdb", "-D", data, *options], check=True, capture_output=True)
            with (data / "pg_hba.conf").open("a") as rules:
                rules.write("host all all 0.0.0.0/0 scram-sha-256\n")
            sql = (INFRA / "docker" / "databases.sql").read_text()
            for line in (f"CREATE DATABASE {own['POSTGRES_USER']}", *filter(str.strip, sql.split(";"))):
                single = [debian / "postgres", "--single", "-D", data, "postgres"]
                subprocess.run([*user, *single], input=f"{line.strip()}\n", text=True, check=True, capture_output=True)
        serve = ["-c", "listen_addresses=*", "-c", f"unix_socket_directories={self.folder / name}"]
        return [*user, str(debian / "postgres"), "-D", str(data), *serve]

    def healthy(self, name):
        kind, *command = self.service_of(name)["healthcheck"]["test"]
        if kind == "CMD-SHELL":
            command = ["sh", "-c", *command]
        try:
            inside = self.inside(name, *command)
            return not self.host(name)(*inside, check=False, env=self.environment(name), timeout=60).returncode
        except subprocess.TimeoutExpired:
            return False

    def wait(self, name, seconds=600):
        """Wait until a service is healthy."""
        deadline = time.monotonic() + seconds
        while not self.healthy(name):
            log = (self.folder / f"{name}.log").read_text(errors="replace")
            assert time.monotonic() < deadline, f"{name} is not healthy:\n{log[-5000:]}"
            assert self.running[name].poll() is None, f"{name} ended:\n{log[-5000:]}"
            time.sleep(0.2)

    def start_all(self):
        """Start the services in the order of depends_on, except those of a profile."""
        started = set()
        waiting = [name for name in self.names if "profiles" not in self.service_of(name)]
        while waiting:
            name = next(name for name in waiting if set(self.service_of(name).get("depends_on", {})) <= started)
            self.start(name)
            if name == "bucket":
                code = self.running[name].wait(timeout=300)
                assert code == 0, (self.folder / "bucket.log").read_text()
            waiting.remove(name)
            started |= {name, name.rpartition("-")[0]} if name not in self.services else {name}

    def run(self, *command, log=None, **environment):
        """Start a command in a new container of the driver: a process whose output is in the file `log`."""
        about = self.service_of("driver")
        self.host("driver").kill()
        self.host("driver").start()
        assert about["entrypoint"][:4] == ["tini", "-s", "-g", "--"]
        with open(log or self.folder / "driver.log", "ab") as file:
            entry = about["entrypoint"] if self.image else about["entrypoint"][4:]  # our hosts reap as tini does
            full = self.inside("driver", *entry, *command)
            return self.host("driver").popen(
                full, file, self.environment("driver") | environment, self.folder / "driver"
            )

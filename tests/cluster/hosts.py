"""Hosts on one machine: each has its own address, processes, name, shared memory and temporary folder of Ray.

Linux namespaces make them. The network is a bridge in a namespace of its own, without a route to anywhere else.
"""

import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

NETWORK = "10.77.0"
IP = shutil.which("ip") or "ip"
RAY = "/tmp/ray"  # noqa: S108  # the folder that Ray uses on every host


def missing():
    """Return what this machine lacks for hosts, or an empty string."""
    if os.getuid():
        return "root"
    probe = subprocess.run([IP, "netns", "add", "hkprobe"], capture_output=True, text=True)
    subprocess.run([IP, "netns", "del", "hkprobe"], capture_output=True)
    return f"network namespaces: {probe.stderr.strip()}" if probe.returncode else ""


def ip(*arguments):
    subprocess.run([IP, *arguments], check=True, capture_output=True)


@dataclass
class Host:
    """One host. Its first process reaps orphans; killing it ends the host with everything that runs there."""

    network: "Network"
    name: str
    address: str
    outer: psutil.Popen = None
    processes: list = field(default_factory=list)

    def start(self):
        setup = [
            f"hostname {self.name}",
            "mount -t tmpfs -o size=1g tmpfs /dev/shm",
            f"mkdir -p {RAY} && mount -t tmpfs tmpfs {RAY}",
            *self.network.mounts,
            f"mount --bind {self.network.names} /etc/hosts",
            "sleep infinity & wait",  # a shell as process 1 reaps orphans
        ]
        namespaces = ["--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc", "--propagation", "private"]
        command = ["ip", "netns", "exec", self.name, "unshare", *namespaces, "--kill-child"]
        self.outer = psutil.Popen([*command, "bash", "-c", "; ".join(setup)])
        deadline = time.monotonic() + 300
        while self("test", "-e", RAY, check=False).returncode or not self._mounted():
            assert time.monotonic() < deadline, f"host {self.name} did not start"
            time.sleep(0.05)

    def _mounted(self):
        return " /etc/hosts " in self("cat", "/proc/mounts", check=False).stdout

    @property
    def init(self):
        children = self.outer.children()
        return children[0].pid if children else 0

    def entered(self, *command):
        return ["nsenter", "-t", str(self.init), "-m", "-n", "-u", "-i", "-p", "--", *command]

    def __call__(self, *command, check=True, env=None, timeout=300):
        """Run a command here to its end."""
        env = {**os.environ, **(env or {})}
        return subprocess.run(
            self.entered(*command), check=check, env=env, capture_output=True, text=True, timeout=timeout
        )

    def popen(self, command, log, env, cwd):
        entered = self.entered("env", f"--chdir={cwd}", *command)
        self.processes.append(process := psutil.Popen(entered, stdout=log, stderr=subprocess.STDOUT, env=env))
        return process

    def kill(self):
        """Kill the host with all its processes, as when its power fails."""
        self.outer.kill()
        for process in (self.outer, *self.processes):
            process.wait(timeout=300)
        self.processes.clear()

    def cut(self):
        """Cut the link to the network."""
        ip("-n", self.network.switch, "link", "set", f"s-{self.name}"[:15], "down")

    def restore(self):
        ip("-n", self.network.switch, "link", "set", f"s-{self.name}"[:15], "up")

    def limit(self, rate):
        """Limit what this host sends, such as 2mbit; None: no limit."""
        if rate:
            shape = ["tbf", "rate", rate, "burst", "32kb", "latency", "400ms"]
            ip("netns", "exec", self.name, "tc", "qdisc", "replace", "dev", "eth0", "root", *shape)
        else:
            ip("netns", "exec", self.name, "tc", "qdisc", "del", "dev", "eth0", "root")


@dataclass
class Network:
    """The hosts, and the switch between them."""

    folder: Path
    switch: str = "hkswitch"
    hosts: dict = field(default_factory=dict)
    mounts: tuple = ()  # further commands with which each host starts

    def __post_init__(self):
        self.names = self.folder / "hosts"
        ip("netns", "add", self.switch)
        ip("-n", self.switch, "link", "add", "br0", "type", "bridge")
        ip("-n", self.switch, "link", "set", "br0", "up")

    def add(self, names):
        addresses = {name: f"{NETWORK}.{place}" for place, name in enumerate(names, 2)}
        self.names.write_text("127.0.0.1 localhost\n" + "".join(f"{a} {name}\n" for name, a in addresses.items()))
        for name, address in addresses.items():
            there = f"s-{name}"[:15]
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
            ip("link", "add", "hk-eth", "type", "veth", "peer", "name", there)
            ip("link", "set", "hk-eth", "netns", name)
            ip("link", "set", there, "netns", self.switch)
            ip("-n", name, "link", "set", "hk-eth", "name", "eth0")
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", self.switch, "link", "set", there, "master", "br0", "up")
            self.hosts[name] = Host(self, name, address)
            self.hosts[name].start()

    def close(self):
        for host in self.hosts.values():
            if host.outer and host.outer.is_running():
                host.kill()
        for name in (*self.hosts, self.switch):
            subprocess.run([IP, "netns", "del", name], capture_output=True)

"""A Slurm with two nodes, whose tasks run on hosts of the cluster."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from .services import INFRA

NODES = ("slurm-1", "slurm-2")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
CONFIGURATION = """
ClusterName=hashkiln
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmctldPort=16817
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=slurm-1 NodeHostname={host} NodeAddr=127.0.0.1 Port=16901 CPUs=1 RealMemory=4000 State=UNKNOWN
NodeName=slurm-2 NodeHostname={host} NodeAddr=127.0.0.1 Port=16902 CPUs=1 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
# A task of a node runs on its host: the programs that the script starts by srun enter it.
ENTER = """#!/bin/sh
exec nsenter -t $(cat {folder}/$SLURMD_NODENAME.init) -m -n -u -i -p -- env --chdir={home} PATH={path} {program} "$@"
"""


class Slurm:
    """A controller and two daemons. As a context, it runs."""

    def __init__(self, cluster):
        self.cluster, self.folder, self.running = cluster, cluster.folder / "slurm", []

    @staticmethod
    def missing():
        return ", ".join(name for name in PROGRAMS if not shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin"))

    def __enter__(self):
        for name in ("state", "bin", "home"):
            (self.folder / name).mkdir(parents=True)
        path = self.cluster.services.environment("driver")["PATH"]
        programs = {"ray": str(Path(sys.executable).with_name("ray")), "hostname": shutil.which("hostname")}
        for name, program in programs.items():
            script = self.folder / "bin" / name
            about = {"folder": self.folder, "home": self.folder / "home", "path": path, "program": program}
            script.write_text(ENTER.format(**about))
            script.chmod(0o755)
        for name in NODES:
            (self.folder / f"{name}.init").write_text(str(self.cluster.hosts[name].init))
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(host=os.uname().nodename, folder=self.folder))
        self.environment = self.cluster.services.environment("driver")
        self.environment["HASHKILN_HOME"] = str(self.folder / "home")
        self.environment["PATH"] = f"{self.folder / 'bin'}:{self.environment['PATH']}:/usr/sbin"
        self.environment["SLURM_CONF"] = str(self.folder / "slurm.conf")
        Path("/run/munge").mkdir(exist_ok=True)
        shutil.chown("/run/munge", "munge", "munge")
        self.start("runuser", "-u", "munge", "--", "munged", "--foreground", "--force")
        self.start("slurmctld", "-D")
        for name in NODES:
            self.start("slurmd", "-D", "-N", name)
        deadline = time.monotonic() + 60
        while self.command("sinfo", "-h", "-o", "%T").stdout.split() != ["idle"]:
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.2)
        return self

    def __exit__(self, *_):
        for process in reversed(self.running):
            process.terminate()
            process.wait(timeout=30)

    def start(self, *command):
        with (self.folder / "daemons.log").open("ab") as log:
            self.running.append(subprocess.Popen(command, stdout=log, stderr=log, env=self.environment))

    def command(self, *command, timeout=280):
        return subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=timeout, check=False
        )

    def logs(self):
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in self.folder.glob("*.log"))

    def batch(self, *command):
        """Submit the script with a hashkiln command; its exit code, output and seconds."""
        start = time.monotonic()
        options = ["--wait", "-N2", f"--output={self.folder / 'job.log'}"]
        ran = self.command("sbatch", *options, str(INFRA / "slurm" / "hashkiln.sbatch"), *command)
        log = self.folder / "job.log"
        return ran.returncode, log.read_text() if log.exists() else ran.stderr, time.monotonic() - start

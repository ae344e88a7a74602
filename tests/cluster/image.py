"""The image of infra/docker/Dockerfile, built by buildah on a small Debian instead of Docker's image of Python."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from .services import ROOT

PROGRAMS = ("buildah", "mmdebstrap")
BASE, IMAGE = "localhost/base", "localhost/hashkiln"
PACKAGES = "ca-certificates,python3,python3-venv,python-is-python3"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INDEX = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_DEFAULT_TIMEOUT", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL")


def missing():
    """Return what this machine lacks for building images, or an empty string."""
    if os.getuid():
        return "root"
    return ", ".join(name for name in PROGRAMS if not shutil.which(name))


class Image:
    """An image in a folder of its own, with containers made from it."""

    def __init__(self, folder):
        self.folder = folder

    def build(self):
        wheels = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS", "")
        self._build_base({"UV_FIND_LINKS": wheels, "PIP_FIND_LINKS": wheels} if wheels else {})
        arguments = ["--build-arg", f"BASE={BASE}"]
        if wheels:  # torch is one of them
            arguments += ["--build-arg", "TORCH_INDEX=", "--volume", f"{wheels}:{wheels}:ro"]
        self._build(IMAGE, ROOT / "infra" / "docker" / "Dockerfile", ROOT, *arguments)
        self.config = json.loads(self("inspect", "--type", "image", IMAGE))["OCIv1"]["config"]
        self.environment = dict(pair.split("=", 1) for pair in self.config["Env"])
        self.environment["HOME"] = self.config["WorkingDir"]  # Docker takes it from /etc/passwd

    def _build_base(self, wheels):
        """Build a base with `python`, and with what reaches the package index from this machine."""
        context = self.folder / "base"
        context.mkdir()
        made = ["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", context / "root.tar"]
        run(*made, timeout=600)
        shutil.copy(CERTIFICATES, context)
        index = {name: os.environ[name] for name in INDEX if name in os.environ}
        variables = {**index, **wheels, "SSL_CERT_FILE": CERTIFICATES, "PATH": PATH}
        lines = ["FROM scratch", "ADD root.tar /", f"COPY {Path(CERTIFICATES).name} {CERTIFICATES}"]
        lines += [f"ENV {name}={json.dumps(value)}" for name, value in variables.items()]
        (context / "Dockerfile").write_text("\n".join(lines))
        self._build(BASE, context / "Dockerfile", context)
        (context / "root.tar").unlink()

    def _build(self, name, file, context, *arguments):
        self("bud", "--isolation", "chroot", "--pull-never", "-t", name, "-f", file, *arguments, context, timeout=2400)

    def __call__(self, *arguments, timeout=300):
        """Run a command of buildah; its output."""
        store = ["--root", self.folder / "storage", "--runroot", self.folder / "runroot"]
        return run("buildah", *store, *arguments, timeout=timeout)

    def container(self):
        """Make a container; its name."""
        return self("from", "--pull-never", IMAGE).strip()

    def run(self, *command, timeout=600, **environment):
        """Run a command as `docker run --rm` does, after the entry point, as the image's user; its output."""
        container = self.container()
        variables = [word for name, value in environment.items() for word in ("--env", f"{name}={value}")]
        full = [*self.config["Entrypoint"], *command]
        try:
            return self("run", "--isolation", "chroot", *variables, container, "--", *full, timeout=timeout)
        finally:
            self("rm", container)

    def mount(self, names):
        """Mount the files of a container; their folder, and the commands with which a host prepares it as a root.

        The hosts share the files, which nobody can change. Each has its own /data and /tmp, which end with the host.
        `names` is the file of the names of all hosts.
        """
        root = Path(self("mount", self.container()).strip())
        (root / "etc" / "hosts").touch()
        return root, (
            f"mount --bind {root} {root}",
            f"mount -o remount,bind,ro {root}",
            f"mount --rbind /dev {root}/dev",  # with the /dev/shm of the host
            f"mount --rbind /sys {root}/sys",
            f"mount -t proc proc {root}/proc",
            f"mount -t tmpfs -o mode=1777 tmpfs {root / 'tmp'}",
            f"mount -t tmpfs -o uid=1000,gid=1000,mode=755 tmpfs {root}/data",
            f"mount --bind {names} {root}/etc/hosts",
        )

    def command(self, root, *command):
        """Return a command that runs another in a mounted container, as the image's user, as `docker exec` does."""
        user = self.config["User"]
        return ["chroot", f"--userspec={user}:{user}", root, "env", f"--chdir={self.config['WorkingDir']}", *command]

    def remove(self):
        self("rm", "--all")  # unmounts them
        if (place := self.folder / "storage" / "overlay").is_mount():  # some releases of buildah mount it on itself
            run("umount", place, timeout=60)
        shutil.rmtree(self.folder)

    def megabytes(self, name):
        """Return the size of an image on disk."""
        (about,) = json.loads(self("images", "--json", name))
        value, unit = about["size"].split()
        return float(value) * {"KB": 1e-3, "MB": 1, "GB": 1e3}[unit]


def run(*command, timeout):
    """Run a command; its output, without that of its standard error."""
    ran = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=timeout, check=False)
    assert ran.returncode == 0, f"{command}:\n{ran.stdout[-4000:]}\n{ran.stderr[-4000:]}"
    return ran.stdout

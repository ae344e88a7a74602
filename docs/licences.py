"""Print the name, version and licences of each package of a bill of materials (CycloneDX, JSON) of `make sbom`.

python docs/licences.py sbom.json
"""

import json
import sys
from importlib.metadata import metadata
from pathlib import Path


def licences(component: dict) -> str:
    """Return the licences of a package of this environment; `unknown` if its metadata names none.

    The bill leaves out those that are neither an identifier nor a classifier.
    """
    named = [entry.get("expression") or entry["license"].get("id") or entry["license"].get("name")
             for entry in component.get("licenses", [])]  # fmt: skip
    short = {" ".join(name.split()).removeprefix("License :: OSI Approved :: ")[:60] for name in named if name}
    return ", ".join(sorted(short)) or metadata(component["name"]).get("License", "unknown")


for package in sorted(
    json.loads(Path(sys.argv[1]).read_text())["components"], key=lambda package: package["name"].lower()
):
    print(f"{package['name']} {package['version']}: {licences(package)}")

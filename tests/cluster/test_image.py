"""The image is built, and commands run in it, as its user."""

import json
import tomllib

import pytest

from . import image
from .services import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


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
    environment = {"HASHKILN_EXECUTOR": executor, "RAY_raylet_start_wait_time_s": "120"}  # as in compose.yaml
    assert "Published sample__itq32 v1" in built.run("hashkiln", "reindex", "--dataset", "sample", **environment)

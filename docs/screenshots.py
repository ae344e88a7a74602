"""Write the pictures of the pages to docs/images, after making the pages in a temporary folder.

    HASHKILN_DATA=folder python docs/screenshots.py    # the folder has mnist/

It needs Chromium: of the system, or that of `playwright install chromium`. The site of the documents is built first.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
HEIGHTS = {1280: 1500, 400: 1500}  # of the part of a page that is shown, by its width
LENGTHS = [8, 16, 32, 64]


def main() -> None:
    """Make the pages and their pictures."""
    with tempfile.TemporaryDirectory(prefix="hashkiln-") as home:
        os.environ |= {"HASHKILN_HOME": home, "HASHKILN_EXECUTOR": "inprocess", "USER": "ada"}
        shoot(pages(Path(home)) | documents())


def documents() -> dict[str, Path]:
    """Return two pages of the site of the documents, after building it."""
    subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=ROOT, check=True, stdout=sys.stderr)
    site = ROOT / ".venv" / "site"
    return {"docs": site / "index.html", "docs-guide": site / "how-to" / "read-the-codes.html"}


def pages(home: Path) -> dict[str, Path]:
    """Return the pages: a second version of MNIST, with its index, and a benchmark on the sample."""
    from infra.executors import InProcess
    from infra.settings import Settings
    from workflows.benchmark.flow import benchmark
    from workflows.benchmark.grid import Grid
    from workflows.reindex import pipeline
    from workflows.reports.benchmark_page import grid_page
    from workflows.spec import Spec

    settings = Settings()

    def run(dataset: str, method: str, **options: Any) -> Path:
        spec = Spec(dataset=dataset, method={"method": method, "bits": 64}, code="codes", **options)
        return Path(pipeline.run_stages(pipeline.open_run(spec, settings, InProcess())).report)

    run("sample", "itq")
    run("mnist", "lsh")
    report = run("mnist", "itq", refit="always")
    methods = ["lsh", "pcah", "itq", "sh"]
    grid = Grid(datasets=["sample"], methods=methods, bits=LENGTHS, seeds=[0, 1, 2], protocol="neighbours")
    (home / "benchmark.html").write_text(grid_page(benchmark(grid).rows))
    return {
        "report": report,
        "table": report.parent / "index.html",
        "index": report.parents[1] / "index.html",
        "benchmark": home / "benchmark.html",
    }


def shoot(pages: dict[str, Path]) -> None:
    """Write a picture of each page by width and colour scheme, of 256 colours, and print the sizes of the pages."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, page in pages.items():
            print(f"{name}: {page.stat().st_size / 1e6:.2f} MB")
            for width, height in HEIGHTS.items():
                for scheme in ("light", "dark"):
                    shown = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                    shown.goto(page.as_uri())
                    tall = min(height, shown.evaluate("document.body.offsetHeight"))
                    clip = {"x": 0, "y": 0, "width": width, "height": tall}
                    picture = Image.open(io.BytesIO(shown.screenshot(clip=clip))).convert("RGB")
                    picture.quantize(256, kmeans=4).save(IMAGES / f"{name}-{width}-{scheme}.png", optimize=True)
                    shown.close()
        browser.close()


if __name__ == "__main__":
    main()

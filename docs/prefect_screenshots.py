"""Take screenshots of Prefect's page of a good, a rejected and a failed run, from a real server on loopback.

python docs/prefect_screenshots.py [FOLDER]

FOLDER is docs/images by default. Needs Chromium: of the system, or that of `playwright install chromium`.
"""

import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
PORT = int(os.environ.get("PORT", "4280"))
URL = f"http://127.0.0.1:{PORT}"
RUNS = {  # name: its options of `hashkiln reindex`, and its exit code
    "good": (["--dataset", "sample", "--method", "lsh", "--bits", "16"], 0),
    "rejected": (["--dataset", "sample", "--method", "lsh", "--bits", "8", "--floor", "map=0.9"], 3),
    "failed": (["--dataset", "broken", "--method", "lsh", "--bits", "16", "--relevance", "neighbours"], 1),
}
WIDTH, MOST = 1280, 4000  # pixels; Prefect draws only the log lines that fit into the window
WITHOUT_TRACEBACKS = """
const starts = text => /^\\s*(Task run failed|Encountered exception)/.test(text) && text.includes("Traceback");
for (const one of document.querySelectorAll("*"))
  if (starts(one.textContent) && !starts(one.parentElement?.textContent ?? ""))
    one.textContent = one.textContent.split("Traceback")[0];
"""


def main() -> None:
    images = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images"
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "prefect").mkdir()
        environment = {
            **os.environ,
            "HASHKILN_HOME": folder,
            "PREFECT_HOME": f"{folder}/prefect",
            "PREFECT_API_URL": f"{URL}/api",
            "PREFECT_LOGGING_LEVEL": "INFO",  # as in deployments
            "PREFECT_LOGGING_EXTRA_LOGGERS": "hashing,storage,infra,workflows",
            "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }
        command = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(PORT)]
        server = subprocess.Popen([sys.executable, *command], env=environment, stdout=subprocess.DEVNULL)
        try:
            await_server(server)
            hashkiln(environment, "ingest", str(broken(home / "source")), "--name", "broken")
            for name, (options, code) in RUNS.items():
                hashkiln(environment, "reindex", *options, code=code)
                (run,) = httpx.post(f"{URL}/api/flow_runs/filter", json={"sort": "START_TIME_DESC", "limit": 1}).json()
                shoot(f"{URL}/runs/flow-run/{run['id']}", images / f"prefect-{name}.png", run["state_name"])
                print(f"prefect-{name}.png: {run['name']}, {run['state_name']}")
        finally:
            server.terminate()
            server.wait()


def shoot(url: str, image: Path, state: str) -> None:
    """Write a picture of the page of a run, without tracebacks, down to its last log line: the state and its reason."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": MOST}, color_scheme="dark")
        page.goto(url)
        last = page.get_by_text(f"Finished in state {state}(").last
        last.wait_for(timeout=60_000)
        page.evaluate(WITHOUT_TRACEBACKS)
        page.wait_for_timeout(1000)  # lines below move up
        box = last.bounding_box()
        assert box
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": box["y"] + box["height"] + 40}
        picture = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
        picture.quantize(256, kmeans=4).save(image, optimize=True)
        browser.close()


def await_server(server: subprocess.Popen[bytes]) -> None:
    """Return when the server answers."""
    while True:
        try:
            httpx.get(f"{URL}/api/health").raise_for_status()
            return
        except httpx.HTTPError:
            if server.poll() is not None:
                sys.exit("the Prefect server did not start")
            time.sleep(0.5)


def hashkiln(environment: dict[str, str], *options: str, code: int = 0) -> None:
    """Run a command. Raises RuntimeError for another exit code."""
    run = subprocess.run([sys.executable, "-m", "workflows.cli", *options], env=environment, cwd=ROOT)
    if run.returncode != code:
        raise RuntimeError(f"hashkiln {' '.join(options)}: expected the exit code {code}, found {run.returncode}")


def broken(folder: Path) -> Path:
    """Return a folder with a vector that is not finite, after the rows that `ingest` looks at."""
    folder.mkdir()
    x = np.random.default_rng(0).standard_normal((5000, 16)).astype(np.float32)
    x[4000, 3] = np.nan
    pq.write_table(pa.table({"id": np.arange(5000), "vector": list(x)}), folder / "00000.parquet")
    return folder


if __name__ == "__main__":
    main()

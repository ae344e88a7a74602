"""Datasets of the Hugging Face hub: hf://datasets/OWNER/NAME[@REVISION][/PATH]."""

import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from ..files.download import HEADERS, TIMEOUT, Progress, download

PREFIX = "hf://datasets/"
URL = re.compile(rf"{PREFIX}(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.%-]+))?(/(?P<path>.+))?", re.ASCII)
COMMIT = re.compile("[0-9a-f]{40}")
NO_ROWS = (".md", ".py")  # suffixes of files that describe a dataset
NEXT_PAGE = re.compile(r'<([^>]+)>; *rel="next"')
REFUSED = {401, 403, 404}  # the hub answers 401 for what does not exist


class HubFile(NamedTuple):
    """A file of a dataset on the hub."""

    path: str  # in the dataset
    size: int
    checksum: str


def is_on_hub(source: str) -> bool:
    """Return whether a source is on the hub, perhaps by an address that `fetch_from_hub` refuses."""
    return source.startswith(("hf://", "https://huggingface.co/"))


def fetch_from_hub(url: str, data_dir: Path, progress: Progress | None = None) -> Path:
    """Download the files of a dataset on the hub, and return the local file or folder of its path.

    The revision, by default main, is resolved to a commit once. The files are in <data_dir>/hub/NAME/COMMIT; those
    that are there already are not downloaded again, so an interrupted download resumes. Each is verified by the
    checksum that the hub has for it. HF_ENDPOINT is the address of another hub.

    Parameters
    ----------
    url
        hf://datasets/OWNER/NAME, optionally with @REVISION (a branch, tag or commit, with %2F for /), and then
        optionally with the path of a folder or file.
    progress
        Called with the number of bytes downloaded so far and the total.

    Raises
    ------
    ValueError
        If the URL has another form, if there is no such dataset, revision or path, or if a file has another checksum.
    OSError
        If the hub cannot be reached.
    """
    if not (match := URL.fullmatch(url.rstrip("/"))):
        raise ValueError(f"expected {PREFIX}OWNER/NAME, optionally with @REVISION and a path, found {url}")
    hub, name = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/"), match["name"]
    if not hub.startswith(("https://", "http://")):
        raise ValueError(f"HF_ENDPOINT: expected an address such as https://huggingface.co, found {hub}")
    revision, path = unquote(match["revision"] or "main"), match["path"] or ""
    about, _ = _answer(f"{hub}/api/datasets/{name}/revision/{quote(revision, safe='')}", url)
    commit = str(about.get("sha"))
    if not COMMIT.fullmatch(commit):  # it becomes the name of a folder
        raise ValueError(f"{url}: expected a commit from {hub}, found {commit}")
    listed = _files(f"{hub}/api/datasets/{name}/tree/{commit}?recursive=true", url)
    if not (files := [file for file in listed if path in ("", file.path) or file.path.startswith(f"{path}/")]):
        raise ValueError(f"{url}: no files with rows in the commit {commit}")
    home, total, done = data_dir / "hub" / name / commit, sum(file.size for file in files), 0
    for file in files:
        if not (target := home / file.path).exists():
            place = f"{hub}/datasets/{name}/resolve/{commit}/{quote(file.path)}"
            download(place, target, file.size, file.checksum, progress and partial(_report, progress, done, total))
        done += file.size
    return home / path


def _report(progress: Progress, before: int, total: int, size: int, _: int | None) -> None:
    progress(before + size, total)


def _files(page: str, url: str) -> Iterator[HubFile]:
    """Yield the files with rows of all pages of a listing."""
    while page:
        listed, link = _answer(page, url)
        for entry in listed:
            name = str(entry["path"])
            hidden = any(part.startswith(".") or not part for part in name.split("/"))  # .. and absolute paths, too
            if entry["type"] != "file" or hidden or name.endswith(NO_ROWS):
                continue
            checksum = f"sha256:{entry['lfs']['oid']}" if entry.get("lfs") else f"git:{entry['oid']}"
            yield HubFile(name, int(entry["size"]), checksum)
        page = found[1] if (found := NEXT_PAGE.search(link)) else ""


def _answer(address: str, url: str) -> tuple[Any, str]:
    """Return the JSON of an address, and its header Link. `url` is for messages."""
    try:
        request = urllib.request.Request(address, headers=HEADERS)  # noqa: S310  (the address of the hub)
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:  # noqa: S310  (as above)
            return json.load(response), response.headers.get("Link", "")
    except urllib.error.HTTPError as error:
        with error:
            if error.code not in REFUSED:
                raise OSError(f"cannot read {address}: HTTP {error.code} {error.reason}") from None
        raise ValueError(
            f"{url}: no such dataset or revision, or none for everybody (HTTP {error.code}): download a private one by "
            "`hf download --repo-type dataset`, and pass its folder"
        ) from None
    except json.JSONDecodeError:
        raise OSError(f"cannot read {address}: expected JSON, as of a hub: check HF_ENDPOINT and proxies") from None
    except (urllib.error.URLError, TimeoutError) as error:
        reason = getattr(error, "reason", error)
        raise OSError(f"cannot read {address}: {reason}: without the internet, pass a folder with its files") from None

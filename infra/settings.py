"""Settings from the environment. By default everything runs embedded, on loopback, with its data in HASHKILN_HOME."""

from __future__ import annotations

import getpass
import json
import os
import re
from dataclasses import fields
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from hashing.mapreduce import Resources
from hashing.names import near_quoted


class SettingsError(ValueError):
    """Invalid environment variables. The command line exits with 2."""


class Settings(BaseSettings):
    """Settings, read from HASHKILN_* and RAY_ADDRESS. The AWS and Prefect clients read their own variables.

    Raises SettingsError, with the names of the variables, for invalid values.
    """

    model_config = SettingsConfigDict(
        env_prefix="HASHKILN_",
        frozen=True,
        env_ignore_empty=True,
        env_nested_delimiter="_",  # HASHKILN_ENCODE_GPUS is encode.gpus
        env_nested_max_split=1,
    )

    home: Path = Field(
        Path(".hashkiln"),
        description="folder of the catalog, the warehouse and Prefect's database, unless set separately",
    )
    warehouse: str = Field(
        "", description="folder or URL (s3://bucket/prefix, gs://, abfs://) for datasets, codes, models and reports"
    )
    catalog: str = Field(
        "",
        description="Iceberg catalog: SQLAlchemy URL (postgresql+psycopg2://…), REST URL (https://…), glue:// or the "
        "name of a catalog in the configuration of pyiceberg",
    )
    data: Path | None = Field(
        None, description="folder with the raw files of named datasets, searched before downloads"
    )
    executor: Literal["ray", "inprocess"] = "ray"
    cpus: int | None = Field(None, ge=1, description="CPUs of the local Ray; default: all")
    trainers: int | None = Field(
        None, ge=1, description="training workers; default: one for each GPU, or one without GPUs"
    )
    fit: Resources | None = Field(
        None,
        description="CPUs, GPUs and memory of a training worker; other tasks that fit take no GPU; default for "
        "training: a GPU for each worker, if there are any, and its share of the CPUs",
    )
    encode: Resources = Field(Resources(), description="CPUs, GPUs and memory of tasks that encode, on GPUs if any")
    embed: Resources | None = Field(
        None, description="the same for tasks that embed texts or pictures; default: a GPU if there are any, else a CPU"
    )
    evaluate: Resources = Field(Resources(), description="the same for tasks that evaluate, on GPUs if any")
    device: Literal["cuda", "cpu"] = Field(
        "cuda", description="torch device of tasks with GPUs; cpu lets a cluster without GPUs run them, for tests"
    )
    ray_address: str = Field(
        "", validation_alias="RAY_ADDRESS", description="address of the Ray cluster to join; default: start a local one"
    )
    commit_shards: int = Field(256, ge=1, description="commit encoded shards after this number of shards")
    commit_seconds: float = Field(60, ge=0, description="or after this number of seconds")
    metrics: bool = Field(False, description="record metrics of tasks and stages, which Ray exports to Prometheus")
    reports: str = Field(
        "", description="address of the folder reports/ of the warehouse on a web server of yours, for links in Prefect"
    )
    traces: bool = Field(
        False, description="send OpenTelemetry traces to OTEL_EXPORTER_OTLP_ENDPOINT; needs hashkiln[traces]"
    )

    def __init__(self, **values: Any) -> None:
        _check_names()
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError("; ".join(map(_problem, error.errors()))) from None

    @field_validator("fit", "encode", "embed", "evaluate", mode="before")
    @classmethod
    def _read_custom(cls, taken: Any, info: ValidationInfo) -> Any:
        if not isinstance(taken, dict) or not isinstance(found := taken.get("custom"), str):
            return taken
        try:
            return {**taken, "custom": json.loads(found)}
        except json.JSONDecodeError:
            variable = f"HASHKILN_{info.field_name}_CUSTOM".upper()
            raise ValueError(f'expected JSON such as {{"ssd": 1}} in {variable}, found {found!r}') from None

    @field_validator("home", "data")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return _absolute(path) if path else None

    @field_validator("warehouse")
    @classmethod
    def _absolute_folder(cls, url: str) -> str:
        scheme = "file://" if url.startswith("file://") else ""
        if not url or ("://" in url and not scheme):
            return re.sub("^az://", "abfs://", url)  # the name that pyiceberg knows
        return f"{scheme}{_absolute(url.removeprefix(scheme))}"

    @field_validator("reports")
    @classmethod
    def _web_address(cls, url: str) -> str:
        if not re.fullmatch("|https?://.+", url):
            raise ValueError(f"expected an address such as https://reports.example.com, found {url!r}")
        return url

    @field_validator("catalog")
    @classmethod
    def _absolute_file(cls, url: str) -> str:
        url = url.strip()
        if not re.fullmatch(r"|[\w-]+|[\w+-]+://.*", url):
            raise ValueError(
                "expected a URL such as sqlite:///catalog.db, https://host/catalog or glue://, or the name of a "
                "catalog in the configuration of pyiceberg"  # not what was found: a URL may hold a password
            )
        scheme, separator, rest = url.partition(":///")
        path, mark, options = rest.partition("?")
        if scheme.partition("+")[0] != "sqlite" or not path or path.startswith((":memory:", "file:")):
            return url
        return f"{scheme}{separator}{_absolute(path)}{mark}{options}"

    @model_validator(mode="after")
    def _check_trainers(self) -> Settings:
        if self.executor == "inprocess" and (self.trainers or 1) > 1:
            raise ValueError(
                f"HASHKILN_TRAINERS={self.trainers} needs HASHKILN_EXECUTOR=ray: the executor inprocess trains with "
                "one worker"
            )
        return self

    @model_validator(mode="after")
    def _check_telemetry(self) -> Settings:
        if self.metrics and self.executor != "ray":
            raise ValueError("HASHKILN_METRICS needs HASHKILN_EXECUTOR=ray: Ray exports the metrics")
        if self.traces and not _is_installed("opentelemetry.exporter.otlp.proto.http"):
            raise ValueError("HASHKILN_TRACES needs an exporter: pip install 'hashkiln[traces]'")
        return self

    @property
    def warehouse_url(self) -> str:
        return self.warehouse.rstrip("/") or str(self.home / "warehouse")

    @property
    def training_url(self) -> str:
        """Folder or URL of training checkpoints; every node of a cluster must see it."""
        return f"{self.warehouse_url}/training"

    @property
    def catalog_url(self) -> str:
        return self.catalog or f"sqlite:///{self.home / 'catalog.db'}"

    @property
    def data_folder(self) -> Path:
        return self.data or self.home / "data"


def _check_names() -> None:
    """Raise SettingsError for a variable whose name is nearly that of a setting; others are those of other programs."""
    known = list(Settings.model_fields)
    for variable in os.environ:
        name = variable.removeprefix("HASHKILN_").lower()
        if variable.startswith("HASHKILN_") and name not in known:
            for near in get_close_matches(name, known, 1, 0.8):
                raise SettingsError(f"unknown variable {variable}: did you mean HASHKILN_{near.upper()}?")


def _problem(error: Any) -> str:
    """Return one line about an invalid value: its variable, what is expected and what was found."""
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return message
    name = "_".join(map(str, error["loc"]))  # encode.gpus is HASHKILN_ENCODE_GPUS
    variable = name if name == "RAY_ADDRESS" else f"HASHKILN_{name.upper()}"
    if error["type"] == "unexpected_keyword_argument":  # of the resources of a stage
        *stage, _ = error["loc"]
        known = ", ".join("_".join(("HASHKILN", *stage, field.name)).upper() for field in fields(Resources))
        return f"unknown variable {variable}: expected one of {known}"
    found = "" if error["type"] == "value_error" else f", found {error['input']!r}"
    meant = near_quoted(str(error["input"]), message) if error["type"] == "literal_error" else ""
    return ": ".join(filter(None, (variable, message + found, meant)))


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a package that holds it
        return False


def _absolute(path: str | Path) -> Path:
    """Return the absolute path, so that stored paths stay valid in any working directory."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:  # unknown user
        raise ValueError(f"cannot expand ~ in {path}: {error}") from None


def current_user() -> str:
    """Return the name of the user who runs this process, or `uid N` if neither environment nor system has a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # of Python before 3.13, and since
        return f"uid {os.getuid()}"

"""Where it runs, from the environment. Nothing set: everything is embedded, on loopback, in HASHKILN_HOME."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """The environment, read once. AWS_* and PREFECT_API_URL are read by those who use them."""

    model_config = SettingsConfigDict(env_prefix="HASHKILN_", frozen=True, env_ignore_empty=True)

    home: Path = Field(Path(".hashkiln"), description="catalog, warehouse and Prefect's database, unless set apart")
    warehouse: str = Field("", description="folder or s3://bucket/prefix of datasets, codes, models and reports")
    catalog: str = Field("", description="SQLAlchemy URL of the Iceberg catalog, such as postgresql+psycopg2://…")
    data: Path | None = Field(None, description="folder where the raw files of named datasets are looked for first")
    executor: Literal["ray", "inprocess"] = "ray"
    cpus: int | None = Field(None, ge=1, description="CPUs of the local Ray; all that there are, if unset")
    trainers: int | None = Field(None, ge=1, description="workers of SGD; one a GPU, or else one, if unset")
    ray_address: str = Field("", validation_alias="RAY_ADDRESS", description="the cluster to join")
    commit_shards: int = Field(256, ge=1, description="encoded shards are committed when there are so many")
    commit_seconds: float = Field(60, ge=0, description="… or when so many seconds have passed")

    @field_validator("home", "data")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return _absolute(path) if path else None

    @field_validator("warehouse")
    @classmethod
    def _absolute_folder(cls, url: str) -> str:
        scheme = "file://" if url.startswith("file://") else ""
        if not url or ("://" in url and not scheme):
            return url
        return f"{scheme}{_absolute(url.removeprefix(scheme))}"

    @field_validator("catalog")
    @classmethod
    def _absolute_file(cls, url: str) -> str:
        if url and "://" not in url:
            raise ValueError(f"expected a URL such as sqlite:///catalog.db, found {url}")
        scheme, separator, rest = url.partition(":///")
        path, mark, options = rest.partition("?")
        if scheme.partition("+")[0] != "sqlite" or not path or path.startswith((":memory:", "file:")):
            return url
        return f"{scheme}{separator}{_absolute(path)}{mark}{options}"

    @property
    def warehouse_url(self) -> str:
        return self.warehouse.rstrip("/") or str(self.home / "warehouse")

    @property
    def training_url(self) -> str:
        """Where checkpoints of SGD lie while it runs: every node of a cluster must see it."""
        return f"{self.warehouse_url}/training"

    @property
    def catalog_url(self) -> str:
        return self.catalog or f"sqlite:///{self.home / 'catalog.db'}"

    @property
    def data_folder(self) -> Path:
        return self.data or self.home / "data"


def _absolute(path: str | Path) -> Path:
    """Return the path as any working directory finds it, so that what is stored under it stays readable."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:  # no such user
        raise ValueError(f"cannot expand ~ in {path}: {error}") from None


def current_user() -> str:
    """Return the name of the user who runs this process, or else the number."""
    return os.environ.get("USER") or str(os.getuid())

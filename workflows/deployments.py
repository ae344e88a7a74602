"""Deployments of the flows for one dataset, and automations that send notifications, on a Prefect server."""

import os
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, Literal, NamedTuple

import yaml
from prefect.blocks.core import Block
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SendgridEmail, SlackWebhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow
from prefect.settings import get_current_settings
from prefect.types.entrypoint import EntrypointType
from pydantic import SecretStr, ValidationError

from infra.settings import SettingsError
from storage.tables.table import table_name

from .checks import UsageError
from .embedded import PACKAGES
from .evaluation.flow import evaluate_flow
from .reindex.flow import reindex
from .spec import Spec
from .tables.gc import gc_flow
from .tables.verify import verify_flow

Channel = Literal["slack", "email", "webhook"]
BLOCK = "hashkiln-notify"  # name of the notification block
MAIL = r"[\w.+-]+@[\w-]+(\.[\w-]+)+"
ADDRESSES = {  # environment variables with the address and the secrets of each channel: their form, and an example
    "slack": {
        "HASHKILN_NOTIFY_URL": (
            r"(?i)https?://hooks\.slack(-gov)?\.com/services(/[a-z0-9]+){3}/?"
            r"|https?://hooks\.slack\.com/(workflows(/[\w-]+){4}|triggers(/[\w-]+){3})/?",
            "https://hooks.slack.com/services/T0/B0/x0",
        ),
    },
    "webhook": {"HASHKILN_NOTIFY_URL": (r"https?://[^\s/]\S*", "https://example.com/hook")},
    "email": {
        "HASHKILN_NOTIFY_SENDGRID_KEY": (r"[\w.-]+", "SG.x0"),
        "HASHKILN_NOTIFY_FROM": (MAIL, "hashkiln@example.com"),
        "HASHKILN_NOTIFY_TO": (rf"{MAIL}(\s*,\s*{MAIL})*", "ada@example.com,bob@example.com"),
    },
}  # fmt: skip
WEEKLY, DAILY = ("0 6 * * 0", "0 8 * * 0"), "0 4 * * *"  # evaluate and verify; gc
GRACE, SAMPLE = 7, 20  # days before gc deletes; shards that a weekly verification encodes again
# Runs send the log lines of these packages to the server. Outside a run they are not sent.
LOGS = {"PREFECT_LOGGING_EXTRA_LOGGERS": ",".join(PACKAGES), "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore"}


class Schedule(NamedTuple):
    """When the flows of a dataset run, and where."""

    cron: str = "0 2 * * *"  # of reindex
    timezone: str = "UTC"
    pool: str = "hashkiln"  # work pool


def deploy(spec: Spec, schedule: Schedule, channel: Channel | None = None) -> list[str]:
    """Create or update the deployments reindex, evaluate and verify of a code table, and gc of the warehouse.

    Returns their names, such as reindex/mine__itq32, and those of the automations that notify. Raises UsageError,
    before anything is made, without a server or its work pool, or for an invalid schedule; SettingsError if a variable
    of the channel is missing or wrong.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise UsageError(
            "deployments need a Prefect server: set PREFECT_API_URL to its address, such as http://127.0.0.1:4200/api "
            "of `make serve`"
        )
    block = _block(channel) if channel else None
    made = list(_deployments(spec, schedule))
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(schedule.pool)
        except ObjectNotFound:
            raise UsageError(
                f"the server has no work pool {schedule.pool!r}: create it with `prefect work-pool create "
                f"{schedule.pool} --type process`, or pass another by --pool"
            ) from None
        for deployment in made:
            deployment.apply()
        automations = _notify(client, block) if block else []
    return [f"{deployment.flow_name}/{deployment.name}" for deployment in made] + automations


def _deployments(spec: Spec, schedule: Schedule) -> Iterator[RunnerDeployment]:
    table = table_name(spec.dataset, spec.code_name)
    tags = [spec.dataset, table]
    changed = spec.model_dump(mode="json", exclude_defaults=True)
    yield _deployment(
        reindex, table, {"spec": changed}, schedule.cron, schedule, tags, ConcurrencyLimitStrategy.ENQUEUE
    )
    protocol = spec.protocol.model_dump(mode="json", exclude_defaults=True)
    measured = {"table": table, **({"protocol": protocol} if protocol else {})}
    yield _deployment(evaluate_flow, table, measured, WEEKLY[0], schedule, tags)
    deep = {"table": table, "deep": True, "sample": SAMPLE}
    yield _deployment(verify_flow, table, deep, WEEKLY[1], schedule, tags)
    yield _deployment(gc_flow, "gc", {"grace": GRACE}, DAILY, schedule, [])


def _deployment(
    flow: Flow[..., Any],
    name: str,
    parameters: dict[str, Any],
    cron: str,
    schedule: Schedule,
    tags: list[str],
    strategy: ConcurrencyLimitStrategy = ConcurrencyLimitStrategy.CANCEL_NEW,
) -> RunnerDeployment:
    try:
        when = CronSchedule(cron=cron, timezone=schedule.timezone)
    except ValidationError as error:
        why = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise UsageError(f"invalid schedule {cron!r}, timezone {schedule.timezone!r}: {why}") from None
    return RunnerDeployment.from_flow(
        flow,
        name,
        schedules=[DeploymentScheduleCreate(schedule=when, slug="weekly" if cron in WEEKLY else "nightly")],
        parameters=parameters,
        tags=["hashkiln", *tags],
        description=flow.description,
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=strategy),
        work_pool_name=schedule.pool,
        job_variables={"env": LOGS},
        entrypoint_type=EntrypointType.MODULE_PATH,  # modules that Ray workers can import
    )


def _block(channel: Channel) -> Block:
    """Return the notification block of a channel, with the secrets from the environment; the server stores them."""
    forms = ADDRESSES[channel]
    values = [os.environ.get(name, "").strip() for name in forms]
    if missing := [name for name, value in zip(forms, values, strict=True) if not value]:
        raise SettingsError(f"--notify {channel} needs {', '.join(missing)} in the environment")
    for (name, (form, example)), value in zip(forms.items(), values, strict=True):
        if not re.fullmatch(form, value):  # Prefect would store it, and never send anything
            raise SettingsError(f"--notify {channel}: expected {name} such as {example}")  # not the value: a secret
    if channel == "slack":
        return SlackWebhook(url=SecretStr(values[0]))
    if channel == "email":
        return SendgridEmail(
            api_key=SecretStr(values[0]), sender_email=values[1], to_emails=re.split(r"\s*,\s*", values[2])
        )
    message = {"subject": "{{subject}}", "body": "{{body}}"}
    address: Any = {"address": values[0]}
    return CustomWebhookNotificationBlock(name=BLOCK, url="{{address}}", json_data=message, secrets=address)


def _notify(client: SyncPrefectClient, block: Block) -> list[str]:
    """Create or update the automations of infra/automations.yaml, and return their names."""
    identity = str(block.save(BLOCK, overwrite=True))
    silence = 3 * (get_current_settings().flows.heartbeat_frequency or 180)
    text = files("infra").joinpath("automations.yaml").read_text()
    text = text.replace("${BLOCK}", identity).replace("${SILENCE}", str(silence))
    wanted = [AutomationCore.model_validate(automation) for automation in yaml.safe_load(text)["automations"]]
    for automation in wanted:
        if known := client.read_automations_by_name(automation.name):
            client.update_automation(known[0].id, automation)
        else:
            client.create_automation(automation)
    return [automation.name for automation in wanted]

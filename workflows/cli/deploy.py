"""The command `deploy`, which schedules the flows of a dataset on a Prefect server."""

from typing import Annotated, Literal

import typer

from .common import console, show
from .options import AsJson, Specify, run_specification, takes

app = typer.Typer()


@app.command()
@takes(run_specification)
def deploy(
    specify: Specify,
    cron: Annotated[str, typer.Option(help="Schedule of reindex.")] = "0 2 * * *",
    timezone: Annotated[str, typer.Option(help="Time zone of the schedules.")] = "UTC",
    pool: Annotated[str, typer.Option(help="Work pool of the server.")] = "hashkiln",
    notify: Annotated[
        Literal["slack", "email", "webhook"] | None,
        typer.Option(help="Send a message when a run fails, is rejected, starts late or falls silent."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Schedule reindex, evaluate and verify for a dataset, and gc for the warehouse, on the server of PREFECT_API_URL.

    reindex runs by --cron, gc daily at 4:00, evaluate and verify on Sundays at 6:00 and 8:00. Each deployment has at
    most one run at a time. To change a schedule or an option, run the command again.

    Addresses and secrets of --notify come from the environment: HASHKILN_NOTIFY_URL for slack and webhook;
    HASHKILN_NOTIFY_SENDGRID_KEY, HASHKILN_NOTIFY_FROM and HASHKILN_NOTIFY_TO for email (SendGrid).

    Examples: `hashkiln deploy --dataset mine --cron "0 2 * * *"`,
    `hashkiln deploy --dataset mine --method itq --bits 64 --floor map=0.3 --timezone Europe/Paris --notify slack`
    """
    from ..deployments import Schedule
    from ..deployments import deploy as run

    made = run(specify(), Schedule(cron=cron, timezone=timezone, pool=pool), notify)
    if as_json:
        return show(made, True)
    for name in made:
        console.print(name, highlight=False)

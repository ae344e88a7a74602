"""Embedded Prefect: what it has not sent when its server is gone."""

import asyncio
from threading import Event

from prefect._internal.concurrency.services import QueueService

from workflows.embedded import forget_unsent


def test_what_prefect_has_not_sent_is_dropped():
    """`forget_unsent` uses private parts of Prefect, which has no public way. After an upgrade, look for one again."""
    sent, answers = [], Event()

    class Away(QueueService[str]):
        async def _handle(self, item: str) -> None:
            while not answers.is_set():
                await asyncio.sleep(0.01)
            sent.append(item)

    service = Away.instance()
    for item in "abc":
        service.send(item)
    forget_unsent()
    answers.set()
    service.drain()
    assert len(sent) <= 1  # the item that was being sent

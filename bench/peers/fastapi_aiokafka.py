"""Peer of ``ack``: a webhook answered once Kafka has the body, by FastAPI and aiokafka with acks=all.

It checks neither bearer nor signature and answers with ready bytes: less work than ours.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaProducer
from fastapi import FastAPI, Request, Response

TOPIC = "bench.peer"


@asynccontextmanager
async def _lifespan(application: FastAPI) -> AsyncIterator[None]:
    async with AIOKafkaProducer(bootstrap_servers=os.environ["CCAAS_KAFKA__BOOTSTRAP_SERVERS"], acks="all") as producer:
        application.state.send = producer.send_and_wait
        yield


app = FastAPI(lifespan=_lifespan)


@app.get("/")
async def alive() -> Response:
    return Response()


@app.post("/cxone/webhook/{tenant_id}")
async def webhook(tenant_id: str, request: Request) -> Response:
    await request.app.state.send(TOPIC, await request.body(), key=tenant_id.encode())
    return Response(b'{"status":"accepted"}', media_type="application/json")

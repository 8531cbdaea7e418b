"""``POST /api/v2/analytics/conversations/details/query``: what became of conversations until the simulated now."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from devstack.simulators.clock import ReplayClock
from devstack.simulators.control import parse
from devstack.simulators.genesys_events import DIVISION_ID, PROVIDER, ani, dnis, participant_id, session_id
from devstack.simulators.instants import DAY_MS, iso
from devstack.simulators.oauth import Client
from devstack.simulators.queries import ConversationsQuery, Pages, hits
from devstack.simulators.trace import Call


class ConversationDetails:
    """The query's endpoint.

    It finds conversations that started on a day (UTC) which the interval touches and before the interval's end.
    Nothing is told of what has not happened before the simulated now.

    Args:
        calls: All of the trace.
        clock: Its now.
        pages: Cuts the answers.
    """

    def __init__(self, calls: list[Call], clock: ReplayClock, pages: Pages) -> None:
        self._calls = sorted(calls, key=lambda call: (call.started_ms, call.conversation_id))
        self._starts = [call.started_ms for call in self._calls]
        self._clock = clock
        self._pages = pages

    async def endpoint(self, request: Request, _client: Client) -> Response:
        """One page; 400 for a wrong body or more than 31 days."""
        query = parse(ConversationsQuery, await request.body())
        if isinstance(query, Response):
            return query
        now_ms = self._clock.now_ms()
        found = self._find(query, now_ms)
        page, total = self._pages.numbered(found, query.paging)
        return JSONResponse(hits("conversations", [conversation(call, now_ms) for call in page], total))

    def _find(self, query: ConversationsQuery, now_ms: int) -> list[Call]:
        begin_ms, end_ms = query.interval
        first = bisect_left(self._starts, begin_ms // DAY_MS * DAY_MS)
        found = self._calls[first : max(first, bisect_left(self._starts, min(end_ms, now_ms)))]
        if query.filters:
            found = [call for call in found if all(each.holds(_past(call.ended_ms, now_ms)) for each in query.filters)]
        if query.order == "desc":
            found.reverse()
        return found


def conversation(call: Call, now_ms: int) -> dict[str, Any]:
    """A conversation as far as it has come before an instant (epoch ms).

    Names and metrics (``tAcd`` and ``tAbandon``: wait in the queue; ``tTalk``, ``tHandle``; ms) are the real API's.
    Ids are those of the stream's messages. The trace has neither hold nor after-call work, so ``tHeld``, ``tAcw`` and a
    ``wrapup`` segment never come up.
    """
    participants = [_customer(call, now_ms)]
    if call.queued_ms is not None and call.queued_ms < now_ms:
        participants.append(_acd(call, now_ms))
    if call.answered_ms is not None and call.answered_ms < now_ms:
        participants.append(_agent(call, now_ms))
    return {
        "conversationId": call.conversation_id,
        "conversationStart": iso(call.started_ms),
        **_told("conversationEnd", call.ended_ms, now_ms),
        "originatingDirection": "inbound",
        "divisionIds": [DIVISION_ID],
        "participants": participants,
    }


def _customer(call: Call, now_ms: int) -> dict[str, Any]:
    how = "client" if call.hung_up else "peer"
    segment = _segment(call.started_ms, call.ended_ms, now_ms, how) | {"conference": False}
    return _participant(call, "customer", "customer", {"segments": [segment]})


def _acd(call: Call, now_ms: int) -> dict[str, Any]:
    left_ms, how = (call.ended_ms, "client") if call.answered_ms is None else (call.answered_ms, "transfer")
    metrics = {"tAcd": call.wait_ms} | ({"tAbandon": call.wait_ms} if call.hung_up else {})
    segment = _segment(call.queued_ms or 0, left_ms, now_ms, how) | {"queueId": call.queue_id}
    return _participant(call, "acd", "acd", {**_metrics(metrics, left_ms, now_ms), "segments": [segment]})


def _agent(call: Call, now_ms: int) -> dict[str, Any]:
    segment = _segment(call.answered_ms or 0, call.ended_ms, now_ms, "peer") | {"queueId": call.queue_id}
    metrics = _metrics({"tTalk": call.talk_ms, "tHandle": call.talk_ms}, call.ended_ms, now_ms)
    participant = _participant(call, "user", "agent", {**metrics, "segments": [segment]})
    return participant | {"userId": call.agent_id}


def _participant(call: Call, role: str, purpose: str, session: dict[str, Any]) -> dict[str, Any]:
    common = {
        "sessionId": session_id(call, role),
        "mediaType": "voice",
        "direction": "inbound",
        "provider": PROVIDER,
        "ani": ani(call),
        "dnis": dnis(call),
    }
    return {"participantId": participant_id(call, role), "purpose": purpose, "sessions": [common | session]}


def _segment(begin_ms: int, end_ms: int, now_ms: int, how: str) -> dict[str, Any]:
    """A segment; how it ended is told only then."""
    end = _told("segmentEnd", end_ms, now_ms)
    return {"segmentType": "interact", "segmentStart": iso(begin_ms), **end, **({"disconnectType": how} if end else {})}


def _metrics(values: dict[str, int], emitted_ms: int, now_ms: int) -> dict[str, Any]:
    if emitted_ms >= now_ms:
        return {}
    rows = [{"name": name, "emitDate": iso(emitted_ms), "value": value} for name, value in values.items()]
    return {"metrics": rows}


def _past(at_ms: int, now_ms: int) -> int | None:
    return at_ms if at_ms < now_ms else None


def _told(name: str, at_ms: int, now_ms: int) -> dict[str, str]:
    return {name: iso(at_ms)} if at_ms < now_ms else {}

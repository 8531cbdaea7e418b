"""Where the definitions of metrics come from; the data dictionary cites them."""

from __future__ import annotations

GENESYS_METRICS = "https://help.mypurecloud.com/articles/metric-definitions"
GENESYS_OFFERED = "https://help.mypurecloud.com/faqs/offered-metric-not-always-equal-answered-plus-abandoned-metrics"
GENESYS_WHEN_COUNTED = (
    "https://help.mypurecloud.com/faq/what-is-the-difference-between-the-answered-and-handle-metrics/"
)
GENESYS_HANDLE_TIME = "https://help.mypurecloud.com/glossary/average-handle-time-aht/"
GENESYS_STATUS = "https://help.mypurecloud.com/glossary/agent-status/"
GENESYS_RATIOS = "https://help.mypurecloud.com/articles/select-and-manage-metrics/"
ERLANG = "https://www.ccmath.com/ErlangC/"
OCCUPANCY = "https://help.calabrio.com/doc/Content/glossaries/wfm-concepts/occupancy.htm"
REPEAT_CALLS = "https://www.callcentrehelper.com/forum/how-do-you-measure-repeat-call-rate-116577.htm"
KAFKA = "https://kafka.apache.org/documentation/#intro_concepts_and_terms"
KAFKA_CONNECT_ERRORS = "https://kafka.apache.org/documentation/#connect_errorreporting"
UUID5 = "https://www.rfc-editor.org/rfc/rfc9562#name-uuid-version-5"

"""A run as a process of its own, in small batches: ``python -m …replaying TENANT``. A line after each commit."""

from __future__ import annotations

import sys

import streaming.reprocess.batch
from streaming.reprocess.fixups import FixUps
from streaming.reprocess.report import TenantReport
from streaming.reprocess.run import Order, reprocess
from streaming.reprocess.selection import Selection
from streaming.settings import load_settings

BATCH = 40


def main() -> None:
    streaming.reprocess.batch._MAX_LETTERS = BATCH
    settings = load_settings()
    (tenant,) = Selection(tenant=sys.argv[1]).tenants(settings)
    order = Order(
        Selection(reason="missing_field"),
        FixUps([{"op": "rename", "path": "contactID", "to": "contactId"}]),
        run_id="killed",
    )

    def said(report: TenantReport) -> None:
        sys.stdout.write(f"committed {report.events}\n")
        sys.stdout.flush()

    reprocess(settings, tenant, order, progress=said)
    sys.stdout.write("all\n")


if __name__ == "__main__":
    main()

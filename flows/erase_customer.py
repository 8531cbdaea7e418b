"""Deployment erase-customer. A caller's data out of warehouse, landing files and live state, with an audit record."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.blocks.system import Secret

from flows._load import retry_while_down, run_id, show_table
from flows._tenants import name_of
from streaming.erasure.crm_state import clean_crm_state
from streaming.erasure.personal import Mode, Owner
from streaming.errors import CcaasError, ConfigurationError
from streaming.settings import Settings, load_settings
from streaming.sink.landing_lease import landing_lease
from warehouse.callers import Request
from warehouse.erasure import Erasure, Places, apply_list, erase
from warehouse.schema import open_warehouse

# A compaction is waited for so long.
_PATIENCE_S = 600.0


@flow(name="erase-customer")
def erase_customer(
    tenant: str | None = None,
    *,
    address_secret: str | None = None,
    address_file: str | None = None,
    conversation_ids: list[str] | None = None,
    mode: Mode = "erase",
    dry_run: bool = True,
    requested_by: str | None = None,
    most_conversations: int = 10_000,
) -> dict[str, int]:
    """Remove or pseudonymise what the platform keeps of a caller. It can be repeated, and killed: run it again.

    Never give the address itself: Prefect shows a run's parameters to everybody and keeps them. Without a tenant,
    everybody who was erased before is looked for again in what came since.

    Args:
        tenant: Vendor and tenant, for example genesys/bank-north. Empty: all, and nobody is named.
        address_secret: Name of a Prefect Secret block that holds the address. Delete the block afterwards.
        address_file: Path, on the worker's machine, of a file that holds the address and nothing else.
        conversation_ids: Conversations, beside those of the address.
        mode: erase, or pseudonymise: an address becomes a token that is the same for the same caller.
        dry_run: Only count what would lose something, by place.
        requested_by: Who asked for it, for the audit record: a name or ticket of yours, not the caller's.
        most_conversations: More of them are refused: such an address is rather one of the company's own.

    Returns:
        What lost something (or would), by place.

    Raises:
        ConfigurationError: the tenant, the address or erasure.key can't be used.
        CcaasError: landing files can't be read; all the rest is done.
    """
    settings = load_settings()
    address = _address(address_secret, address_file)
    request = None
    if tenant:
        request = Request(
            owner=_owner(settings, tenant),
            address=address,
            conversation_ids=conversation_ids or (),
            mode=mode,
            most_conversations=most_conversations,
        )
    elif address or conversation_ids:
        msg = "tenant is empty, but somebody is named: give the tenant too, as vendor/tenant_id"
        raise ConfigurationError(msg)
    done = _erase(settings, request, requested_by, dry_run=dry_run)
    said = "would lose something" if dry_run else "lost something"
    rows: list[dict[str, str | int]] = [{"place": place, said: count} for place, count in done.counts.items()]
    show_table("erase-customer", [{"place": "conversations of the caller", said: done.conversations}, *rows])
    if done.unreadable:
        msg = (
            f"{len(done.unreadable)} landing files can't be read and may still hold the caller's data: mend or delete "
            f"them and run again; the first: {', '.join(done.unreadable[:5])}"
        )
        raise CcaasError(msg)
    return dict(done.counts)


@retry_while_down
def _erase(settings: Settings, request: Request | None, requested_by: str | None, *, dry_run: bool) -> Erasure:
    logger = get_run_logger()
    places = Places(
        partial(landing_lease, settings, _PATIENCE_S),
        lambda owner, suppressed, only_count: clean_crm_state(settings.kafka, owner, suppressed, dry_run=only_count),
    )
    with open_warehouse(settings) as warehouse:
        if request is None:
            return apply_list(warehouse, places, dry_run=dry_run)
        return erase(
            warehouse,
            request,
            places,
            run_id=run_id(),
            requested_by=requested_by,
            dry_run=dry_run,
            on_step=lambda step: logger.info("done: %s", step),
        )


def _owner(settings: Settings, tenant: str) -> Owner:
    vendor, _, tenant_id = tenant.partition("/")
    # One that is no longer in the settings may still have data.
    if not vendor or not tenant_id:
        known = ", ".join(name_of(known) for known in settings.tenants[:20])
        msg = f"tenant is {tenant!r}: give vendor and tenant as vendor/tenant_id, for example one of: {known}"
        raise ConfigurationError(msg)
    return Owner(vendor, tenant_id)


def _address(secret: str | None, file: str | None) -> str | None:
    if secret and file:
        msg = "address_secret and address_file are both given: leave one out"
        raise ConfigurationError(msg)
    if secret:
        try:
            block = Secret.load(secret)
        except ValueError:
            msg = f"address_secret: the Prefect server has no Secret block {secret!r}; make one that holds the address"
            raise ConfigurationError(msg) from None
        return str(block.get())  # type: ignore[union-attr]  # a coroutine only where a loop runs
    if file:
        try:
            return Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            msg = f"address_file: {file} can't be read on this worker: {type(error).__name__}"
            raise ConfigurationError(msg) from None
    return None

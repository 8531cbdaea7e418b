"""The ``ccaas`` command. Parses and calls; heavy parts are imported by the command that needs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from streaming.errors import CcaasError
from streaming.logs import configure_logs
from streaming.settings import Settings, load_settings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
config_app = typer.Typer(no_args_is_help=True, help="Settings.")
schema_app = typer.Typer(no_args_is_help=True, help="The canonical event's schema.")
topics_app = typer.Typer(no_args_is_help=True, help="Kafka topics of the tenants.")
cxone_app = typer.Typer(no_args_is_help=True, help="NICE CXone.")
alerts_app = typer.Typer(no_args_is_help=True, help="Alerts of the Prefect server.")
app.add_typer(alerts_app, name="alerts")
app.add_typer(config_app, name="config")
app.add_typer(cxone_app, name="cxone")
app.add_typer(schema_app, name="schema")
app.add_typer(topics_app, name="topics")

console = Console()


def main() -> None:
    """Entry point: a known error is one message and exit code 2, never a traceback."""
    try:
        app()
    except CcaasError as error:
        Console(stderr=True).print(f"[bold red]error[/]: {error}", highlight=False, soft_wrap=True)
        sys.exit(2)


def _settings() -> Settings:
    settings = load_settings()
    configure_logs(settings.log_format)
    return settings


@app.command()
def run(
    service: Annotated[str, typer.Argument(help="genesys-ingest, cxone-receiver, cxone-publisher, analytics-sink")],
) -> None:
    """Run one long-running service in the foreground, without Prefect."""
    from streaming.announce import announcing, log_tell  # noqa: PLC0415
    from streaming.run import services  # noqa: PLC0415
    from streaming.service import stop_on_signals  # noqa: PLC0415

    known = services()
    if service not in known:
        msg = f"no service {service!r}; there are {', '.join(sorted(known))}"
        raise typer.BadParameter(msg)
    settings = _settings()
    with stop_on_signals() as stop, announcing(settings, log_tell):
        known[service](settings, stop)


@config_app.command("check")
def config_check() -> None:
    """Read the settings, check every tenant's connection and show what is in force."""
    from streaming.vendors import check_tenants  # noqa: PLC0415

    settings = _settings()
    check_tenants(settings)
    table = Table("tenant", "vendor", "topic", "partitions", "key", "retention", title="Tenants")
    for tenant in settings.tenants:
        hours = f"{tenant.retention_ms // 3_600_000} h"
        table.add_row(
            tenant.tenant_id,
            tenant.vendor,
            tenant.events_topic,
            str(tenant.partitions),
            tenant.partition_key,
            hours,
        )
    console.print(table)
    console.print(
        f"Kafka {settings.kafka.bootstrap_servers} · registry {settings.registry.url} · data {settings.data_dir}"
    )


@schema_app.command("register")
def schema_register() -> None:
    """Register the versions that the registry lacks, under FULL compatibility."""
    from schemas.canonical import SUBJECT  # noqa: PLC0415
    from schemas.registry import Registry  # noqa: PLC0415

    _, schema_id = Registry(_settings().registry).current()
    console.print(f"{SUBJECT}: id {schema_id}")


@schema_app.command("check")
def schema_check(
    file: Annotated[Path | None, typer.Argument(help="An .avsc file; else every version of the project.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Leave the registry out.")] = False,
) -> None:
    """Whether a schema is FULL compatible with every version of the project and of the registry."""
    from schemas.check import check_file, check_project  # noqa: PLC0415

    registry = _settings().registry
    verdicts = check_project(registry, offline=offline) if file is None else check_file(file, registry, offline=offline)
    table = Table("schema", "against", "verdict", title="FULL compatibility")
    for verdict in verdicts:
        good = "[green]compatible[/]"
        table.add_row(verdict.schema, verdict.against, escape("\n".join(verdict.problems)) or good)
    console.print(table)
    if any(verdict.problems for verdict in verdicts):
        raise typer.Exit(2)


@topics_app.command("ensure")
def topics_ensure() -> None:
    """Create the topics of all configured tenants."""
    from streaming.topics import ensure_topics  # noqa: PLC0415

    settings = _settings()
    ensure_topics(settings.kafka, settings.tenants)
    console.print(f"{2 * len(settings.tenants)} topics are there")


@cxone_app.command("register")
def cxone_register(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant; default is all of CXone's.")] = None,
) -> None:
    """Create or update the webhook registrations, with each tenant's first token.

    To rotate a token: put the new one first in webhook_tokens, the old one second; restart the receivers; run this;
    when the vendor's retries of older requests are over, remove the old one and restart the receivers.
    """
    from streaming.vendors.cxone.access import cxone_tenants  # noqa: PLC0415
    from streaming.vendors.cxone.registration import Outcome, register_webhooks  # noqa: PLC0415

    done = register_webhooks(cxone_tenants(_settings(), tenant))
    table = Table("tenant", "url", "registration", "tokens accepted", "to do", title="Webhooks")
    for item in done:
        colour = "red" if item.outcome is Outcome.FAILED or item.twins else "green"
        table.add_row(
            item.tenant_id, item.url, f"[{colour}]{item.outcome}[/]", str(item.tokens), escape(item.advice or "nothing")
        )
    console.print(table)
    if any(item.error is not None or item.twins for item in done):
        raise typer.Exit(2)


@alerts_app.command("install")
def alerts_install() -> None:
    """Create or update the automation that tells people, on the server that PREFECT_API_URL names."""
    from flows.alerts import NAME, install_alerts  # noqa: PLC0415

    settings = _settings()
    done = install_alerts(settings.alerts.blocks)
    console.print(f"automation {NAME!r} {done}: tells {', '.join(settings.alerts.blocks)}")


@app.command("dictionary")
def data_dictionary() -> None:
    """Print the warehouse's data dictionary as Markdown; docs/data-dictionary.md is kept from it."""
    from warehouse.dictionary import dictionary  # noqa: PLC0415

    typer.echo(dictionary(), nl=False)


@app.command()
def demo(  # noqa: PLR0917 (a command's options)
    trace: Annotated[Path | None, typer.Option(help="Trace file; default is the shipped weekday.")] = None,
    days: Annotated[int | None, typer.Option(min=1, help="Replay only the trace's first N dates.")] = None,
    speed: Annotated[float, typer.Option(min=1, help="Event time over wall time.")] = 600,
    as_recorded: Annotated[bool, typer.Option("--as-recorded", help="Keep the trace's own dates.")] = False,
    exit_: Annotated[bool, typer.Option("--exit", help="Leave when done instead of staying up.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write the report to this file as JSON.")] = None,
) -> None:
    """Replay real calls through the whole platform, from the vendors to the warehouse."""
    from devstack.demo import Demo  # noqa: PLC0415

    sys.exit(Demo(trace=trace, days=days, speed=speed, as_recorded=as_recorded, stay=not exit_, report=report).run())

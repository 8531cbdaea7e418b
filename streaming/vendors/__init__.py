"""One package a vendor: ``streaming/vendors/{vendor}/`` beside ``schemas/fieldmaps/{vendor}.toml``.

A package gives ``CONNECTION``, the model of its tenants' ``connection`` section, ``OPTIONS``, the model of
``[vendors.{vendor}]`` which is for all of them together, ``SERVICES``, its long-running services by name,
``REPLAY``, how a tenant's dead letters are normalised again, and ``DIRECTORY``, which reads a tenant's queues and
agents.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from streaming.errors import ConfigurationError
from streaming.settings import Settings, Tenant, config_file, describe

Connection = TypeVar("Connection", bound=BaseModel)


def connection_of(tenant: Tenant, model: type[Connection]) -> Connection:
    """The tenant's ``connection`` section, validated by its vendor's model.

    Raises:
        ConfigurationError: naming file, tenant and field.
    """
    try:
        return model.model_validate(tenant.connection)
    except ValidationError as error:
        where = f"{config_file()}: tenants: {tenant.vendor}/{tenant.tenant_id}: connection"
        raise ConfigurationError(describe(error, where)) from None


def options_of(settings: Settings, vendor: str, model: type[Connection]) -> Connection:
    """What is set for all tenants of a vendor together, validated by the vendor's model.

    Raises:
        ConfigurationError: naming file and field.
    """
    try:
        return model.model_validate(settings.vendors.get(vendor, {}))
    except ValidationError as error:
        raise ConfigurationError(describe(error, f"{config_file()}: vendors: {vendor}")) from None


def check_tenants(settings: Settings) -> None:
    """Every tenant's vendor is known, and its connection complete; so is what is set by vendor.

    Raises:
        ConfigurationError: for the first that is not.
    """
    for vendor in settings.vendors:
        if vendor not in known_vendors():
            msg = f"{config_file()}: vendors: {vendor!r} is unknown; there are {', '.join(sorted(known_vendors()))}"
            raise ConfigurationError(msg)
        options_of(settings, vendor, importlib.import_module(f"streaming.vendors.{vendor}").OPTIONS)
    for tenant in settings.tenants:
        if tenant.vendor not in known_vendors():
            msg = (
                f"{config_file()}: tenants: {tenant.tenant_id}: vendor {tenant.vendor!r} is unknown; "
                f"there are {', '.join(sorted(known_vendors()))}"
            )
            raise ConfigurationError(msg)
        package = importlib.import_module(f"streaming.vendors.{tenant.vendor}")
        connection_of(tenant, package.CONNECTION)


def known_vendors() -> set[str]:
    """Names of the vendor packages."""
    return {module.name for module in pkgutil.iter_modules(__path__) if module.ispkg}

from __future__ import annotations

from pathlib import Path

import pytest

from streaming.errors import ConfigurationError
from streaming.settings import Settings, load_settings
from streaming.vendors import check_tenants


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "ccaas.toml"
    monkeypatch.setenv("CCAAS_CONFIG", str(file))
    return file


def read(config: Path, text: str) -> Settings:
    config.write_text(text, encoding="utf-8")
    return load_settings()


def test_the_environment_is_over_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCAAS_KAFKA__BOOTSTRAP_SERVERS", "a:1,b:2")
    settings = read(config, '[kafka]\nbootstrap_servers = "file:9"\n[receiver]\nport = 99\n')
    assert settings.kafka.bootstrap_servers == "a:1,b:2"
    assert settings.receiver.port == 99


def test_the_data_folder_lies_beside_the_file_from_wherever_one_reads(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = read(config, 'data_dir = "data"\n')
    monkeypatch.chdir("/")
    assert load_settings().data_dir == first.data_dir == tmp_path / "data"


def test_tenants_need_a_data_folder_that_outlives_the_working_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CCAAS_CONFIG", raising=False)
    monkeypatch.setenv("CCAAS_TENANTS", '[{"tenant_id": "a", "vendor": "cxone"}]')
    with pytest.raises(ConfigurationError, match="data_dir"):
        load_settings()


def test_a_wrong_variable_is_named_as_one(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCAAS_KAFKA__CLIENT", "no json")
    with pytest.raises(ConfigurationError, match=r"environment.*JSON"):
        read(config, "")


def test_client_properties_reach_every_client_and_no_log(config: Path) -> None:
    settings = read(
        config,
        '[kafka.client]\n"security.protocol" = "SASL_SSL"\n"sasl.password" = "hunter2"\n'
        '[registry.client]\n"basic.auth.user.info" = "me:hunter2"\n',
    )
    assert settings.kafka.client_config()["sasl.password"] == "hunter2"
    assert settings.registry.client_config()["basic.auth.user.info"] == "me:hunter2"
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[kafka]\nbootstrap = 1\n", "kafka.bootstrap"),
        ('[receiver]\nport = "many"\n', "receiver.port"),
        ('[[tenants]]\ntenant_id = "a.b"\nvendor = "cxone"\n', "tenants.0.tenant_id"),
        (
            '[[tenants]]\ntenant_id = "a"\nvendor = "cxone"\n[[tenants]]\ntenant_id = "a"\nvendor = "cxone"\n',
            "given twice",
        ),
        ("[kafka\n", "ccaas.toml"),
        ("[warehouse]\ninterval_minutes = 7\n", "warehouse.interval_minutes"),
        ('[registry]\nurl = "https://user:pw@host"\n', "registry.url"),
        ('[registry]\nurl = "host:8081"\n', "registry.url"),
        ("[retention]\nintervals_days = 30\n", "set events_days to at most 30"),
        ("[retention]\nevents_days = 31\ndaily_days = 30\n", "daily_days = 30 is shorter than events_days"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(config: Path, text: str, field: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(config, text)
    assert field in str(caught.value)
    assert str(config) in str(caught.value)


def test_a_named_file_that_is_not_there_is_an_error(config: Path) -> None:
    with pytest.raises(ConfigurationError, match="which is no file"):
        load_settings()


TENANT = '[[tenants]]\ntenant_id = "south"\nvendor = "{vendor}"\n[tenants.connection]\n{connection}\n'


@pytest.mark.parametrize(
    ("vendor", "connection", "said"),
    [
        ("nobody", "", "vendor 'nobody' is unknown; there are cxone, genesys"),
        ("genesys", 'token_url = "http://x"', "genesys/south: connection: api_url"),
        (
            "cxone",
            'token_url="http://x"\napi_url="http://x"\nclient_id="x"\nclient_secret="s3cret"\nwebhook_tokens=["s3cret-of-16-chars"]\nsignature="hmac"',
            "needs hmac_secret",
        ),
        (
            "cxone",
            'token_url="http://x"\napi_url="http://x"\nclient_id="x"\nclient_secret="s"\nwebhook_tokens=["0123456789abcdef","s3cret"]',
            "connection: webhook_tokens.1: Value error, has fewer than 16 characters",
        ),
        (
            "cxone",
            'token_url="http://x"\napi_url="http://x"\nclient_id="x"\nclient_secret="s"\nwebhook_tokens=["0123456789abcdef"]\nhmac_secret="s3cret"',
            "connection: hmac_secret: Value error, has fewer than 16 characters",
        ),
        (
            "cxone",
            'token_url="http://x"\napi_url="http://x"\nclient_id="x"\nclient_secret=""\nwebhook_tokens=["0123456789abcdef"]',
            "connection: client_secret: Value error, is empty",
        ),
    ],
)
def test_a_wrong_connection_is_named_by_tenant_without_its_secrets(
    config: Path, vendor: str, connection: str, said: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_tenants(read(config, TENANT.format(vendor=vendor, connection=connection)))
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_topics_and_retention_follow_the_tenant(config: Path) -> None:
    (tenant,) = read(config, '[[tenants]]\ntenant_id = "south"\nvendor = "cxone"\nvalue_class = "high"\n').tenants
    assert tenant.events_topic == "ccaaus.events.cxone.south"
    assert tenant.dlq_topic == "ccaaus.dlq.cxone.south"
    assert tenant.retention_ms == 604_800_000

"""What of an event is a caller's personal data, and how it is removed. The one place that says so.

A caller is known by an address (telephone number, SIP or e-mail address). Agents are employees: their ids stay. Ids of
events and conversations stay too, for they are what sums and repeats are told by; without the address they say nothing
of the caller to anyone but the vendor.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, NamedTuple

import orjson
from pydantic import SecretStr

from schemas.canonical import PAYLOAD_KEYS
from streaming.errors import ConfigurationError

Mode = Literal["erase", "pseudonymise"]

ADDRESSES = ("ani", "dnis")
"""Payload keys that are an address. Which of the two is the caller's depends on the direction, and changes when a call
is passed on, so both go: ``erase`` removes them, ``pseudonymise`` puts a keyed token in their place."""

FACTS = PAYLOAD_KEYS - {*ADDRESSES}
"""Payload keys that stay: ids, times, counts, the vendor's own words."""

WORDS = ("end_reason", "wrapup_code")
"""Of these the vendor's words, mostly codes. One that may hold an address goes: with an @, or with seven digits or more
in a row, signs between them and UUIDs aside."""

OWN_METADATA = "ccaas."
"""How the metadata keys begin that stay: the platform's own. All others are vendor fields that nobody has looked at,
free text among them; they go in both modes, and the columns promoted from them with them."""

PSEUDONYM = "pseudonym:"
"""How a token begins that stands for an address."""

_DIGEST_CHARS = 32
_MIN_KEY_CHARS = 32
_SCHEME = re.compile(r"(tel|sips?|mailto):", re.IGNORECASE)
_NOT_OF_NUMBER = re.compile(r"[\s().\-/]")
_NUMBER = re.compile(r"\+?[0-9]{3,}")
_INTERNATIONAL = re.compile(r"^(\+|00)")
# What may be an address within any text, also where a field of it is broken.
_WORDS = re.compile(r"[^\s\"'<>,;{}\[\]\x00-\x1f]+")
_UUID = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}", re.IGNORECASE)
_ADDRESS_WITHIN = re.compile(r"@|[0-9](?:[ ().\-/]{0,3}[0-9]){6}")
_NUMBERS = re.compile(r"\+?[0-9][0-9 ().\-/]{4,40}[0-9]")


class Owner(NamedTuple):
    """A vendor's tenant."""

    vendor: str
    tenant_id: str


def normal_address(raw: str) -> str:
    """The one form of an address, however it is written.

    ``tel:+49 (30) 123-45``, ``0049 30 12345`` and ``sip:+493012345@host;user=phone`` are ``493012345``; what is no
    telephone number is in small letters, without scheme and parameters. A national number stays one.
    """
    text = _SCHEME.sub("", raw.strip(), count=1).partition(";")[0].partition("?")[0].strip()
    number = _NOT_OF_NUMBER.sub("", text.partition("@")[0])
    if _NUMBER.fullmatch(number):
        return _INTERNATIONAL.sub("", number)
    return text.lower()


class ErasureKey:
    """Makes keyed digests (HMAC-SHA256, RFC 2104): of what is erased, the platform keeps nothing else.

    Args:
        secret: ``erasure.key``.

    Raises:
        ConfigurationError: there is none, or it is too short.
    """

    def __init__(self, secret: SecretStr | None) -> None:
        value = secret.get_secret_value() if secret else ""
        if len(value) < _MIN_KEY_CHARS:
            msg = (
                f"erasure.key is missing or shorter than {_MIN_KEY_CHARS} characters: make one with "
                "python -c 'import secrets; print(secrets.token_hex(32))', keep it as CCAAS_ERASURE__KEY where "
                "passwords are kept, and never change it: what was erased is known by it only"
            )
            raise ConfigurationError(msg)
        self._key = value.encode()
        self.id = hmac.digest(self._key, b"key", "sha256").hex()[:8]
        """Tells keys apart, and says nothing of them."""
        self._cached = lru_cache(maxsize=100_000)(self._digest_of_address)

    def conversation(self, owner: Owner, conversation_id: str) -> str:
        """Digest of a conversation's id, 32 hexadecimal digits."""
        return self._digest("conversation", owner, conversation_id)

    def address(self, owner: Owner, raw: str) -> str:
        """Digest of an address in whatever form; of its token the same."""
        return self._cached(owner, raw)

    def pseudonym(self, owner: Owner, raw: str) -> str:
        """Token of an address; of a token itself."""
        return PSEUDONYM + self.address(owner, raw)

    def _digest_of_address(self, owner: Owner, raw: str) -> str:
        if raw.startswith(PSEUDONYM):
            return raw.removeprefix(PSEUDONYM)
        return self._digest("address", owner, normal_address(raw))

    def _digest(self, kind: str, owner: Owner, value: str) -> str:
        return hmac.digest(self._key, orjson.dumps([kind, *owner, value]), "sha256").hex()[:_DIGEST_CHARS]


class Rule(NamedTuple):
    """What is to be done with what is on the list.

    Attributes:
        mode: How.
        until_ms: Events up to this time (epoch ms) only; None: all. An address may call again after it was erased.
    """

    mode: Mode
    until_ms: int | None = None


class Suppressed:
    """Of tenants: whose events are to be without personal data.

    Args:
        key: Made the digests.
        addresses: Rules by tenant and digest.
        conversations: Alike.
    """

    def __init__(
        self,
        key: ErasureKey,
        addresses: Mapping[tuple[Owner, str], Rule],
        conversations: Mapping[tuple[Owner, str], Rule],
    ) -> None:
        self.key = key
        self._addresses = addresses
        self._conversations = conversations
        self.owners = frozenset(owner for owner, _ in (*addresses, *conversations))
        """Tenants that have anybody on the list."""

    def mode_of(
        self, owner: Owner, conversation_id: str | None, addresses: tuple[str | None, ...], at_ms: int
    ) -> Mode | None:
        """What is to be done with events; None: nothing.

        Args:
            owner: Their tenant.
            conversation_id: Their conversation.
            addresses: Any that they have.
            at_ms: Vendor's time of the earliest, epoch ms.
        """
        found: set[Mode] = set()
        if conversation_id and (
            rule := self._conversations.get((owner, self.key.conversation(owner, conversation_id)))
        ):
            found.add(rule.mode)
        for address in addresses:
            if not address or not (rule := self._addresses.get((owner, self.key.address(owner, address)))):
                continue
            if rule.until_ms is None or at_ms <= rule.until_ms:
                found.add(rule.mode)
        return "erase" if "erase" in found else next(iter(found), None)

    def is_mentioned(self, owner: Owner, text: str) -> bool:
        """Whether any text, for example a broken event, has an address or a conversation's id that is on the list."""
        words = {word.strip(":") for word in _WORDS.findall(text)}
        return any((owner, self.key.conversation(owner, word)) in self._conversations for word in words) or any(
            (owner, self.key.address(owner, word)) in self._addresses for word in words | {*_NUMBERS.findall(text)}
        )


class Cleaned(NamedTuple):
    """An event's texts without personal data."""

    payload: dict[str, str]
    metadata: dict[str, str]


def clean(
    owner: Owner, payload: Mapping[str, str], metadata: Mapping[str, str], mode: Mode, key: ErasureKey
) -> Cleaned:
    """Remove a caller's personal data from an event. Again changes nothing."""
    kept_metadata = {name: text for name, text in metadata.items() if name.startswith(OWN_METADATA)}
    return Cleaned(clean_fields(owner, payload, mode, key), kept_metadata)


def clean_fields(owner: Owner, fields: Mapping[str, str], mode: Mode, key: ErasureKey) -> dict[str, str]:
    """As :func:`clean`, of texts that are named as in the payload; other names go."""
    cleaned = {
        name: text
        for name, text in fields.items()
        if name in FACTS and not (name in WORDS and _ADDRESS_WITHIN.search(_UUID.sub("", text)))
    }
    if mode == "pseudonymise":
        cleaned |= {name: key.pseudonym(owner, fields[name]) for name in ADDRESSES if fields.get(name)}
    return cleaned

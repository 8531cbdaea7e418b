from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from schemas.fieldmap import FieldMap, load_field_map
from streaming.errors import ConfigurationError


def rule(**changes: Any) -> dict[str, Any]:
    return {
        "vendor": "v",
        "native_type": "type",
        "events": [
            {
                "native": "X",
                "canonical": "conversation.started",
                "timestamp": {"path": "t", "type": "epoch_ms"},
                "also": {"conversation_id": {"path": "id", "type": "id", "required": True}},
            }
            | changes
        ],
    }


def test_a_map_that_is_right_loads() -> None:
    assert FieldMap.model_validate(rule()).events[0].native == "X"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fields": ["nowhere"]}, "no such group of fields: nowhere"),
        (
            {"also": {"conversation_id": {"path": "id"}, "colour": {"path": "c"}}},
            "not in the payload vocabulary: colour",
        ),
        ({"also": {}}, "identity needs conversation_id"),
        ({"canonical": "conversation.begun"}, "canonical"),
        ({"also": {"conversation_id": {"path": "id", "const": "x"}}}, "give either path or const"),
        ({"also": {"conversation_id": {"path": "id", "type": "string", "scale": 1000}}}, "need type = 'long'"),
        ({"typo": 1}, "typo"),
    ],
)
def test_a_fault_in_a_map_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        FieldMap.model_validate(rule(**changes))
    assert said in str(caught.value)


def test_an_unknown_vendor_is_a_configuration_error_that_lists_the_known() -> None:
    with pytest.raises(ConfigurationError, match=r"'nobody' has no field map .* known vendors: cxone, genesys"):
        load_field_map("nobody")

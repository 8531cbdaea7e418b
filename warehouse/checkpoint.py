"""Great Expectations judges the frames. Importing it takes seconds and 250 MB, so only a run of the checks does."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from warehouse.expectations import EXPECTATIONS, Expectation
from warehouse.frames import Frame

_SAMPLES = 5
_LONGEST = 500


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one expectation.

    Attributes:
        expectation: Which.
        checked: Rows of the frame; 0 if there was nothing to look at.
        unexpected: Of these, those for which it does not hold.
        observed: What was found, for people.
        sample: Keys of some of those rows, JSON; empty if there are none.
    """

    expectation: Expectation
    checked: int
    unexpected: int
    observed: str
    sample: str

    @property
    def status(self) -> str:
        """``passed``, ``failed``, or ``warning`` if only that."""
        if not self.unexpected:
            return "passed"
        return "failed" if self.expectation.severity == "critical" else "warning"


def judge(frames: Iterable[Frame], expectations: Iterable[Expectation] = EXPECTATIONS) -> list[Result]:
    """Run the expectations on the frames that they are about, one frame in memory at a time.

    Args:
        frames: Those of a frame that is not among them are left out.
        expectations: What is to hold.

    Raises:
        RuntimeError: an expectation could not be evaluated: it names a column that the frame does not have.
    """
    wanted: dict[str, list[Expectation]] = {}
    for expectation in expectations:
        wanted.setdefault(expectation.frame, []).append(expectation)
    frame_batch = _frame_batch()
    return [
        result
        for frame in frames
        if frame.name in wanted
        for result in _validated(frame_batch, frame, wanted[frame.name])
    ]


def _frame_batch() -> Any:
    """What makes a batch of a frame. One for all of them: each definition that is added makes the next ones slower."""
    # Great Expectations reports its use to its maker unless told otherwise, and draws a bar for every frame.
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx  # noqa: PLC0415
    from great_expectations.data_context.types.base import (  # noqa: PLC0415
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    # With its defaults it would leave a temporary folder behind for pages that nobody makes.
    stores = InMemoryStoreBackendDefaults(init_temp_docs_sites=False)
    context = gx.get_context(mode="ephemeral", project_config=DataContextConfig(store_backend_defaults=stores))
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("warehouse").add_dataframe_asset("frame")
    return asset.add_batch_definition_whole_dataframe("all")


def _validated(frame_batch: Any, frame: Frame, expectations: list[Expectation]) -> list[Result]:
    import great_expectations as gx  # noqa: PLC0415
    import pandas as pd  # noqa: PLC0415

    table = pd.DataFrame(frame.rows, columns=list(frame.columns))
    suite = gx.ExpectationSuite(name=frame.name, expectations=[_as_gx(expectation) for expectation in expectations])
    measured = {column for expectation in expectations for column in expectation.columns if not expectation.among}
    keys = [column for column in frame.columns if column not in measured and not _is_number(table[column])]
    found = frame_batch.get_batch({"dataframe": table}).validate(
        suite,
        result_format={
            "result_format": "SUMMARY",
            "unexpected_index_column_names": keys,
            "partial_unexpected_count": _SAMPLES,
        },
    )
    by_name = {expectation.name: expectation for expectation in expectations}
    return [_result(by_name[item.expectation_config.meta["name"]], item, frame) for item in found.results]


def _is_number(column: Any) -> bool:
    return column.dtype.kind in "iuf"


def _as_gx(expectation: Expectation) -> Any:
    import great_expectations.expectations as module  # noqa: PLC0415

    gxe: Any = module  # it does not say that it exports them

    common: dict[str, Any] = {"meta": {"name": expectation.name}, "severity": expectation.severity}
    if len(expectation.columns) > 1:
        one, other = expectation.columns
        return gxe.ExpectColumnPairValuesToBeEqual(column_A=one, column_B=other, **common)
    (column,) = expectation.columns
    if expectation.among:
        return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=list(expectation.among), **common)
    return gxe.ExpectColumnValuesToBeBetween(
        column=column, min_value=expectation.low, max_value=expectation.high, **common
    )


def _result(expectation: Expectation, item: Any, frame: Frame) -> Result:
    if item.exception_info and item.exception_info.get("raised_exception"):
        msg = f"{frame.name}, {expectation.name}: {item.exception_info.get('exception_message')}"
        raise RuntimeError(msg)
    found: Mapping[str, Any] = item.result
    unexpected = int(found.get("unexpected_count") or 0)
    keys = found.get("partial_unexpected_index_list") or []
    return Result(
        expectation=expectation,
        checked=len(frame.rows),
        unexpected=unexpected,
        observed=_observed(expectation, found, unexpected),
        sample=orjson.dumps(keys, default=str).decode()[:_LONGEST] if unexpected else "",
    )


def _observed(expectation: Expectation, found: Mapping[str, Any], unexpected: int) -> str:
    if not unexpected:
        return "as expected"
    values = ", ".join(str(value) for value in found.get("partial_unexpected_list", [])[:_SAMPLES])
    return f"{' and '.join(expectation.columns)}: {values}"[:_LONGEST]

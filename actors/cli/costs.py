"""What activations cost, as a table: each adapter by the tier it came from, and PEFT's load of the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from actors.cli.table import table
from placement.units import format_bytes

if TYPE_CHECKING:
    from rich.table import Table

    from actors.bench.activations import Cost
    from actors.bench.peft_load import PeftLoads

COLUMNS = ("ROLE", "FROM", "TIMES", "MEDIAN", "MIN TO MAX", "COPYING", "MB/s", "SIZE", "PEFT TAKES")


def cost_table(costs: list[Cost], loads: dict[str, PeftLoads]) -> Table:
    """Return a row for each adapter and tier, and for each adapter that PEFT loaded a row of that."""
    rows: list[tuple[str | Text, ...]] = []
    for role in dict.fromkeys(cost.role for cost in costs):
        load = loads.get(role)
        rows.extend(_activation(cost, load) for cost in costs if cost.role == role)
        if load is not None:
            times = _times(load.times, load.median_s, load.min_s, load.max_s)
            rows.append((role, Text("PEFT load_adapter", "bold"), *times, "", "", "", ""))
    return table(COLUMNS, rows)


def _activation(cost: Cost, load: PeftLoads | None) -> tuple[str | Text, ...]:
    times = _times(cost.times, cost.median_s, cost.min_s, cost.max_s)
    pace = f"{cost.nbytes / cost.copy_s / 1e6:.0f}" if cost.copy_s else ""
    longer = f"{load.median_s / cost.median_s:.1f} times as long" if load else ""
    size = format_bytes(cost.nbytes)
    return cost.role, cost.source, *times, _ms(cost.copy_s), pace, size, Text(longer, "bold green")


def _times(times: int, median_s: float, min_s: float, max_s: float) -> tuple[str, str, str]:
    return str(times), _ms(median_s), f"{_ms(min_s)} to {_ms(max_s)}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"

"""A comparison as one HTML file that needs nothing else: tables, the sheet of figures inside, classes to sort.

Names of runs and classes come from anywhere and are escaped; beyond that the page forbids itself any script but its
own and any address. Without scripts it reads the same, unsorted.
"""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

import numpy as np

from xray_det.display import printable
from xray_det.evaluation.comparison import COLUMNS, Comparison, Table

#: Largest gains and losses that are named.
NAMED: Final = 5

_STYLE: Final = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c1c1c; max-width: 1200px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.2em; margin-top: 2em; }
img { max-width: 100%; } .wide { overflow-x: auto; } .notes { color: #555; }
table { border-collapse: collapse; margin: .8em 0; font-size: .92em; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .7em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th { border-bottom: 2px solid #999; vertical-align: bottom; } .sort th { cursor: pointer; }
.text { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 9em; }
small { color: #777; } code { font-size: .92em; overflow-wrap: anywhere; } summary { cursor: pointer; margin: 1em 0; }
.p1 { background: #e3eef7; } .p2 { background: #bcd7ec; } .p3 { background: #8cbbdf; }
.n1 { background: #fbeade; } .n2 { background: #f6cdae; } .n3 { background: #f0ab79; }
"""

_SCRIPT: Final = """
for (const th of document.querySelectorAll("table.sort th")) th.addEventListener("click", () => {
  const body = th.closest("table").tBodies[0], n = th.cellIndex, up = th.dataset.up !== "1";
  const key = (row) => { const text = row.cells[n].textContent; return isNaN(text) ? text : Number(text); };
  const order = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
  [...body.rows].sort((a, b) => (up ? 1 : -1) * order(key(a), key(b))).forEach((row) => body.append(row));
  th.dataset.up = up ? "1" : "0";
});
"""


def page(comparison: Comparison, sheet: bytes) -> str:
    """The report.

    Args:
        sheet: the figures as PNG (comparison_figure.sheet).
    """
    base = _text(comparison.variants[0].label)
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    image = base64.b64encode(sheet).decode()
    notes = "".join(f"<li>{_text(note, 2000)}</li>" for note in comparison.notes)
    sections = "".join(_section(comparison, key, table) for key, table in comparison.tables.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">
<title>Compared with {base}</title><style>{_STYLE}</style></head><body>
<h1>Compared with {base}</h1>
<p>Average precision in percent, of each dataset by its publishers' protocol
({", ".join(_text(key) for key in comparison.headline)}); differences in points. Head, middle and tail are thirds of the
trained classes by falling training count.</p>
{_overall(comparison)}
<ul class="notes">{notes}</ul>
<img alt="bands, cost, and differences class by class" src="data:image/png;base64,{image}">
{sections}
{_runs(comparison)}
<script>{_SCRIPT}</script></body></html>
"""


def _overall(comparison: Comparison) -> str:
    """Bands, cost, and what differs, a row a variant."""
    rows = []
    for number, variant in enumerate(comparison.variants):
        changes = "".join(f"<br><code>{_text(path)}={_text(value)}</code>" for path, value in variant.changes.items())
        name = f'<td class="text">{_text(variant.label)}<small>{changes}</small></td>'
        steps = ", ".join(str(step) for step in sorted({run.step for run in variant.runs}))
        cells = [f"<td>{number + 1}</td>", name, *_bands(comparison, number, ())]
        rows.append([*cells, _td(str(variant.cost or "-")), _td(steps)])
    return _table(["", "run, and what differs", *COLUMNS, "cost", "steps"], rows, text=(1,))


def _bands(comparison: Comparison, number: int, sets: Sequence[str]) -> list[str]:
    """AP, head, middle, tail of a variant, how far from the baseline's, and below them the range of the seeds."""
    base, own = comparison.spreads(0, sets), comparison.spreads(number, sets)
    cells = []
    for name in COLUMNS:
        value, *ends = str(own[name]).split(" ", 1)
        change = 100 * (own[name].mean - base[name].mean)
        known = number > 0 and not np.isnan(change)
        below = f"<br><small>{ends[0]}</small>" if ends else ""
        cells.append(f"<td>{value}{f' <small>{change:+.1f}</small>' if known else ''}{below}</td>")
    return cells


def _section(comparison: Comparison, key: str, table: Table) -> str:
    """One set: bands, how many classes moved, all classes."""
    rows = []
    for number, variant in enumerate(comparison.variants):
        cells = [f"<td>{number + 1}</td>", _td(variant.label, "text"), *_bands(comparison, number, (key,))]
        if number:
            against = table.against(number)
            moved = "-" if against.beyond is None else str(against.beyond)
            cells += [_td(str(against.rose)), _td(str(against.fell)), _td(moved)]
            for largest in against.largest(NAMED):
                named = (_text(f"{table.names[row]} {100 * against.difference[row]:+.1f}") for row in largest)
                cells.append(f'<td class="text">{"<br>".join(named)}</td>')
        else:
            cells += ["<td></td>"] * 5
        rows.append(cells)
    head = ["", "run", *COLUMNS, "rose", "fell", "beyond seeds", "largest gains", "largest losses"]
    summary = f"<summary>All {len(table.names)} classes: AP of 1, then the differences from it</summary>"
    return (
        f"<h2>{_text(key)}</h2>{_table(head, rows, text=(1, 9, 10))}"
        f"<details>{summary}{_classes(comparison, table)}</details>"
    )


def _classes(comparison: Comparison, table: Table) -> str:
    """A row a class, to be sorted by any column."""
    points = 100 * (table.mean[1:] - table.mean[0])
    defined = np.abs(points[~np.isnan(points)])
    scale = max(float(np.quantile(defined, 0.99)), 1.0) if len(defined) else 1.0
    rows = []
    for row, name in enumerate(table.names):
        base = table.mean[0, row]
        cells = [_td(name, "text"), _td(table.band_of(row), "text"), _td(str(table.counts[row]))]
        cells.append(_td("-" if np.isnan(base) else f"{100 * base:.1f}"))
        cells += [_change(value, scale) for value in points[:, row]]
        rows.append(cells)
    head = ["class", "band", "training count", "AP of 1", *(str(n + 2) for n in range(len(points)))]
    return _table(head, rows, text=(0, 1), kind="sort")


def _change(points: float, scale: float) -> str:
    """A cell with a difference, coloured in three steps."""
    if np.isnan(points):
        return _td("-")
    level = min(int(3 * abs(points) / scale + 0.5), 3)
    kind = f"{'p' if points > 0 else 'n'}{level}" if level else ""
    return _td(f"{points:+.1f}", kind)


def _runs(comparison: Comparison) -> str:
    """Each run by itself."""
    rows = []
    for number, variant in enumerate(comparison.variants):
        for run, values in zip(variant.runs, comparison.each(number), strict=True):
            numbers = [_td("-" if np.isnan(value) else f"{100 * value:.1f}") for value in values]
            cost = ["-", "-"] if run.cost is None else [f"{h:.3g}" for h in (run.cost.cpu_hours, run.cost.gpu_hours)]
            seed = str(run.parameters.get("seed", "-"))
            cells = [f"<td>{number + 1}</td>", _td(run.name, "text"), _td(seed), *numbers, *map(_td, cost)]
            rows.append([*cells, _td(str(run.step)), _td("finished" if run.finished else "not finished", "text")])
    head = ["", "run", "seed", *COLUMNS, "CPU-h", "GPU-h", "steps", "state"]
    return f"<h2>Runs</h2>{_table(head, rows, text=(1, 10))}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, text: Sequence[int], kind: str = "") -> str:
    """``rows`` are cells that are HTML already; columns ``text`` are flush left."""
    titles = "".join(f'<th class="text">{t}</th>' if n in text else f"<th>{t}</th>" for n, t in enumerate(head))
    body = "\n".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _td(text: str, kind: str = "") -> str:
    return f'<td class="{kind}">{_text(text)}</td>' if kind else f"<td>{_text(text)}</td>"


def _text(text: str, longest: int = 200) -> str:
    """Anybody's text as HTML."""
    return escape(printable(text, longest))

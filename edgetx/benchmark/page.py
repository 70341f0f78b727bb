"""Reports as one HTML file that needs nothing else: plotly's script is inside, no network is used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import msgspec

from edgetx.benchmark import charts, tables
from edgetx.errors import UnavailableError

if TYPE_CHECKING:
    from edgetx.benchmark.report import BenchReport
    from edgetx.benchmark.tables import Table

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2330; }
body { margin: 0 auto; max-width: 68rem; padding: 1rem; }
h1 { font-size: 1.6rem; margin: .5rem 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .4rem; }
p, li { overflow-wrap: anywhere; } .quiet { color: #5b6472; font-size: .9rem; }
.bad { color: #a61b1b; font-weight: 600; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .88rem; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #e3e6ea; vertical-align: top; }
th { color: #5b6472; font-weight: 600; } th:first-child, td:first-child { text-align: left; }
td { font-variant-numeric: tabular-nums; }
td:nth-child(n+3) { white-space: nowrap; } .facts td { text-align: left; overflow-wrap: anywhere; }
.facts td:first-child { white-space: nowrap; color: #5b6472; }
figure { margin: .5rem 0 1rem; } figcaption { color: #5b6472; font-size: .85rem; }
.plot { width: 100%; }
@media (max-width: 40rem) {
  body { padding: .6rem; } table { font-size: .8rem; } th, td { padding: .25rem .4rem; }
}
@media print {
  @page { margin: 12mm; } body { max-width: none; padding: 0; font-size: 10pt; }
  .scroll { overflow: visible; } table { font-size: 6.5pt; width: 100%; }
  th, td, td:nth-child(n+3) { padding: 1pt 2pt; white-space: normal; } figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
}
"""

SCRIPT = """
const settings = {responsive: true, displayModeBar: false};
const plots = figures.map(([id, data, layout]) => {
  const place = document.getElementById(id);
  Plotly.newPlot(place, data, layout, settings);
  return place;
});
// A page is narrower than a screen, and a plot does not follow by itself.
const width = pixels => plots.forEach(place => Plotly.relayout(place, {width: pixels, autosize: !pixels}));
window.addEventListener('beforeprint', () => width(690));
window.addEventListener('afterprint', () => width(null));
"""


def document(title: str, body: Sequence[str], figures: Mapping[str, charts.Figure]) -> str:
    """A whole page around `body`, whose figures are the places that `figure` makes.

    Raises:
        UnavailableError: plotly is not installed.
    """
    try:
        script = importlib.import_module("plotly.offline").get_plotlyjs()
    except ImportError as error:
        raise UnavailableError(
            f"an HTML report needs plotly ({error}); pip install 'edgetx[bench]', or write .json, .csv or .md"
        ) from error
    data = msgspec.json.encode([[name, each.data, each.layout] for name, each in figures.items()]).decode()
    # A closing tag inside of a script would end it.
    data = data.replace("</", "<\\/")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(body)
        + f"\n<script>{script}</script>\n<script>const figures = {data};{SCRIPT}</script>\n</body></html>\n"
    )


def table(content: Table, title: str = "") -> str:
    """A table that scrolls sideways where it is too wide."""
    header, rows = content
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    heading = f"<h2>{escape(title)}</h2>" if title else ""
    inside = f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody>"
    return f'{heading}<div class="scroll"><table>{inside}</table></div>'


def figure(name: str, caption: str) -> str:
    """The place of a figure."""
    return f'<figure><div class="plot" id="{name}"></div><figcaption>{escape(caption)}</figcaption></figure>'


def of_report(report: BenchReport) -> str:
    """Everything that a report holds."""
    figures: dict[str, charts.Figure] = {}
    body = [f'<p class="quiet">{escape(report.conditions())}</p>']
    body += [
        f'<p class="bad">FAILED: {escape(each.name)}: {escape(each.error)}</p>' for each in report.failures
    ]
    body += [f"<p>Note: {escape(note)}</p>" for note in report.notes]

    def add(name: str, chart: charts.Figure | None, caption: str) -> None:
        if chart is not None:
            figures[name] = chart
            body.append(figure(name, caption))

    body.append(table(report.to_table(), "Engines"))
    add("medians", charts.medians(report), "Medians with their 95 % confidence intervals; shorter is faster.")
    body.append(table(tables.latencies(report), "Latency, with 95 % confidence intervals"))
    add("histogram", charts.histogram(report), "How often each latency occurred; every run is counted.")
    add("timeline", charts.timeline(report), "Every run in the order of measurement; outliers are kept.")
    body.append(table(tables.cold_start(report), "Cold start, memory and energy"))
    if any(engine.loads for engine in report.engines):
        body.append(table(tables.loads(report), "MLPerf scenarios"))
        add(
            "loads",
            charts.loads(report),
            "Latencies of the scenarios' queries, sorted: share below a latency.",
        )
    for engine in report.engines:
        if engine.stages:
            body.append(table(report.stages_table(engine), engine.name))
    if len(report.engines[0].inputs) > 1:
        body.append(table(report.inputs_table(), "Median by input"))
        body.append(table(tables.shapes(report), "By shape"))
    for index, engine in enumerate(report.engines):
        profile = engine.profile
        if profile is None:
            continue
        title = f"{engine.name}: where the time goes"
        body.append(table(tables.profile_shares(profile, profile.by_operator(), "operator"), title))
        body.append(table(tables.profile_shares(profile, profile.by_module(), "module")))
        add(f"modules{index}", charts.modules(profile), f"By module, from {profile.profiler}.")
        add(f"roofline{index}", charts.roofline(profile), "Each node against the machine's measured rates.")
        body += [f'<p class="quiet">Note: {escape(note)}</p>' for note in profile.notes]
    body.append(f'<div class="facts">{table(machine(report), "Machine")}</div>')
    add("state", charts.state(report), "Clocks and temperatures while it was measured.")
    return document(_title(report), body, figures)


def machine(report: BenchReport) -> Table:
    """The machine's record and state as two columns."""
    rows = []
    for key, value in msgspec.to_builtins(report.machine).items():
        if value not in (None, [], {}, ""):
            text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            rows.append([key.replace("_", " "), text])
    state = report.state
    if state is not None:
        rows += [[f"setting: {key}", value] for key, value in state.settings.items()]
        rows += [[f"{key}, mean", f"{value:.0f} MHz"] for key, value in state.mean_clocks().items()]
        rows += [[f"{key}, mean", f"{value:.2f} W"] for key, value in state.mean_watts().items()]
        if (hottest := state.hottest()) is not None:
            rows.append(["hottest sensor", f"{hottest[0]}: {hottest[1]:.1f} °C"])
        rows.append(["held clocks down", ", ".join(state.throttled) or "nothing that a sensor tells"])
        if state.unknown:
            rows.append(["readings that no parser knows", " ".join(state.unknown)])
        rows.append(["one reading of all sensors", f"{state.reading_ns / 1e6:.2f} ms, every second"])
    return ["", ""], rows


def _title(report: BenchReport) -> str:
    models = list(dict.fromkeys(engine.model for engine in report.engines if engine.model))
    return f"{', '.join(models) or 'Benchmark'}: {len(report.engines)} measured"

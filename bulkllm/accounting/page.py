"""A page about calls that a person would rather look at than read: one file, with nothing from outside.

What may live here: what stands on the page, in which order, and its style. All that came from outside is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from itertools import accumulate
from typing import Final

from . import svg
from .history import History, Stretch
from .report import dollars, seconds, time_lines
from .totals import Totals

_STYLE: Final = """
:root{color-scheme:light dark;--page:#f4f6f9;--card:#fff;--ink:#17202c;--soft:#566273;--line:#e2e7ee;--a:#2f6fde;
--b:#d97a1e;--good:#1f9d74;--bad:#d23f3f;--hit:#8459cf}
@media(prefers-color-scheme:dark){:root{--page:#0e1218;--card:#171d26;--ink:#e9eef5;--soft:#9eabbc;--line:#2a3442;
--a:#62a0ff;--b:#f2a350;--good:#3fc79a;--bad:#ff6f6f;--hit:#b08cf2}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1120px;margin:0 auto;padding:32px 20px 56px}
h1{font-size:26px;line-height:1.2;margin:0;overflow-wrap:anywhere}
h2{font-size:16px;margin:0 0 2px}
p{margin:0;color:var(--soft)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,215px),1fr));gap:14px;margin:22px 0 14px}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:16px 18px;min-width:0}
.tile b{display:block;font-size:25px;line-height:1.25;font-weight:650;font-variant-numeric:tabular-nums}
.tile small{color:var(--soft);font-size:13px}
.tile .name{font-size:13px;color:var(--soft)}
.wide{margin-bottom:14px;overflow-x:auto}
.wide>svg{min-width:640px}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:14px;margin-bottom:14px}
svg{display:block;width:100%;height:auto;margin-top:8px}
.grid{stroke:var(--line)}
.tick{fill:var(--soft);font-size:12px}
.mid{text-anchor:middle}.end{text-anchor:end}
.note{fill:var(--ink);font-size:12px;font-weight:600;paint-order:stroke;stroke:var(--card);stroke-width:4px}
.mark{stroke:var(--ink);stroke-dasharray:3 3}
.hit{fill:transparent}.hit:hover{fill:var(--ink);fill-opacity:.07}
.a{fill:var(--a)}.b{fill:var(--b)}.good{fill:var(--good)}.bad{fill:var(--bad)}.cachehit{fill:var(--hit)}
.line{fill:none;stroke-width:2.5;stroke-linejoin:round}.line.a{fill:none;stroke:var(--a)}
.area{fill-opacity:.16}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;list-style:none;margin:2px 0 0;padding:0;font-size:13px;
color:var(--soft)}
.legend svg{display:inline-block;width:11px;height:11px;margin:0 6px 0 0}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
th,td{padding:7px 12px 7px 0;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:500;font-size:13px}
th:first-child,td:first-child{text-align:left;white-space:normal;overflow-wrap:anywhere;min-width:150px}
tbody tr:last-child td,tbody tr:last-child th{border-bottom:0}
tbody th{color:var(--ink);font-weight:500;font-size:14px}
.share{display:block;height:4px;border-radius:2px;background:var(--a);margin-top:3px;min-width:1px}
footer{margin-top:26px;font-size:13px;color:var(--soft)}
@media print{body{background:#fff}.card{break-inside:avoid}}
"""
_GROUPS: Final = (("model", "Models"), ("outcome", "Outcomes"), ("tag", "Tags"), ("provider", "Providers"))
_MOST: Final = 40  # rows of a table


def page(history: History, *, title: str, notes: Sequence[str] = ()) -> str:
    """The page as HTML.

    Args:
        history: what was counted.
        title: what the page is about: a file's name, say.
        notes: sentences for its end.
    """
    now = history.tracker.snapshot()
    total = now.total
    stretches = history.stretches()
    parts = [_head(title, history, stretches), _tiles(total, stretches)]
    if stretches:
        parts.append(_time(total))
        parts += _along_time(history, total, stretches)
        parts.append(_spreads(total))
    for by, heading in _GROUPS:
        groups = now.groups(by)  # type: ignore[arg-type]  # the names are those of By
        if groups and (len(groups) > 1 or by in ("model", "tag")):
            parts.append(_table(heading, groups, total))
    told = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}: usage</title><style>{_STYLE}</style></head>"
        f"<body><main>{''.join(parts)}<footer>{told}<p>Made by bulkllm. Times are UTC, money is US dollars. "
        "What a price is not known for is not in any sum.</p></footer></main></body></html>\n"
    )


def _head(title: str, history: History, stretches: Sequence[Stretch]) -> str:
    period = "No calls were made."
    if history.began is not None:
        end = datetime.fromtimestamp(stretches[-1].start + stretches[-1].seconds, UTC)
        took = _span((end - history.began).total_seconds())
        last = end.strftime("%H:%M:%S" if end.date() == history.began.date() else "%d %B %Y, %H:%M:%S")
        period = f"{history.began:%d %B %Y, %H:%M:%S} to {last} UTC ({took})"
    return f"<header><h1>{escape(title)}</h1><p>{period}</p></header>"


def _tiles(total: Totals, stretches: Sequence[Stretch]) -> str:
    calls = [f"{total.ok:,} ok"]
    calls += [
        f"{count:,} {name}"
        for name, count in (("failed", total.failed), ("cancelled", total.cancelled), ("cached", total.cached))
        if count
    ]
    money = [f"{total.unpriced:,} calls of unknown price"] if total.unpriced else ["all prices known"]
    if total.uncertain_cost:
        money.append(f"up to {dollars(total.uncertain_cost)} more may be charged")
    latency = total.latency
    working = sum(stretch.working for stretch in stretches)
    tiles = [
        ("Calls", f"{total.requests:,}", ", ".join(calls)),
        ("Cost", _money(total), "; ".join(money)),
        ("Tokens", svg.short(total.total_tokens), f"{total.input_tokens:,} in, {total.output_tokens:,} out"),
    ]
    if latency.count:
        tiles.append(
            ("Latency, median", seconds(latency.p50), f"p95 {seconds(latency.p95)}, p99 {seconds(latency.p99)}")
        )
    if total.waited and working:
        share = total.waited / (total.waited + working)
        tiles.append(
            ("Time spent waiting", f"{share:.0%}", f"{seconds(total.waited / total.requests)} a call, for limits")
        )
    extra = total.attempts - latency.count
    if extra > 0:
        refused = f"{total.refused:,} refused for a limit" if total.refused else "none refused for a limit"
        tiles.append(("Further attempts", f"{extra:,}", refused))
    if total.saved:
        tiles.append(("Saved by the cache", dollars(total.saved), f"{total.cached:,} calls"))
    if total.cache_read_tokens:
        share = total.cache_read_tokens / total.input_tokens if total.input_tokens else 0.0
        tiles.append(("Input read from cache", f"{share:.0%}", f"{total.cache_read_tokens:,} tokens, the provider's"))
    return (
        '<section class="tiles" aria-label="In short">'
        + "".join(
            f'<div class="card tile"><span class="name">{escape(name)}</span><b>{escape(value)}</b>'
            f"<small>{escape(more)}</small></div>"
            for name, value, more in tiles
        )
        + "</section>"
    )


def _edges(stretches: Sequence[Stretch]) -> list[float]:
    return [*(stretch.start for stretch in stretches), stretches[-1].start + stretches[-1].seconds]


def _along_time(history: History, total: Totals, stretches: Sequence[Stretch]) -> list[str]:
    starts = _edges(stretches)
    wide = stretches[0].seconds
    cards = []
    if total.cost:
        spent = list(accumulate(stretch.cost for stretch in stretches))
        plot = svg.rising("Cost over time", f"It rises to {dollars(spent[-1])}", starts, spent, dollars, "a")
        cards.append(_card("Cost over time", "US dollars spent so far, where the price is known", plot))
    at_once = [
        svg.Series("working", "a", [stretch.working / wide for stretch in stretches]),
        svg.Series("waiting", "b", [stretch.waiting / wide for stretch in stretches]),
    ]
    most = max(at_once[0].values)
    plot = svg.over_time(
        "Waiting against working", f"Up to {most:.1f} calls work at once", starts, at_once, svg.short, bars=False
    )
    note = "Calls at once: asked of a provider, and held back by limits and budgets (of the last attempt of each call)"
    cards.append(_card("Waiting against working", note, plot, at_once))
    stretches = history.stretches(min(80, max(8, total.requests // 4)))  # bars of some calls each, where there are few
    starts, wide = _edges(stretches), stretches[0].seconds
    ended = [
        svg.Series("ok", "good", [stretch.ok for stretch in stretches]),
        svg.Series("from the cache", "cachehit", [stretch.cached for stretch in stretches]),
        svg.Series("failed or given up", "bad", [stretch.failed for stretch in stretches]),
    ]
    plot = svg.over_time(
        "Finished calls", f"{total.requests:,} calls in all", starts, [one for one in ended if any(one.values)],
        svg.short, bars=True,
    )  # fmt: skip
    cards.append(_card("Finished calls", f"In each {seconds(wide)}", plot, [one for one in ended if any(one.values)]))
    tokens = [svg.Series("tokens", "a", [stretch.tokens / wide * 60 for stretch in stretches])]
    if any(tokens[0].values):
        plot = svg.over_time(
            "Tokens a minute", f"Up to {svg.short(max(tokens[0].values))}", starts, tokens, svg.short, bars=True
        )
        cards.append(_card("Tokens a minute", "Input and output of the calls that ended then", plot))
    return cards


def _time(total: Totals) -> str:
    """What the calls' time went on, and what to raise."""
    lines = "".join(
        f'<tr><th scope="row">{escape(what)}<span class="share" style="width:{min(1.0, share):.1%}"></span></th>'
        f"<td>{escape(time)}</td><td>{share:.1%}</td></tr>"
        for what, time, share in time_lines(total)
    )
    if not lines:
        return ""
    told = "".join(f"<p>{escape(sentence)}</p>" for sentence in total.advice)
    return (
        f'<section class="card wide"><h2>Where the time went</h2>{told}<table><thead><tr><th scope="col"></th>'
        f'<th scope="col">Time</th><th scope="col">Share</th></tr></thead><tbody>{lines}</tbody></table></section>'
    )


def _spreads(total: Totals) -> str:
    cards = []
    for heading, sketch, text, css in (
        ("Latency", total.latency, seconds, "a"),
        ("Time to the first token", total.time_to_first_token, seconds, "a"),
        ("Input tokens of a call", total.input_per_call, svg.short, "good"),
        ("Output tokens of a call", total.output_per_call, svg.short, "good"),
        ("Cost of a call", total.cost_per_call, dollars, "b"),
    ):
        if sketch.count:
            mean = f"{sketch.count:,} calls, {text(sketch.mean or 0)} on average, at most {text(sketch.max or 0)}"
            cards.append(
                f'<section class="card"><h2>{heading}</h2><p>{escape(mean)}</p>'
                f"{svg.spread(heading, sketch, text, css)}</section>"
            )
    return f'<div class="pair">{"".join(cards)}</div>' if cards else ""


def _card(heading: str, note: str, plot: str, series: Sequence[svg.Series] = ()) -> str:
    legend = "".join(
        f'<li><svg viewBox="0 0 10 10" aria-hidden="true"><rect class="{one.css}" width="10" height="10" rx="2"/></svg>'
        f"{escape(one.name)}</li>"
        for one in series
    )
    shown = f'<ul class="legend">{legend}</ul>' if legend else ""
    return f'<section class="card wide" tabindex="0"><h2>{heading}</h2><p>{escape(note)}</p>{shown}{plot}</section>'


def _table(heading: str, groups: Mapping[str, Totals], total: Totals) -> str:
    ordered = sorted(groups.items(), key=lambda item: (-item[1].cost, -item[1].requests, item[0]))
    header = ("", "Calls", "Failed", "Input", "Output", "Cost", "p50", "p95", "Waited")
    lines = []
    for name, one in ordered[:_MOST]:
        share = one.cost / total.cost if total.cost else one.requests / max(1, total.requests)
        cells = (
            f"{one.requests:,}",
            f"{one.failed + one.cancelled:,}",
            svg.short(one.input_tokens),
            svg.short(one.output_tokens),
            _money(one),
            seconds(one.latency.p50),
            seconds(one.latency.p95),
            seconds(one.waited),
        )
        lines.append(
            f'<tr><th scope="row">{escape(name)}<span class="share" style="width:{min(1.0, share):.1%}"></span></th>'
            + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            + "</tr>"
        )
    more = f"<p>and {len(ordered) - _MOST:,} more</p>" if len(ordered) > _MOST else ""
    head = "".join(f'<th scope="col">{name}</th>' for name in header)
    note = "The bar is the share of the cost" if total.cost else "The bar is the share of the calls"
    return (
        f'<section class="card wide"><h2>{heading}</h2><p>{note}</p><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>{more}</section>"
    )


def _span(duration: float) -> str:
    minutes, rest = divmod(round(duration), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else seconds(duration)


def _money(total: Totals) -> str:
    if total.unpriced and total.unpriced == total.requests:
        return "unknown"
    return dollars(total.cost) + (" +" if total.unpriced else "")

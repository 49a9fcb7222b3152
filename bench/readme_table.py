"""The README's tables of figures, made of the results in `bench/results`: `python -m bench.readme_table`.

A result is what `python -m bench NAME` printed, as `bench/results/NAME.json`. Above: nothing. Below: the results.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.provenance import ROOT

RESULTS = Path(__file__).parent / "results"
README = ROOT / "README.md"

_BUSY = 2.5  # the measurement itself keeps two cores busy
_RATE, _COST = "requests_per_second", "processor_microseconds"


def peers_table(result: dict[str, Any]) -> list[str]:
    """Return the lines of the table of peers."""
    names = ("server", "its best", "body", "requests/s", "ours", "ours/theirs", "p50 / p99 ms", "ours")
    lines = [f"| {' | '.join((*names, 'processor us a request', 'ours'))} |", "|---" * 10 + "|"]
    for peer, pair in result["figures"].items():
        if "theirs" not in pair:
            lines.append(f"| {peer} | missing: {_first_line(pair['missing'])} | | | | | | | | |")
            continue
        theirs, ours = pair["theirs"], pair["ours"]
        body = pair["form"].rpartition("/")[2]
        rates = _whole(theirs[_RATE]), _whole(ours[_RATE]), f"{pair['times_theirs']:.1f}"
        costs = _whole(theirs[_COST]), _whole(ours[_COST])
        cells = (peer, pair["variant"], body, *rates, _latencies(theirs), _latencies(ours), *costs)
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", _origin(result)]


def serving_table(result: dict[str, Any]) -> list[str]:
    """Return the lines of the table of protocols and forms, and of the quotients that goals are set for."""
    lines = ["| request | requests/s | rows/s | p50 / p99 ms | processor us a request |", "|---|---|---|---|---|"]
    for case, figures in result["figures"].items():
        rates = _whole(figures[_RATE]), _whole(figures["rows_per_second"])
        lines.append(f"| {' | '.join((case, *rates, _latencies(figures), _whole(figures[_COST])))} |")
    engine = {size: _whole(costs["engine"]) for size, costs in result["alone_microseconds"].items()}
    alone = ", ".join(f"{size} {microseconds} us" for size, microseconds in engine.items())
    quotients = "; ".join(f"{name}: {value:.2f}" for name, value in result["ratios"].items())
    return [*lines, "", f"The engine alone: {alone}. {quotients}.", "", _origin(result)]


def engine_table(result: dict[str, Any]) -> list[str]:
    """Return the lines of the table of the engine beside its matrix products and TensorFlow, and of its two threads."""
    names = ("network", "rows", "engine, us", "products alone", "share", "TensorFlow at its best", "times as fast")
    lines = [f"| {' | '.join(names)} |", "|---" * 7 + "|"]
    for network in result["results"]:
        shape = f"{network['model']}: {network['dim']} - {' - '.join(map(str, network['hidden']))}"
        for call in network["calls"]:
            times, best = call["microseconds"], call["best_tensorflow"]
            own, products, theirs = (_whole(times[side]) for side in ("engine", "products", best))
            quotients = f"{call['share_of_products']:.2f}", f"{call['times_tensorflow']:.1f}"
            cells = (shape, _whole(call["num_rows"]), own, products, quotients[0], f"{theirs} ({best})", quotients[1])
            lines.append(f"| {' | '.join(cells)} |")
    shared = [(network["model"], network["two_threads"]) for network in result["results"] if network["two_threads"]]
    threads = ", ".join(f"{name} {pair['times_one']:.2f} at {_whole(pair['num_rows'])} rows" for name, pair in shared)
    plan = result["plan"]
    rounds = f"Medians of {plan['num_rounds']} interleaved rounds of {plan['seconds']:g} s a side, one thread."
    return [*lines, "", f"Two threads, times one: {threads}. {rounds} {_where(result)}"]


TABLES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "engine": engine_table,
    "peers": peers_table,
    "serving": serving_table,
}
"""Name of a result -> the lines that the README has of it."""


def written(text: str, name: str, result: dict[str, Any]) -> str:
    """Return a text in which what stands between the marks of a result is made of it.

    Raises:
        ValueError: the text has no such marks.
    """
    begin, end = f"<!-- bench: {name} -->\n", f"<!-- end of bench: {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        message = f"the text has no place for {name}: expected the lines {begin.strip()} and {end}"
        raise ValueError(message)
    lines = "\n".join(TABLES[name](result))
    return pattern.sub(lambda _: f"{begin}\n{lines}\n\n{end}", text)


def main() -> None:
    """Write the tables of all results into the README."""
    text = README.read_text()
    for name in TABLES:
        text = written(text, name, json.loads((RESULTS / f"{name}.json").read_text()))
    README.write_text(text)
    sys.stderr.write(f"written: {README.name}\n")


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _latencies(figures: dict[str, float]) -> str:
    return f"{figures['p50_milliseconds']:.1f} / {figures['p99_milliseconds']:.1f}"


def _first_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")[:80]


def _origin(result: dict[str, Any]) -> str:
    """Return how the figures of a server were taken, and where, in a sentence or two."""
    plan = result["plan"]
    repeats = (
        f"Medians of {plan['num_repeats']} interleaved repeats of {plan['seconds']:g} s; server and load with a core"
    )
    return f"{repeats} each. {_where(result)}"


def _where(result: dict[str, Any]) -> str:
    """Return where the figures come from."""
    before = result["before"]
    loads = [" ".join(f"{load:.2f}" for load in at["load_averages"]) for at in (before, result["after"])]
    beside = (
        " Other work was done beside it: only quotients mean something."
        if max(at["load_averages"][0] for at in (before, result["after"])) > _BUSY
        else ""
    )
    changed = ", changed since" if before["is_changed"] else ""
    return (
        f"Commit {before['commit'][:12]}{changed}; {before['cpu']}, {before['num_cores']} cores; Python "
        f"{before['python']}; load averages {loads[0]} before, {loads[1]} after.{beside}"
    )


if __name__ == "__main__":
    main()

"""The report: one HTML page that explains a comparison, and the JSON it was made from.

The page stands alone: styles and pictures are inside it, it holds no script, and its own content policy forbids it to
fetch anything. Light and dark follow the reader's system. Everything that comes from the data is escaped.

    comparison (dict) ── plain ──> JSON values ──┬── report.json
                                                 └── view: texts and geometry ── templates/ ──> report.html
"""

from __future__ import annotations

import json
import math
import os
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from plausible.atomic import write_atomically
from plausible.errors import DataError
from plausible.evaluate import drawing, wording

FORMAT = 1
PARTS = (
    *("name", "label", "params", "status", "why", "baseline", "rank", "density", "likelihood", "estimate"),
    *("difference", "c2st", "mmd", "sliced_wasserstein", "novelty", "seconds_fit", "samples_per_second"),
    *("n_parameters", "bytes", "history", "kept_epoch", "samples", "marginals", "mean_image", "worst", "notes"),
)
SHOWN_MARGINALS, SHOWN_TABLE_ROWS, SHOWN_STRINGS, SHOWN_WINDOWS, SHOWN_WORST = 24, 6, 8, 12, 12
MANY_COLUMNS, SHOWN_OF_MANY = 32, 10  # of 64 pixels the ten that differ most say it all
NEAR_COPIES, TIMES_REAL = 0.01, 3.0  # copies are named beyond a hundredth and three times what held-out rows give
LONGEST_STRING = 280


def render(comparison: dict) -> str:
    """Return the comparison as one self-contained HTML page.

    Args:
        comparison: what `plausible.compare` produces, format 1. Parts that are None are left out of the page.

    Raises:
        DataError: the format is another one, or no row is marked as a baseline.
    """
    return _page(_checked(comparison))


def page_of(path: str | os.PathLike) -> Path:
    """Return where the page goes that is asked for at `path`: in a folder (existing, or a name without a suffix) it is
    `report.html`, beside a `.json` the `.html` of that name.

    Raises:
        DataError: the name is that of something else.
    """
    path = Path(path)
    if path.is_dir() or not path.suffix:
        return path / "report.html"
    if path.suffix == ".json":
        return path.with_suffix(".html")
    if path.suffix.lower() not in (".html", ".htm"):
        raise DataError(f"{path}: the report is a page; give a name that ends in .html, or a folder")
    return path


def write(comparison: dict, path: str | os.PathLike) -> Path:
    """Write the page to `path` and the JSON beside it; return the path of the page.

    Args:
        comparison: as for `render`.
        path: where the page goes, as `page_of` has it; the JSON takes the page's name with the suffix `.json`.

    Each file appears whole or not at all: it is written under another name and renamed.
    """
    data, path = _checked(comparison), page_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, indent=1)
    write_atomically(path.with_suffix(".json"), f"{text}\n".encode())
    write_atomically(path, _page(data).encode())
    return path


# ---------------------------------------------------------------------------------------------------- what came in


def plain(value: Any) -> Any:
    """`value` as JSON has it: arrays as lists, numpy scalars as Python's, and None for what is not finite."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _checked(comparison: dict) -> dict:
    """The comparison as JSON values, with every part of every row present, if it can be reported."""
    if comparison.get("format") != FORMAT:
        raise DataError(
            f"expected a comparison of format {FORMAT}, got {comparison.get('format')!r}; "
            "make it again with this version of plausible"
        )
    data = plain(comparison)
    data["rows"] = [{**dict.fromkeys(PARTS), **row} for row in data["rows"]]
    if not any(row["baseline"] for row in data["rows"]):
        raise DataError(
            "the report refuses to print without the baseline rows: expected at least one row marked as a baseline, "
            f"got {len(data['rows'])} row(s) and none; compare again with the baselines among the families"
        )
    return data


# ------------------------------------------------------------------------------------------------------- the page


def _page(data: dict) -> str:
    return environment().get_template("report.html").render(_view(data))


@cache
def environment() -> jinja2.Environment:
    """The templates of the pages, and what they call."""
    folder = resources.files("plausible.evaluate") / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = "number fixed plus_minus halves compact size duration cell plural percent date beside tick level".split()
    environment.filters.update({name: getattr(wording, name) for name in names})
    environment.filters["as_real"] = wording.as_good_as_real
    return environment


def _view(data: dict) -> dict:
    """All that the templates need, in the order the page tells it."""
    fitted = [r for r in data["rows"] if r["status"] == "ok"]
    best, reference = wording.leader(data), wording.reference(data)
    scores = [r[part] for r in wording.scored(data) for part in ("likelihood", "estimate") if r[part]]
    axis = drawing.likelihood_axis(scores)
    pictures = _Pictures(data)
    entries = [_entry(row, data, axis, pictures) for row in fitted]
    return {
        "c": data,
        "data": data["data"],
        "findings": wording.findings(data),
        "unit": wording.example_word(data),
        "best": best,
        "reference": reference,
        "axis": axis,
        "at_best": axis.at(reference["likelihood"]["mean"]) if axis and reference else None,
        "ticks": axis.labels if axis else [],
        "marks": [(wording.KIND_MARKS[k], w, k) for k, w in wording.KIND_WORDS.items() if k in _kinds_shown(fitted)],
        "has": _columns_shown(fitted),
        "entries": entries,
        "hero": next((e for e in entries if e["best"] and e["samples"] and e["samples"]["type"] == "image"), None),
        "absent": [r for r in data["rows"] if r["status"] != "ok"],
        "real": pictures.examples(data["real"]),
    }


def _columns_shown(rows: list[dict]) -> dict[str, bool]:
    """Which columns of the leaderboard hold anything."""
    tests = ("c2st", "mmd", "sliced_wasserstein", "novelty", "seconds_fit", "samples_per_second", "bytes")
    bits = any(r["likelihood"] and r["likelihood"].get("bits_per_dim") is not None for r in rows)
    return {"bits": bits, **{key: any(r[key] is not None for r in rows) for key in tests}}


def _copying(found: dict | None) -> str | None:
    """What is suspicious about how close samples come to the training examples, in two words; None if nothing is."""
    if not found:
        return None
    copies, near = found.get("copies") or 0.0, found.get("near_copies") or 0.0
    if copies > max(TIMES_REAL * (found.get("real_copies") or 0.0), NEAR_COPIES):
        return f"{wording.percent(copies)} copies"
    beyond = TIMES_REAL * max(found.get("real_near_copies") or 0.0, NEAR_COPIES)
    return f"{wording.percent(near)} near" if near > beyond else None


def _kinds_shown(rows: list[dict]) -> set[str]:
    return {r[part]["kind"] for r in rows for part in ("likelihood", "estimate") if r[part]}


def _entry(row: dict, data: dict, axis: drawing.Axis | None, pictures: _Pictures) -> dict:
    """One family: the row and what is drawn of it."""
    comparable = wording.comparable(row, data)
    best, reference = wording.leader(data), wording.reference(data)
    head, _, settings = row["label"].partition("(")
    return {
        "row": row,
        "head": head.strip() or row["label"],
        "settings": settings.removesuffix(")") if head.strip() else "",
        "best": row is best,
        "reference": row is reference,
        "tied": reference is not None and wording.tied(row, reference),
        "comparable": comparable,
        "impossible": _impossible(row["likelihood"]),
        "density": bool(row["likelihood"]) and wording.is_number(row["likelihood"]["mean"]),
        "copying": _copying(row["novelty"]),
        "kind": wording.KIND_WORDS.get(row["likelihood"]["kind"], "") if row["likelihood"] else "",
        "dot": drawing.dot(row["likelihood"], axis, row["difference"]) if comparable else None,
        "estimate": drawing.dot(row["estimate"], axis) if comparable else None,
        "samples": pictures.examples(row["samples"]),
        "curve": drawing.curve(row["history"] or [], row["kept_epoch"]),
        "marginals": _marginals(row["marginals"] or []),
        "means": pictures.means(row["mean_image"]),
        "worst": pictures.worst(row["worst"]),
    }


def _impossible(score: dict | None) -> int:
    """How many held-out examples got a density of zero, which makes the mean minus infinity."""
    return (score or {}).get("n_impossible") or 0


def _marginals(found: list[dict]) -> dict | None:
    """The columns that differ most, and how many are not shown."""
    panels = [drawing.marginal(m, most=8 if len(found) > 3 else 16) for m in found]
    if not panels:
        return None
    most = SHOWN_OF_MANY if len(panels) > MANY_COLUMNS else SHOWN_MARGINALS
    cut = sorted((p["distance"] for p in panels), reverse=True)[:most][-1]
    shown = [p for p in panels if p["distance"] >= cut][:most]
    return {"panels": shown, "total": len(panels), "mean": sum(p["distance"] for p in panels) / len(panels)}


class _Pictures:
    """Examples made ready to show. What is black, or how high a series goes, is set by the real ones for all."""

    def __init__(self, data: dict) -> None:
        real = data["real"] or {"type": None}
        self.scale = drawing.pixel_scale(real) if real["type"] == "image" else (0.0, 1.0)
        self.ranges = drawing.series_range(real) if real["type"] == "series" else None

    def examples(self, found: dict | None) -> dict | None:
        """Samples or real examples of any type, or None where there are none."""
        if not found:
            return None
        if found["type"] == "image":
            sheet = drawing.contact_sheet(found, self.scale) if found["pixels"] else None
            return sheet and {"type": "image", "sheet": sheet}
        if found["type"] == "table":
            rows = found["rows"][:SHOWN_TABLE_ROWS]
            return rows and {"type": "table", "columns": found["columns"], "rows": rows, "numeric": numeric(rows)}
        if found["type"] == "text":
            strings = found["strings"][:SHOWN_STRINGS]
            return strings and {"type": "text", "strings": [shortened(s) for s in strings]}
        windows = found["values"][:SHOWN_WINDOWS]
        ranges = self.ranges or drawing.series_range(found)
        return windows and {"type": "series", "lines": [drawing.sparkline(w, ranges) for w in windows]}

    def means(self, found: dict | None) -> list[dict] | None:
        """The mean real and the mean sampled image."""
        if not found:
            return None
        pixels = {"shape": found["shape"], "pixels": [found["real"], found["sampled"]]}
        return [drawing.single_image(t, aim=96) for t in drawing.to_bytes(pixels, self.scale)]

    def worst(self, found: dict | None) -> dict | None:
        """The least plausible held-out examples, each with its log-density."""
        if not found or not found["examples"] or not found["log_prob"]:
            return None
        examples, scores = found["examples"], found["log_prob"][:SHOWN_WORST]
        if examples["type"] == "image":
            tiles = drawing.to_bytes(examples, self.scale)
            items = [drawing.single_image(t) for t in tiles[: len(scores)]]
            return {"type": "image", "items": list(zip(items, scores[: len(items)], strict=True))}
        if examples["type"] == "table":
            rows = examples["rows"][: len(scores)]
            pairs = list(zip(rows, scores[: len(rows)], strict=True))
            return {"type": "table", "columns": examples["columns"], "items": pairs, "numeric": numeric(rows)}
        if examples["type"] == "text":
            strings = [shortened(s) for s in examples["strings"][: len(scores)]]
            return {"type": "text", "items": list(zip(strings, scores[: len(strings)], strict=True))}
        ranges = self.ranges or drawing.series_range(examples)
        lines = [drawing.sparkline(w, ranges) for w in examples["values"][: len(scores)]]
        return {"type": "series", "items": list(zip(lines, scores[: len(lines)], strict=True))}


def numeric(rows: list[list]) -> list[bool]:
    """Which columns hold nothing but numbers, and are set to the right."""
    columns = zip(*rows, strict=True)
    return [all(v is None or (isinstance(v, (int, float)) and not isinstance(v, bool)) for v in c) for c in columns]


def shortened(text: str) -> str:
    """A string as a page shows it."""
    return text if len(text) <= LONGEST_STRING else text[: LONGEST_STRING - 1] + "…"

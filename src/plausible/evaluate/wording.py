"""How a comparison is put into words: numbers as a person writes them, and the finding in a sentence or three.

A claim is made only as far as the numbers carry it. Two families closer than two standard errors of their paired
difference are a tie; a lower bound that leads is "at least"; a bound that trails may in truth be higher, and the
sentence says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from plausible.evaluate.likelihood import DECIDED_AT, MARKS

MINUS, THIN, NBSP, DASH = "\N{MINUS SIGN}", "\N{NARROW NO-BREAK SPACE}", "\N{NO-BREAK SPACE}", "\N{EN DASH}"
KIND_WORDS = {"exact": "exact", "lower_bound": "lower bound", "upper_bound": "upper bound", "estimate": "estimate"}
KIND_MARKS = MARKS


# ------------------------------------------------------------------------------------------------------- numbers


def is_number(value: object) -> bool:
    """True for a finite real number; None, NaN and infinities are drawn as absent."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def fixed(value: float | None, decimals: int) -> str:
    """`value` to so many decimals, with a true minus sign and thin spaces between thousands."""
    if not is_number(value):
        return DASH
    text = f"{abs(value):,.{decimals}f}".replace(",", THIN)
    return (MINUS if value < 0 and float(text.replace(THIN, "")) else "") + text


def number(value: float | None, digits: int = 3) -> str:
    """`value` to so many significant digits, never in more than it needs."""
    if not is_number(value):
        return DASH
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -4 or size > 8:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa.replace('-', MINUS)}e{int(exponent)}".replace("e-", f"e{MINUS}")
    return fixed(value, max(0, digits - 1 - size))


def decimals_for(stderr: float | None, value: float = 0.0) -> int:
    """As many decimals as the standard error supports: one digit of it, two where it begins with 1."""
    if not is_number(stderr) or stderr <= 0:
        return 1 if abs(value) >= 10 else 2
    size = math.floor(math.log10(stderr))
    leading = stderr / 10**size
    return min(6, max(0, -size + (1 if leading < 1.95 else 0)))


def plus_minus(mean: float | None, stderr: float | None) -> str:
    """
    >>> plus_minus(-118.234, 0.91)
    '−118.2\xa0±\xa00.9'
    """
    if not is_number(mean):
        return DASH
    places = max(decimals_for(stderr, mean), 1 if abs(mean) < 1000 else 0)
    error = f"{NBSP}±{NBSP}{fixed(stderr, places)}" if is_number(stderr) and stderr > 0 else ""
    return fixed(mean, places) + error


def signed(mean: float | None, stderr: float | None) -> str:
    """A difference, with its sign written out."""
    if not is_number(mean):
        return DASH
    return ("+" if mean > 0 else "") + plus_minus(mean, stderr)


def halves(mean: float | None, stderr: float | None) -> tuple[str, str]:
    """A signed difference and its error, to as many decimals as the error supports, for two lines of a cell."""
    value, _, error = plus_minus(mean, stderr).partition(f"{NBSP}±{NBSP}")
    return ("+" if is_number(mean) and mean > 0 else "") + value, error and f"±{NBSP}{error}"


def beside(value: float | None, real: float | None) -> str:
    """A two-sample statistic, to the decimals that show two digits of the same one for real data, at most four."""
    if not is_number(value) or not is_number(real) or real == 0:
        return number(value, 2)
    return fixed(value, min(4, max(2, 1 - math.floor(math.log10(abs(real))))))


def compact(value: float | None) -> str:
    """
    >>> compact(312_400), compact(1797), compact(12)
    ('312k', '1.8k', '12')
    """
    if not is_number(value):
        return DASH
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * scale:
            scaled = value / scale
            return f"{scaled:.1f}{letter}" if scaled < 9.95 else f"{scaled:.0f}{letter}"
    return f"{value:.0f}" if abs(value) >= 10 or value == round(value) else number(value, 2)


def size(n_bytes: float | None) -> str:
    """Bytes as kB or MB (powers of ten)."""
    if not is_number(n_bytes):
        return DASH
    text = compact(n_bytes)
    return f"{text[:-1]} {text[-1]}B" if text[-1] in "kMG" else f"{text} B"


def duration(seconds: float | None) -> str:
    """
    >>> duration(0.034), duration(4.21), duration(95)
    ('34 ms', '4.2 s', '1 min 35 s')
    """
    if not is_number(seconds):
        return DASH
    if seconds < 0.0995:
        return f"{1000 * seconds:.0f} ms" if seconds >= 0.001 else "< 1 ms"
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def cell(value: object) -> str:
    """One value of a table row: a number to four digits, a missing cell as a dash, anything else as it is."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return DASH
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return fixed(value, 0) if abs(value) >= 10_000 else str(value).replace("-", MINUS)
    return number(value, 4) if isinstance(value, float) else str(value)


def tick(value: object) -> str:
    """One end of an axis: a number to three digits, a whole one as it is, a level by its name."""
    return number(value, 3) if isinstance(value, float) and value != round(value) else cell(value)


def level(value: object) -> str:
    """The name of a level, where white space and nothing at all can be seen."""
    unseen = {"": "(none)", " ": "␣", "\n": "↵", "\t": "⇥"}
    return unseen.get(value, value) if isinstance(value, str) else cell(value)


def plural(unit: str) -> str:
    """'image' -> 'images'."""
    return unit if unit.endswith("s") else unit + "s"


def listed(words: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    words = list(words)
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


# ------------------------------------------------------------------------------------------------------- ordering


def example_word(comparison: dict) -> str:
    """What one example is called: what the likelihoods are given per, else by the type of the data."""
    per = [r["likelihood"].get("per") for r in comparison["rows"] if r.get("likelihood")]
    kinds = {"table": "row", "image": "image", "text": "string", "series": "window", "audio": "window"}
    return next(filter(None, per), kinds.get(comparison["data"].get("type"), "example"))


def data_name(comparison: dict) -> str:
    """The name of the data in a sentence; data that came without one are called 'data'."""
    name = comparison["data"]["name"]
    return f"these {plural(example_word(comparison))}" if name in (None, "", "data") else name


def date(text: str | None) -> str:
    """'2026-11-21T03:27:47+00:00' as '2026-11-21 03:27 UTC'; anything else as it is."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (TypeError, ValueError):
        return text or ""


def scored(comparison: dict) -> list[dict]:
    """The fitted rows whose log-likelihood is a density on the measure of the data, in the order of the comparison."""
    return [r for r in comparison["rows"] if r["status"] == "ok" and comparable(r, comparison)]


def comparable(row: dict, comparison: dict) -> bool:
    """True where the row has a log-likelihood, and it is on the same measure as the data."""
    found = row.get("likelihood")
    if not found or not is_number(found.get("mean")):
        return False
    return found.get("measure") in (None, comparison["data"].get("measure"))


def leader(comparison: dict) -> dict | None:
    """The row at the top: the best exact one, unless the comparison has put a bound that provably beats it above."""
    return next(iter(scored(comparison)), None)


def reference(comparison: dict) -> dict | None:
    """The row that differences are taken to: the best exact one, which a bound may stand above."""
    named = {r["difference"]["to"] for r in scored(comparison) if r.get("difference")}
    return next((r for r in scored(comparison) if r["name"] in named), leader(comparison))


def tied(row: dict, best: dict) -> bool:
    """True where the paired difference to `best`, of the same kind, is within two standard errors."""
    gap = row.get("difference")
    if row is best or not gap or gap.get("to") != best["name"] or not is_number(gap.get("mean")):
        return False
    if not row["likelihood"] or row["likelihood"]["kind"] != best["likelihood"]["kind"]:
        return False  # what is only bounded is undecided, which is something else
    return is_number(gap.get("stderr")) and abs(gap["mean"]) <= DECIDED_AT * gap["stderr"]


def as_good_as_real(test: dict | None) -> bool:
    """True where a two-sample statistic is no larger than real against real, within two standard errors if known."""
    if not test or not is_number(test.get("value")) or not is_number(test.get("real")):
        return False
    margin = DECIDED_AT * test["stderr"] if is_number(test.get("stderr")) else 0.0
    return test["value"] <= test["real"] + margin


# ------------------------------------------------------------------------------------------------------- sentences


def findings(comparison: dict) -> list[str]:
    """The finding a person wants, first in one sentence, then what qualifies it."""
    best = leader(comparison)
    if best is None:
        return _without_density(comparison)
    return [s for s in (_headline(comparison, best), *_caveats(comparison, best), _samples(comparison, best)) if s]


def _headline(comparison: dict, best: dict) -> str:
    name, score = data_name(comparison), best["likelihood"]
    unit = f"{score.get('unit', 'nats')} per {score['per']}"
    equals = [r for r in scored(comparison) if tied(r, best)]
    value = plus_minus(score["mean"], score["stderr"])
    if equals:
        values = listed([plus_minus(r["likelihood"]["mean"], r["likelihood"]["stderr"]) for r in (best, *equals)])
        names, held_out = listed([r["label"] for r in (best, *equals)]), held_out_words(comparison)
        return f"{names} model {name} equally well, as far as {held_out} can tell: {values} {unit}."
    claim = {
        "exact": f"models {name} best: {value} {unit}",
        "lower_bound": f"models {name} best: at least {value} {unit}",
        "upper_bound": f"may model {name} best: at most {value} {unit}",
        "estimate": f"seems to model {name} best: about {value} {unit}",
    }[score["kind"]]
    if score["kind"] == "exact" and _could_be_higher(comparison, best):
        claim = f"has the best exact likelihood on {name}: {value} {unit}"
    return f"{best['label']} {claim}{_lead(comparison, best)}."


def _lead(comparison: dict, best: dict) -> str:
    """How far ahead of the best baseline, or that nothing beats it."""
    if best["baseline"]:
        return "; no family beats this baseline" if len(scored(comparison)) > 1 else ""
    baselines = [r for r in scored(comparison) if r["baseline"]]
    if not baselines:
        return ""
    other, gap = baselines[0], baselines[0].get("difference") or {}
    paired = gap.get("to") == best["name"] and is_number(gap.get("mean"))
    ahead = -gap["mean"] if paired else best["likelihood"]["mean"] - other["likelihood"]["mean"]
    text = plus_minus(ahead, gap["stderr"] if paired else None)
    unit = best["likelihood"].get("unit", "nats")
    if other["likelihood"]["kind"] == "exact":
        least = "at least " if best["likelihood"]["kind"] == "lower_bound" else ""
        return f", {least}{text} {unit} better than the baseline {other['label']}"
    return f", {text} {unit} above the {KIND_WORDS[other['likelihood']['kind']]} of the baseline {other['label']}"


def _could_be_higher(comparison: dict, best: dict) -> list[dict]:
    """Rows below or above `best` whose true log-likelihood may exceed it."""
    found = []
    for row in scored(comparison):
        score, gap = row["likelihood"], row["likelihood"]["mean"] - best["likelihood"]["mean"]
        overtakes = score["kind"] in ("estimate", "upper_bound") and gap > 0
        if row is not best and (overtakes or score["kind"] == "lower_bound"):
            found.append(row)
    return found


def _caveats(comparison: dict, best: dict) -> list[str]:
    bounds = [r["label"] for r in _could_be_higher(comparison, best) if r["likelihood"]["kind"] == "lower_bound"]
    others = [r for r in _could_be_higher(comparison, best) if r["likelihood"]["kind"] != "lower_bound"]
    said = []
    if bounds:
        many = len(bounds) > 1
        verb, bound, pronoun = ("are", "lower bounds", "they") if many else ("is", "a lower bound", "it")
        said.append(f"{listed(bounds)} {verb} known only by {bound}: in truth {pronoun} may be higher than shown.")
    for row in others:
        value = plus_minus(row["likelihood"]["mean"], row["likelihood"]["stderr"])
        word = "an estimate" if row["likelihood"]["kind"] == "estimate" else "an upper bound"
        said.append(f"{row['label']} shows {value}, which is {word} and not proof of a better model.")
    unscored = [r for r in comparison["rows"] if r["status"] == "ok" and not r.get("likelihood")]
    mute = [r["label"] for r in unscored if not r.get("density")]
    late = [r["label"] for r in unscored if r.get("density")]
    if mute:
        said.append(f"{listed(mute)} {'have' if len(mute) > 1 else 'has'} no density: only samples can judge.")
    if late:
        said.append(f"{listed(late)} {'were' if len(late) > 1 else 'was'} not scored: the notes below say why.")
    return said


def _samples(comparison: dict, best: dict) -> str:
    """What a classifier says of the leader's samples."""
    test = best.get("c2st")
    if not test or not is_number(test.get("value")):
        return ""
    said = f"A classifier tells samples of {best['label']} from real {plural(example_word(comparison))} "
    said += f"{percent(test['value'])} of the time"
    return said + (f" (real from real: {percent(test['real'])})." if is_number(test.get("real")) else ".")


def _without_density(comparison: dict) -> list[str]:
    rows = [r for r in comparison["rows"] if r["status"] == "ok"]
    judged = [r for r in rows if r.get("c2st") and is_number(r["c2st"].get("value"))]
    name = data_name(comparison)
    if not rows:
        return [f"No family could be fitted to {name}.", "The reasons are listed below."]
    if not judged:
        return [f"No family fitted to {name} has a likelihood to compare."]
    best = min(judged, key=lambda r: r["c2st"]["value"])
    return [
        f"No likelihood can be compared on {name}; samples of {best['label']} are hardest to tell from real ones.",
        _samples(comparison, best),
    ]


def percent(share: float) -> str:
    return f"{100 * share:.0f}{THIN}%"


def held_out_words(comparison: dict) -> str:
    """'360 held-out images'."""
    data = comparison["data"]
    return f"{fixed(data['n_test'], 0)} held-out {plural(example_word(comparison))}"

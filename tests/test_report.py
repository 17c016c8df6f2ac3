"""The report: it says the true thing, shows every row, runs nothing, and survives hostile and missing parts."""

from __future__ import annotations

import base64
import copy
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from plausible.errors import DataError
from plausible.evaluate import drawing, report, wording

MARKS = {"exact": "=", "lower_bound": "≥", "upper_bound": "≤", "estimate": "≈"}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7*7 }}"


# ----------------------------------------------------------------------------------------- comparisons to report on


def score(mean: float | None, stderr: float = 0.9, kind: str = "exact", **more) -> dict:
    found = {"mean": mean, "stderr": stderr, "kind": kind, "mark": MARKS[kind], "measure": "counting", "unit": "nats"}
    return {**found, "per": "image", "bits_per_dim": 2.6, "n": 36, "importance_samples": None, **more}


def row(name: str, label: str, likelihood: dict | None, samples: dict | None, **more) -> dict:
    found = {
        **{"name": name, "label": label, "params": {"hidden": [64], "order": None}, "status": "ok", "why": None},
        **{"baseline": False, "rank": None, "likelihood": likelihood, "estimate": None, "difference": None},
        "c2st": {"value": 0.61, "stderr": 0.02, "real": 0.5},
        **{"mmd": {"value": 0.02, "real": 0.001}, "sliced_wasserstein": {"value": 0.1, "real": 0.03}},
        "novelty": {"ratio": 0.98, "real_ratio": 1.0, "copies": 0.0, "near_copies": 0.01},
        **{"seconds_fit": 3.2, "samples_per_second": 12_000.0, "n_parameters": 312_400, "bytes": 1_250_000},
        "history": [{"epoch": e, "loss": 200 / e, "held_out": 210 / e, "seconds": 0.1} for e in range(1, 21)],
        **{"kept_epoch": 18, "samples": samples, "marginals": None, "worst": None},
    }
    return {**found, **more}


def gap(mean: float, stderr: float = 0.5) -> dict:
    return {"to": "made", "mean": mean, "stderr": stderr}


def images(n: int = 12, seed: int = 0) -> dict:
    pixels = np.random.default_rng(seed).integers(0, 17, (n, 64))
    return {"type": "image", "shape": [1, 8, 8], "levels": 17, "pixels": pixels.tolist()}


def image_comparison() -> dict:
    levels = {"column": "pixel 3,3", "kind": "ordinal", "levels": list(range(17)), "real": [3] * 17}
    worst = {"examples": images(4, 9), "log_prob": [-190.0, -180.5, -170.0, -160.0]}
    made = row("made", "MADE", score(-118.2), images(seed=1), rank=1, worst=worst)
    made["marginals"] = [{**levels, "sampled": list(range(17))}]
    vae = row("vae", "VAE", score(-127.2, kind="lower_bound"), images(seed=2), difference=gap(-9.0))
    vae["estimate"] = score(-121.8, kind="estimate", importance_samples=64)
    independent = row("independent", "Independent", score(-179.4), images(seed=3), difference=gap(-61.2, 1.2), rank=2)
    gan = row("gan", "GAN", None, images(seed=4), kept_epoch=None)
    failed = {"name": "glow", "label": "Glow", "status": "failed", "why": "the loss became NaN at epoch 3"}
    skipped = {**failed, "name": "kde", "label": "Kernel density", "status": "skipped", "why": "needs real columns"}
    rows = [made, vae, {**independent, "baseline": True}, gan, failed, skipped]
    return comparison(rows, "image", "image", [{"name": f"p{i}", "kind": "ordinal"} for i in range(64)], images())


def comparison(rows: list, type: str, unit: str, columns: list, real: dict | None) -> dict:
    data = {"name": "digits", "description": "8 x 8", "guesses": ["integers taken as levels"], "notes": ["a note"]}
    data |= {"n_train": 1437, "n_test": 360, "measure": "counting", "unit": unit, "type": type, "fingerprint": "9f31"}
    head = {"format": 1, "title": "Comparison on digits", "created": "2026-11-21", "version": "0.1", "seed": 7}
    head["command"] = "plausible compare digits"
    return {**head, "data": {**data, "columns": columns}, "rows": rows, "real": real}


def table_comparison(name: str = "age", value: object = "Bachelors") -> dict:
    examples = {"type": "table", "columns": [name, "education"], "rows": [[31.25, value], [None, "HS-grad"]]}
    numbers = {"column": name, "kind": "real", "edges": [0.0, 1.0, 3.0], "real": [5, 5], "sampled": [6, 4]}
    words = {"column": "education", "kind": "categorical", "levels": [value, "HS-grad"]}
    words |= {"real": [1, 9], "sampled": [2, 8]}
    row_score = score(-21.31, 0.04, measure="mixed", per="row", bits_per_dim=None)
    found = row("independent", "Independent", row_score, examples, baseline=True, rank=1)
    found |= {"marginals": [numbers, words], "worst": {"examples": examples, "log_prob": [-40.0, -30.0]}}
    columns = [{"name": name, "kind": "real"}, {"name": "education", "kind": "categorical"}]
    made = comparison([found], "table", "row", columns, examples)
    made["data"]["measure"] = "mixed"
    return made


def text_comparison(text: str = "Ada") -> dict:
    examples = {"type": "text", "strings": [text, "x" * 500, ""]}
    found = row("independent", "Independent", score(-14.2, per="string"), examples, baseline=True)
    found["worst"] = {"examples": examples, "log_prob": [-40.0, -30.0, -20.0]}
    return comparison([found], "text", "string", [], examples)


def series_comparison() -> dict:
    values = np.random.default_rng(0).normal(size=(5, 24, 2))
    examples = {"type": "series", "shape": [24, 2], "values": values}
    found = row("independent", "Independent", score(-14.2, per="window"), examples, baseline=True)
    found["worst"] = {"examples": examples, "log_prob": [-9.0, -8.0]}
    return comparison([found], "series", "window", [], examples)


COMPARISONS = {"image": image_comparison, "table": table_comparison}
COMPARISONS |= {"text": text_comparison, "series": series_comparison}


class Page(HTMLParser):
    """Walks the page: checks that tags balance, and gathers text, attributes and identifiers."""

    VOID = {"meta", "link", "img", "input", "br"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open, self.tags, self.ids, self.labels, self.links, self.words = [], [], [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.labels += [attrs["for"]] if "for" in attrs else []
        self.links += [attrs[k][1:] for k in ("href",) if attrs.get(k, "").startswith("#")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


# -------------------------------------------------------------------------------------------------------- the page


@pytest.mark.parametrize("kind", COMPARISONS)
def test_page_is_well_formed(kind):
    page = Page(report.render(COMPARISONS[kind]()))
    assert len(page.ids) == len(set(page.ids))
    assert set(page.labels) | set(page.links) <= set(page.ids)
    assert all("alt" in attrs for tag, attrs in page.tags if tag == "img")
    assert [tag for tag, _ in page.tags].count("h1") == 1


@pytest.mark.parametrize("kind", COMPARISONS)
def test_page_needs_no_network_and_runs_nothing(kind):
    html = report.render(COMPARISONS[kind]())
    page = Page(html)
    assert "http://" not in html and "https://" not in html and "url(" not in html and "@import" not in html
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "object", "embed", "form", "base"}
    assert not [key for _, attrs in page.tags for key in attrs if key.startswith("on")]
    assert all(attrs["src"].startswith("data:image/png") for _, attrs in page.tags if "src" in attrs)


def test_every_row_appears_with_its_reason():
    text = Page(report.render(image_comparison())).text
    for words in ("MADE", "VAE", "Independent", "GAN", "no density", "Glow", "the loss became NaN at epoch 3"):
        assert words in text
    assert "Kernel density" in text and "needs real columns" in text and "plausible compare digits" in text


def test_a_model_with_a_density_that_was_not_scored_is_not_said_to_have_none():
    made = image_comparison()
    next(row for row in made["rows"] if row["label"] == "GAN").update(label="Slow", density=True, notes=["too slow"])
    text = Page(report.render(made)).text
    assert "Slow was not scored: the notes below say why." in text
    assert "not scored" in text and "no density" not in text


def test_leaderboard_states_kind_and_order():
    html = report.render(image_comparison())
    board = html[html.index("<tbody") : html.index("</tbody>")]
    assert [board.index(f"<b>{name}</b>") for name in ("MADE", "VAE", "Independent", "GAN")] == sorted(
        board.index(f"<b>{name}</b>") for name in ("MADE", "VAE", "Independent", "GAN")
    )
    assert "#dot-exact" in board and "#dot-lower_bound" in board and "#dot-estimate" in board
    assert "(64 draws)" in board and "real 0.50" in board and "−61.2" in board


@pytest.mark.parametrize("kind", ["table", "text"])
def test_hostile_words_stay_words(kind):
    made = table_comparison(HOSTILE, HOSTILE) if kind == "table" else text_comparison(HOSTILE)
    made["title"] = made["command"] = made["data"]["name"] = made["data"]["notes"][0] = HOSTILE
    made["rows"][0] |= {"label": HOSTILE, "name": HOSTILE, "params": {HOSTILE: [HOSTILE], "plain": HOSTILE}}
    html = report.render(made)
    page = Page(html)
    assert not {tag for tag, _ in page.tags} & {"script"} and "alert(1)" in page.text and "{{ 7*7 }}" in page.text
    assert all(attrs.get("src", "data:").startswith("data:") for _, attrs in page.tags)
    assert not [key for _, attrs in page.tags for key in attrs if key.startswith("on")]


def parts_to_lose() -> list[str]:
    keys = "likelihood estimate difference c2st mmd sliced_wasserstein novelty seconds_fit samples_per_second"
    more = "n_parameters bytes history kept_epoch samples marginals worst params rank"
    return f"{keys} {more}".split()


@pytest.mark.parametrize("part", parts_to_lose())
@pytest.mark.parametrize("how", ["null", "absent"])
def test_missing_parts_are_left_out(part, how):
    for make in COMPARISONS.values():
        made = make()
        for found in made["rows"]:
            found.pop(part, None) if how == "absent" else found.update({part: None})
        Page(report.render(made))


def test_everything_missing_at_once():
    made = image_comparison()
    for found in made["rows"]:
        found.update(dict.fromkeys(parts_to_lose()))
    made["real"] = made["command"] = None
    assert "likelihood to compare" in Page(report.render(made)).text


def test_nothing_fitted():
    made = image_comparison()
    for found in made["rows"]:
        found.update({"status": "failed", "why": "broken"})
    text = Page(report.render(made)).text
    assert "No family could be fitted" in text and "broken" in text


def test_not_a_number_is_absent():
    made = image_comparison()
    made["rows"][0] |= {"likelihood": score(float("nan"), float("nan")), "difference": gap(float("nan"), float("inf"))}
    made["rows"][0]["history"] = [{"epoch": e, "loss": float("nan"), "held_out": None, "seconds": 0.1} for e in (1, 2)]
    html = report.render(made)
    Page(html)
    assert "nan" not in re.sub(r"base64,[^\"]*", "", html).lower().replace("the loss became nan", "")


def test_impossible_examples_are_not_called_no_density():
    made = image_comparison()
    made["rows"][1] |= {"likelihood": score(float("-inf"), n_impossible=5), "estimate": None}
    text = Page(report.render(made)).text
    assert "−∞" in text and "5 of 36 impossible" in text


def test_refuses_without_a_baseline():
    made = image_comparison()
    for found in made["rows"]:
        found["baseline"] = False
    with pytest.raises(DataError, match="refuses to print without the baseline rows"):
        report.render(made)


def test_refuses_another_format():
    with pytest.raises(DataError, match="expected a comparison of format 1, got 2"):
        report.render({**image_comparison(), "format": 2})


def test_rendering_changes_nothing_and_repeats():
    made = image_comparison()
    before = copy.deepcopy(made)
    assert report.render(made) == report.render(made) and made == before


# ------------------------------------------------------------------------------------------------------- the files


def test_write_makes_both_files_and_no_other(tmp_path):
    path = report.write(image_comparison(), tmp_path / "deep" / "mine.html")
    assert sorted(p.name for p in path.parent.iterdir()) == ["mine.html", "mine.json"]
    assert path.read_text(encoding="utf-8") == report.render(image_comparison())
    assert json.loads((path.parent / "mine.json").read_text())["rows"][1]["estimate"]["importance_samples"] == 64


def test_a_json_path_does_not_swallow_the_page(tmp_path):
    assert report.write(image_comparison(), tmp_path / "mine.json") == tmp_path / "mine.html"
    assert json.loads((tmp_path / "mine.json").read_text())["seed"] == 7


def test_write_to_a_folder(tmp_path):
    assert report.write(series_comparison(), tmp_path) == tmp_path / "report.html"
    assert json.loads((tmp_path / "report.json").read_text())["real"]["shape"] == [24, 2]


def test_json_holds_null_for_what_is_not_finite(tmp_path):
    made = image_comparison()
    made["rows"][0]["likelihood"]["mean"] = np.float32("nan")
    report.write(made, tmp_path / "report.html")
    assert json.loads((tmp_path / "report.json").read_text())["rows"][0]["likelihood"]["mean"] is None


def test_failed_write_leaves_the_old_report(tmp_path):
    path = report.write(image_comparison(), tmp_path / "report.html")
    before = path.read_bytes()
    with pytest.raises(DataError):
        report.write({**image_comparison(), "format": 0}, path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 2


# ---------------------------------------------------------------------------------------------------- the findings


def only(made: dict, *names: str) -> dict:
    return {**made, "rows": [r for r in made["rows"] if r["name"] in names]}


def test_headline_of_a_clear_winner():
    said = wording.findings(only(image_comparison(), "made", "independent"))[0].replace("\xa0", " ")
    assert said == (
        "MADE models digits best: −118.2 ± 0.9 nats per image, 61.2 ± 1.2 nats better than the baseline Independent."
    )


def test_headline_of_a_tie():
    made = only(image_comparison(), "made", "independent")
    made["rows"][1] |= {"likelihood": score(-118.6), "difference": gap(-0.4, 0.3), "label": "Mixture"}
    assert wording.findings(made)[0].startswith("MADE and Mixture model digits equally well, as far as 360 held-out")


def test_a_bound_near_the_best_is_not_a_tie():
    made = only(image_comparison(), "made", "vae", "independent")
    made["rows"][1] |= {"likelihood": score(-118.5, kind="lower_bound"), "difference": gap(-0.3, 0.4)}
    assert not wording.tied(made["rows"][1], made["rows"][0])
    assert "a tie with the best" not in Page(report.render(made)).text


def test_copies_are_named_where_real_examples_have_fewer():
    made = image_comparison()
    found = {"ratio": 0.1, "real_ratio": 1.0, "copies": 0.4, "near_copies": 0.5, "real_copies": 0.02}
    made["rows"][0]["novelty"], made["rows"][1]["novelty"] = found, {**found, "real_copies": 0.3, "near_copies": 0.0}
    text = Page(report.render(made)).text.replace("\u202f", " ")
    assert text.count("40 % copies") == 1


def test_headline_owns_up_to_bounds():
    first, second, *_ = wording.findings(only(image_comparison(), "made", "vae", "independent"))
    assert first.startswith("MADE has the best exact likelihood on digits")
    assert second.startswith("VAE is known only by a lower bound")


def test_headline_of_a_leading_bound_and_of_an_estimate():
    made = only(image_comparison(), "vae", "independent")
    said = wording.findings(made)[0]
    assert "VAE models digits best: at least −127.2" in said and "at least 52.2 nats better than the baseline" in said
    made = only(image_comparison(), "made", "vae", "independent")
    made["rows"][1]["likelihood"] = score(-100.0, kind="estimate")
    said = wording.findings(made)
    assert said[0].startswith("MADE has the best exact") and "not proof of a better model" in said[1]


def test_headline_when_nothing_beats_the_baseline():
    made = only(image_comparison(), "made", "independent")
    made["rows"][0]["likelihood"] = score(-300.0)
    made["rows"] = [{**r, "difference": None, "rank": None} for r in reversed(made["rows"])]
    assert "no family beats this baseline" in wording.findings(made)[0]


def test_another_measure_is_never_ranked():
    made = only(image_comparison(), "made", "independent")
    made["rows"].append(row("flow", "Flow", score(50.0, measure="Lebesgue"), None))
    assert wording.leader(made)["name"] == "made"
    assert "on another measure" in Page(report.render(made)).text


# --------------------------------------------------------------------------------------------- numbers and pictures


@pytest.mark.parametrize(
    ("given", "expected"),
    [((-118.234, 0.91), "−118.2 ± 0.9"), ((-21.314, 0.042), "−21.31 ± 0.04"), ((-1204.2, 30.0), "−1 204 ± 30")],
)
def test_as_many_digits_as_the_error_supports(given, expected):
    assert wording.plus_minus(*given).replace("\xa0", " ").replace("\u202f", " ") == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.00123, "0.00123"), (0, "0"), (1234567.0, "1 234 567"), (-0.5, "−0.500"), (1e-7, "1.00e−7"), (None, "–")],
)
def test_numbers(value, expected):
    assert wording.number(value).replace("\u202f", " ") == expected


def test_axis_holds_what_it_is_made_over():
    rng = np.random.default_rng(0)
    for scale in 10.0 ** rng.uniform(-6, 6, 50):
        values = scale * rng.normal(size=5)
        axis = drawing.Axis.over(values)
        assert all(axis.holds(v) for v in values) and 2 <= len(axis.ticks) <= 6
        assert all(axis.holds(t) for t in axis.ticks)


def test_a_hopeless_family_does_not_flatten_the_plot():
    axis = drawing.likelihood_axis([score(m) for m in (-118.0, -122.0, -130.0, -179.0, -12_000.0)])
    assert axis.low > -1000 and drawing.dot(score(-12_000.0), axis)["off"]


def test_total_variation_of_a_marginal():
    found = {"column": "x", "kind": "real", "edges": [0, 1, 2], "real": [30, 10], "sampled": [1, 1]}
    assert drawing.marginal(found)["distance"] == pytest.approx(0.25)


def test_commonest_levels_are_kept_and_the_rest_summed():
    counts = list(range(1, 21))
    found = {"column": "x", "kind": "categorical", "levels": [str(c) for c in counts]}
    found |= {"real": counts, "sampled": counts}
    bars = drawing.marginal(found)["bars"]
    assert [b["level"] for b in bars] == ["20", "19", "18", "17", "16", "15", "14", "all others"]
    assert sum(b["shares"][0] for b in bars) == pytest.approx(1.0)


def test_contact_sheet_shows_the_pixels_it_was_given():
    examples = images(6)
    sheet = drawing.contact_sheet(examples, drawing.pixel_scale(examples))
    png = Image.open(io.BytesIO(base64.b64decode(sheet["src"].split(",")[1]))).convert("L")
    first = np.asarray(png)[:8, :8]
    np.testing.assert_allclose(first, np.asarray(examples["pixels"][0]).reshape(8, 8) / 16 * 255, atol=0.51)
    assert sheet["width"] % png.width == 0


@pytest.mark.parametrize("shape", [(3, 32, 32), (4, 5, 5), (2, 6, 6), (1, 1, 1), (1, 200, 300)])
def test_images_of_every_shape(shape):
    pixels = np.random.default_rng(0).normal(size=(3, *shape)).reshape(3, -1).tolist()
    examples = {"type": "image", "shape": list(shape), "levels": None, "pixels": pixels}
    assert drawing.contact_sheet(examples, drawing.pixel_scale(examples))["n"] == 3


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
@pytest.mark.parametrize("width", [1200, 1300])
def test_the_whole_leaderboard_is_seen_on_a_common_screen(tmp_path, width):
    """Nothing is scrolled sideways: neither the page nor the frame of the table is wider than what is seen of it."""
    page = re.sub("<meta[^>]*Content-Security[^>]*>", "", report.render(image_comparison()))  # which forbids the probe
    probe = "[f.scrollWidth - f.clientWidth, d.scrollWidth - d.clientWidth]"
    probe = f"const f = document.querySelector('.board-frame'), d = document.documentElement; d.dataset.over = {probe}"
    (tmp_path / "page.html").write_text(page.replace("</body>", f"<script>{probe}</script></body>"))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},1000", "--dump-dom"]
    shown = subprocess.run([*command, tmp_path / "page.html"], capture_output=True, text=True, timeout=120).stdout
    assert re.search('data-over="([^"]*)"', shown)[1] == "0,0"

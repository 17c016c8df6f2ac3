"""The command line: what it prints, writes and refuses."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import plausible as pl
from plausible import registry
from plausible.cli import app, commands, uses, wording
from plausible.cli.flags import as_text, duration, flags_of, parse
from plausible.cli.inputs import kinds_of
from plausible.errors import PlausibleError

COMMANDS = ("compare", "fit", "sample", "score", "info", "families", "check", *uses.COMMANDS)
SOURCES = Path(commands.__file__).parent
TRAINED = "made"


def run(*args) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of one command."""
    result = CliRunner().invoke(app, [str(a) for a in args])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    return pd.DataFrame({"x": x, "y": 2 * x + rng.normal(size=200), "kind": np.where(x > 0, "up", "down")})


@pytest.fixture(scope="module")
def folder(tmp_path_factory, table) -> Path:
    """A CSV, a text, images, and a model of each."""
    home = tmp_path_factory.mktemp("cli")
    table.to_csv(home / "rows.csv", index=False)
    rng = np.random.default_rng(1)
    words = ["".join(rng.choice(list("abc"), size=rng.integers(2, 5))) for _ in range(60)]
    (home / "words.txt").write_text("\n".join(words) + "\n")
    bits = rng.integers(0, 2, (40, 4, 4)).astype(np.uint8)
    table.to_json(home / "lines.json", orient="records", lines=True)
    np.savez(home / "bits.npz", images=bits, label=rng.integers(0, 3, 40))
    for name in ("rows.csv", "words.txt", "bits.npz"):
        out = home / f"{name.split('.')[0]}.plausible"
        code, _, err = run("fit", home / name, "-m", registry.BASELINE, "-o", out)
        assert code == 0, err
    return home


# ----------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"plausible {command}" in out.split("\n Examples")[1]
    usage = next(line for line in out.splitlines() if "Usage:" in line)
    assert not re.search(r"[{}]|\[\[", usage)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_of_a_help_are_commands(command):
    """What is typed in an example is an option of the command, and there are as many words as it takes."""
    known = typer.main.get_command(app).commands[command]
    for line in known.epilog.splitlines()[2:]:
        words = shlex.split(re.split(" {4,}", line.strip())[0])
        typed = list(itertools.takewhile(lambda word: word not in (">", "|"), words))
        assert typed[:2] == ["plausible", command]
        if "NAME" not in typed:  # whose options are those of a family
            known.make_context(command, typed[2:])


def test_help_imports_nothing_heavy():
    script = (
        "import sys\nfrom plausible.cli import app\n"
        "for args in (['--help'], ['fit', '--help'], ['compare', '--help'], ['--version']):\n"
        "    try: app(args)\n    except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'pandas', 'sklearn', 'numpy', 'scipy', 'matplotlib', 'jinja2', 'PIL'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    assert f"plausible {pl.__version__}" in done.stdout and "\x1b" not in done.stdout


def test_the_command_line_knows_no_family():
    known = {*registry.names(), *registry.class_names()}
    for path in SOURCES.glob("*.py"):
        words = set(re.findall(r"[A-Za-z_]+", path.read_text()))
        assert not known & words, f"{path.name} names {known & words}"


def test_help_of_fit_lists_the_options_of_the_family():
    _, out, _ = run("fit", "--model", TRAINED, "--help")
    for flag in flags_of(registry.get(TRAINED)):
        assert (flag.switch if flag.is_switch else flag.flag)[:18] in out
    assert "--learning-rate" in out and "--learning-rate" not in run("fit", "--help")[1]


def test_version():
    assert run("--version")[:2] == (0, f"plausible {pl.__version__}\n")


# ---------------------------------------------------------------------------------------------------------- flags


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("3", int, 3),
        ("1e-3", float, 1e-3),
        ("none", int | None, None),
        ("7", int | None, 7),
        ("256,64", tuple[int, ...], (256, 64)),
        ("(256,)", tuple[int, ...], (256,)),
        ("none", tuple[int, ...], ()),
        ("2,0.5", tuple[int, float], (2, 0.5)),
        ("true", bool | str, True),
        ("no", bool, False),
        ("a,b", tuple[str, ...], ("a", "b")),
        ("none", str, "none"),
    ],
)
def test_values_are_read_by_their_annotation(text, hint, value):
    found = parse(text, hint)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(("text", "hint"), [("a", int), ("1.5", int), ("1,b", tuple[int, ...]), ("2", bool)])
def test_what_is_no_value_is_refused(text, hint):
    with pytest.raises(ValueError, match="expected"):
        parse(text, hint)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("2m", 120), ("1h", 3600), ("1h30m", 5400)])
def test_budgets(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2x", "m", "1 2", "-3", "0", "1m30"])
def test_what_is_no_budget(text):
    with pytest.raises(ValueError):
        duration(text)


@pytest.mark.parametrize("name", registry.names())
def test_flags_of_every_family(name):
    """Defaults survive the way to text and back; no flag of a family hides one of the command's own."""
    flags = flags_of(registry.get(name))
    for flag in flags:
        if not flag.is_switch:
            assert flag.parse(flag.default_text) == flag.default
        assert flag.help
    helps = [run(command, "--help")[1].split("\n Examples")[0] for command in ("fit", "check")]
    own = {flag for text in helps for flag in re.findall(r"--[a-z-]+", text)}
    assert not own & {flag.flag for flag in flags}


def test_as_text():
    assert [as_text(v) for v in (None, True, (1, 2), 0.001, "a")] == ["none", "true", "1,2", "0.001", "a"]


def test_kinds():
    assert kinds_of(["a=real", "b=c=count"]) == {"a": "real", "b=c": "count"}
    with pytest.raises(PlausibleError, match="COLUMN=KIND"):
        kinds_of(["a"])


# ------------------------------------------------------------------------------------------------------- commands


def test_fit_passes_options_on(folder, tmp_path):
    out = tmp_path / "m.plausible"
    told = ("--epochs", 2, "--batch_size=16", "--patience", "none", "--budget", "1m", "--hidden=8,4")
    code, said, err = run("fit", folder / "rows.csv", "--model", TRAINED, *told, "--seed", 3, "-o", out)
    assert code == 0, err
    model = pl.load(out)
    assert (model.epochs, model.batch_size, model.patience, model.budget) == (2, 16, None, 60.0)
    assert model.hidden == (8, 4) and model.random_state == 3
    assert "parameters, fitted in" in said and "rows.csv: 200 rows" in err


def test_fit_is_the_fit_of_python(folder, table, tmp_path):
    code, *_ = run(
        "fit", folder / "rows.csv", "-m", TRAINED, "--epochs", 2, "--hidden", 8, "-o", tmp_path / "m.plausible"
    )
    assert code == 0
    here = registry.get(TRAINED)(epochs=2, hidden=(8,), random_state=0).fit(pd.read_csv(folder / "rows.csv"))
    there = pl.load(tmp_path / "m.plausible")
    np.testing.assert_array_equal(here.log_prob(table), there.log_prob(table))


def test_fit_streams(folder, tmp_path):
    code, _, err = run(
        "fit", folder / "rows.csv", "-m", TRAINED, "--epochs", 1, "--stream", "-o", tmp_path / "m.plausible"
    )
    assert code == 0 and "read in chunks" in err
    assert run("fit", folder / "rows.csv", "-m", TRAINED, "--stream", "--context", "kind")[0] == 2


def test_rows_with_missing_cells_can_be_left_out(folder, table, tmp_path):
    holes, out = table.copy(), tmp_path / "m.plausible"
    holes.loc[:19, "x"] = np.nan
    holes.to_csv(tmp_path / "holes.csv", index=False)
    fit = ("fit", tmp_path / "holes.csv", "-m", TRAINED, "--epochs", 1, "--hidden", 4, "-o", out)
    code, _, err = run(*fit)
    assert code == 2 and "--drop-missing" in err.splitlines()[-1]
    code, _, err = run(*fit, "--drop-missing", "--kind", "kind=categorical")
    assert code == 0 and "20 of 200 rows have missing cells" in err
    assert pl.load(out).space_.columns[2].kind == "categorical"
    assert "needs the data in memory" in run(*fit, "--drop-missing", "--stream")[2]
    assert run("fit", folder / "words.txt", "-m", registry.BASELINE, "--drop-missing")[0] == 2


def test_score_is_log_prob(folder, table, tmp_path):
    model = pl.load(folder / "rows.plausible")
    code, out, _ = run("score", folder / "rows.plausible", folder / "rows.csv")
    assert code == 0 and out == f"{pl.evaluate.likelihood(model, table)}\n"
    code, out, err = run(
        "score", folder / "rows.plausible", folder / "rows.csv", "--per-example", "-o", tmp_path / "s.csv"
    )
    values = pd.read_csv(tmp_path / "s.csv")["log_prob"]
    np.testing.assert_array_equal(values, model.log_prob(table))
    assert out == (tmp_path / "s.csv").read_text() and "nats per row" in err


def test_one_row_can_be_scored(folder, table, tmp_path):
    table.iloc[:1].to_csv(tmp_path / "one.csv", index=False)
    code, out, _ = run("score", folder / "rows.plausible", tmp_path / "one.csv")
    assert code == 0 and "1 row" in out


def test_samples_on_standard_output(folder, table):
    code, out, err = run("sample", folder / "rows.plausible", "-n", 3, "--seed", 1)
    assert code == 0 and err == ""
    assert out.splitlines()[0] == "x,y,kind" and len(out.splitlines()) == 4
    assert out == run("sample", folder / "rows.plausible", "-n", 3, "--seed", 1)[1]
    assert out != run("sample", folder / "rows.plausible", "-n", 3, "--seed", 2)[1]
    _, out, _ = run("sample", folder / "words.plausible", "-n", 5)
    assert len(out.splitlines()) == 5 and set(out) <= set("abc\n")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl"])
def test_samples_of_a_table_come_back(folder, tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    code, out, err = run("sample", folder / "rows.plausible", "-n", 30, "-o", path, "--seed", 0)
    assert code == 0 and out == "" and str(path) in err
    drawn = pl.load(folder / "rows.plausible").sample(30, random_state=0)
    pd.testing.assert_frame_equal(pl.read(path).X, drawn, check_dtype=False, rtol=1e-9)


def test_samples_of_images(folder, tmp_path):
    from PIL import Image

    model = folder / "bits.plausible"
    drawn = pl.load(model).sample(12, random_state=0)
    assert run("sample", model, "-n", 12, "--seed", 0, "-o", tmp_path / "many")[0] == 0
    np.testing.assert_array_equal(pl.read(tmp_path / "many").X, drawn)
    assert run("sample", model, "-n", 12, "--seed", 0, "-o", tmp_path / "x.npz")[0] == 0
    np.testing.assert_array_equal(pl.read(tmp_path / "x.npz").X, drawn)
    assert run("sample", model, "-n", 12, "--seed", 0, "-o", tmp_path / "grid.png")[0] == 0
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (4 * 66 + 2, 3 * 66 + 2)
    code, _, err = run("sample", model)
    assert code == 2 and "-o samples/" in err


def test_context(folder, tmp_path):
    model = tmp_path / "m.plausible"
    told = ("-m", TRAINED, "--epochs", 1, "--hidden", 4, "-o", model)
    assert run("fit", folder / "rows.csv", *told, "--context", "kind")[0] == 0
    assert pl.load(model).context_space_.names == ["kind"]
    assert run("sample", model, "--context", "kind=up")[0] == run("sample", model, "--context", "up")[0] == 0
    assert "kind=VALUE" in run("sample", model)[2]
    assert "up" in run("sample", model, "--context", "kind=sideways")[2]
    assert run("score", model, folder / "rows.csv")[0] == 0
    assert run("fit", folder / "bits.npz", *told, "--context", "label")[0] == 0
    assert run("score", model, folder / "bits.npz")[0] == 0


def test_info(folder):
    code, out, _ = run("info", folder / "rows.plausible")
    assert code == 0
    for expected in (registry.BASELINE, "table of 3 columns", "exact", "mixed", "down, up", "torch", "fingerprint"):
        assert expected in out


def test_info_of_a_model_that_was_fitted_once_more_to_all(table, tmp_path):
    """The held-out loss is that of the first fit, whose epoch it names."""
    model = registry.get(TRAINED)(epochs=60, patience=2, refit=True, random_state=0).fit(table)
    model.save(tmp_path / "m.plausible")
    watched = model.history_.dropna(subset="held_out")
    best, last = int(watched["epoch"][watched["held_out"].idxmin()]), int(watched["epoch"].iloc[-1])
    out = run("info", tmp_path / "m.plausible")[1]
    assert f"{last} epochs" in out and f"then once more to all examples in {best} epoch" in out and "nan" not in out
    assert f"at epoch {best} of {last}, then once more" in wording.fitted(model)


def test_families(folder):
    code, out, _ = run("families")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == registry.names()
    code, out, _ = run("families", TRAINED)
    for flag in flags_of(registry.get(TRAINED)):
        assert flag.flag in out and flag.help in out


def test_compare_writes_a_report(folder, tmp_path):
    page = tmp_path / "found.html"
    args = (
        "compare",
        folder / "rows.csv",
        "--models",
        registry.BASELINE,
        "-o",
        page,
        "--kind",
        "x=real",
        "--budget",
        "20s",
    )
    code, out, err = run(*args)
    assert code == 0, err
    assert registry.BASELINE in out and "nats per row" in out and str(page) in err
    found = json.loads(page.with_suffix(".json").read_text())
    assert found["command"] == "plausible " + " ".join(map(str, args))
    assert page.read_text().startswith("<!doctype html>") or "<html" in page.read_text()


def test_check_prints_the_audit(monkeypatch):
    from plausible import checks
    from plausible.checks.audit import Audit, Outcome

    def audited(model, *, on_fail, random_state):
        status = "failed" if random_state else "passed"
        return Audit(repr(model), (Outcome("mass_sums_to_one", status, "off by 2", "it sums"),))

    monkeypatch.setattr(checks, "check_model", audited)
    code, out, _ = run("check", registry.BASELINE)
    assert code == 0 and "mass_sums_to_one" in out
    code, out, err = run("check", registry.BASELINE, "--seed", 1)
    assert code == 1 and "1 of 1 promises are broken: mass_sums_to_one" in err


# --------------------------------------------------------------------------------------------------------- errors


def refused(folder: Path) -> dict[str, tuple[tuple, str]]:
    """What a user may get wrong -> (arguments, what the sentence holds)."""
    rows, model = folder / "rows.csv", folder / "rows.plausible"
    fit = ("fit", rows, "--model", TRAINED)
    return {
        "missing file": (("fit", folder / "absent.csv", "-m", TRAINED), "absent.csv"),
        "empty file": (("compare", folder / "empty.csv"), "empty"),
        "unknown model": (("fit", rows, "--model", TRAINED[:-1] + "x"), f"did you mean '{TRAINED}'"),
        "unknown model to compare": (("compare", rows, "--models", TRAINED + "z"), f"did you mean '{TRAINED}'"),
        "unknown option": ((*fit, "--epoch", 3), "did you mean --epochs"),
        "unknown command": (("fitt", rows), "Did you mean 'fit'"),
        "wrong value": ((*fit, "--epochs", "many"), "expected INT, got 'many'"),
        "value out of range": ((*fit, "--epochs", 0), "epochs must be at least 1"),
        "no such device": ((*fit, "--device", "abacus"), "got 'abacus'"),
        "absent device": ((*fit, "--device", "cuda:99"), "no such GPU"),
        "wrong budget": (("compare", rows, "--budget", "soon"), "expected a time such as"),
        "constant column": (("fit", folder / "constant.csv", "-m", TRAINED), "--drop b"),
        "truncated model": (("sample", folder / "cut.plausible"), "cut.plausible"),
        "not a model": (("info", rows), "rows.csv"),
        "missing model": (("score", folder / "absent.plausible", rows), "absent.plausible"),
        "malformed kind": ((*fit, "--kind", "x"), "COLUMN=KIND"),
        "no such kind": ((*fit, "--kind", "x=round"), "round"),
        "no such column": ((*fit, "--drop", "z"), "'z'"),
        "no such context": ((*fit, "--context", "z"), "'z'"),
        "no such folder": ((*fit, "-o", folder / "no" / "m.plausible"), "make it first"),
        "model into a folder": ((*fit, "-o", folder), "is a folder"),
        "model over the data": ((*fit, "-o", rows), "would be lost"),
        "scores over the data": (("score", model, rows, "-o", rows), "would be lost"),
        "samples over the model": (("sample", model, "-o", model), "would be lost"),
        "report into a table": (("compare", rows, "-o", folder / "report.csv"), "ends in .html"),
        "numbers over the data": (("compare", folder / "lines.json", "-o", folder / "lines.html"), "would be lost"),
        "length of a table": ((*fit, "--length", 3), "leave out --length"),
        "images that lie in no folders": (("fit", "digits", "-m", TRAINED, "--context", "folder"), "the word folder"),
        "wrong suffix": (("sample", model, "-o", "x.png"), ".parquet"),
        "missing column": (("score", model, folder / "other.csv"), "'x'"),
        "share out of range": (
            ("compare", rows, "--models", registry.BASELINE, "--test-fraction", 2),
            "between 0 and 1",
        ),
        "missing argument": (("sample",), "MODEL"),
        "data is a folder": (("sample", folder), "folder"),
    }


@pytest.mark.parametrize("mistake", refused(Path(".")))
def test_mistakes_end_in_one_sentence(folder, mistake):
    (folder / "empty.csv").write_text("")
    (folder / "constant.csv").write_text("a,b\n1.5,x\n2.5,x\n3.5,x\n")
    (folder / "other.csv").write_text("a,b\n1.5,x\n2.5,y\n")
    (folder / "cut.plausible").write_bytes((folder / "rows.plausible").read_bytes()[:1000])
    args, expected = refused(folder)[mistake]
    code, out, err = run(*args)
    assert code == 2 and out == ""
    errors = [line for line in err.splitlines() if line.startswith("plausible: error: ")]
    assert len(errors) == 1 and errors[0] == err.splitlines()[-1] and expected in errors[0]


def test_warnings_are_one_line(folder, tmp_path, monkeypatch):
    import warnings

    from plausible.errors import GuessWarning

    cls = registry.get(registry.BASELINE)
    fit = cls.fit

    def warned(self, *args, **kwargs):
        warnings.warn("the guess\nis doubtful", GuessWarning, stacklevel=1)
        warnings.warn("of no interest", FutureWarning, stacklevel=1)
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(cls, "fit", warned)
    monkeypatch.setattr(sys, "warnoptions", [])
    _, _, err = run("fit", folder / "rows.csv", "-m", registry.BASELINE, "-o", tmp_path / "m.plausible")
    assert "plausible: warning: the guess is doubtful" in err.splitlines() and "no interest" not in err


def interrupt_in_epoch(monkeypatch, which: int) -> None:
    from plausible.training import loop

    one_epoch, begun = loop._Run._one_epoch, []

    def interrupted(self):
        begun.append(1)
        if len(begun) == which:
            raise KeyboardInterrupt
        one_epoch(self)

    monkeypatch.setattr(loop._Run, "_one_epoch", interrupted)


def test_an_interrupted_fit_keeps_what_it_learned(folder, tmp_path, monkeypatch):
    interrupt_in_epoch(monkeypatch, 21)
    out = tmp_path / "m.plausible"
    code, _, err = run("fit", folder / "rows.csv", "-m", TRAINED, "--epochs", 40, "--hidden", 4, "-o", out)
    assert code == 130 and err.splitlines()[-1].startswith("plausible: error: interrupted; what had been learned")
    assert pl.load(out).stopped_ == "interrupted"


def test_an_interrupt_before_anything_was_learned(folder, tmp_path, monkeypatch):
    interrupt_in_epoch(monkeypatch, 1)
    out = tmp_path / "m.plausible"
    code, _, err = run("fit", folder / "rows.csv", "-m", TRAINED, "-o", out)
    assert code == 130 and err.splitlines()[-1] == "plausible: error: interrupted; nothing was written"
    assert not out.exists()


def test_an_interrupted_comparison_is_reported(folder, tmp_path, monkeypatch):
    interrupt_in_epoch(monkeypatch, 3)
    page = tmp_path / "found.html"
    models = f"{registry.BASELINE},{TRAINED},{TRAINED}"
    code, out, err = run("compare", folder / "rows.csv", "--models", models, "-o", page, "--samples", 50)
    assert code == 130 and page.exists() and registry.BASELINE in out
    assert "interrupted" in err.splitlines()[-1]


# ----------------------------------------------------------------------------------------------------- as a program


def test_in_a_pipe(folder, tmp_path):
    """Quiet: no progress, no escape codes; a reader that stops early is no error."""
    out = tmp_path / "m.plausible"
    python = f"{sys.executable} -m plausible"
    fit = f"{python} fit {folder / 'rows.csv'} -m {TRAINED} --epochs 2 -o {out}"
    done = subprocess.run(fit, shell=True, capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout + done.stderr and len(done.stdout.splitlines()) == 1
    head = subprocess.run(f"{python} sample {out} -n 20000 | head -1", shell=True, capture_output=True, text=True)
    assert head.stdout == "x,y,kind\n" and head.stderr == ""


def test_no_traceback():
    done = subprocess.run([sys.executable, "-m", "plausible", "sample", "absent"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "plausible: error: there is no file absent\n"


def test_images_are_told_apart_by_the_folders_they_lie_in(tmp_path):
    rng = np.random.default_rng(0)
    for name, axis in (("rows", 0), ("columns", 1)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(40):
            image = np.zeros((4, 4), np.uint8)
            image.swapaxes(0, axis)[rng.integers(4)] = 255
            Image.fromarray(image).save(tmp_path / "images" / name / f"{i}.png")
    images, model = tmp_path / "images", tmp_path / "m.plausible"
    code, _, err = run("fit", images, "-m", "made", "--epochs", 2, "-o", model)
    assert code == 0
    assert "--context folder" in err
    compared = "compare", images, "--models", registry.BASELINE, "--budget", "9s", "-o", tmp_path / "results.v2"
    assert "ends in .html" in run(*compared)[2]
    (tmp_path / "results.v2").mkdir()
    code, _, err = run(*compared)
    assert code == 0, err
    assert (tmp_path / "results.v2" / "report.html").exists()
    code, _, err = run(
        "fit", images, "-m", "made", "--epochs", 60, "--learning-rate", 0.01, "--context", "folder", "-o", model
    )
    assert code == 0, err
    assert "--context folder" not in err
    fitted = pl.load(model)
    assert fitted.context_space_.columns[0].levels == ("columns", "rows")
    both = run("score", model, images)[1]
    assert "80 images" in both
    one = tmp_path / "new"
    (one / "rows").mkdir(parents=True)
    Image.open(images / "rows" / "0.png").save(one / "rows" / "0.png")
    X = np.asarray(Image.open(one / "rows" / "0.png"))[None]
    expected = fitted.log_prob(X, context="rows")
    assert f"{expected[0]:.2f} nats" in run("score", model, one)[1]
    assert expected > fitted.log_prob(X, context="columns")


def test_scores_of_a_conditional_model_of_images_ask_for_the_context(folder):
    model = folder / "labelled.plausible"
    assert run("fit", folder / "bits.npz", "-m", "made", "--epochs", 1, "--context", "label", "-o", model)[0] == 0
    np.save(folder / "bits.npy", np.load(folder / "bits.npz")["images"])
    code, _, err = run("score", model, folder / "bits.npy")
    assert code != 0
    assert "(label)" in err
    assert "--context FILE" in err
    for wrong in ("nothing", "images"):
        code, _, err = run("score", model, folder / "bits.npy", "--context", "label", "--context", wrong)
        assert code != 0
        assert "--context FILE" in err
    with_file = run("score", model, folder / "bits.npy", "--context", folder / "bits.npz")
    assert with_file[0] == 0, with_file[2]
    assert with_file[1] == run("score", model, folder / "bits.npz")[1]

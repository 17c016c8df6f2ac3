"""The one loop: what it counts, keeps, resumes, and says when something goes wrong."""

import os
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import plausible as pl
from plausible.atomic import write_atomically
from plausible.errors import BudgetWarning, DivergedError, DivergedWarning, InterruptedWarning, ModelFileError
from plausible.neural import Watch
from plausible.nn import Dropout
from plausible.options import OptionError
from plausible.training import Events, alternate, count, em, minimise, run


class Quadratic(nn.Module):
    """loss(z) = (z - m)^2: the mean of the events is the minimum."""

    def __init__(self, start=0.0):
        super().__init__()
        self.m = nn.Parameter(torch.tensor([float(start)]))
        self.seen = 0

    def loss(self, z, c=None, *, rng=None):
        self.seen += len(z)
        return (z - self.m).square().sum(1)


def events(n=100, mean=3.0, seed=0):
    return Events(torch.randn(n, 1, generator=torch.Generator().manual_seed(seed)) + mean)


def fit(module, data=None, *, epochs=5, batch_size=10, seed=0, step=None, **settings):
    step = step or minimise(module, learning_rate=settings.pop("learning_rate", 0.1))
    rng = torch.Generator().manual_seed(seed)
    return run(step, data or events(), epochs=epochs, batch_size=batch_size, rng=rng, **settings)


def correlated(n=400, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, 1))
    return np.concatenate([x, x + 0.3 * np.random.default_rng(seed + 1).normal(size=(n, 1))], 1)


def test_every_example_is_seen_once_an_epoch_and_every_batch_is_an_update():
    module = Quadratic()
    step = minimise(module)
    fit(module, events(95), epochs=3, step=step)
    assert module.seen == 3 * 95
    assert step._steps == 3 * 10  # nine batches of ten and one of five
    assert int(step.optimiser.state[module.m]["step"]) == 30


def test_the_order_comes_from_the_generator_alone():
    orders = [torch.cat([b.z for b in events().batches(7, torch.Generator().manual_seed(s))]) for s in (0, 0, 1)]
    assert torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])
    assert torch.equal(orders[0].sort(0).values, orders[2].sort(0).values)


def test_minimise_reaches_the_minimum_and_weights_move_it():
    data = events(200)
    module = Quadratic()
    fit(module, data, epochs=100, step=minimise(module, learning_rate=0.1, schedule="cosine"))
    assert module.m.item() == pytest.approx(data.x.mean().item(), abs=0.02)
    weight = (data.x[:, 0] > 3).double()
    weighted = Quadratic()
    fit(
        weighted,
        Events(data.x, weight=weight),
        epochs=100,
        step=minimise(weighted, learning_rate=0.1, schedule="cosine"),
    )
    assert weighted.m.item() == pytest.approx(data.x[data.x > 3].mean().item(), abs=0.02)


def test_early_stopping_keeps_the_best_state():
    module = Quadratic()
    values = iter([5.0, 1.0, 2.0, 3.0, 4.0, 0.0])
    states = []

    def watch():
        states.append(module.m.item())
        return next(values)

    history = fit(module, epochs=200, batch_size=100, watch=watch, patience=3)
    assert history.stopped == "patience" and history.best == 1.0
    assert history.kept_epoch == 40  # the second look: one every 20 steps
    assert module.m.item() == states[1] != states[-1]


def test_ema_is_what_is_watched_and_kept():
    module, average = Quadratic(), []
    step = minimise(module, learning_rate=0.1, ema=0.9)
    history = fit(module, epochs=20, batch_size=100, step=step, watch=lambda: average.append(module.m.item()) or 0.0)
    expected, m = 0.0, []
    twin = Quadratic()
    twin_step = minimise(twin, learning_rate=0.1)
    rng = torch.Generator().manual_seed(0)
    for k in range(1, 21):
        twin_step(next(events().batches(100, rng)), rng)
        decay = min(0.9, (1 + k) / (10 + k))
        expected = decay * expected + (1 - decay) * twin.m.item()
        m.append(twin.m.item())
    assert history.kept_epoch == 20
    assert module.m.item() == pytest.approx(expected, abs=1e-5) == pytest.approx(average[-1], abs=1e-5)
    assert abs(module.m.item() - m[-1]) > 0.01


def test_ema_is_what_is_kept_where_nothing_is_held_out():
    module = Quadratic()
    step = minimise(module, learning_rate=0.5, ema=0.9)
    fit(module, epochs=2, step=step)
    assert module.m.item() == pytest.approx(step.average[0].item())
    plain = Quadratic()
    fit(plain, epochs=2, step=minimise(plain, learning_rate=0.5))
    assert abs(plain.m.item() - module.m.item()) > 1e-3


def test_the_forecast_of_a_resumed_fit_is_from_the_steps_it_took():
    from plausible.training.loop import _Run

    one = _Run(minimise(Quadratic()), events(), 100, 10, torch.Generator(), None, None, 0.0, 2000.0, None, None, "it")
    one.taken, one.spent_before, one.started = 10, 1000.0, time.perf_counter() - 10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one._mind_the_budget(510, 1000)  # ten steps took ten seconds, so that all 1,000 take 1,000
    assert one._forecast == pytest.approx(1000, rel=0.01)


def test_models_built_in_several_threads_are_those_built_in_one():
    X = correlated()

    def fitted(_=None):
        return pl.MADE(hidden=(200, 200), epochs=1, random_state=0).fit(X).score(X)

    before = torch.random.get_rng_state()
    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(fitted, range(8))) == {fitted()}
    assert torch.equal(torch.random.get_rng_state(), before)


def test_half_precision_is_for_levels_unless_asked_for(monkeypatch):
    monkeypatch.setattr("plausible.neural._multiplies_bfloat16", lambda device: True)
    monkeypatch.setattr("plausible.neural._multiply_adds", lambda module: 10**9)
    settings = {"hidden": (4,), "epochs": 1, "random_state": 0}
    of_reals = pl.MADE(**settings).fit(correlated(20))
    of_bits = pl.MADE(**settings).fit((correlated(20) > 0).astype(int))
    assert not of_reals._bfloat16(of_reals.module_)
    assert of_bits._bfloat16(of_bits.module_)
    assert of_reals.set_params(precision="bfloat16")._bfloat16(of_reals.module_)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"hidden": 8}, "must be a tuple such as"),
        ({"hidden": (8.5,)}, "must be a whole number"),
        ({"batch_size": 16.5}, "must be a whole number"),
        ({"orderings": 2.0}, "must be a whole number"),
        ({"epochs": "many"}, "must be a number"),
        ({"refit": "no"}, "must be True or False"),
        ({"learning_rate": None}, "must be a number"),
    ],
)
def test_settings_of_another_kind_are_refused_before_work(option, says):
    with pytest.raises(OptionError, match=says):
        pl.MADE(**option).fit(correlated())


def test_numbers_of_numpy_are_settings_too():
    settings = {"epochs": np.int64(1), "learning_rate": np.float32(0.01), "refit": np.bool_(False), "hidden": [4]}
    model = pl.MADE(**settings, random_state=0).fit(correlated(50))
    assert model.history_["epoch"].tolist() == [1]


def test_clipping_bounds_the_gradient():
    module = Quadratic(start=1000.0)
    step = minimise(module, clip_norm=0.5)
    rng = torch.Generator().manual_seed(0)
    step(next(events().batches(50, rng)), rng)
    assert module.m.grad.norm().item() == pytest.approx(0.5, rel=1e-4)


def test_the_cosine_schedule_ends_at_zero():
    step = minimise(Quadratic(), learning_rate=0.2, schedule="cosine")
    rates = []
    for share in (0.0, 0.5, 1.0):
        step.progress(share)
        rates.append(step.rate)
    assert rates == pytest.approx([0.2, 0.1, 0.0])


def test_a_budget_ends_training_and_is_forecast():
    class Slow(Quadratic):
        def loss(self, z, c=None, *, rng=None):
            end = time.perf_counter() + 0.002  # work, for a known time
            while time.perf_counter() < end:
                pass
            return super().loss(z, c, rng=rng)

    module = Slow()
    with pytest.warns(BudgetWarning, match=r"all 100000 epochs of it would take about .* after about \d+"):
        history = fit(module, epochs=100_000, budget=0.3, watch=lambda: module.m.item() ** 2, name="it")
    assert history.stopped == "budget" and history.kept_epoch is not None


def test_divergence_before_anything_was_learned_is_an_error():
    with pytest.raises(DivergedError, match=r"diverged in epoch 1.*learning_rate"):
        fit(Quadratic(start=float("nan")))


def test_divergence_later_keeps_the_last_good_state():
    module = Quadratic()
    looks = []

    def watch():
        looks.append(module.m.item())
        return 1.0 if len(looks) < 3 else float("nan")

    with pytest.warns(DivergedWarning, match="epoch 6.*state of epoch 2 was kept.*learning_rate"):
        history = fit(module, epochs=50, watch=watch)
    assert history.stopped == "diverged" and module.m.item() == looks[0]


def test_control_c_keeps_the_best_state_and_says_so():
    module = Quadratic()
    looks = []

    def watch():
        looks.append(module.m.item())
        if len(looks) == 3:
            raise KeyboardInterrupt
        return -len(looks)

    with pytest.warns(InterruptedWarning, match="state of epoch 4 was kept"):
        history = fit(module, epochs=50, watch=watch)
    assert history.stopped == "interrupted" and module.m.item() == looks[1]


def test_control_c_before_the_first_look_keeps_the_present_state():
    class Interrupting(Quadratic):
        def loss(self, z, c=None, *, rng=None):
            if self.seen >= 50 and self.training:
                raise KeyboardInterrupt
            return super().loss(z, c, rng=rng)

    module = Interrupting()
    data = events()
    with pytest.warns(InterruptedWarning):
        history = fit(module, data, watch=Watch(module, data))
    assert len(history.rows) == 1 and module.m.item() != 0.0


def test_alternate_moves_disjoint_parameters_in_turn():
    class Game(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

        def player_loss(self, z, c=None, *, rng=None):
            return ((self.a - 1) ** 2 + 0 * self.b).expand(len(z))

        def opponent_loss(self, z, c=None, *, rng=None):
            return ((self.b - 2) ** 2 + 0 * self.a).expand(len(z))

    game = Game()
    player = minimise(game, parameters=[game.a], loss="player_loss", learning_rate=0.05)
    opponent = minimise(game, parameters=[game.b], loss="opponent_loss", learning_rate=0.05)
    fit(game, epochs=20, step=alternate(player, opponent, opponent_steps=4))
    assert (player._steps, opponent._steps) == (50, 200)
    assert game.a.item() == pytest.approx(1, abs=0.1) and game.b.item() == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("way", [count, em])
def test_counting_in_two_halves_is_counting_at_once(way):
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.total = self.n = 0.0

        def summarise(self, z, weight):
            self.total, self.n = self.total + z.sum(), self.n + len(z)
            return torch.zeros(())

        def update(self):
            self.mean, self.total, self.n = self.total / self.n, 0.0, 0.0

    data, means = events(100), []
    for size in (None, 50):
        module = Mean()
        fit(module, data, epochs=1, batch_size=size, step=way(module))
        means.append(float(module.mean))
    assert means[0] == pytest.approx(means[1], abs=1e-6) == pytest.approx(data.x.mean().item(), abs=1e-6)


@pytest.mark.parametrize("settings", [{}, {"ema": 0.9, "schedule": "cosine"}, {"weight_decay": 0.1}])
def test_a_resumed_fit_equals_an_uninterrupted_one(tmp_path, settings):
    X, path = correlated(), tmp_path / "fit.ckpt"
    settings = {"hidden": (8,), "epochs": 12, "random_state": 0, "batch_size": 16, "dropout": 0.2, **settings}
    whole = pl.MADE(**settings).fit(X)
    interrupted = pl.MADE(**settings, checkpoint=str(path), checkpoint_every=0.0)

    class Killed(BaseException):
        pass

    from plausible.training.loop import _Run

    original = _Run._look

    def die(self):
        result = original(self)
        if self.epoch == 6:  # after the checkpoint of epoch 4
            raise Killed
        return result

    _Run._look = die
    try:
        with pytest.raises(Killed):
            interrupted.fit(X)
    finally:
        _Run._look = original
    assert path.exists()
    resumed = pl.MADE(**settings, checkpoint=str(path), resume=True).fit(X)
    assert np.array_equal(resumed.log_prob(X), whole.log_prob(X))
    assert resumed.history_["epoch"].tolist() == whole.history_["epoch"].tolist()
    assert not path.exists()  # nothing is left to resume


def test_resume_after_kill_9(tmp_path):
    """The real thing: a process killed without warning, and another that goes on."""
    path, done = tmp_path / "fit.ckpt", tmp_path / "model.plausible"
    script = f"""
import numpy as np, plausible as pl, sys, torch
torch.set_num_threads(1)
x = np.random.default_rng(0).normal(size=(2000, 1))
X = np.concatenate([x, x + 0.3], 1) + 0.1 * np.random.default_rng(1).normal(size=(2000, 2))
settings = dict(hidden=(8,), epochs=30, batch_size=8, random_state=0, patience=None)
if sys.argv[1] == "whole":
    model = pl.MADE(**settings).fit(X)
else:
    model = pl.MADE(**settings, checkpoint={str(path)!r}, checkpoint_every=0.0, resume=True).fit(X)
model.save({str(done)!r})
print(model.log_prob(X).sum().hex(), len(model.history_))
"""
    first = subprocess.Popen([sys.executable, "-c", script, "part"])
    deadline = time.monotonic() + 120
    while not path.exists() and first.poll() is None and time.monotonic() < deadline:
        os.sched_yield()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert path.exists() and not done.exists(), "the fit ended before it could be killed"
    second, whole = (
        subprocess.run([sys.executable, "-c", script, how], capture_output=True, text=True, check=True).stdout
        for how in ("part", "whole")
    )
    assert second == whole


def test_a_checkpoint_of_another_fit_is_refused(tmp_path):
    X, path = correlated(), tmp_path / "fit.ckpt"
    from plausible.training.checkpoint import Checkpoint

    Checkpoint(path, "other", resume=False, every=0.0).save_if_due(lambda: ({"a": torch.zeros(1)}, {}))
    with pytest.raises(ModelFileError, match="another fit.*remove it"):
        pl.MADE(hidden=(4,), epochs=2, checkpoint=str(path), resume=True, random_state=0).fit(X)
    path.write_bytes(b"nonsense")
    with pytest.raises(ModelFileError, match="cannot be read as a checkpoint"):
        pl.MADE(hidden=(4,), epochs=2, checkpoint=str(path), resume=True, random_state=0).fit(X)
    assert path.read_bytes() == b"nonsense"


def test_a_file_that_is_no_checkpoint_is_left_alone(tmp_path):
    X, path = correlated(), tmp_path / "weights.safetensors"
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ModelFileError, match="is no checkpoint"):
        pl.MADE(hidden=(4,), epochs=2, checkpoint=str(path), random_state=0).fit(X)
    assert path.exists()
    with pytest.raises(ModelFileError, match="no such folder"):
        pl.MADE(hidden=(4,), epochs=2, checkpoint=str(tmp_path / "no" / "fit.ckpt"), random_state=0).fit(X)


def test_what_could_never_be_resumed_is_refused(tmp_path):
    X = correlated()
    with pytest.raises(OptionError, match="without a random_state"):
        pl.MADE(hidden=(4,), epochs=2, checkpoint=str(tmp_path / "fit.ckpt")).fit(X)
    with pytest.raises(OptionError, match="needs the path of a checkpoint"):
        pl.MADE(hidden=(4,), epochs=2, resume=True).fit(X)


def test_a_checkpoint_knows_the_weights_of_the_examples():
    model = pl.MADE(checkpoint="fit.ckpt", random_state=0)
    x = torch.zeros(3, 1)
    prints = {model._checkpoint(Events(x, weight=w)).fingerprint for w in (None, torch.ones(3), torch.arange(3.0))}
    assert len(prints) == 3


def test_writing_atomically_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_of_units_that_know_nothing_of_each_other(p, dtype):
    dropout = Dropout(p)
    dropout.rng = torch.Generator().manual_seed(0)
    rows, columns = 20_000, 7  # an odd number: masks made four at a time do not line up with it
    kept = dropout(torch.ones(rows, columns, dtype=dtype)).double()
    assert set(kept.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p), dtype=dtype).item()}
    kept = (kept > 0).double()
    assert (kept.mean(0) - (1 - p)).abs().max() < 4.5 * (p * (1 - p) / rows) ** 0.5
    correlation = torch.corrcoef(torch.cat([kept[:-1], kept[1:]], 1).T) - torch.eye(2 * columns, dtype=torch.float64)
    assert correlation.abs().max() < 4.5 / rows**0.5


def test_dropout_is_the_same_of_the_same_generator_and_absent_without_one():
    dropout, x = Dropout(0.3), torch.randn(5, 3)
    assert torch.equal(dropout(x), x)
    dropout.rng = torch.Generator().manual_seed(1)
    once, other = dropout(x), dropout(x)
    dropout.rng = torch.Generator().manual_seed(1)
    assert torch.equal(dropout(x), once)
    assert not torch.equal(other, once)
    assert torch.equal(dropout.eval()(x), x)


@pytest.mark.parametrize("name", ["dropout", "ema", "validation_fraction"])
@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5])
def test_shares_that_are_none_are_refused(name, share):
    expected = "must be at least 0" if share < 0 else "must be below 1"
    with pytest.raises(OptionError, match=f"{name} {expected}"):
        pl.MADE(**{name: share}).fit(correlated())


def test_bfloat16_trains_to_the_same_quality():
    X = correlated(1000)
    scores = [
        pl.MADE(hidden=(64,), epochs=20, random_state=0, precision=p).fit(X).score(X) for p in ("float32", "bfloat16")
    ]
    assert scores[1] == pytest.approx(scores[0], abs=0.1)


def test_tensorboard_is_written_when_asked_for(tmp_path):
    pytest.importorskip("tensorboard")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pl.MADE(hidden=(4,), epochs=2, tensorboard=str(tmp_path), random_state=0).fit(correlated(100))
    assert any("tfevents" in p.name for p in tmp_path.iterdir())


def test_history_is_a_table_with_the_kept_epoch():
    model = pl.MADE(hidden=(8,), epochs=40, random_state=0).fit(correlated())
    history = model.history_
    assert list(history.columns) == ["epoch", "loss", "held_out", "seconds", "learning_rate"]
    best = history.loc[history["held_out"].idxmin()]
    assert best["epoch"] == model.kept_epoch_


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_fits_and_scores_like_the_cpu():
    X = correlated(2000)
    on_gpu = pl.MADE(hidden=(32,), epochs=30, random_state=0, device="cuda").fit(X)
    on_cpu = pl.MADE(hidden=(32,), epochs=30, random_state=0, device="cpu").fit(X)
    assert on_gpu.score(X) == pytest.approx(on_cpu.score(X), abs=0.05)
    assert on_gpu.sample(10, random_state=0).shape == (10, 2)


def test_refit_learns_from_all_examples_for_as_many_epochs_as_were_best(monkeypatch):
    runs = []

    def spied(step, events, **settings):
        start = {k: v.clone() for k, v in step.module.state_dict().items()}
        history = run(step, events, **settings)
        runs.append((len(events), settings["epochs"], settings["watch"], start, history.kept_epoch))
        return history

    monkeypatch.setattr("plausible.neural.run", spied)
    X = correlated(200)
    model = pl.MADE(hidden=(64,), epochs=40, learning_rate=0.05, patience=4, refit=True, random_state=0).fit(X)
    (first, second) = runs
    assert first[:2] == (180, 40) and first[2] is not None
    assert second[:3] == (200, first[4], None) and second[4] == first[4] < 40
    assert model.history_.learning_rate.iloc[-1] < 0.001  # its schedule ends there too
    assert all(torch.equal(v, first[3][k]) for k, v in second[3].items())  # it starts where the first did
    rows = model.history_
    assert rows.epoch.is_monotonic_increasing and rows.seconds.is_monotonic_increasing
    assert rows.epoch.iloc[-1] == model.kept_epoch_
    assert rows.held_out.isna().iloc[-1] and rows.held_out.notna().iloc[0]


def test_an_interrupted_refit_leaves_the_first_fit(monkeypatch):
    states = []

    def breaks_off(step, events, **settings):
        history = run(step, events, **settings)
        if settings["watch"] is not None:
            states.append({k: v.clone() for k, v in step.module.state_dict().items()})
        else:
            history.stopped = "interrupted"
        return history

    monkeypatch.setattr("plausible.neural.run", breaks_off)
    model = pl.MADE(hidden=(8,), epochs=5, refit=True, random_state=0).fit(correlated(100))
    assert model.stopped_ == "interrupted"
    assert all(torch.equal(v, states[0][k]) for k, v in model.module_.state_dict().items())


def test_a_checkpoint_holds_no_refit(tmp_path):
    with pytest.raises(OptionError, match="refit=False"):
        pl.MADE(hidden=(4,), refit=True, checkpoint=str(tmp_path / "c")).fit(correlated(100))

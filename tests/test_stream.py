"""Drawing without end: against enumeration, over the edges of windows, into files; and all dimensions at once."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import soundfile
import torch
from scipy import stats

import plausible as pl
from plausible.data.growing import check_growing, write_growing
from plausible.errors import CapabilityError, DataError, SpaceError
from plausible.heads import Heads
from plausible.space import Audio, Clips, Column, Space, Text
from plausible.uses.complete import stream as text_stream
from plausible.uses.stream import stream

BEAT = np.array([0, 0, 1] * 40)  # of three steps, which windows of eight cut at every place
SETTINGS = {"epochs": 60, "batch_size": 8, "random_state": 0, "space": "series"}
SMALL = {
    "rnn": pl.RNN(hidden=12, learning_rate=0.03, **SETTINGS),
    "transformer": pl.Transformer(layers=1, hidden=16, learning_rate=0.02, **SETTINGS),
}


def beats() -> list[np.ndarray]:
    return [BEAT[i : i + 8, None] for i in range(60)]


def tones(rate: int = 8000) -> Clips:
    rng = np.random.default_rng(0)
    wave = 3000 * np.sin(np.arange(2000) / 5) + rng.normal(0, 30, 2000)
    return Clips(np.split(wave.astype(np.int16), 10), rate)


@pytest.fixture(scope="module", params=["rnn", "transformer"])
def beating(request):
    return SMALL[request.param].fit(beats())


@pytest.fixture(scope="module")
def sounding():
    return pl.WaveNet(channels=4, skips=4, layers=2, stacks=1, epochs=1, space=Audio.of(16, 8000)).fit(tones())


# ----------------------------------------------------------------------------------------------------- what is drawn


def test_it_goes_on_over_the_edges_of_windows(beating):
    """Whatever the place in a window, the next step follows from those before."""
    drawn = np.concatenate(list(itertools.islice(stream(beating, block=5, random_state=0), 12)))
    assert drawn.shape[1] == 1 and drawn.dtype == BEAT.dtype and len(drawn) >= 40
    first = next(s for s in range(3) if (drawn[:8, 0] == BEAT[s : s + 8]).all())
    assert (drawn[:, 0] == BEAT[first : first + len(drawn)]).mean() > 0.9


@pytest.mark.parametrize("known", [1, 7, 8, 11, 29])
def test_it_goes_on_from_a_prompt(beating, known):
    prompt = BEAT[2 : 2 + known, None]
    drawn = np.concatenate(list(stream(beating, prompt, length=9, random_state=0)))
    assert (drawn[:, 0] == BEAT[2 + known : 11 + known]).mean() > 0.8


def test_draws_follow_the_model():
    """All sequences of three bits, each as often as log_prob says; and given the first two."""
    rng = np.random.default_rng(1)
    X = [rng.integers(0, 2, (3, 1)) for _ in range(60)]
    model = pl.RNN(hidden=4, epochs=3, random_state=0, space="series").fit(X)
    cells = [np.array(bits)[:, None] for bits in itertools.product((0, 1), repeat=3)]
    p = np.exp(model.log_prob(cells))
    draws = [np.concatenate(list(stream(model, length=3, random_state=s)))[:, 0] for s in range(400)]
    counts = np.bincount([4 * a + 2 * b + c for a, b, c in draws], minlength=8)
    assert stats.chisquare(counts, 400 * p).pvalue > 1e-3
    after = [int(next(stream(model, cells[5][:2], length=1, random_state=s))[0, 0]) for s in range(300)]
    assert stats.binomtest(sum(after), 300, p[5] / (p[4] + p[5])).pvalue > 1e-3


def test_steps_that_are_standardised_apart_keep_their_units():
    """Windows whose steps differ in level: what a step is depends on where in a window it stands."""
    rng = np.random.default_rng(0)
    X = 1000.0 * np.arange(4)[None, :, None] * [1, -1] + rng.normal(size=(200, 4, 2))
    model = pl.MADE(hidden=(8,), epochs=5, random_state=0, space="series").fit(X)
    drawn = np.concatenate(list(stream(model, length=4, block=3, random_state=0)))
    assert drawn.shape == (4, 2) and np.abs(drawn - X.mean(0)).max() < 10


def test_sound_comes_in_blocks_of_whole_samples(sounding):
    blocks = list(itertools.islice(stream(sounding, block=10, random_state=0), 5))
    assert [len(b) for b in blocks] == [10] * 5 and all(b.dtype == np.int16 for b in blocks)
    again = np.concatenate(list(stream(sounding, block=10, length=50, random_state=0)))
    assert np.array_equal(np.concatenate(blocks), again)
    assert len(np.concatenate(list(stream(sounding, tones()[0], length=3)))) == 3
    assert len(np.concatenate(list(stream(sounding, tones()[:1], length=3)))) == 3


def test_text_is_that_of_complete():
    model = pl.ContextTable(order=3, space=Text.bytes(8)).fit("the cat sat on the mat. " * 20)
    assert "".join(stream(model, "the", length=30, random_state=1)) == "".join(
        text_stream(model, "the", length=30, random_state=1)
    )


def test_what_cannot_go_on_is_refused_at_once(sounding, beating):
    with pytest.raises(SpaceError, match="8000 samples a second, this has 16000; resample it to 8000"):
        stream(sounding, tones(16000)[:1])
    with pytest.raises(DataError, match=r"prompt of shape \(steps, 1\)"):
        stream(beating, np.zeros((3, 2)))
    with pytest.raises(DataError, match="length must be a whole number of at least 1, got 0"):
        stream(beating, length=0)
    with pytest.raises(DataError, match="block must be a whole number of at least 1, got 0"):
        stream(beating, block=0)
    with pytest.raises(CapabilityError, match="draws no step after the other; fit one of .*rnn"):
        stream(pl.Gaussian().fit(np.random.default_rng(0).normal(size=(9, 2))))
    turned = pl.Transformer(layers=1, hidden=8, epochs=1, order=tuple(range(8))[::-1], space="series").fit(
        np.stack(beats())
    )
    with pytest.raises(CapabilityError, match="another order than that of time"):
        stream(turned)


# -------------------------------------------------------------------------------------------------------------- files


def test_a_sound_file_grows_and_is_whole_after_an_interrupt(tmp_path):
    space, blocks = Audio.of(16, 8000), [np.arange(k, k + 5, dtype=np.int16) for k in range(3)]

    def interrupted():
        yield from blocks
        raise KeyboardInterrupt

    assert write_growing(iter(blocks), tmp_path / "a.wav", space) == 15
    with pytest.raises(KeyboardInterrupt):
        write_growing(interrupted(), tmp_path / "b.flac", space)
    for name in ("a.wav", "b.flac"):
        written, rate = soundfile.read(tmp_path / name, dtype="int16")
        assert rate == 8000 and np.array_equal(written, np.concatenate(blocks))


def test_series_and_text_grow_too(tmp_path, beating):
    out = io.StringIO()
    assert write_growing(iter([np.array([[0], [1]]), np.array([[1]])]), out, beating.space_) == 3
    assert out.getvalue() == "c0\n0\n1\n1\n"
    space = Text.of("ab", 4, end=False)
    assert write_growing(iter(["ab", "b"]), tmp_path / "x.txt", space) == 3
    assert (tmp_path / "x.txt").read_text() == "abb"
    with pytest.raises(DataError, match=r"\.wav, \.flac; got 'x.csv'"):
        check_growing(tmp_path / "x.csv", Audio.of(4, 8000))
    with pytest.raises(DataError, match="cannot be printed; write them to a file: -o sample.wav"):
        check_growing(None, Audio.of(4, 8000))
    with pytest.raises(DataError, match="table samples are drawn whole"):
        check_growing(None, pl.space.infer(np.eye(3) * 1.5))


# ------------------------------------------------------------------------------------------------ jacobi, sound, heads


@pytest.mark.parametrize("name", ["MADE", "PixelCNN", "Transformer"])
def test_jacobi_draws_the_same(name):
    rng = np.random.default_rng(0)
    X = (rng.random((60, 3, 4)) < 0.4).astype(np.uint8)
    X[:, 1:] |= X[:, :-1]
    model = getattr(pl, name)(epochs=2, random_state=0).fit(X)
    assert np.array_equal(model.sample(50, random_state=1), model.sample(50, random_state=1, sampler="jacobi"))


def test_jacobi_draws_the_same_reals_and_strings():
    rng = np.random.default_rng(0)
    reals = pl.MADE(hidden=(20,), epochs=2, random_state=0).fit(rng.normal(size=(100, 3)) @ rng.normal(size=(3, 3)))
    one, other = (reals.sample(40, random_state=1, sampler=s) for s in ("steps", "jacobi"))
    assert np.allclose(one, other, atol=1e-4)
    names = pl.MADE(hidden=(20,), epochs=2, random_state=0).fit(["anna", "otto", "bob"] * 20)
    assert names.sample(30, random_state=1) == names.sample(30, random_state=1, sampler="jacobi")
    with pytest.raises(CapabilityError, match="no sampler 'jacobi'; leave it at 'steps'"):
        pl.Gaussian().fit(rng.normal(size=(9, 2))).sample(sampler="jacobi")
    with pytest.raises(CapabilityError, match="mixture of orderings is drawn in steps only"):
        pl.MADE(hidden=(8,), orderings=2, epochs=1).fit(rng.normal(size=(20, 2))).sample(sampler="jacobi")


def test_a_transformer_models_all_integers_of_sound(tmp_path):
    model = pl.Transformer(layers=1, hidden=8, epochs=2, random_state=0, space=Audio.of(2, 8000)).fit(tones())
    log_p = model.log_prob([[k] for k in range(-32768, 32768)])  # windows that end after one sample
    assert np.logaddexp.reduce(log_p) == pytest.approx(0, abs=1e-6)
    model.save(tmp_path / "m.plausible")
    again = pl.load(tmp_path / "m.plausible")
    assert np.array_equal(again.log_prob(tones()), model.log_prob(tones()))
    assert again.sample(2, random_state=0).rate == 8000


def student(seed: int = 0) -> tuple[Heads, torch.Tensor, list]:
    """A head of two components, its parameters, and the components by scipy with their weights."""
    heads = Heads(Space((Column("x", "real"),), (1,)), 2, "student_t").double()
    params = torch.randn(1, heads.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    logit, mean, log_scale, raw = params[0].reshape(4, 2).numpy()
    weight = np.exp(logit) / np.exp(logit).sum()
    return (
        heads,
        params,
        [(w, stats.t(1 + np.exp(r), m, np.exp(s))) for w, m, s, r in zip(weight, mean, log_scale, raw, strict=True)],
    )


@pytest.mark.parametrize("seed", range(3))
def test_students_are_those_of_scipy(seed):
    heads, params, parts = student(seed)
    x = torch.linspace(-30, 30, 41, dtype=torch.float64)[:, None]
    expected = np.log(sum(w * law.pdf(x[:, 0].numpy()) for w, law in parts))
    assert np.allclose(heads.log_prob(params.expand(41, -1), x)[:, 0], expected, atol=1e-12)
    below = heads.heads[0].cdf(params.unflatten(1, (1, -1)), x)[:, 0]
    assert np.allclose(below, sum(w * law.cdf(x[:, 0].numpy()) for w, law in parts), atol=1e-12)
    u = torch.rand(3000, 1, 2, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    drawn = heads.sample(params.expand(3000, -1), u)[:, 0].numpy()
    assert stats.kstest(drawn, lambda v: sum(w * law.cdf(v) for w, law in parts)).pvalue > 1e-3


@pytest.mark.parametrize("size", [30.0, 1e4])
def test_students_stay_finite_at_extreme_parameters(size):
    heads = Heads(Space((Column("x", "real"),), (1,)), 3, "student_t")
    params = size * torch.randn(50, heads.size, generator=torch.Generator().manual_seed(0))
    params.requires_grad_()
    log_p = heads.log_prob(params, torch.linspace(-9, 9, 50)[:, None])
    log_p.clamp_min(-1e30).sum().backward()
    assert params.grad.isfinite().all() and not log_p.isnan().any()
    ends = torch.tensor([0.0, 1.0])[:, None, None].expand(2, 1, 2)
    assert heads.sample(heads.initial().expand(2, -1), ends).isfinite().all()


def test_a_recurrent_net_with_heavy_tails_knows_them():
    rng = np.random.default_rng(0)
    X = 0.1 * np.cumsum(rng.standard_t(1.5, size=(150, 8, 1)), 1)
    settings = {"hidden": 8, "components": 1, "epochs": 15, "learning_rate": 0.01, "space": "series", "random_state": 0}
    scores = {reals: pl.RNN(reals=reals, **settings).fit(X[:100]).score(X[100:]) for reals in ("normal", "student_t")}
    assert scores["student_t"] > scores["normal"] + 1


def test_windows_of_one_step_go_on():
    x = np.random.default_rng(0).normal(size=(60, 1, 2))
    model = pl.Transformer(layers=1, hidden=8, epochs=1, random_state=0, space="series").fit(x)
    assert [len(b) for b in stream(model, length=5, random_state=0)] == [1] * 5


def test_prompts_of_another_kind_are_refused(beating, sounding):
    for prompt in ("abc", 3, np.zeros((2, 3)), np.zeros(4)):
        with pytest.raises(SpaceError, match="prompt"):
            stream(beating, prompt, length=1)
    with pytest.raises(SpaceError, match="one recording"):
        stream(sounding, Clips([np.zeros(3, np.int16)] * 2, 8000), length=1)

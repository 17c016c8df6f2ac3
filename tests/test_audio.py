"""Sound: a space of 16-bit samples, mu-law cells that lose nothing, files in and out, models of it."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import soundfile
import torch
from scipy import stats
from typer.testing import CliRunner

import plausible as pl
from plausible.cli import app
from plausible.data import read, split, take
from plausible.data.like import read_like
from plausible.data.write import write
from plausible.errors import DataError, ReadError, SpaceError
from plausible.families.autoregressive.wavenet import WaveNet
from plausible.space import Audio, Clips, infer
from plausible.space.spaces import from_json
from plausible.transforms import MuLaw
from plausible.uses.compress.beside import flac

SMALL = {"channels": 8, "skips": 8, "layers": 3, "stacks": 1, "epochs": 3, "learning_rate": 1e-2, "random_state": 0}
EVERY = torch.arange(-32768, 32768, dtype=torch.float64)[:, None]


def tones(rng, n=12, rate=8000) -> Clips:
    """Clips of 40 to 90 samples."""
    lengths = rng.integers(40, 91, n)
    waves = [2000 * np.sin(np.arange(k) / 3 + rng.uniform(0, 6)) + rng.normal(0, 20, k) for k in lengths]
    return Clips([w.round().astype(np.int16) for w in waves], rate)


def mu_law() -> MuLaw:
    transform = MuLaw()
    transform.prepare(Audio.of(1, 8000))
    return transform


# ---------------------------------------------------------------------------------------------------------- mu-law


def test_any_law_of_the_cells_is_one_of_all_integers(rng):
    z, log_c = mu_law()(EVERY)
    p = torch.from_numpy(rng.dirichlet(np.ones(256)))
    assert (p[z[:, 0].long()] * log_c.exp()).sum().item() == pytest.approx(1, abs=1e-12)
    assert sorted(set(z[:, 0].tolist())) == list(range(256))


def test_cells_are_those_of_the_formula_and_grow_with_loudness():
    z = mu_law()(EVERY)[0][:, 0]
    assert (z.diff() >= 0).all()
    s = (EVERY[:, 0] + 0.5) / 32768
    y = s.sign() * torch.log1p(255 * s.abs()) / math.log(256)
    assert torch.equal(z, ((y + 1) * 128).floor())
    sizes = torch.bincount(z.long())
    assert torch.equal(sizes, sizes.flip(0)) and (sizes[128:].diff() >= -1).all() and sizes[255] > 100 * sizes[128]


def test_the_way_back_ends_in_the_same_cell_evenly(draws):
    transform = mu_law()
    z, _ = transform(EVERY)
    assert torch.equal(transform(transform.inverse(z, draws))[0], z)
    cell = torch.full((20_000, 1), 150.0, dtype=torch.float64)
    back = transform.inverse(cell, draws)[:, 0].long()
    inside = EVERY[:, 0][z[:, 0] == 150].long()
    assert stats.chisquare(torch.bincount(back - inside[0], minlength=len(inside)).numpy()).pvalue > 1e-3
    hole = torch.tensor([[torch.nan]], dtype=torch.float64)
    assert transform.inverse(hole, draws).isnan().all() and transform(hole)[0].isnan().all()
    assert transform(hole)[1].item() == 0


# ----------------------------------------------------------------------------------------------------------- space


def test_clips_are_cut_into_windows_and_nothing_is_lost(rng):
    clips = tones(rng)
    space = Audio.of(32, 8000)
    codes = space.encode(clips)
    assert codes.shape == (sum(-(-len(c) // 32) for c in clips), 32)
    back = space.decode(codes)
    assert back.rate == 8000 and np.array_equal(np.concatenate(back), np.concatenate(clips))
    assert space.observed(codes).sum() == sum(map(len, clips))
    assert from_json(space.to_json()) == space
    assert infer(clips) == Audio.of(max(map(len, clips)), 8000)
    assert clips[:2].rate == 8000 and space.measure == "counting"


def test_what_is_no_sound_of_this_kind_is_refused(rng):
    space = Audio.of(32, 8000)
    with pytest.raises(SpaceError, match="8000 samples a second, this has 16000; resample"):
        space.encode(tones(rng, rate=16000))
    with pytest.raises(DataError, match="dtype float64; expected at least one sample, as 16-bit integers"):
        space.encode([np.zeros(3)])
    with pytest.raises(DataError, match="between -32768 and 32767"):
        space.encode([np.array([40000])])
    with pytest.raises(DataError, match="nothing to learn"):
        infer(Clips([np.zeros(5, int)] * 2, 8000))
    with pytest.raises(DataError, match="Clips"):
        infer(np.zeros((3, 4), np.int16), "audio")
    with pytest.raises(DataError, match="MADE cannot model audios; these can: .*wavenet"):
        pl.MADE().fit(tones(rng))


# ----------------------------------------------------------------------------------------------------------- files


def save(folder, clips, suffix=".wav", **how):
    folder.mkdir(exist_ok=True)
    for i, clip in enumerate(clips):
        soundfile.write(folder / f"{i:02}{suffix}", clip, how.get("rate", clips.rate), subtype=how.get("subtype"))
    return folder


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_a_folder_of_sounds_comes_back(tmp_path, rng, suffix):
    clips = tones(rng)
    data = read(save(tmp_path / "a", clips, suffix), length=50)
    assert data.space == Audio.of(50, 8000) and data.X.rate == 8000 and data.order is None
    assert all(np.array_equal(a, b) for a, b in zip(data.X, clips, strict=True))
    assert data.describe() == f"a: {len(data)} windows; audio, windows of 50 samples, 8,000 a second"
    train, test = split(data)  # whole clips on either side
    assert len(train) + len(test) == len(clips) and len(take(data.X, test)) == len(test)


def test_one_recording_is_cut_and_its_end_held_out(tmp_path, rng):
    (clip,) = tones(rng, 1)
    data = read(save(tmp_path / "a", Clips([clip], 8000)) / "00.wav", length=10)
    assert data.order == "time" and len(data.X) == -(-len(clip) // 10)
    train, test = split(data)
    assert max(train) < min(test)


def test_sounds_that_cannot_be_read_are_named(tmp_path, rng):
    clips = tones(rng, 2)
    folder = save(tmp_path / "a", clips)
    soundfile.write(folder / "02.wav", clips[0], 16000)
    with pytest.raises(ReadError, match="00.wav has 8000 samples a second, 02.wav has 16000"):
        read(folder)
    soundfile.write(folder / "02.wav", np.stack([clips[0]] * 2, 1), 8000)
    with pytest.raises(ReadError, match="02.wav has 2 channels; mix it down"):
        read(folder)
    soundfile.write(folder / "02.wav", clips[0] / 32768, 8000, subtype="FLOAT")
    with pytest.raises(ReadError, match="02.wav is stored as FLOAT; save it with 16 bits"):
        read(folder)
    (folder / "02.wav").write_bytes(b"hello")
    with pytest.raises(ReadError, match="02.wav cannot be read"):
        read(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReadError, match="holds no sounds"):
        read(tmp_path / "empty", how="audio")
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(DataError, match="this is no sound"):
        read(tmp_path / "x.txt", how="audio")


def test_a_fitted_model_refuses_another_rate(tmp_path, rng):
    space = Audio.of(32, 8000)
    assert len(read_like(save(tmp_path / "a", tones(rng)), space)) > 12
    with pytest.raises(SpaceError, match="this has 16000"):
        read_like(save(tmp_path / "b", tones(rng, rate=16000)), space)


def test_samples_are_written_as_sounds(tmp_path, rng):
    clips, space = tones(rng), Audio.of(90, 8000)
    back = read(write(clips, tmp_path / "out", space)).X
    assert all(np.array_equal(a, b) for a, b in zip(back, clips, strict=True)) and back.rate == 8000
    whole, rate = soundfile.read(write(clips, tmp_path / "all.wav", space), dtype="int16")
    assert rate == 8000 and np.array_equal(whole, np.concatenate(clips))
    with pytest.raises(DataError, match=".wav, .flac or a folder"):
        write(clips, tmp_path / "x.csv", space)


# ---------------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize("head", ["mu_law", "logistic"])
def test_the_first_sample_has_mass_one_over_all_integers(rng, head):
    model = WaveNet(head=head, **SMALL).fit(tones(rng))
    log_p = model.log_prob([[int(k)] for k in EVERY[:, 0]])  # windows that end after one sample
    assert np.logaddexp.reduce(log_p) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("head", ["mu_law", "logistic"])
def test_windows_add_up_files_round_trip_and_draws_are_sounds(rng, tmp_path, head):
    clips = tones(rng)
    model = WaveNet(head=head, space=Audio.of(32, 8000), **SMALL).fit(clips)
    each = model.log_prob(clips, reduce=None)
    assert each.shape == (len(model.space_.windows(clips)), 32) and (~np.isnan(each)).sum() == sum(map(len, clips))
    assert np.allclose(np.nansum(each, 1), model.log_prob(clips))
    assert model.likelihood_kind_ == "exact"
    model.save(tmp_path / "m.plausible")
    again = pl.load(tmp_path / "m.plausible")
    assert np.array_equal(again.log_prob(clips), model.log_prob(clips))
    drawn = again.sample(3, random_state=0)
    assert isinstance(drawn, Clips) and drawn.rate == 8000 and all(len(d) == 32 and d.dtype == np.int16 for d in drawn)
    bits = pl.evaluate.likelihood(model, clips).bits_per_dim
    assert bits == pytest.approx(-model.log_prob(clips).sum() / math.log(2) / sum(map(len, clips)))


def test_score_and_compress_put_flac_beside_it(rng, tmp_path):
    clips = tones(rng, 30)
    packed = flac(clips, 8000)
    back, rate = soundfile.read(io.BytesIO(packed), dtype="int16")
    assert rate == 8000 and np.array_equal(back, np.concatenate(clips))
    WaveNet(**SMALL).fit(clips).save(tmp_path / "m.plausible")
    folder = save(tmp_path / "clips", clips)
    out = CliRunner().invoke(app, ["score", str(tmp_path / "m.plausible"), str(folder)]).stdout
    assert f"FLAC at its highest setting {8 * len(packed) / len(back):.3f} bits per sample" in out
    table = CliRunner().invoke(app, ["compress", str(tmp_path / "m.plausible"), str(folder), "--benchmark"]).stdout
    assert any(line.split()[:2] == ["FLAC", f"{len(packed):,}"] for line in table.splitlines())


def test_it_learns_a_tone_better_than_its_histogram(rng):
    clips = tones(rng, 40)
    model = WaveNet(head="logistic", **SMALL | {"epochs": 40}).fit(clips)
    values = np.concatenate(clips).astype(float)
    alone = -stats.norm.logpdf(values, values.mean(), values.std()).mean() / math.log(2)
    assert -model.log_prob(clips).sum() / math.log(2) / len(values) < alone - 1.5


def test_a_recurrent_net_models_sound_too(rng):
    clips = tones(rng)
    model = pl.RNN(hidden=8, epochs=2, random_state=0).fit(clips)
    log_p = model.log_prob([[int(k)] for k in EVERY[:, 0]])
    assert np.logaddexp.reduce(log_p) == pytest.approx(0, abs=1e-6)
    assert model.sample(2, random_state=0).rate == 8000

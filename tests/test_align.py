"""utils/inversion/align.py: clips moved and moved back, and found again where they were moved to."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.networks import Networks
from models.recovery import make_aligner
from utils.audio.files import load_clip
from utils.inversion.align import align, move_back, place
from utils.metrics import stft_distance

LENGTH, RATE = 1024, 8000


def chirps(n: int, seed: int = 0) -> np.ndarray:
    """Falling tones of the middle half of a clip, each of its own pitch and loudness, `[n, 1024, 1]`."""
    rng = np.random.default_rng(seed)
    time = np.arange(LENGTH // 2) / RATE
    pitch, loud = rng.uniform(800, 2000, (n, 1)), rng.uniform(0.15, 0.3, (n, 1))
    tones = loud * np.hanning(LENGTH // 2) * np.sin(2 * np.pi * pitch * (time - 4 * time**2))
    return np.pad(tones, [(0, 0), (LENGTH // 4, LENGTH // 4)]).astype(np.float32)[..., None]


@given(st.integers(-LENGTH, LENGTH), st.floats(-20, 20))
def test_a_placed_clip_begins_later_and_comes_back(offset, gain_db):
    clip = np.random.default_rng(0).normal(0, 0.1, (1, LENGTH, 1)).astype(np.float32)
    placed = place(clip, np.array([offset]), np.array([gain_db]))
    padded = np.pad(clip[0, :, 0], LENGTH)
    np.testing.assert_allclose(placed[0, :, 0], padded[LENGTH + offset :][:LENGTH] * 10 ** (gain_db / 20), rtol=1e-5)
    back = move_back(placed, np.array([offset]), np.array([gain_db]))
    inside = slice(max(offset, 0), LENGTH + min(offset, 0))
    np.testing.assert_allclose(back[0, inside], clip[0, inside], rtol=1e-5)
    assert np.count_nonzero(back) <= max(LENGTH - abs(offset), 0)


def memory(audio: np.ndarray) -> np.ndarray:
    """In place of encoder and generator: the chirp of the most similar spectrum, at its own place and level."""
    spectra, known = (np.abs(np.fft.rfft(x[..., 0])) for x in (audio, chirps(6)))
    return chirps(6)[np.argmax(spectra @ (known / np.linalg.norm(known, axis=1, keepdims=True)).T, axis=1)]


def test_a_moved_and_quieter_clip_is_found():
    clips = chirps(6)
    offset, gain_db = np.array([-200, -96, 0, 64, 130, 240]), np.array([-12.0, 6, 0, -9, 3, -20])
    moved = place(clips, -offset, gain_db)
    level = float(np.sqrt(np.mean(clips**2)))
    found = align(moved, memory, sample_rate=RATE, level=level, batch_size=4)
    np.testing.assert_allclose(found[0], offset, atol=8)
    np.testing.assert_allclose(found[1], -gain_db, atol=2)


def test_a_silent_clip_stays_where_it_is_and_none_is_raised_beyond_full_scale():
    clips = np.concatenate([np.zeros((1, LENGTH, 1), np.float32), chirps(1) * 3])
    offset, gain_db = align(clips, memory, sample_rate=RATE, level=0.9, batch_size=2)
    assert offset[0] == gain_db[0] == 0
    assert np.abs(place(clips, offset, gain_db)).max() <= 1 + 1e-6


# Own samples match so well at their own position that the 20 to 80 samples by which the search misses it matter.
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "within"), [("own samples", 1.2), ("speech", 1.05)])
def test_what_is_cut_otherwise_is_encoded_as_well_as_what_is_not(kind, within, repo_root):
    """By the bundled networks: clips moved by 90 to 180 ms and 9 dB quieter."""
    networks = Networks(repo_root / "checkpoint", encoder=repo_root / "inverse_mapping_checkpoint")
    generator = networks.generator
    if kind == "own samples":
        clips = generator(generator.sample_prior(7, 3)).numpy()
    else:
        paths = [
            repo_root / f"datasets/demo/{name}.flac" for name in ("zero_en-gb_f2", "seven_en-us_m3", "five_en-us_m3")
        ]
        clips = np.concatenate([load_clip(path, *generator.clip_shape).windows for path in paths])
    moved_by, zero = np.array([1500, -2000, 2900]), np.zeros(3, np.int64)
    moved = place(clips, -moved_by, zero - 9)
    clips = move_back(moved, -moved_by, zero - 9)  # without what was moved out

    def distance(targets, louder, offset, gain_db):
        made = move_back(generator(networks.encode(place(targets, offset, gain_db), "real")).numpy(), offset, gain_db)
        return np.mean(list(map(stft_distance, place(targets, zero, louder), place(made, zero, louder))))

    unmoved = distance(clips, zero, zero, zero)
    found = make_aligner(networks)(moved)
    places = (zero, zero), (found.offset, found.gain_db)
    as_it_is, aligned = (distance(moved, zero + 9, *how) for how in places)
    assert aligned < min(as_it_is, within * unmoved)

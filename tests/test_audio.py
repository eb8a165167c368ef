"""Audio in and out: files of every format, damaged ones, folders with traps, windows, resampling, gain."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.audio.files import ALIGNMENTS, Alignment, find_audio, join_windows, load_clip, write_wav
from utils.errors import UserError

DEMO = Path(__file__).parent.parent / "datasets" / "demo"
SHAPE = (16384, 1, 16000)  # num_samples, num_channels, sample_rate


def sine(frequency: float, length: int, rate: int, amplitude: float = 0.5) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(length) / rate)).astype(np.float32)


def noise(length: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (length, channels)).astype(np.float32)


def truncate(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [
        ("wav", "PCM_U8", 1 / 128),
        ("wav", "PCM_16", 1 / 2**15),
        ("wav", "PCM_24", 1 / 2**23),
        ("wav", "PCM_32", 1e-7),
        ("wav", "FLOAT", 0),
        ("wav", "DOUBLE", 0),
        ("flac", "PCM_16", 1 / 2**15),
        ("flac", "PCM_24", 1 / 2**23),
        ("aiff", "PCM_16", 1 / 2**15),
        ("ogg", "VORBIS", 0.05),
        ("mp3", "MPEG_LAYER_III", 0.05),
    ],
)
def test_every_format(tmp_path, suffix, subtype, tolerance):
    path = tmp_path / f"clip.{suffix}"
    audio = sine(440, 16000, 16000)
    soundfile.write(path, audio, 16000, subtype=subtype)
    clip = load_clip(path, *SHAPE)
    assert clip.windows.shape == (1, 16384, 1) and clip.windows.dtype == np.float32
    inner = slice(1000, 15000)  # lossy codecs ring at the edges
    np.testing.assert_allclose(clip.windows[0, inner, 0], audio[inner], atol=tolerance, rtol=0)
    assert not clip.windows[0, 16000:].any()
    assert clip.provenance["original_subtype"] == subtype
    assert clip.notes == ()
    assert clip.provenance["valid_length"] == 16000


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 192000])
def test_resampling(tmp_path, rate):
    path = tmp_path / "clip.wav"
    audio = sine(440, rate, rate)
    soundfile.write(path, audio, rate, subtype="FLOAT")
    clip = load_clip(path, *SHAPE)
    resampled = join_windows(clip.windows, clip.provenance)[:, 0]
    assert abs(len(resampled) - 16000) <= 1
    inner = slice(500, 15500)
    np.testing.assert_allclose(resampled[inner], sine(440, 16000, 16000)[inner], atol=1e-4)
    np.testing.assert_allclose(resampled, soxr.resample(audio, rate, 16000)[: len(resampled)], atol=1e-6)
    assert clip.provenance["original_rate"] == rate and clip.provenance["resampled_to"] == 16000


@pytest.mark.parametrize(
    ("source", "target", "mapping"),
    [
        (1, 1, "as it is"),
        (2, 2, "as it is"),
        (8, 1, "mean of 8"),
        (1, 2, "the one channel copied to 2"),
        (3, 2, "mean of 3 copied to 2"),
    ],
)
def test_channels(tmp_path, source, target, mapping):
    path = tmp_path / "clip.wav"
    audio = noise(100, source)
    soundfile.write(path, audio, 16000, subtype="FLOAT")
    clip = load_clip(path, 100, target, 16000)
    expected = audio if source == target else np.stack([audio.mean(axis=1)] * target, axis=1)
    np.testing.assert_allclose(clip.windows[0], expected, atol=1e-7)
    assert clip.provenance["channel_mapping"] == mapping


def test_paper_alignment(tmp_path):
    """One second fills 16384 samples, at int16 / 32767 x 1.414."""
    path = tmp_path / "clip.wav"
    integers = np.round(10000 * sine(440, 16000, 16000, amplitude=1)).astype(np.int16)
    soundfile.write(path, integers, 16000)
    clip = load_clip(path, *SHAPE, alignment=ALIGNMENTS["paper"])
    expected = soxr.resample(integers / 32767 * 1.414, 16000, 16384)
    assert clip.provenance["valid_length"] == 16384
    np.testing.assert_allclose(clip.windows[0, :, 0], expected, atol=1e-6)
    assert clip.provenance["resampled_to"] == 16384 and clip.provenance["clipped"] == 0


def test_gain_and_clipping(tmp_path):
    path = tmp_path / "clip.wav"
    soundfile.write(path, np.array([0.1, 0.3, -0.5, 2.0, -3.0], np.float32), 16000, subtype="FLOAT")
    clip = load_clip(path, 8, 1, 16000)
    np.testing.assert_allclose(clip.windows.ravel(), [0.1, 0.3, -0.5, 1, -1, 0, 0, 0])
    assert clip.provenance["clipped"] == 2
    clip = load_clip(path, 8, 1, 16000, alignment=Alignment(gain=4.0))
    np.testing.assert_allclose(clip.windows.ravel(), [0.4, 1, -1, 1, -1, 0, 0, 0], rtol=1e-6)
    assert clip.provenance["clipped"] == 4 and clip.provenance["gain"] == 4.0
    with pytest.raises(UserError, match="gain"):
        Alignment(gain=0.0)


@pytest.mark.parametrize("rate", [16000, 96000])
@pytest.mark.parametrize("length", [50, 1000, 200_000])  # the last is several blocks
def test_loudest_window(tmp_path, rate, length):
    """The streamed choice equals a search over the whole resampled clip."""
    path = tmp_path / "clip.wav"
    audio = noise(length, 2) * np.hanning(length)[:, None] ** np.array([1, 8])
    soundfile.write(path, audio, rate, subtype="FLOAT")
    clip = load_clip(path, 100, 2, 16000, window="loudest")
    whole = load_clip(path, 100, 2, 16000, window="all")
    resampled = join_windows(whole.windows, whole.provenance).astype(np.float64)
    start = clip.provenance["window_starts"][0]
    if len(resampled) <= 100:
        assert start == 0 and clip.provenance["valid_length"] == len(resampled)
        return
    energy = [np.sum(resampled[i : i + 100] ** 2) for i in range(len(resampled) - 99)]
    assert start == np.argmax(energy)
    np.testing.assert_array_equal(clip.windows[0], resampled[start : start + 100].astype(np.float32))


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 400), num_samples=st.integers(1, 150), channels=st.integers(1, 3))
def test_windows_join_to_the_clip(length, num_samples, channels):
    audio = noise(length, channels, seed=length)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.wav"
        write_wav(path, audio, 16000)
        whole = load_clip(path, num_samples, channels, 16000, window="all")
        first = load_clip(path, num_samples, channels, 16000, window="start")
    assert whole.windows.shape == (-(-length // num_samples), num_samples, channels)
    np.testing.assert_array_equal(join_windows(whole.windows, whole.provenance), audio)
    np.testing.assert_array_equal(whole.windows.reshape(-1, channels)[length:], 0)
    np.testing.assert_array_equal(first.windows[0], whole.windows[0])
    starts = whole.provenance["window_starts"]
    assert starts == list(range(0, length, num_samples))


def test_join_refuses_other_windows(tmp_path):
    path = tmp_path / "clip.wav"
    write_wav(path, noise(250), 16000)
    clip = load_clip(path, 100, 1, 16000, window="all")
    with pytest.raises(ValueError, match=r"\[3, T, C\]"):
        join_windows(clip.windows[:2], clip.provenance)
    with pytest.raises(ValueError, match="start, loudest, all"):
        load_clip(path, 100, 1, 16000, window="middle")


def test_provenance_is_json(tmp_path):
    path = tmp_path / "clip.wav"
    write_wav(path, noise(48000, 2), 48000)
    for window in ("start", "loudest", "all"):
        provenance = load_clip(path, 4000, 1, 16000, window=window).provenance
        assert json.loads(json.dumps(provenance, allow_nan=False)) == provenance
        assert provenance["source"] == str(path) and len(provenance["sha256"]) == 64
        assert provenance["original_frames"] == 48000 and provenance["window"] == window


def test_start_reads_only_what_it_needs(tmp_path):
    path = tmp_path / "clip.wav"
    audio = noise(2_000_000)
    audio[-3:] = np.nan
    soundfile.write(path, audio, 16000, subtype="FLOAT")
    np.testing.assert_array_equal(load_clip(path, *SHAPE).windows[0], audio[:16384])
    for window in ("loudest", "all"):
        with pytest.raises(UserError, match="clip.wav: 3 of 2000000 sample values are NaN"):
            load_clip(path, *SHAPE, window=window)


@pytest.mark.slow
def test_long_files_in_bounded_memory(tmp_path):
    """3 minutes of 8 channels at 192 kHz: 553 MB of samples, a few of them in memory at a time."""
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 192000, 8, subtype="PCM_16") as file:
        second = (noise(192000, 8) * 2**15).astype(np.int16)
        for i in range(180):
            file.write(second // (1 if i == 100 else 4))
    code = f"""
import resource
from utils.audio.files import load_clip
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for window, windows in (("start", 1), ("loudest", 1), ("all", 176)):
    clip = load_clip({str(path)!r}, 16384, 1, 16000, window=window)
    assert clip.windows.shape == (windows, 16384, 1), clip.windows.shape
    if window == "loudest":
        assert abs(clip.provenance["window_starts"][0] - 1_600_000) < 500, clip.provenance
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=DEMO.parent.parent)
    path.unlink()
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 150  # MB; the resampled clip of `all` alone is 11.5


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.wav", b"", "empty file"),
        ("text.wav", b"hello, this is no audio\n" * 50, "no audio file"),
        ("header.wav", b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00", "no audio file"),
        ("noise.mp3", bytes(range(256)) * 8, "no audio file"),
        ("header.flac", b"fLaC\x00\x00", "no audio file"),
    ],
)
def test_files_that_are_no_audio(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{re.escape(str(path))}: .*{message}") as caught:
        load_clip(path, *SHAPE)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        load_clip(tmp_path / "gone.wav", *SHAPE)
    with pytest.raises(UserError, match="Is a directory"):
        load_clip(tmp_path, *SHAPE)


@pytest.mark.parametrize("suffix", ["wav", "aiff", "ogg"])
def test_no_samples(tmp_path, suffix):
    path = tmp_path / f"clip.{suffix}"
    soundfile.write(path, np.zeros((0, 1), np.float32), 16000)
    with pytest.raises(UserError, match="0 samples"):
        load_clip(path, *SHAPE)


def test_too_short_for_the_rate(tmp_path):
    path = tmp_path / "clip.wav"
    soundfile.write(path, np.ones(2, np.float32), 192000)
    with pytest.raises(UserError, match="too short: 2 samples at 192000 Hz"):
        load_clip(path, *SHAPE)


def test_absurd_sample_rate(tmp_path):
    path = tmp_path / "clip.wav"
    soundfile.write(path, noise(1000), 1)
    with pytest.raises(UserError, match="sample rate is 1 Hz"):
        load_clip(path, *SHAPE, window="all")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_non_finite_samples(tmp_path, value):
    path = tmp_path / "clip.wav"
    audio = noise(300_000, 2)
    audio[5, 0] = audio[299_999, 1] = value
    soundfile.write(path, audio, 16000, subtype="FLOAT")
    with pytest.raises(UserError, match="clip.wav: 2 of 600000 sample values are NaN"):
        load_clip(path, *SHAPE)


def test_silence_is_a_clip(tmp_path):
    path = tmp_path / "clip.wav"
    soundfile.write(path, np.zeros(40000), 16000)
    for window, windows in (("start", 1), ("loudest", 1), ("all", 3)):
        clip = load_clip(path, *SHAPE, window=window)
        assert clip.windows.shape == (windows, 16384, 1) and not clip.windows.any()
        assert clip.provenance["window_starts"][0] == 0


def written(path: Path, audio: np.ndarray, **options) -> Path:
    soundfile.write(path, audio, 16000, **options)
    return path


def test_notes(tmp_path):
    """What is odd about a clip is said in a word or two, and nothing of an ordinary one."""
    tone, one_second = sine(300, 16000, 16000), np.ones(16000)
    opposite = np.stack([tone, -tone], axis=1)
    cases = {
        (): tone,
        ("channels cancel", "silent"): opposite,
        ("channels cancel",): opposite * [1, 0.9],
        ("wrong scale",): 32767 * tone,
        ("clipped",): np.clip(20 * tone, -1, 1),
        ("silent",): 1e-9 * tone,
        ("offset",): 0.1 * tone + 0.5,
        ("very short",): tone[:100],
        ("excerpt",): np.tile(tone, 10),
    }
    for notes, audio in cases.items():
        path = written(tmp_path / "clip.wav", audio, subtype="FLOAT")
        for window in ("start", "loudest"):
            assert load_clip(path, *SHAPE, window=window).notes == notes
        whole = load_clip(path, *SHAPE, window="all")
        assert whole.notes == tuple(note for note in notes if note != "excerpt")
        assert all(isinstance(sentence, str) and sentence for sentence in whole.provenance["notes"].values())
    for ordinary in (
        np.stack([tone, 0 * tone], axis=1),  # one channel of two
        noise(16000, 8),
        np.pad(tone, (0, 1000)),  # less than a tenth longer
        0.01 * one_second,
    ):
        assert load_clip(written(tmp_path / "clip.wav", ordinary), *SHAPE).notes == ()
    assert load_clip(written(tmp_path / "clip.wav", opposite), 16384, 2, 16000).notes == ()  # nothing is mixed


def test_the_gain_counts_in_what_is_clipped(tmp_path):
    path = written(tmp_path / "clip.wav", 0.9 * np.sign(sine(300, 16000, 16000)))
    assert load_clip(path, *SHAPE).notes == ()
    assert load_clip(path, *SHAPE, alignment=ALIGNMENTS["paper"]).notes == ("clipped",)


def through_ffmpeg(audio: np.ndarray, path: Path, *options: str) -> None:
    source = written(path.with_suffix(".wav"), audio)
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", source, *options, path], check=True)
    source.unlink()


@pytest.mark.parametrize("suffix", ["m4a", "webm", "mp4"])
def test_other_formats_are_read_through_ffmpeg_where_it_is_installed(tmp_path, suffix):
    path = tmp_path / f"-clip: 100%.{suffix}"
    tone = sine(440, 48000, 16000)
    if shutil.which("ffmpeg") is None:
        path.write_bytes(b"not looked at")
        with pytest.raises(UserError, match=f"clip: 100%.{suffix}: passed over: .* ffmpeg, which is not installed"):
            load_clip(path, *SHAPE)
        return
    picture = ["-f", "lavfi", "-i", "color=size=64x64:duration=3:rate=5"] if suffix == "mp4" else []
    through_ffmpeg(tone, path, *picture)
    assert find_audio(tmp_path) == ([path], [])
    whole = load_clip(path, *SHAPE, window="all")
    joined = join_windows(whole.windows, whole.provenance)[:, 0]
    assert whole.notes == () and abs(len(joined) - 48000) < 4000
    spectrum = np.abs(np.fft.rfft(joined[16000:32000]))
    assert spectrum.argmax() == 440 and 0.4 < np.abs(joined[16000:32000]).max() < 0.6
    assert load_clip(path, *SHAPE).notes == ("excerpt",)
    other = tmp_path / "recording.mp4"
    through_ffmpeg(tone, other, "-c:a", "aac", "-movflags", "+faststart")
    other.write_bytes(other.read_bytes()[: other.stat().st_size * 2 // 3])
    assert load_clip(other, *SHAPE, window="all").notes == ("damaged",)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=f"clip: 100%.{suffix}: ") as error:
        load_clip(path, *SHAPE)
    assert "\n" not in str(error.value)


def test_files_that_ffmpeg_cannot_read_are_one_line(tmp_path):
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"
    for content in (
        playlist,
        b"ffconcat version 1.0\nfile /dev/zero\n",
        bytes(1000),
        b"\0\0\0\x20ftypM4A " + bytes(200),
    ):
        path = tmp_path / "clip.mp4"
        path.write_bytes(content)
        with pytest.raises(UserError, match="clip.mp4: (cannot be read .ffmpeg: |passed over)") as error:
            load_clip(path, *SHAPE)
        assert str(error.value).count(str(path)) == 1 and "\n" not in str(error.value)


def test_without_ffmpeg_its_files_are_named_with_advice(tmp_path, monkeypatch):
    for name in ("a.m4a", "b.WEBM", "c.mov"):
        (tmp_path / name).write_bytes(b"not looked at")
    good = written(tmp_path / "d.wav", noise(10))
    monkeypatch.setenv("PATH", str(tmp_path))
    files, problems = find_audio(tmp_path)
    assert files == [good] and [path.name for path, _ in problems] == ["a.m4a", "b.WEBM", "c.mov"]
    assert all("apt install ffmpeg" in reason for _, reason in problems)
    with pytest.raises(UserError, match="a.m4a: passed over: .*apt install ffmpeg"):
        find_audio(tmp_path / "a.m4a")


@pytest.mark.parametrize("suffix", ["wav", "aiff", "au"])
def test_truncated_data_are_used_and_recorded(tmp_path, suffix):
    path = tmp_path / f"clip.{suffix}"
    soundfile.write(path, noise(16000), 16000, subtype="PCM_16")
    whole = load_clip(path, *SHAPE)
    truncate(path, 0.5)
    clip = load_clip(path, *SHAPE)
    length = clip.provenance["valid_length"]
    assert 7900 < length < 8000
    np.testing.assert_array_equal(clip.windows[0, :length], whole.windows[0, :length])
    assert re.fullmatch(r"the header says 32000 bytes .* holds 159\d\d bytes", clip.provenance["notes"]["truncated"])


def test_truncated_mp3(tmp_path):
    path = tmp_path / "clip.mp3"
    soundfile.write(path, sine(440, 64000, 16000), 16000)
    truncate(path, 0.5)
    clip = load_clip(path, *SHAPE, window="all")
    assert 16000 < clip.provenance["valid_length"] < 48000
    assert "says 64000 samples" in clip.provenance["notes"]["truncated"]


def test_truncated_flac_is_an_error(tmp_path):
    path = tmp_path / "clip.flac"
    soundfile.write(path, noise(64000), 16000)
    truncate(path, 0.5)
    with pytest.raises(UserError, match="damaged or truncated: of 64000 samples"):
        load_clip(path, *SHAPE, window="all")


def test_unreadable_file(tmp_path):
    path = tmp_path / "clip.wav"
    write_wav(path, noise(100), 16000)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read files without permission (root)")
    with pytest.raises(UserError, match="Permission denied"):
        load_clip(path, *SHAPE)


def test_find_audio_in_a_hostile_folder(tmp_path):
    root = tmp_path / "clips"
    names = ("b.wav", "a.FLAC", "x.wav/inner.ogg", "Füße mit Leerzeichen/чай 茶 🎵.mp3", "sub/deep/c.wav")
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"content does not matter here")
    for ignored in ("notes.txt", "README", ".hidden.wav", "sub/latent.npz"):
        (root / ignored).write_text("")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "far.wav").write_bytes(b"")
    (root / "loop").symlink_to(root)
    (root / "sub" / "up").symlink_to("..")
    (root / "above").symlink_to(tmp_path)
    (root / "again").symlink_to(root / "sub")
    (root / "linked folder").symlink_to(tmp_path / "elsewhere")
    (root / "linked.wav").symlink_to(root / "b.wav")
    (root / "broken.wav").symlink_to(root / "gone.wav")
    (root / "self").symlink_to(root / "self")
    (root / "broken.txt").symlink_to(root / "gone.txt")
    os.mkfifo(root / "pipe.wav")

    files, problems = find_audio(root)
    assert files == sorted(files)
    assert {str(path.relative_to(root)) for path in files} == {*names, "linked.wav", "linked folder/far.wav"}
    assert len(files) == len(names) + 2
    reasons = {path.name: reason for path, reason in problems}
    assert reasons.keys() == {"broken.wav", "self", "pipe.wav"}
    assert "broken symbolic link" in reasons["broken.wav"] and "not a regular file" in reasons["pipe.wav"]
    assert find_audio(root) == (files, problems)


def test_find_audio_reports_names_that_cannot_be_printed(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.wav")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    files, [(path, reason)] = find_audio(tmp_path)
    assert files == [] and "UTF-8" in reason
    assert str(path).endswith(r"caf\xe9.wav") and str(path).encode()


def test_find_audio_reports_unreadable_folders(tmp_path):
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked").chmod(0)
    if os.access(tmp_path / "locked", os.R_OK):
        pytest.skip("this user may read folders without permission (root)")
    files, [(path, reason)] = find_audio(tmp_path)
    (tmp_path / "locked").chmod(0o700)
    assert files == [] and path.name == "locked" and "Permission denied" in reason


def test_find_audio_of_one_file_or_none(tmp_path):
    path = tmp_path / "clip.wav"
    write_wav(path, noise(10), 16000)
    assert find_audio(path) == ([path], [])
    assert find_audio(str(tmp_path)) == ([path], [])
    with pytest.raises(UserError, match="gone: no such file or folder"):
        find_audio(tmp_path / "gone")
    path.write_bytes(b"no audio")
    with pytest.raises(UserError, match="clip.wav: no audio file"):  # before any work
        find_audio(path)
    assert find_audio(tmp_path) == ([path], [])  # among others it fails alone, when it is read


def test_one_file_passes_the_checks_of_a_folder(tmp_path):
    pipe, listener = tmp_path / "pipe.wav", tmp_path / "socket.wav"
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(listener))
    for path in (pipe, listener, Path("/dev/null")):
        for read in (find_audio, lambda path: load_clip(path, *SHAPE)):
            with pytest.raises(UserError, match=f"{path}: not a regular file"):
                read(path)
    unprintable = tmp_path / os.fsdecode(b"caf\xe9.wav")
    write_wav(unprintable, noise(10), 16000)
    with pytest.raises(UserError, match=r"caf\\xe9.wav: the name is not valid UTF-8"):
        find_audio(unprintable)


def test_names_with_unicode_and_spaces(tmp_path):
    path = tmp_path / "Füße и чай 茶 🎵" / " sieben .wav"
    audio = noise(500)
    write_wav(path, audio, 16000)
    clip = load_clip(path, 500, 1, 16000)
    np.testing.assert_array_equal(clip.windows[0], audio)
    assert clip.provenance["source"] == str(path)


def test_write_wav(tmp_path):
    path = tmp_path / "clip.wav"
    audio = noise(1000, 2)
    write_wav(path, audio, 22050)
    read, rate = soundfile.read(path, dtype="float32")
    assert rate == 22050 and soundfile.info(path).subtype == "FLOAT"
    np.testing.assert_array_equal(read, audio)
    before = path.read_bytes()
    assert b"PEAK" not in before[:200]
    for bad in (audio[:, 0], audio * np.nan):
        with pytest.raises(ValueError, match="audio"):
            write_wav(path, bad, 22050)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_demo_clips():
    files, problems = find_audio(DEMO)
    assert len(files) == 24 and not problems
    assert {path.name.split("_")[0] for path in files} == set(
        "zero one two three four five six seven eight nine".split()
    )
    for path in files:
        clip = load_clip(path, *SHAPE)
        assert clip.provenance["original_rate"] == 16000 and clip.provenance["valid_length"] <= 16384
        assert 0.05 < np.sqrt(np.mean(np.square(clip.windows))) < 0.12
        assert np.abs(clip.windows).max() < 0.95


def run_make_demo(output: Path, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(DEMO / "make_demo.py"), "--output", str(output)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_demo_clips_can_be_made_again(tmp_path):
    try:
        version = subprocess.run(["espeak-ng", "--version"], capture_output=True, text=True).stdout
    except FileNotFoundError:
        pytest.skip("espeak-ng is not installed")
    stated = re.search(r"espeak-ng (\d[\d.]*\d)", (DEMO / "README.md").read_text())[1]
    if f" {stated} " not in version:
        pytest.skip(f"the clips were made by espeak-ng {stated}; here is: {version.strip()}")
    done = run_make_demo(tmp_path)
    assert done.returncode == 0, done.stderr
    made, committed = find_audio(tmp_path)[0], find_audio(DEMO)[0]
    assert [path.name for path in made] == [path.name for path in committed]
    for new, old in zip(made, committed, strict=True):
        difference = soundfile.read(new, dtype="int16")[0].astype(int) - soundfile.read(old, dtype="int16")[0]
        assert np.abs(difference).max() <= 2  # other vector units round differently


def test_make_demo_without_espeak(tmp_path):
    done = run_make_demo(tmp_path, PATH=str(tmp_path))
    assert done.returncode != 0
    assert done.stderr.startswith("error: espeak-ng is not installed") and "Traceback" not in done.stderr

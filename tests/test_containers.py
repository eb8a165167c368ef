"""utils/audio/containers.py: headers that say a wrong length or none, and joined files, in every container."""

import io
import os
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from utils.audio.containers import find_parts
from utils.audio.decoding import Decoder
from utils.errors import UserError

N = 16000
TONE = (0.3 * np.sin(2 * np.pi * 300 * np.arange(N) / N)).astype(np.float32)
# Where a header says how long the audio is: the bytes before, how many bytes lie between, the field's struct.
FIELDS = {
    "wav": (b"data", 0, "<I"),
    "rf64": (b"ds64", 12, "<Q"),
    "w64": (b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a", 0, "<Q"),
    "aiff": (b"SSND", 0, ">I"),
    "au": (b".snd", 4, ">I"),
    "caf": (b"data", 0, ">Q"),
}
SUBTYPES = {"ogg": "VORBIS", "opus": "OPUS", "mp3": "MPEG_LAYER_III"}
FORMATS = {"opus": "OGG"}
ALL = (*FIELDS, "flac", "ogg", "opus", "mp3")


def encoded(kind: str, audio: np.ndarray = TONE, rate: int = N) -> bytes:
    file = io.BytesIO()
    subtype = SUBTYPES.get(kind, "PCM_16")
    soundfile.write(file, audio, rate, format=FORMATS.get(kind, kind).upper(), subtype=subtype)
    return file.getvalue()


def with_length(kind: str, content: bytes, length: int) -> bytes:
    if kind == "flac":  # the last 36 bits of 5 bytes
        return content[:21] + bytes([content[21] & 0xF0]) + length.to_bytes(4, "big") + content[26:]
    before, between, form = FIELDS[kind]
    at = content.index(before) + len(before) + between
    return content[:at] + struct.pack(form, length) + content[at + struct.calcsize(form) :]


def said(kind: str, content: bytes) -> int:
    before, between, form = FIELDS[kind]
    return struct.unpack_from(form, content, content.index(before) + len(before) + between)[0]


def decode(path, content: bytes) -> tuple[np.ndarray, dict[str, str]]:
    path.write_bytes(content)
    with Decoder(path) as decoder:
        audio = np.concatenate([block for _, block in decoder.blocks(N)])[:, 0]
    return audio, decoder.notes


@pytest.fixture
def path(tmp_path):
    return tmp_path / "clip.audio"  # the content counts


@pytest.mark.parametrize("kind", ALL)
def test_an_honest_file_has_no_notes_and_its_own_samples(path, kind):
    audio, notes = decode(path, encoded(kind))
    assert notes == {}
    expected = soundfile.read(path, dtype="float32")[0]
    np.testing.assert_allclose(
        audio, expected, rtol=0, atol=1e-6 if kind == "mp3" else 0
    )  # two decoders, two roundings


@pytest.mark.parametrize("kind", [*FIELDS, "flac"])
def test_no_length_in_the_header(path, kind):
    content = encoded(kind)
    lengths = [0] if kind == "flac" else [0, 2 ** (8 * struct.calcsize(FIELDS[kind][2])) - 1]
    lengths += [0x7FFFF000, 0x7FFFFFDB] if kind == "wav" else []  # of sox and arecord
    for length in lengths:
        audio, notes = decode(path, with_length(kind, content, length))
        np.testing.assert_allclose(audio, TONE, atol=1e-4)
        assert list(notes) == ["streamed"] and ("no length" if kind == "flac" else "any length") in notes["streamed"]


@pytest.mark.parametrize("kind", [*FIELDS, "flac"])
def test_a_header_that_says_too_much(path, kind):
    content = encoded(kind)
    length = 2 * (N if kind == "flac" else said(kind, content))
    audio, notes = decode(path, with_length(kind, content, length))
    np.testing.assert_allclose(audio, TONE, atol=1e-4)
    assert list(notes) == ["truncated"] and ("32000 samples, 16000" if kind == "flac" else "holds 32000") in str(notes)


def test_a_file_of_more_than_two_gigabytes_may_hold_what_it_says(path):
    for kind, form in (("wav", "<I"), ("caf", ">Q")):
        path.write_bytes(with_length(kind, encoded(kind), 2**31))
        os.truncate(path, path.read_bytes().index(struct.pack(form, 2**31)) + struct.calcsize(form) + 2**31)  # a hole
        [part] = find_parts(path)
        assert part.plain and part.stop == path.stat().st_size and part.notes == {}


@pytest.mark.parametrize("kind", [*FIELDS, "mp3"])
def test_a_file_that_was_cut(path, kind):
    content = encoded(kind, np.tile(TONE, 4))
    audio, notes = decode(path, content[: len(content) // 2])
    assert list(notes) == ["truncated"] and 1.5 * N < len(audio) < 2.5 * N
    if kind in FIELDS:
        np.testing.assert_allclose(audio, np.tile(TONE, 4)[: len(audio)], atol=1e-4)


def test_a_flac_header_that_says_too_little(path):
    audio, notes = decode(path, with_length("flac", encoded("flac"), 1000))
    np.testing.assert_allclose(audio, TONE, atol=1e-4)
    assert notes == {"header too short": "the header says 1000 samples, 16000 could be decoded"}


def test_a_cut_stream_without_length(path):
    """What came before the cut; a cut FLAC that says its length is an error, as is damage."""
    content = encoded("flac", np.tile(TONE, 4))
    streamed = with_length("flac", content, 0)
    audio, notes = decode(path, streamed[: len(content) // 2])
    np.testing.assert_allclose(audio, np.tile(TONE, 4)[: len(audio)], atol=1e-4)
    assert list(notes) == ["truncated"] and N < len(audio) < 3 * N
    with pytest.raises(UserError, match="damaged or truncated: of 64000 samples"):
        decode(path, content[: len(content) // 2])


def test_an_ogg_stream_without_its_end(path):
    rng = np.random.default_rng(0)
    content = encoded("opus", rng.uniform(-0.3, 0.3, 10 * N).astype(np.float32))
    audio, notes = decode(path, content[: len(content) // 2])
    assert list(notes) == ["truncated"] and 3 * N < len(audio) < 7 * N


@pytest.mark.parametrize("kind", ALL)
def test_joined_files(path, kind):
    one, _ = decode(path, encoded(kind))
    for count in (2, 3):
        audio, notes = decode(path, count * encoded(kind))
        np.testing.assert_allclose(audio, np.tile(one, count), rtol=0, atol=1e-6)
        assert list(notes) == ["joined"]


def test_joined_files_of_other_rates_and_channels(path):
    stereo = np.stack([TONE, TONE], axis=1)
    for kind in ("wav", "flac", "ogg", "mp3"):
        path.write_bytes(encoded(kind) + encoded(kind, stereo, 2 * N))
        with Decoder(path) as decoder:
            blocks = [(rate, *block.shape) for rate, block in decoder.blocks(N)]
        assert [(rate, channels) for rate, _, channels in blocks] == [(N, 1), (2 * N, 2)]
        assert [count for _, count, _ in blocks] == [N, N]


def test_an_mp3_that_does_not_say_its_length_is_not_guessed(path):
    """Its first frames have a lower bit rate than the rest; the length that follows from them is a fraction."""
    audio = np.concatenate([np.zeros(N), np.random.default_rng(0).uniform(-0.5, 0.5, 5 * N)]).astype(np.float32)
    content = encoded("mp3", audio).replace(b"Xing", bytes(4))
    path.write_bytes(content)
    guessed = soundfile.info(path).frames
    decoded, notes = decode(path, content)
    assert abs(len(decoded) - 6 * N) < 3000 and notes == {} and guessed != len(decoded)
    twice, _ = decode(path, b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + content + content)
    assert abs(len(twice) - 2 * len(decoded)) < 3000


@pytest.mark.parametrize("kind", ALL)
def test_what_follows_the_audio_is_no_audio(path, kind):
    whole, _ = decode(path, encoded(kind))
    for rest in (b"TAG" + bytes(125), b"\xff" * 5000, bytes(3)):
        audio, notes = decode(path, encoded(kind) + rest)
        np.testing.assert_allclose(audio, whole, rtol=0, atol=1e-6)
        assert len(rest) == 5000 and list(notes) == ["bytes ignored"] or notes == {}


def test_chunks_after_the_audio_are_no_audio(path):
    content = encoded("wav")
    for chunks in (
        b"LIST\x04\0\0\0INFO",
        b"junk\x05\0\0\0abcde" + b"id3 \x02\0\0\0xy",
        b"junk\x05\0\0\0abcde\0id3 \0\0\0\0",
    ):
        audio, notes = decode(path, content + chunks)
        assert len(audio) == N and notes == {}
    empty = with_length("wav", encoded("wav", TONE[:0]), 0)
    for chunks in (b"", b"LIST\x04\0\0\0INFO", b"LIST\x00\x02\0\0" + bytes(512)):
        with pytest.raises(UserError, match="holds 0 samples"):
            decode(path, empty + chunks)


def test_an_au_header_longer_than_its_file(path):
    content = encoded("au")
    with pytest.raises(UserError, match="no audio file"):
        decode(path, content[:4] + struct.pack(">I", 2**31) + content[8:])


@given(st.data())
def test_any_length_gives_samples_or_one_line(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "clip.audio"
    kind = data.draw(st.sampled_from([*FIELDS, "flac"]))
    size = 4 if kind == "flac" else struct.calcsize(FIELDS[kind][2])
    bits = st.integers(0, 8 * size).map(lambda n: 2**n - 1)
    length = data.draw(bits | st.integers(0, 2 ** (8 * size) - 1) | st.integers(0, 70000))
    content = with_length(kind, encoded(kind), length)
    content = content[: data.draw(st.integers(1, len(content)) | st.just(len(content)))]
    content *= data.draw(st.integers(1, 3))
    path.write_bytes(content)
    assert sum(part.stop - part.start for part in find_parts(path)) <= len(content)
    try:
        audio, notes = decode(path, content)
    except UserError as error:
        assert "\n" not in str(error) and str(path) in str(error)
    else:
        assert len(audio) and np.isfinite(audio).all() and all(map(str, notes.values()))

"""Make the demo clips: spoken digits, synthesised with espeak-ng (a Debian package of that name).

    python datasets/demo/make_demo.py                   # write the clips beside this file
    python datasets/demo/make_demo.py --output /tmp/x   # or elsewhere

Six voices speak four digits each: 24 clips of one second, 16 kHz, mono, 16-bit FLAC, the word in the middle.
The same version of espeak-ng gives the same clips.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VOICES = (  # language, variant, words a minute
    ("en-gb", "f2", 150),
    ("en-us", "m3", 165),
    ("en-gb-x-rp", "f4", 140),
    ("en-gb-scotland", "m7", 155),
    ("en-us", "f3", 170),
    ("en-029", "m1", 145),
)
DIGITS_PER_VOICE = 4
SAMPLE_RATE = 16000
NUM_SAMPLES = 16000
RMS = 0.12  # of the word alone, full scale 1
PEAK = 0.9
SILENCE = 0.003  # the word begins and ends where the waveform first and last passes this
FADE = 80  # samples, at both ends of the word


def synthesise(word: str, voice: str, words_per_minute: int) -> np.ndarray:
    """A word spoken by espeak-ng: float32 `[NUM_SAMPLES]` at SAMPLE_RATE Hz, the word in the middle."""
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "word.wav"
        command = ["espeak-ng", "-v", voice, "-s", str(words_per_minute), "-w", wav, word]
        if subprocess.run(command).returncode != 0:
            sys.exit(f"error: espeak-ng failed for voice {voice} (see above)")
        audio, rate = soundfile.read(wav, dtype="float32")
    audio = soxr.resample(audio, rate, SAMPLE_RATE)
    loud = np.flatnonzero(np.abs(audio) > SILENCE)
    audio = audio[loud[0] : loud[-1] + 1]
    fade = np.linspace(0, 1, FADE, dtype=np.float32)
    audio[:FADE] *= fade
    audio[-FADE:] *= fade[::-1]
    audio *= min(RMS / np.sqrt(np.mean(np.square(audio))), PEAK / np.max(np.abs(audio)))
    clip = np.zeros(NUM_SAMPLES, np.float32)
    start = (NUM_SAMPLES - len(audio)) // 2
    if start < 0:
        sys.exit(f"error: '{word}' of voice {voice} lasts longer than {NUM_SAMPLES} samples: raise its speed")
    clip[start : start + len(audio)] = audio
    return clip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, metavar="DIR", help="(default: here)")
    output = parser.parse_args().output
    if shutil.which("espeak-ng") is None:
        sys.exit("error: espeak-ng is not installed (Debian, Ubuntu: apt install espeak-ng)")
    output.mkdir(parents=True, exist_ok=True)
    for i in range(len(VOICES) * DIGITS_PER_VOICE):
        language, variant, words_per_minute = VOICES[i // DIGITS_PER_VOICE]
        word = DIGITS[i % len(DIGITS)]
        clip = synthesise(word, f"{language}+{variant}", words_per_minute)
        path = output / f"{word}_{language}_{variant}.flac"
        temporary = path.with_name(f".{path.name}.tmp")
        soundfile.write(temporary, clip, SAMPLE_RATE, subtype="PCM_16", format="FLAC")
        os.replace(temporary, path)
        print(path)


if __name__ == "__main__":
    main()

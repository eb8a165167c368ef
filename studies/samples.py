"""How good a generator's samples are, and whether they vary, compared with real clips.

Scored by the judges, which took part in no training: inception score (one split; compare at equal n only), shares of
confident answers and of each digit, and precision, recall, density and coverage (Naeem et al. 2020, k = 5) among the
real clips by each judge's pooled features. Of the sound: voiced frames and F0 (pyin from 80 to 500 Hz), level, and the
hum of the upsampling layers: energy at 62.5, 250 and 1,000 Hz in pauses against neighbouring bands. Of variety: how
much of the power is one fixed waveform, and the mean squared cosine between two clips, overall and within a digit; the
variance of log-mel spectrograms within a digit, and that of real clips; how far the nearest training clip is (log-mel
spectrograms, four frames averaged) and the same of validation clips. A digit is what the first judge answers, of
samples and of real clips alike.

Real clips are of the report half, then, where n is more, of the training clips, drawn by the seed; the row `other real`
is of as many further training clips, and what a generator could hope for. n = 2,048 is what the field scores SC09 by.
F0, hum and the nearest training clip are of the first 500 clips of a set. Takes about six minutes of two cores.

Examples:

    # the numbers of the bundled generator in RESULTS.md
    python -m studies.samples --real ../shared/data/speech_commands_digits

    # compared with another generator's clips, all columns at their number, too
    python -m studies.samples --real ../shared/data/speech_commands_digits \\
        --reference ../shared/data/wavegan_reel/published_phase_shuffle_2

    # another generator, without real clips
    python -m studies.samples --generator checkpoint/sc09 --n 5000
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils import options
from utils.errors import UserError
from utils.runs.cache import cache_folder

FEWEST_CLIPS = 6  # more than the k of coverage


def parse_arguments() -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    options.add_shared(parser, "generator", "trust", "judge", "seed", judge=options.JUDGES)
    parser.add_argument("--n", type=options.positive_int, default=2048, help="samples, and real clips")
    parser.add_argument("--real", type=Path, metavar="DIR", help="SC09, to compare with (default: none)")
    reference = "another generator's clips; all sets are also measured at their number (default: none)"
    parser.add_argument("--reference", type=Path, metavar="DIR", help=reference)
    cache = "where decoded clips are kept"
    parser.add_argument("--cache", type=Path, default=cache_folder(), metavar="DIR", help=cache)
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="where the record goes")
    args = parser.parse_args()
    if args.n < FEWEST_CLIPS:
        raise UserError(f"--n: must be at least {FEWEST_CLIPS}. Received: {args.n}")
    return args


if __name__ == "__main__":
    options.parse_early(parse_arguments)

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import numpy as np

from models.front_ends import LogMel
from models.generator import Generator
from models.networks import Networks
from utils.audio.datasets import load_dataset
from utils.audio.files import find_audio, load_clip
from utils.evaluation.generator_statistics import (
    hum,
    jacobian_statistics,
    judged_statistics,
    level_statistics,
    singular_values,
    voice_statistics,
)
from utils.evaluation.honesty import (
    fixed_waveform_share,
    mean_squared_cosine,
    nearest_distances,
    precision_recall_density_coverage,
    variance,
    within_class,
)
from utils.metrics import Predictions, f0
from utils.report.origin import origin
from utils.runs.batches import in_batches, render
from utils.runs.files import append_jsonl

TITLE = "The generator's samples and real clips"
ABOUT = "statistics of the generator's samples and of real clips: inception score, variety, precision and recall"
KEY = ("set", "n")  # of two lines with the same, the later one counts
BATCH = 50
JACOBIANS = 25
FIRST = 500  # clips of a set whose F0, hum and nearest training clip are measured
F0_RANGE = {"lowest": 80.0, "highest": 500.0}  # Hz; above the hum at 62.5 Hz, which pitch trackers take for voice
FRAME_RATES = (62.5, 250.0, 1000.0)  # Hz, of a WaveGAN's upsampling layers at 16 kHz
POOLED = 4  # log-mel frames averaged, where the nearest training clip is sought


def main() -> None:
    args = parse_arguments()
    networks = Networks(args.generator, trust=args.trust, judges=args.judge)
    generator = networks.generator
    reference = reference_clips(args.reference, generator) if args.reference else {}
    z = generator.sample_prior(args.seed, args.n)
    sets = {"samples": np.stack(list(render(generator, z, BATCH)))}
    if args.real:
        sets |= real_clips(args.real, generator, args.n, args.seed, args.cache)
        nearest = NearestTrainingClip(args.real, generator, args.cache)
    spectrum = np.median([singular_values(generator, row) for row in z[:JACOBIANS]], axis=0)

    sizes = dict.fromkeys([args.n, *(min(args.n, len(clips)) for clips in reference.values())])
    for n in sizes:
        shown = {name: audio[:n] for name, audio in sets.items()}
        shown |= {name: audio[:n] for name, audio in reference.items() if min(len(audio), args.n) == n}
        answers = {name: networks.classify(audio, BATCH) for name, audio in shown.items()}
        rows = {name: describe(audio, answers[name], generator.sample_rate) for name, audio in shown.items()}
        for name in shown.keys() - {"real"} if args.real else ():
            rows[name] |= beside_real(shown[name], answers[name], shown["real"], answers["real"])
            if "log_mel_variance_in_digit" in rows["real"]:
                share = rows[name]["log_mel_variance_in_digit"] / rows["real"]["log_mel_variance_in_digit"]
                rows[name]["log_mel_variance_in_digit_to_real"] = share
            if name != "other real":  # which are training clips themselves
                rows[name]["nearest_training_clip_to_validation_clips"] = nearest(shown[name])
        rows["samples"] |= jacobian_statistics(spectrum)
        for name, facts in rows.items():
            print(f"{name}, n = {facts['n']}")
            print("".join(f"    {key:42} {value:.4g}\n" for key, value in numbers_of(facts).items()))
            record = {"benchmark": "samples", "set": name, **facts, "seed": args.seed}
            append_jsonl(args.results / "samples.jsonl", record | {"generator": args.generator} | origin(networks))


def real_clips(root: Path, generator: Generator, n: int, seed: int, cache: Path) -> dict[str, np.ndarray]:
    """n real clips, the report half first, and n others, in random order; float32 `[n, T, C]` each."""
    report, train = (load_dataset(root, *generator.clip_shape, split, cache_dir=cache) for split in ("report", "train"))
    random = np.random.default_rng(seed)
    first, further = random.permutation(len(report))[:n], random.permutation(len(train))
    if len(first) + len(further) < 2 * n:
        raise UserError(f"--n {n}: {root} has only {len(first) + len(further)} clips, of which twice as many are taken")
    lacking = n - len(first)
    real = np.concatenate([report.to_float(first), train.to_float(further[:lacking])])
    return {"real": real, "other real": train.to_float(further[lacking : lacking + n])}


def reference_clips(root: Path, generator: Generator) -> dict[str, np.ndarray]:
    """The clips of a folder, float32 `[N, T, C]`, by the folder's name.

    Raises:
        UserError: for fewer than `FEWEST_CLIPS`, and for a file that cannot be read.
    """
    files, problems = find_audio(root)
    if problems or len(files) < FEWEST_CLIPS:
        reason = f"{problems[0][0]}: {problems[0][1]}" if problems else f"{len(files)} clip(s) in it"
        raise UserError(f"--reference {root}: must be a folder of at least {FEWEST_CLIPS} clips ({reason})")
    return {root.resolve().name: np.stack([load_clip(file, *generator.clip_shape).windows[0] for file in files])}


class NearestTrainingClip:
    """How far clips are from the nearest training clip, as a share of how far validation clips are; medians of both."""

    def __init__(self, root: Path, generator: Generator, cache: Path):
        self._features = LogMel(generator.sample_rate)
        train, validation = (
            load_dataset(root, *generator.clip_shape, split, cache_dir=cache) for split in ("train", "validation")
        )
        self._known = in_batches(lambda rows: self._pooled(train.to_float(rows)), np.arange(len(train)), BATCH)
        some = np.linspace(0, len(validation) - 1, min(FIRST, len(validation))).astype(int)
        self._expected = np.median(nearest_distances(self._pooled(validation.to_float(some)), self._known))

    def __call__(self, audio: np.ndarray) -> float:
        """Of the first clips of `[N, T, C]`."""
        return float(np.median(nearest_distances(self._pooled(audio[:FIRST]), self._known)) / self._expected)

    def _pooled(self, audio: np.ndarray) -> np.ndarray:
        log_mels = in_batches(self._features, audio, BATCH)
        whole = log_mels[:, : log_mels.shape[1] // POOLED * POOLED]
        return whole.reshape(len(whole), -1, POOLED, *whole.shape[2:]).mean(axis=2)


def describe(audio: np.ndarray, answers: dict[str, Predictions], sample_rate: int) -> dict[str, Any]:
    """All that is said of clips `[N, T, C]` by themselves, by what each judge answers them; N of at least 2."""
    facts = {
        "n": len(audio),
        "rms": float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))),
        "fixed_share": fixed_waveform_share(audio),
        "squared_cosine": mean_squared_cosine(audio),
        "first": min(FIRST, len(audio)),
    }
    facts |= voice_statistics(f0(audio[:FIRST], sample_rate, **F0_RANGE))
    resolution = 4 * sample_rate / audio.shape[1]  # Hz, of a pause's spectrum
    for rate in FRAME_RATES:
        if 0.2 * rate > 3 * resolution and rate < sample_rate / 4:  # else there are no bands beside it
            facts[f"hum_{rate:g}_hz_db"] = hum(audio[:FIRST], sample_rate, (rate,))
    for judge, (probabilities, _) in answers.items():
        facts |= {f"{name}/{judge}": value for name, value in judged_statistics(probabilities).items()}
        facts[f"digit_shares/{judge}"] = class_shares(probabilities)
    if answers:
        digits = next(iter(answers.values())).probabilities.argmax(axis=1)
        log_mels = in_batches(LogMel(sample_rate), audio, BATCH)
        facts["fixed_share_in_digit"] = within_class(fixed_waveform_share, audio, digits)
        facts["squared_cosine_in_digit"] = within_class(mean_squared_cosine, audio, digits)
        facts["log_mel_variance_in_digit"] = within_class(variance, log_mels, digits)
    return facts


def class_shares(probabilities: np.ndarray) -> list[float]:
    """Share of the clips that a classifier's answers `[N, K]` take for each of its K classes."""
    return (np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1]) / len(probabilities)).tolist()


def beside_real(
    audio: np.ndarray, answers: dict[str, Predictions], real: np.ndarray, of_real: dict[str, Predictions]
) -> dict[str, float]:
    """Level of clips against real ones, and how they lie among them by each judge's features."""
    facts = {"rms_db": level_statistics(audio, real)["rms_db"]}
    for judge, (_, features) in answers.items():
        among = precision_recall_density_coverage(of_real[judge].features, features)
        facts |= {f"{measure}/{judge}": value for measure, value in among.items()}
    return facts


def numbers_of(record: Mapping[str, Any]) -> dict[str, float]:
    """The measures of a line."""
    return {
        name: value
        for name, value in record.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in ("n", "seed", "first")
    }


if __name__ == "__main__":
    options.run(main)

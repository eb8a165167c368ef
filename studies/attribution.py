"""How well the generator's own samples are separated from clips of other origin, also after transformations.

Positives are own samples; negatives, hardest first: samples of the same architecture and data trained from another seed
(--other_seed), samples of an earlier checkpoint of the same run (--earlier), real clips of the report half, digits
spoken by espeak-ng (another synthesiser; where it is installed), and own samples whose phase Griffin-Lim replaced
from their magnitudes. All are rounded to 16 bits, as files would be. Beside exact inversion stands a cheap baseline, a
residual fingerprint, made of the own samples of the calibration's seed. Then own samples and real clips again, both
after each transformation of utils/audio/transformations.py.

The thresholds are those of `attribute.py`, for the same networks and precision; the clips here are others. Scores are
kept in --output: an interrupted run resumes.

Examples:

    # the section of RESULTS.md
    python -m studies.attribution ../shared/data/speech_commands_digits --n 200 --other_seed other/ --earlier early/

    # a first look
    python -m studies.attribution ../shared/data/speech_commands_digits --n 8 --robust_n 4
"""

import argparse
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from utils import options
from utils.bundled import find_calibration
from utils.errors import UserError
from utils.runs.cache import cache_folder

OWN = "own samples"
ANOTHER_SEED, EARLIER, REAL_CLIPS, ESPEAK, GRIFFIN_LIM = NEGATIVES = (
    "another seed",
    "earlier checkpoint",
    "real clips",
    "espeak-ng",
    "Griffin-Lim",
)
FEWEST_FOR_RATE = 300  # negatives: 1 % of fewer is not even three of them


def parse_arguments() -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    options.add_input(parser, "real clips, of which the report half is used")
    options.add_shared(parser, "generator", "encoder", "trust", "precision", "batch_size", "quiet")
    add = parser.add_argument
    add("--calibration", type=Path, metavar="FILE", help="thresholds (default: those that attribute.py finds)")
    another = "a generator of the same architecture and data, trained from another seed (default: left out)"
    add("--other_seed", metavar="PATH", help=another)
    add("--earlier", metavar="PATH", help="an earlier checkpoint of this generator's training (default: left out)")
    add("--n", type=options.positive_int, default=FEWEST_FOR_RATE, help="clips of each kind, at least 2")
    which = f"kinds of negatives, of {', '.join(map(repr, NEGATIVES))} (default: all that can be made)"
    add("--negatives", nargs="+", choices=NEGATIVES, default=NEGATIVES, metavar="KIND", help=which)
    robust = "own samples and real clips of each transformation, 0 for none (default: as --n)"
    add("--robust_n", type=options.non_negative_int, metavar="N", help=robust)
    options.add_shared(parser, "seed", seed=1)
    cache = "where decoded clips and near samples are kept"
    add("--cache", type=Path, default=cache_folder(), metavar="DIR", help=cache)
    add("--output", type=Path, default=Path("results/attribution"), metavar="DIR", help="where scores are kept")
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="where attribution.jsonl goes")
    args = parser.parse_args()
    args.calibration = find_calibration(args.calibration)
    if args.n < 2:
        raise UserError(f"--n: must be at least 2. Received: {args.n}")
    args.robust_n = args.n if args.robust_n is None else min(args.robust_n, args.n)
    if args.robust_n > 1 and REAL_CLIPS not in args.negatives:
        raise UserError(f"--robust_n {args.robust_n}: needs '{REAL_CLIPS}' among --negatives; or give 0")
    return args


if __name__ == "__main__":
    options.parse_early(parse_arguments)

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import librosa
import numpy as np
import scipy.signal
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score, roc_curve

from models.generator import Generator, load_generator
from models.networks import Networks
from utils.audio.datasets import DIGITS, load_dataset
from utils.audio.files import load_clip
from utils.audio.transformations import TRANSFORMATIONS, round_to_bits, transform
from utils.evaluation.attribution import (
    ABSTAINS,
    MADE,
    RELATED,
    VERDICTS,
    Attributor,
    Thresholds,
    read_thresholds,
    score_settings,
)
from utils.evaluation.comparison import share_interval
from utils.evaluation.detection import equal_error_rate
from utils.inversion.store import ResultStore
from utils.numpy_spectrograms import stft
from utils.report.figures import Estimate, interval_figure
from utils.report.origin import origin
from utils.runs.batches import render
from utils.runs.files import append_jsonl, read_json
from utils.runs.folders import output_folder
from utils.runs.progress import progress_bar

TITLE = "Was this clip made by this generator?"
ABOUT = "verdicts and separation of own samples from clips of other origin, and after transformations"
KEY = ("generator_sha256", "set", "transformation")  # of two lines with the same, the later one counts
LOSSY_TRANSFORMATIONS = ("resampled", "MP3", "Opus")  # after which no clip can be matched exactly
NO_SCORE = 0.0  # of silence, which silence reconstructs
VOICES = ("en-gb", "en-us", "en-gb-x-rp", "en-gb-scotland", "en-029")
VARIANTS = ("f1", "f2", "f3", "f4", "m1", "m3", "m7")
RATE = "tpr_at_1_fpr"
SCORES = ("inversion", "fingerprint")


def main() -> None:
    args = parse_arguments()
    networks = Networks(
        args.generator, trust=args.trust, precision=args.precision, alignment="aligned", encoder=args.encoder
    )
    hashes = {f"{name}_sha256": networks.sha256(name) for name in ("generator", "encoder")}
    settings = score_settings(precision=args.precision, **hashes)
    calibration = read_json(args.calibration)
    thresholds = read_thresholds(calibration, args.calibration, settings)
    if calibration["seed"] == args.seed:
        raise UserError(f"--seed {args.seed}: is the calibration's, whose own samples these must not be; give another")
    generator = networks.generator
    own = samples(generator, args.n, args.seed)
    negatives = make_negatives(args, generator, own)
    fingerprint = Fingerprint(samples(generator, args.n, calibration["seed"]), generator.sample_rate)
    generators = generator, networks.fast_generator
    attributor = Attributor(*generators, args.encoder and networks.encode, settings=settings, cache=args.cache)
    store = ResultStore(output_folder(args.output, Path(), ""))
    made = origin(networks, precision=args.precision, solver="least squares")
    scorer = Scorer(attributor, fingerprint, thresholds, store, args, made)

    own_scores = scorer(OWN, own)
    for name, audio in negatives.items():
        scorer(name, audio, against=own_scores)
    for name in TRANSFORMATIONS if args.robust_n > 1 else ():
        changed = [
            round_to_bits(transform(name, audio[: args.robust_n], generator.sample_rate, args.seed), 16)
            for audio in (own, negatives[REAL_CLIPS])
        ]
        scorer(REAL_CLIPS, changed[1], transformation=name, against=scorer(OWN, changed[0], transformation=name))


class Fingerprint:
    """Attribution without inversion, after Pizarro et al. 2024 (arXiv 2411.14013): the mean residual of own samples.

    A clip's residual is what a low-pass filter takes away (fourth-order Butterworth at an eighth of the rate, forwards
    and backwards); its mark is the residual's log power spectrum, mean over frames, over the clip's own level. The
    score is the correlation of a clip's mark with the mean mark.

    Args:
        own: float32 `[N, T, C]`, N of at least 2.
        sample_rate: in Hz.
    """

    FRAME = 512

    def __init__(self, own: np.ndarray, sample_rate: int):
        self._filter = scipy.signal.butter(4, sample_rate / 8, fs=sample_rate, output="sos")
        marks = self._marks(own)
        self._mean = marks.mean(axis=0)

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """Correlations in [-1, 1] of clips `[N, T, C]`, higher for the generator's own; 0 for silence."""
        marks = self._marks(audio)
        marks, mean = marks - marks.mean(axis=1, keepdims=True), self._mean - self._mean.mean()
        norms = np.linalg.norm(marks, axis=1) * np.linalg.norm(mean)
        return np.divide(marks @ mean, norms, out=np.zeros(len(marks)), where=norms > 1e-9)

    def _marks(self, audio: np.ndarray) -> np.ndarray:
        audio = np.asarray(audio, np.float64)
        residual = audio - scipy.signal.sosfiltfilt(self._filter, audio, axis=1)
        spectra = stft(np.pad(residual, [(0, 0), (self.FRAME // 2, 0), (0, 0)]), self.FRAME, self.FRAME // 2)
        power = np.square(np.abs(spectra) / (self.FRAME / 2)).mean(axis=(1, 3))
        level = np.mean(np.square(residual), axis=(1, 2))[:, None]
        return np.log(power + 1e-6 * level + 1e-20)


def auroc(own: np.ndarray, others: np.ndarray) -> float:
    """Probability that an own sample scores lower than another clip; ties count half."""
    return float(roc_auc_score(*_labelled(own, others)))


def tpr_at_fpr(own: np.ndarray, others: np.ndarray, rate: float = 0.01) -> float:
    """Largest share of own samples found by a threshold that finds at most `rate` of the others."""
    false, true, _ = roc_curve(*_labelled(own, others), drop_intermediate=False)
    return float(true[false <= rate].max())


def eer(own: np.ndarray, others: np.ndarray) -> float:
    """The error rate at the threshold where as large a share of own samples is missed as of others is found."""
    return equal_error_rate(*_labelled(own, others))


def separation(own: np.ndarray, others: np.ndarray) -> dict[str, list[float]]:
    """How well scores, which are lower for own samples, tell these from others, each measure with its 95 % interval.

    That of the samples found is of a share of them. Area and equal error rate vary at most as a share of as many clips
    as the smaller class has (Birnbaum and Klose, 1957), so theirs are such shares' intervals: too wide rather than,
    where the classes do not overlap, of no width.

    Args:
        own: float `[N]`.
        others: float `[M]`.

    Returns:
        By measure `[value, low, high]`; the share found at 1 % false alarms only of at least `FEWEST_FOR_RATE` others,
        of which a hundredth is several clips.
    """
    smaller = min(len(own), len(others))
    values = {"auroc": (auroc(own, others), smaller), "eer": (eer(own, others), smaller)}
    if len(others) >= FEWEST_FOR_RATE:
        values[RATE] = (tpr_at_fpr(own, others), len(own))
    return {name: [value, *share_interval(value * n, n)] for name, (value, n) in values.items()}


def _labelled(own: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As scikit-learn takes them: 1 for own samples, and scores that are higher for them."""
    return np.repeat([1, 0], [len(own), len(others)]), -np.concatenate([own, others])


class Scorer:
    """Scores sets of clips by inversion and by fingerprint, and records each set."""

    def __init__(
        self,
        attributor: Attributor,
        fingerprint: Fingerprint,
        thresholds: Thresholds,
        store: ResultStore,
        args: argparse.Namespace,
        origin: Mapping[str, Any],
    ):
        self._attributor, self._fingerprint, self._thresholds = attributor, fingerprint, thresholds
        self._store, self._args, self._origin = store, args, origin

    def __call__(
        self,
        name: str,
        audio: np.ndarray,
        *,
        transformation: str = "none",
        against: dict[str, np.ndarray] | None = None,
    ) -> dict[str, np.ndarray]:
        """Scores by method, lower for own samples; the line says how `against`, own samples', compare."""
        args = self._args
        with progress_bar(f"{name}, {transformation}", len(audio), quiet=args.quiet) as bar:
            results = self._attributor(audio, self._store, batch_size=args.batch_size, bar=bar)
        inversion = np.array([NO_SCORE if result["score"] is None else result["score"] for result in results])
        scores = {"inversion": inversion, "fingerprint": -self._fingerprint(audio)}
        lossless = transformation not in LOSSY_TRANSFORMATIONS
        verdicts = Counter(
            self._thresholds.verdict(result["score"], exact=result["exact"], lossless=lossless)[0] for result in results
        )
        facts: dict[str, Any] = {
            "verdicts": {verdict: verdicts[verdict] for verdict in VERDICTS},
            "exact": sum(result["exact"] for result in results),
            "median_score": float(np.median(inversion)),
            "seconds": float(np.mean([result["seconds"] for result in results])),
        }
        if against:
            facts |= {method: separation(against[method], scores[method]) for method in scores}
        record = {"benchmark": "attribution", "generator": args.generator, "set": name}
        record |= {"transformation": transformation, "n": len(audio), **facts}
        record |= {"seed": args.seed, "thresholds": asdict(self._thresholds)} | self._attributor.settings
        append_jsonl(args.results / "attribution.jsonl", record | self._origin)
        shown = "  ".join(f"{method} AUROC {facts[method]['auroc'][0]:.3f}" for method in scores if against)
        print(f"{name:22}{transformation:13}{facts['verdicts']}  median {facts['median_score']:.2f}  {shown}")
        return scores


def samples(generator: Generator, n: int, seed: int) -> np.ndarray:
    """The first n samples of a seed, as 16-bit files give them back."""
    return round_to_bits(np.stack(list(render(generator, generator.sample_prior(seed, n), 16))), 16)


def make_negatives(args: argparse.Namespace, generator: Generator, own: np.ndarray) -> dict[str, np.ndarray]:
    """Clips `[n, T, C]` of other origin by kind, hardest first; a line for each kind that is left out."""
    sets = {}
    for name, flag, path in ((ANOTHER_SEED, "--other_seed", args.other_seed), (EARLIER, "--earlier", args.earlier)):
        if name not in args.negatives:
            continue
        if path is None:
            print(f"{name}: left out, no {flag}")
            continue
        other = load_generator(path, trust=args.trust)
        if other.clip_shape != generator.clip_shape:
            raise UserError(f"{flag} {path}: must give clips of {generator.clip_shape}. Received: {other.clip_shape}")
        if other.fingerprint == generator.fingerprint:
            raise UserError(f"{flag} {path}: is --generator itself")
        sets[name] = samples(other, args.n, args.seed)
    if REAL_CLIPS in args.negatives:
        clips = load_dataset(args.input, *generator.clip_shape, "report", cache_dir=args.cache, quiet=args.quiet)
        if len(clips) < args.n:
            raise UserError(f"--n {args.n}: {args.input} has only {len(clips)} clips in its report half")
        sets[REAL_CLIPS] = clips.to_float(np.sort(np.random.default_rng(args.seed).permutation(len(clips))[: args.n]))
    if ESPEAK in args.negatives:
        if shutil.which("espeak-ng"):
            sets[ESPEAK] = round_to_bits(spoken(args.n, generator.clip_shape), 16)
        else:
            print(f"{ESPEAK}: left out, not installed (Debian, Ubuntu: apt install espeak-ng)")
    if GRIFFIN_LIM in args.negatives:
        sets[GRIFFIN_LIM] = round_to_bits(griffin_lim(own), 16)
    return sets


def spoken(n: int, clip_shape: tuple[int, int, int]) -> np.ndarray:
    """n digits by espeak-ng, each in another voice or at another speed or pitch."""
    clips = []
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "word.wav"
        for i in range(n):
            voice = f"{VOICES[i % len(VOICES)]}+{VARIANTS[i // 3 % len(VARIANTS)]}"
            manner = ["-s", str(130 + i // 7 % 50), "-p", str(30 + i * 11 % 40)]
            command = ["espeak-ng", "-v", voice, *manner, "-w", str(wav), DIGITS[i % len(DIGITS)]]
            subprocess.run(command, check=True)
            clips.append(load_clip(wav, *clip_shape).windows[0])
    return np.stack(clips)


def griffin_lim(audio: np.ndarray, frame: int = 1024) -> np.ndarray:
    """Clips `[N, T, C]` with their own STFT magnitudes and the phases that librosa's Griffin-Lim finds."""
    frames = 1 + audio.shape[1] // (frame // 4)  # librosa's, which are centred
    spectra = stft(np.pad(audio, [(0, 0), (frame // 2, 0), (0, 0)]), frame, frame // 4)[:, :frames]
    magnitudes = np.abs(spectra).transpose(0, 3, 2, 1).astype(np.float32)
    found = librosa.griffinlim(magnitudes, n_fft=frame, length=audio.shape[1], random_state=0)
    return np.clip(found.transpose(0, 2, 1), -1, 1).astype(np.float32)


def figure(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """Shares of the verdicts, and by how much the scores tell own samples from each other set; a row a set."""
    panels: dict[str, dict[str, dict[str, Estimate]]] = {}
    first = lines[0]["generator_sha256"]
    for line in lines:
        row = line["set"] if line["transformation"] == "none" else f"{line['set']}, {line['transformation']}"
        row += "" if line["generator_sha256"] == first else f" (generator: {line['generator']})"
        row += f", n = {line['n']}"
        for verdict in (verdict for verdict in (MADE, RELATED, ABSTAINS) if verdict in line["verdicts"]):
            count, n = line["verdicts"][verdict], line["n"]
            numbers = Estimate(*(100 * x for x in (count / n, *share_interval(count, n))))
            panels.setdefault("verdicts, %", {}).setdefault(verdict, {})[row] = numbers
        for score in SCORES:
            if score in line:
                panels.setdefault("AUROC", {}).setdefault(score, {})[row] = Estimate(*line[score]["auroc"])
    return interval_figure(panels)


if __name__ == "__main__":
    options.run(main)

"""Accuracy and agreement of the judges on real clips, on the generator's samples, and on the encoder's reconstructions
of both, whose error is measured, too: waveform, latents, and F0 (pyin from 80 to 500 Hz) of the first 200 clips.

Examples:

    # the numbers in classifier_checkpoint/README.md and in inverse_mapping_checkpoint/README.md
    python -m studies.judges ../shared/data/speech_commands_digits

    # the same of the networks of preset paper
    python -m studies.judges ../shared/data/speech_commands_digits --preset paper
"""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils import choices, options
from utils.runs.cache import cache_folder

PAPER = {name: options.PAPER_RECOVERY[name] for name in ("encoder", "classifier", "alignment")}
PRESETS = {"aligned": {}, "paper": PAPER}


def parse_arguments() -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    options.add_input(parser, "SC09, of which the report half is used")
    options.add_shared(
        parser, "generator", "trust", "encoder", "classifier", "judge", "preset", "seed", judge=options.JUDGES
    )
    parser.add_argument(
        "--alignment", choices=choices.ALIGNMENTS, default="aligned", help="level and time base of real clips"
    )
    parser.add_argument("--n", type=options.positive_int, default=500, help="samples of the generator")
    cache = "where decoded clips are kept"
    parser.add_argument("--cache", type=Path, default=cache_folder(), metavar="DIR", help=cache)
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="where the record goes")
    return options.apply_preset(parser.parse_args(), parser, PRESETS)


if __name__ == "__main__":
    options.parse_early(parse_arguments)

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import numpy as np
from matplotlib.figure import Figure

from models.networks import Networks
from utils import metrics
from utils.audio.datasets import load_dataset
from utils.domains import REAL, SYNTHETIC
from utils.errors import UserError
from utils.evaluation.comparison import share_interval
from utils.evaluation.generator_statistics import judged_statistics
from utils.report.figures import Estimate, interval_figure
from utils.report.origin import origin
from utils.runs.batches import in_batches
from utils.runs.files import append_jsonl

TITLE = "The judges"
ABOUT = "each classifier on real clips, samples and reconstructions of both: accuracy, inception score, confidence"
KEY = ("preset", "set")  # of two lines with the same, the later one counts
BATCH = 50
F0_CLIPS = 200
F0_RANGE = {"lowest": 80.0, "highest": 500.0}  # Hz; above the hum at 62.5 Hz, which pitch trackers take for voice


def main() -> int:
    args = parse_arguments()
    named = {"encoder": args.encoder, "classifier": args.classifier, "judges": args.judge}
    networks = Networks(args.generator, alignment=args.alignment, trust=args.trust, **named)
    generator = networks.generator
    shape = (generator.num_samples, generator.num_channels, generator.sample_rate)
    clips = load_dataset(args.input, *shape, "report", args.alignment, args.cache)
    if not clips.class_names:
        raise UserError(f"{args.input}: no digit labels; SC09 has zero/ ... nine/ or train/Zero_*.wav")

    z_true = generator.sample_prior(args.seed, args.n)
    for name, audio in {REAL: clips.to_float(), SYNTHETIC: in_batches(generator, z_true, BATCH)}.items():
        z = in_batches(lambda batch, domain=name: networks.encode(batch, domain), audio, BATCH)
        reconstructions = in_batches(generator, z, BATCH)
        errors = {"waveform_mse": np.mean(list(map(metrics.waveform_mse, audio, reconstructions)))}
        errors |= {"z_mse": metrics.latent_mse(z, z_true)} if name == SYNTHETIC else {}
        errors |= f0_kept(
            *(metrics.f0(x[:F0_CLIPS], generator.sample_rate, **F0_RANGE) for x in (audio, reconstructions))
        )
        truth = dict.fromkeys(networks.classifiers, clips.labels) if name == REAL else {}
        for part, judged, more in ((name, audio, {}), (f"{name}, reconstructed", reconstructions, {"errors": errors})):
            answers = {judge: probabilities for judge, (probabilities, _) in networks.classify(judged, BATCH).items()}
            # A sample's digit is what the judge answers for the sample itself.
            truth = truth or {judge: probabilities.argmax(axis=1) for judge, probabilities in answers.items()}
            facts = describe(answers, truth) | more
            for subject, row in facts.items():
                print(f"{part:26}{subject:24}" + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
            facts |= {name: getattr(args, name) for name in ("preset", "alignment", "seed", "generator")}
            record = {"benchmark": "judges", "set": part, "n": len(judged), **facts}
            append_jsonl(args.results / "judges.jsonl", record | origin(networks))
    return options.EXIT_OK


def f0_kept(original: np.ndarray, reconstruction: np.ndarray) -> dict[str, float]:
    """What of the voice of clips is there in their reconstructions, from the `f0` tracks `[N, frames]` of both: the
    share of voiced frames that stay voiced and, of those, with F0 within a semitone; nothing where there are none."""
    both = (original > 0) & (reconstruction > 0)
    facts = {"voiced_kept": float(both.sum() / (original > 0).sum())} if original.any() else {}
    if both.any():
        semitones = np.abs(12 * np.log2(reconstruction[both] / original[both]))
        facts["f0_within_semitone"] = float(np.mean(semitones <= 1))
    return facts


def describe(answers: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """What classifiers' probabilities `[N, K]` of the same clips say: of each, and of each pair.

    Args:
        answers: probabilities by classifier.
        truth: the right answers, int `[N]`, by classifier.

    Returns:
        By classifier `judged_statistics`, and accuracy with its 95 % interval; by pair "a, b" the share of
        clips on which both give the same answer.
    """
    facts: dict[str, dict[str, float]] = {}
    for name, probabilities in answers.items():
        facts[name] = judged_statistics(probabilities)
        correct, n = int(np.sum(probabilities.argmax(axis=1) == truth[name])), len(probabilities)
        facts[name] |= {"accuracy": correct / n} | dict(zip(("from", "to"), share_interval(correct, n), strict=True))
    for a, b in itertools.combinations(answers, 2):
        facts[f"{a}, {b}"] = {"agreement": float(np.mean(answers[a].argmax(axis=1) == answers[b].argmax(axis=1)))}
    return facts


def figure(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """Accuracy of each classifier on each set of clips, with its interval, and the inception score."""
    panels: dict[str, dict[str, dict[str, Estimate]]] = {"correct, %": {}, "inception score": {}}
    for line in lines:
        row = f"{line['set']} (n = {line['n']})"
        row += ", preset paper" if line.get("preset") == "paper" else ""
        for who, facts in line.items():
            if isinstance(facts, dict) and "accuracy" in facts:
                numbers = Estimate(*(100 * facts[key] for key in ("accuracy", "from", "to")))
                panels["correct, %"].setdefault(who, {})[row] = numbers
                panels["inception score"].setdefault(who, {})[row] = Estimate(facts["inception_score"])
    return interval_figure(panels)


if __name__ == "__main__":
    options.run(main)

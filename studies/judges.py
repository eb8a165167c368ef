"""How right the judges are and how far they agree: on real clips, on the generator's samples, and on the encoder's
reconstructions of both, whose error it measures, too.

Examples:

    # the numbers in classifier_checkpoint/README.md and in inverse_mapping_checkpoint/README.md
    python -m studies.judges ../shared/data/speech_commands_digits

    # the same of the networks of preset paper
    python -m studies.judges ../shared/data/speech_commands_digits --preset paper
"""

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import numpy as np
from scipy.stats import binomtest

from models.networks import Networks
from utils import metrics, options
from utils.audio.datasets import load_dataset
from utils.audio.files import ALIGNMENTS
from utils.domains import REAL, SYNTHETIC
from utils.errors import UserError
from utils.evaluation.generator_statistics import judged_statistics
from utils.report.markdown import table_lines
from utils.runs.batches import in_batches
from utils.runs.environment import describe_environment
from utils.runs.files import append_jsonl

TITLE = "The judges"
KEY = ("set",)  # of two lines with the same, the later one counts
PAPER = {name: options.PAPER_RECOVERY[name] for name in ("encoder", "classifier", "alignment")}
PRESETS = {"aligned": {}, "paper": PAPER}
BATCH = 50


def main() -> int:
    parser = options.make_parser(__doc__)
    options.add_input(parser, "SC09, of which the report half is used")
    options.add_shared(
        parser, "generator", "trust", "encoder", "classifier", "judge", "preset", "seed", judge=options.JUDGES
    )
    parser.add_argument("--alignment", choices=ALIGNMENTS, default="aligned", help="level and time base of real clips")
    parser.add_argument("--n", type=options.positive_int, default=500, help="samples of the generator")
    parser.add_argument("--cache", type=Path, default=Path("cache"), metavar="DIR", help="where decoded clips are kept")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="where the record goes")
    args = options.apply_preset(parser.parse_args(), parser, PRESETS)
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
        truth = dict.fromkeys(networks.classifiers, clips.labels) if name == REAL else {}
        for part, heard, more in ((name, audio, {}), (f"{name}, reconstructed", reconstructions, {"errors": errors})):
            answers = {judge: probabilities for judge, (probabilities, _) in networks.classify(heard, BATCH).items()}
            # A sample says what a judge hears in the sample itself.
            truth = truth or {judge: probabilities.argmax(axis=1) for judge, probabilities in answers.items()}
            facts = describe(answers, truth) | more
            for subject, row in facts.items():
                print(f"{part:26}{subject:24}" + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
            facts |= {"alignment": args.alignment, "seed": args.seed}
            record = {"benchmark": "judges", "set": part, "n": len(heard), **facts}
            record |= {f"{network}_sha256": networks.sha256(network) for network in ("generator", "encoder", *answers)}
            append_jsonl(args.results / "judges.jsonl", record | describe_environment())
    return options.EXIT_OK


def describe(answers: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """What classifiers' probabilities `[N, K]` of the same clips say: of each, and of each pair.

    Args:
        answers: probabilities by classifier.
        truth: the right answers, int `[N]`, by classifier.

    Returns:
        By classifier `judged_statistics`, and accuracy with its 95 % interval (Wilson); by pair "a, b" the share of
        clips on which both give the same answer.
    """
    facts: dict[str, dict[str, float]] = {}
    for name, probabilities in answers.items():
        facts[name] = judged_statistics(probabilities)
        correct, n = int(np.sum(probabilities.argmax(axis=1) == truth[name])), len(probabilities)
        interval = binomtest(correct, n).proportion_ci(method="wilson")
        facts[name] |= {"accuracy": correct / n, "from": interval.low, "to": interval.high}
    for a, b in itertools.combinations(answers, 2):
        facts[f"{a}, {b}"] = {"agreement": float(np.mean(answers[a].argmax(axis=1) == answers[b].argmax(axis=1)))}
    return facts


def section(lines: Iterable[Mapping[str, Any]]) -> str:
    """For RESULTS.md: right answers, inception score and confidence of each classifier; equal
    answers of each pair."""
    sets = {f"{record['set']}, n = {record['n']:,}": record for record in lines}
    subjects = dict.fromkeys(
        who for record in sets.values() for who, facts in record.items() if isinstance(facts, dict)
    )
    rows = []
    for who in subjects:
        measures = {
            f"{who}: right (95 % interval)": ("accuracy", "from", "to"),
            f"{who}: inception score": ("inception_score",),
            f"{who}: answers at p >= 0.9": ("confident",),
            f"same answer of {' and '.join(who.split(', '))}": ("agreement",),
        }
        for title, names in measures.items():
            cells = [_judged(record.get(who, {}), names) for record in sets.values()]
            if any(cell != "–" for cell in cells):
                rows.append([title, *cells])
    return "\n".join(table_lines(["", *sets], rows)) + "\n"


def _judged(facts: Mapping[str, float], names: tuple[str, ...]) -> str:
    if names[0] not in facts:
        return "–"
    if names[0] == "inception_score":
        return f"{facts[names[0]]:.2f}"
    interval = " ({:.1f} to {:.1f})".format(*(100 * facts[name] for name in names[1:])) if len(names) > 1 else ""
    return f"{100 * facts[names[0]]:.1f} %{interval}"


if __name__ == "__main__":
    options.run(main)

"""How right the judges are and how far they agree: on real clips, on the encoder's reconstructions of them, on samples.

Examples:

    # the numbers in classifier_checkpoint/README.md
    python -m benchmarks.judges ../shared/data/speech_commands_digits
"""

import itertools
from pathlib import Path

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import numpy as np
from scipy.stats import binomtest

from models.loading import Networks
from utils import options
from utils.audio.datasets import load_dataset
from utils.evaluation.generator_statistics import judged_statistics
from utils.evaluation.names import REAL
from utils.options import UserError
from utils.runs.batches import in_batches
from utils.runs.environment import describe_environment
from utils.runs.files import append_jsonl

BATCH = 50


def main() -> int:
    parser = options.make_parser(__doc__)
    options.add_input(parser, "SC09, of which the report half is used")
    options.add_shared(parser, "generator", "encoder", "classifier", "judge", "seed", judge=options.JUDGES)
    parser.add_argument("--n", type=options.positive_int, default=500, help="samples of the generator")
    parser.add_argument("--cache", type=Path, default=Path("cache"), metavar="DIR", help="where decoded clips are kept")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="where the record goes")
    args = parser.parse_args()
    networks = Networks(args.generator, encoder=args.encoder, classifier=args.classifier, judges=args.judge)
    generator = networks.generator
    shape = (generator.num_samples, generator.num_channels, generator.sample_rate)
    clips = load_dataset(args.input, *shape, "report", cache_dir=args.cache)
    if not clips.class_names:
        raise UserError(f"{args.input}: no digit labels; SC09 has zero/ ... nine/ or train/Zero_*.wav")

    real = clips.to_float()
    z = in_batches(lambda audio: networks.encode(audio, REAL), real, BATCH)
    sets = {
        "real": (real, clips.labels),
        "reconstructions": (in_batches(generator, z, BATCH), clips.labels),
        "samples": (in_batches(generator, generator.sample_prior(args.seed, args.n), BATCH), None),
    }
    for name, (audio, labels) in sets.items():
        answers = {judge: probabilities for judge, (probabilities, _) in networks.classify(audio, BATCH).items()}
        facts = describe(answers, labels)
        for subject, row in facts.items():
            print(f"{name:16}{subject:28}" + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
        record = {"benchmark": "judges", "set": name, "n": len(audio), "seed": args.seed, **facts}
        record |= {f"{network}_sha256": networks.sha256(network) for network in ("generator", "encoder", *answers)}
        append_jsonl(args.results / "judges.jsonl", record | describe_environment())
    return options.EXIT_OK


def describe(answers: dict[str, np.ndarray], labels: np.ndarray | None) -> dict[str, dict[str, float]]:
    """What classifiers' probabilities `[N, K]` of the same clips say: of each, and of each pair.

    Args:
        answers: probabilities by classifier.
        labels: int `[N]`, where the clips have them.

    Returns:
        By classifier `judged_statistics`, and accuracy with its 95 % interval (Wilson); by pair "a, b" the share of
        clips on which both give the same answer.
    """
    facts: dict[str, dict[str, float]] = {}
    for name, probabilities in answers.items():
        facts[name] = judged_statistics(probabilities)
        if labels is not None:
            correct = int(np.sum(probabilities.argmax(axis=1) == labels))
            interval = binomtest(correct, len(labels)).proportion_ci(method="wilson")
            facts[name] |= {"accuracy": correct / len(labels), "from": interval.low, "to": interval.high}
    for a, b in itertools.combinations(answers, 2):
        facts[f"{a}, {b}"] = {"agreement": float(np.mean(answers[a].argmax(axis=1) == answers[b].argmax(axis=1)))}
    return facts


if __name__ == "__main__":
    options.run(main)

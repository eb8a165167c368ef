"""How good a generator's samples are, beside real clips, by classifiers that took no part in its training.

Examples:

    # the numbers of the bundled generator in README.md
    python -m benchmarks.samples --real ../shared/data/speech_commands_digits

    # another one
    python -m benchmarks.samples --generator checkpoint/sc09 --n 5000
"""

from collections.abc import Mapping
from pathlib import Path

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import numpy as np

from benchmarks.generator import singular_values
from models.classifier import Classifier, load_classifier
from models.generator import load_generator
from utils import options
from utils.audio.datasets import load_dataset
from utils.evaluation.generator_statistics import jacobian_statistics, judged_statistics, level_statistics
from utils.runs.batches import render
from utils.runs.environment import describe_environment
from utils.runs.files import append_jsonl

BATCH = 50
JACOBIANS = 25


def main() -> None:
    parser = options.make_parser(__doc__)
    options.add_shared(parser, "generator", "judge", "seed", judge=options.JUDGES)
    parser.add_argument("--n", type=options.positive_int, default=1000, help="samples, and at most so many real clips")
    parser.add_argument("--real", type=Path, metavar="DIR", help="SC09, of which the report half is judged too")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="where the record goes")
    args = parser.parse_args()
    generator = load_generator(args.generator)
    judges = {Path(path).stem: load_classifier(path) for path in args.judge or ()}

    z = generator.sample_prior(args.seed, args.n)
    audio = np.stack(list(render(generator, z, BATCH)))
    rows = {"samples": describe(audio, judges)}
    if args.real:
        dataset = load_dataset(args.real, *generator.clip_shape, split="report")
        chosen = np.random.default_rng(args.seed).permutation(len(dataset))[: args.n]
        real = dataset.to_float(np.sort(chosen))
        rows["real"] = describe(real, judges)
        rows["samples"]["rms_db"] = level_statistics(audio, real)["rms_db"]
    spectrum = np.median([singular_values(generator, row) for row in z[:JACOBIANS]], axis=0)
    rows["samples"] |= jacobian_statistics(spectrum)
    for name, facts in rows.items():
        print(f"{name:8}" + "  ".join(f"{key} {value:.4g}" for key, value in facts.items()))
        record = {"benchmark": "samples", "set": name, **facts, "seed": args.seed, "generator": generator.fingerprint}
        append_jsonl(args.results / "samples.jsonl", record | {"judge": args.judge, **describe_environment()})


def describe(audio: np.ndarray, judges: Mapping[str, Classifier]) -> dict[str, float]:
    """The judges' view of clips `[N, T, C]`, their level, and n."""
    facts = {"n": len(audio), "rms": float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))}
    for name, judge in judges.items():
        statistics = judged_statistics(judge.predict(audio, batch_size=BATCH, verbose=0))
        facts |= {f"{statistic}/{name}": value for statistic, value in statistics.items()}
    return facts


if __name__ == "__main__":
    options.run(main)

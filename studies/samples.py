"""How good a generator's samples are, and whether they are many or a few many times, beside real clips.

Scored by the judges, which took part in no training: inception score (one split; compare at equal n only), shares of
confident answers, of the rarest and of the most frequent digit, and precision, recall, density and coverage (Naeem et
al. 2020, k = 5) among the real clips by each judge's pooled features. Of the samples themselves: how much of their
power is one fixed waveform, and the mean squared cosine between two of them, overall and within a digit; the variance
of their log-mel spectrograms within a digit beside that of real clips. A digit is what the first judge hears, of
samples and of real clips alike.

Real clips are those of the report half, then, where n is more, training clips drawn by the seed; the row `other real`
is of as many further training clips, and what a generator could hope for. n = 2,048 is what the field scores SC09 by.

Examples:

    # the numbers of the bundled generator in benchmarks/README.md
    python -m studies.samples --real ../shared/data/speech_commands_digits

    # another one, without real clips
    python -m studies.samples --generator checkpoint/sc09 --n 5000
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import numpy as np

from benchmarks.generator import singular_values
from models.classifier import LogMel
from models.generator import Generator
from models.networks import Networks
from utils import options
from utils.audio.datasets import load_dataset
from utils.errors import UserError
from utils.evaluation.generator_statistics import jacobian_statistics, judged_statistics, level_statistics
from utils.evaluation.honesty import (
    fixed_waveform_share,
    mean_squared_cosine,
    precision_recall_density_coverage,
    variance,
    within_class,
)
from utils.metrics import Predictions
from utils.report.markdown import table_lines
from utils.runs.batches import in_batches, render
from utils.runs.environment import describe_environment
from utils.runs.files import append_jsonl

TITLE = "The generator's samples beside real clips"
KEY = ("set", "n")  # of two lines with the same, the later one counts
BATCH = 50
JACOBIANS = 25


def main() -> None:
    parser = options.make_parser(__doc__)
    options.add_shared(parser, "generator", "trust", "judge", "seed", judge=options.JUDGES)
    parser.add_argument("--n", type=options.positive_int, default=2048, help="samples, and real clips")
    parser.add_argument("--real", type=Path, metavar="DIR", help="SC09, to compare with")
    parser.add_argument("--cache", type=Path, default=Path("cache"), metavar="DIR", help="where decoded clips are kept")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="where the record goes")
    args = parser.parse_args()
    networks = Networks(args.generator, trust=args.trust, judges=args.judge)
    generator = networks.generator
    z = generator.sample_prior(args.seed, args.n)
    sets = {"samples": np.stack(list(render(generator, z, BATCH)))}
    if args.real:
        sets |= real_clips(args.real, generator, args.n, args.seed, args.cache)

    answers = {name: networks.classify(audio, BATCH) for name, audio in sets.items()}
    rows = {name: describe(audio, answers[name], generator.sample_rate) for name, audio in sets.items()}
    for name in sets.keys() - {"real"} if args.real else ():
        rows[name]["rms_db"] = level_statistics(sets[name], sets["real"])["rms_db"]
        for judge, (_, features) in answers[name].items():
            among = precision_recall_density_coverage(answers["real"][judge].features, features)
            rows[name] |= {f"{measure}/{judge}": value for measure, value in among.items()}
        if "log_mel_variance_in_digit" in rows["real"]:
            share = rows[name]["log_mel_variance_in_digit"] / rows["real"]["log_mel_variance_in_digit"]
            rows[name]["log_mel_variance_in_digit_to_real"] = share
    spectrum = np.median([singular_values(generator, row) for row in z[:JACOBIANS]], axis=0)
    rows["samples"] |= jacobian_statistics(spectrum)

    for name, facts in rows.items():
        print(f"{name}\n" + "".join(f"    {key:36} {value:.4g}\n" for key, value in facts.items()))
        record = {"benchmark": "samples", "set": name, **facts, "seed": args.seed}
        record |= {f"{network}_sha256": networks.sha256(network) for network in ("generator", *networks.judges)}
        append_jsonl(args.results / "samples.jsonl", record | describe_environment())


def real_clips(root: Path, generator: Generator, n: int, seed: int, cache: Path) -> dict[str, np.ndarray]:
    """n real clips, the report half first, and n others, float32 `[n, T, C]` each."""
    report, train = (load_dataset(root, *generator.clip_shape, split, cache_dir=cache) for split in ("report", "train"))
    random = np.random.default_rng(seed)
    first, further = random.permutation(len(report))[:n], random.permutation(len(train))
    if len(first) + len(further) < 2 * n:
        raise UserError(f"--n {n}: {root} has only {len(first) + len(further)} clips, of which twice as many are taken")
    lacking = n - len(first)
    real = np.concatenate([report.to_float(np.sort(first)), train.to_float(np.sort(further[:lacking]))])
    return {"real": real, "other real": train.to_float(np.sort(further[lacking : lacking + n]))}


def describe(audio: np.ndarray, answers: dict[str, Predictions], sample_rate: int) -> dict[str, float]:
    """All that is said of clips `[N, T, C]` by themselves, by what each judge answers them; N of at least 2."""
    facts = {
        "n": len(audio),
        "rms": float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))),
        "fixed_share": fixed_waveform_share(audio),
        "squared_cosine": mean_squared_cosine(audio),
    }
    for judge, (probabilities, _) in answers.items():
        facts |= {f"{name}/{judge}": value for name, value in judged_statistics(probabilities).items()}
    if answers:
        digits = next(iter(answers.values())).probabilities.argmax(axis=1)
        log_mels = in_batches(LogMel(sample_rate), audio, BATCH)
        facts["fixed_share_in_digit"] = within_class(fixed_waveform_share, audio, digits)
        facts["squared_cosine_in_digit"] = within_class(mean_squared_cosine, audio, digits)
        facts["log_mel_variance_in_digit"] = within_class(variance, log_mels, digits)
    return facts


def section(lines: Iterable[Mapping[str, Any]]) -> str:
    """For RESULTS.md: a row a measure, a column a set of clips."""
    columns = {f"{record['set']}, n = {record['n']:,}": _numbers(record) for record in lines}
    rows = []
    for measure in dict.fromkeys(name for numbers in columns.values() for name in numbers):
        cells = [format(numbers[measure], ".4g") if measure in numbers else "–" for numbers in columns.values()]
        rows.append([measure.replace("_", " ").replace("/", ", "), *cells])
    return "\n".join(table_lines(["", *columns], rows)) + "\n"


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The measures of a line."""
    return {
        name: value
        for name, value in record.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in ("n", "seed")
    }


if __name__ == "__main__":
    options.run(main)

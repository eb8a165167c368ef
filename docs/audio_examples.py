"""The sounds in docs/audio: clips and their reconstructions by each method with the bundled networks.

    python -m docs.audio_examples ../shared/data/speech_commands_digits

takes five real clips of the report half by the seed, each of another digit and speaker, and five of the generator's own
samples, inverts them with latent_vector_recovery.py and writes originals and reconstructions as FLAC beside a README.md
that lists them.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from utils import options
from utils.report.markdown import table_lines
from utils.runs.cache import cache_folder

HERE = Path(__file__).parent


def parse_arguments() -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    options.add_input(parser, "SC09, of which the report half is used")
    options.add_shared(parser, "seed")
    parser.add_argument("--output", type=Path, default=HERE / "audio", metavar="DIR", help="where the sounds go")
    work = "where they are inverted; remove it to invert them again"
    parser.add_argument("--work", type=Path, default=Path("results/audio"), metavar="DIR", help=work)
    cache = "where decoded clips are kept"
    parser.add_argument("--cache", type=Path, default=cache_folder(), metavar="DIR", help=cache)
    more = 'further options of latent_vector_recovery.py, such as --recovery="--max_iter 100" (default: none)'
    parser.add_argument("--recovery", default="", metavar="OPTIONS", help=more)
    return parser.parse_args()


if __name__ == "__main__":
    options.parse_early(parse_arguments)

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import numpy as np
import soundfile

from utils.audio.datasets import load_dataset
from utils.audio.splits import speaker_of
from utils.errors import UserError
from utils.runs.environment import describe_environment
from utils.runs.files import atomic_path, write_text

COUNT = 5  # of each kind
LARGEST = 2_000_000  # bytes of all files

README = """\
# Listen

{count} real clips and {count} of the generator's own samples, with their reconstructions: `encoder` (one pass),
`gradient` (a search from the prior) and `hybrid` (a search from the encoder's answer){more}. Nothing was chosen by ear:
the real clips are the first of the report half in the order of seed {seed}, each of another digit and another speaker;
the samples are the first of the same seed. All are 16 kHz, 16 bit.

{table}

Made by `python -m docs.audio_examples {given}`, commit {commit}.

The real clips are of Speech Commands v0.01 (Pete Warden, Google,
[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/)), named as there, cut to at most 1.024 s; the sounds made of
them and of the generator, which learned from the same data, are given under the same licence.
"""


def main() -> None:
    args = parse_arguments()

    sources = choose(args.input, args.seed, args.cache)
    clips = args.work / "clips"
    clips.mkdir(parents=True, exist_ok=True)
    for name, source in sources.items():
        shutil.copyfile(args.input / source, clips / f"{name}{Path(source).suffix}")
    given = ["--method", "all", "--own_samples", str(COUNT), "--seed", str(args.seed), *shlex.split(args.recovery)]
    command = [
        sys.executable,
        "latent_vector_recovery.py",
        str(clips),
        *given,
        "--output",
        str(args.work / "recovered"),
    ]
    if subprocess.run(command, cwd=HERE.parent).returncode:
        raise UserError("latent_vector_recovery.py: has failed; its own message is above")
    write_examples(args.work / "recovered", args.output, sources, seed=args.seed, given=shlex.join(sys.argv[1:]))
    print(args.output)


def choose(root: Path, seed: int, cache: Path) -> dict[str, str]:
    """Names, `real-1-seven`, and files of real clips, each of another digit and another speaker."""
    dataset = load_dataset(root, split="report", cache_dir=cache)
    if not dataset.class_names:
        raise UserError(f"{root}: no digit labels; SC09 has zero/ ... nine/ or train/Zero_*.wav")
    found, seen = {}, set()
    for i in np.random.default_rng(seed).permutation(len(dataset)):
        digit, source = dataset.class_names[dataset.labels[i]], dataset.names[i]
        if len(found) < COUNT and not {digit, speaker_of(source)} & seen:
            seen |= {digit, speaker_of(source)}
            found[f"real-{len(found) + 1}-{digit}"] = source
    return found


def write_examples(recovered: Path, output: Path, sources: dict[str, str], *, seed: int, given: str) -> None:
    """FLAC files and README.md from a folder of latent_vector_recovery.py, in place of what was there.

    Raises:
        UserError: where they would take more than `LARGEST` bytes.
    """
    folders = {name: recovered / "clips" / f"{name}{Path(source).suffix}" for name, source in sources.items()}
    own = sorted(path for path in (recovered / "own_samples").iterdir() if path.is_dir())[:COUNT]
    folders |= {f"synthetic-{i}": folder for i, folder in enumerate(own, start=1)}
    files = {f"{name}-{wav.stem}": wav for name, folder in folders.items() for wav in sorted(folder.glob("*.wav"))}
    output.mkdir(parents=True, exist_ok=True)
    for old in output.glob("*.flac"):
        old.unlink()
    for name, wav in files.items():
        with atomic_path(output / f"{name}.flac") as temporary:
            soundfile.write(temporary, *soundfile.read(wav, dtype="float32"), subtype="PCM_16")
    size = sum(path.stat().st_size for path in output.glob("*.flac"))
    if size > LARGEST:
        raise UserError(f"{output}: takes {size:,} bytes, at most {LARGEST:,} may be in the repository")
    first = ["original", "encoder", "gradient", "hybrid"]
    columns = first + sorted({wav.stem for wav in files.values()} - {*first})
    rows = []
    for name in folders:
        origin = f"`{sources[name]}`" if name in sources else f"sample of seed {seed}"
        cells = [f"[listen]({name}-{c}.flac)" if f"{name}-{c}" in files else "–" for c in columns]
        rows.append([name, origin, *cells])
    more = "".join(f", `{column}`" for column in columns[len(first) :])
    table = "\n".join(table_lines(["clip", "source", *columns], rows))
    facts = {"count": COUNT, "more": more, "seed": seed, "table": table, "given": given}
    write_text(output / "README.md", README.format(**facts, commit=str(describe_environment()["commit"])[:12]))


if __name__ == "__main__":
    options.run(main)

"""Generate audio: clips from the prior, saved latents replayed, or a walk between two latents.

Writes one float32 WAV a clip and `latents.npz`, which `--latents` replays, into a new folder of waves/.
Seed k gives the same clip in any list; `--n` takes the first N latents of one `--seed`.

Examples:

    # 16 clips of the bundled generator
    python generate.py --n 16

    # one clip each of chosen seeds
    python generate.py --seeds 0-35,40

    # replay what a run has saved: this script's latents, or those that latent_vector_recovery.py found
    python generate.py --latents waves/00000-generate/latents.npz

    # nine clips on the straight line from seed 3 to seed 8
    python generate.py --interpolate 3 8 --steps 9
"""

import argparse
import itertools
from pathlib import Path

from utils import choices, options
from utils.errors import UserError
from utils.options import LARGEST_SEED


def parse_arguments() -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    group = parser.add_argument_group("what to generate (one of them)").add_mutually_exclusive_group()
    group.add_argument(
        "--n", type=options.positive_int, default=16, metavar="N", help="N clips from the prior, of --seed"
    )
    group.add_argument("--seeds", type=options.seed_list, metavar="LIST", help="one clip a seed, e.g. 0-35,40")
    group.add_argument(
        "--latents", type=Path, nargs="+", metavar="NPZ", help="replay the key z, [W, latent_dim], of these files"
    )
    group.add_argument(
        "--interpolate", nargs=2, metavar=("A", "B"), help="from A to B in a straight line; each a seed or an npz"
    )
    group = parser.add_argument_group("options of these")
    options.add_shared(group, "seed")
    group.add_argument(
        "--steps",
        type=options.positive_int,
        default=9,
        metavar="N",
        help="clips of --interpolate, both ends included, at least 2",
    )
    group = parser.add_argument_group("generator")
    options.add_shared(group, "generator", "trust", "precision", "batch_size")
    group.add_argument(
        "--sample_rate",
        type=options.positive_int,
        metavar="HZ",
        help="written into the WAVs (default: what comes with the generator, else 16000)",
    )
    group.add_argument("--prior", choices=choices.PRIORS, help="(default: what comes with the generator, else uniform)")
    options.add_shared(parser.add_argument_group("output"), "output", "dry_run", "quiet")
    args = parser.parse_args()
    if args.interpolate and args.steps < 2:
        raise UserError(f"--steps: must be at least 2. Received: {args.steps}")
    options.end_dry_run(args, f"Would write WAVs and latents.npz into {args.output or 'a new folder of waves/'}")
    return args


if __name__ == "__main__":
    options.parse_early(parse_arguments)

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
import numpy as np

from models.generator import Generator, load_generator
from models.projected import ProjectedGenerator
from models.replay import Piece, one_each, read_latents, saved_pieces
from utils.audio.files import join_windows, write_wav
from utils.inversion.align import move_back
from utils.inversion.latents import Latents, save_latents
from utils.runs.batches import render
from utils.runs.folders import keep_options, output_folder
from utils.runs.progress import progress_bar


def choose_pieces(args: argparse.Namespace, generator: Generator) -> list[Piece]:
    """What the options ask for."""
    if args.latents:
        names = [path.stem for path in args.latents]
        if len(names) > 1:
            names = [f"{i:04d}_{name}" for i, name in enumerate(names)]
        read = [read_latents(path, generator) for path in args.latents]
        return list(itertools.chain.from_iterable(map(saved_pieces, names, read)))
    if args.interpolate:
        (first, space), (last, other) = (endpoint(text, generator) for text in args.interpolate)
        if space != other:
            raise UserError(f"--interpolate: both ends must be of one space. Received: {space} and {other}")
        weights = np.linspace(0, 1, args.steps, dtype=np.float32)
        return [Piece(f"step_{i:04d}", (1 - w) * first + w * last, space=space) for i, w in enumerate(weights)]
    if args.seeds:
        return [Piece(f"seed_{seed:04d}", generator.sample_prior(seed, 1)) for seed in args.seeds]
    return one_each("", generator.sample_prior(args.seed, args.n))


def endpoint(text: str, generator: Generator) -> tuple[np.ndarray, str]:
    """z `[1, latent_dim]` of a seed, or the first of a file, and its space."""
    if text.isascii() and text.isdigit():
        if int(text) > LARGEST_SEED:
            raise UserError(f"--interpolate: a seed is at most {LARGEST_SEED}. Received: {text}")
        return generator.sample_prior(int(text), 1), "z"
    latents = read_latents(Path(text), generator)
    return latents.z[:1], latents.space


def main() -> int:
    args = parse_arguments()
    generator = load_generator(
        args.generator,
        args.precision,
        sample_rate=args.sample_rate,
        prior=args.prior,
        trust=args.trust,
    )
    for note in [] if args.quiet else generator.notes:
        print(note)
    pieces = choose_pieces(args, generator)
    spaces = {piece.space for piece in pieces}
    if len(spaces) > 1:
        raise UserError(f"--latents: all files must be of one space. Received: {' and '.join(sorted(spaces))}")
    z, (space,) = np.concatenate([piece.z for piece in pieces]), spaces
    output = output_folder(args.output, Path("waves"), "generate")
    settings = vars(args) | {"generator_sha256": generator.fingerprint}
    keep_options(output, settings, changeable=("generator", "trust", "output", "quiet"))
    method = "replay" if args.latents else "interpolation" if args.interpolate else "prior"
    facts = {"method": method, "seed": args.seed, "options": vars(args), "space": space}
    save_latents(output / "latents.npz", Latents(z=z, generator=generator.fingerprint, **facts))
    stream = render(generator if space == "z" else ProjectedGenerator(generator), z, args.batch_size)
    with progress_bar("clips", len(pieces), quiet=args.quiet) as bar:
        for piece in pieces:
            audio = np.stack(list(itertools.islice(stream, len(piece.z))))
            audio = move_back(audio, *piece.moved) if piece.moved else audio
            audio = join_windows(audio, piece.provenance) if piece.provenance else audio[0]
            write_wav(output / f"{piece.name}.wav", audio, generator.sample_rate)
            bar.update()
    print(f"{len(pieces)} clips at {generator.sample_rate} Hz written to {output}")
    return options.EXIT_OK


if __name__ == "__main__":
    options.run(main)

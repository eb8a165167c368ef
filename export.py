"""Export: generator and encoder for other programs, the results of a recovery as a data set.

saved_model   SavedModel folders generator/ and encoder/, signature serving_default, for batches of any size
onnx          generator.onnx and encoder.onnx, the same for onnxruntime (make setup-export)
dataset       what latent_vector_recovery.py wrote, as a folder that Hugging Face's datasets reads: the audio, and
              metadata.parquet with latents and numbers, a row a clip and method (make setup-export)

What is written is read again and compared: SavedModel and ONNX answer within 1e-4 of the network they were made from.
The encoder is exported as it encodes real clips.

Examples:

    # The bundled generator and its encoder
    python export.py saved_model onnx --output exported

    # Another generator alone
    python export.py onnx --generator examples/drums.keras --encoder none

    # A recovery; then in Python: datasets.load_dataset("audiofolder", data_dir="exported/dataset"), which wants
    # torchcodec and torch, or the table alone: datasets.load_dataset("parquet", data_files=".../metadata.parquet")
    python export.py dataset --recovery results/demo --output exported
"""

import argparse
from pathlib import Path

from utils import options
from utils.errors import UserError

WHAT = ("saved_model", "onnx", "dataset")
TRIAL = 4  # samples on which networks are compared


def parse_arguments() -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    parser.add_argument("what", nargs="+", choices=WHAT, metavar="WHAT", help=f"any of {', '.join(WHAT)}")
    model = parser.add_argument_group("networks")
    options.add_shared(model, "generator", "encoder", "trust")
    group = parser.add_argument_group("data set")
    group.add_argument("--recovery", type=Path, metavar="DIR", help="a folder that latent_vector_recovery.py wrote")
    options.add_shared(parser.add_argument_group("run"), "output", "dry_run", "quiet")
    args = parser.parse_args()
    if ("dataset" in args.what) != (args.recovery is not None):
        raise UserError("--recovery: names the run whose results `dataset` exports; give both or neither")
    options.end_dry_run(args, f"Would write {', '.join(args.what)} into {args.output or 'a new folder of results/'}")
    return args


if __name__ == "__main__":
    options.parse_early(parse_arguments)

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split

from models.export import Frozen, exportable, freeze, write_onnx, write_saved_model
from models.networks import Networks
from models.tf1 import DESCRIPTION
from utils.domains import REAL
from utils.inversion.audio_folder import write_audio_folder
from utils.runs.files import write_json
from utils.runs.folders import output_folder


def main() -> int:
    args = parse_arguments()
    formats = [name for name in WHAT[:2] if name in args.what]
    networks = Networks(args.generator, trust=args.trust, encoder=args.encoder)
    if formats:
        frozen, generator = freeze_networks(args, networks), networks.generator
        facts = {"sample_rate": generator.sample_rate, "prior": generator.prior, "made_from": generator.fingerprint}
    output = output_folder(args.output, Path("results"), "export")
    for format in formats:
        for name, function in frozen.items():
            if format == "onnx":
                difference = write_onnx(function, output / f"{name}.onnx", facts)
            else:
                difference = write_saved_model(function, output / name)
                write_json(output / name / DESCRIPTION, facts)
            if not args.quiet:
                print(f"{format} of the {name}: equal to it within {difference:.1e}")
    if args.recovery:
        rows = write_audio_folder(args.recovery, output / "dataset")
        if not args.quiet:
            print(f"dataset: {rows} rows")
    print(f"Written: {output}")
    return options.EXIT_OK


def freeze_networks(args: argparse.Namespace, networks: Networks) -> dict[str, Frozen]:
    generator = networks.generator
    z = generator.sample_prior(0, TRIAL)
    frozen = {"generator": freeze(generator, z, "z")}
    if args.encoder is not None:
        audio = generator(z).numpy()
        encode = exportable(networks.encoder, audio.shape[1:])
        answer = networks.encode(audio, REAL).numpy()  # by the encoder's own Fourier transform
        frozen["encoder"] = freeze(encode, audio, "audio")._replace(answer=answer)
    return frozen


if __name__ == "__main__":
    options.run(main)

"""Files that come with the project: weights, clips and lists, wherever the project lies.

In a checkout they are in its folder. An installed copy has them in the package `audio_gan_inversion`.
"""

from pathlib import Path

_HOME = Path(__file__).resolve().parents[1]  # the checkout, or site-packages
_INSTALLED = _HOME / "audio_gan_inversion"
HOME = _INSTALLED if _INSTALLED.is_dir() else _HOME
CALIBRATION = Path("results/attribution.json")  # that attribute.py --calibrate writes, unless told otherwise


def bundled(name: str) -> Path:
    """The file or folder of a name such as `checkpoint/`: of the current folder where it is there, else the project's.

    So what you put into `checkpoint/` of your own folder is found first, as in a checkout. Where neither has it, the
    name as it was given, for an error to name.
    """
    own, projects = Path(name), HOME / name
    return projects if projects.exists() and not own.exists() else own


def find_calibration(path: Path | None) -> Path:
    """The file of thresholds to read: `path`; where it is None `CALIBRATION`; where there is none the bundled one."""
    return path or (CALIBRATION if CALIBRATION.exists() else bundled("checkpoint/attribution.json"))

"""What the commands of an installed copy call (`[project.scripts]` of pyproject.toml): each runs one script.

In a checkout the scripts are run as they are: python latent_vector_recovery.py ...
"""

import functools
import runpy


def _run(script: str) -> None:
    runpy.run_module(f"{__package__}.{script}", run_name="__main__")


generate = functools.partial(_run, "generate")
invert = functools.partial(_run, "latent_vector_recovery")
train_encoder = functools.partial(_run, "train")
train_classifier = functools.partial(_run, "train_sc09_classifier")
train_generator = functools.partial(_run, "train_wavegan")
tables = functools.partial(_run, "calculate_metrics")
attribute = functools.partial(_run, "attribute")
detect = functools.partial(_run, "deepfake_detection")
export = functools.partial(_run, "export")
download = functools.partial(_run, "download")

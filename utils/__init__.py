"""Audio, spectrograms, losses, solvers and reports: everything that needs no particular network.

Importing this package first keeps SciPy's BLAS threads off TensorFlow's cores (15 to 20 ms an evaluation), lets
TensorFlow keep the memory it frees instead of returning every tensor's pages to the system (up to a third of a training
step's time on a CPU), and keeps its log off the terminal, whose errors are raised as well. The variables keep a value
that the user has set.
"""

import importlib.util
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")

# A shell in Jupyter hands down Jupyter's own backend; where that is not installed, Matplotlib fails at import.
_backend = os.environ.get("MPLBACKEND", "")
if _backend.startswith("module://") and not importlib.util.find_spec(_backend[9:].partition(".")[0]):
    del os.environ["MPLBACKEND"]


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


# Without a home to keep it in, Numba refuses to compile and Matplotlib warns.
if not _is_writable(Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))):
    for _variable, _name in (("NUMBA_CACHE_DIR", "numba"), ("MPLCONFIGDIR", "matplotlib")):
        os.environ.setdefault(_variable, str(Path(tempfile.gettempdir(), f"{_name}-{os.getuid()}")))

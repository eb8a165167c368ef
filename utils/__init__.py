"""Audio, spectrograms, losses, solvers and reports: everything that needs no particular network.

Importing this package first keeps SciPy's BLAS threads off TensorFlow's cores (15 to 20 ms an evaluation) and
TensorFlow's start-up chatter off the terminal. Both variables keep a value that the user has set.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

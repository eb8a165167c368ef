"""Audio, spectrograms, losses, solvers and reports: everything that needs no particular network.

Importing this package first keeps SciPy's BLAS threads off TensorFlow's cores (15 to 20 ms an evaluation), lets
TensorFlow keep the memory it frees instead of returning every tensor's pages to the system (up to a third of a training
step's time on a CPU), and keeps most of its start-up chatter off the terminal. The variables keep a value that the user
has set.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")

"""TensorFlow as every script wants it: no start-up chatter where there is no GPU, determinism where there is one.

Import this before anything else that imports TensorFlow:

    from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)
"""

import os
import sys
import tempfile

import utils  # noqa: F401  (its environment variables must stand before NumPy and TensorFlow are imported)

# What TensorFlow 2.21 says on a machine without an NVIDIA driver, whatever TF_CPP_MIN_LOG_LEVEL is.
CHATTER = (b"absl::InitializeLog()", b"cudart_stub.cc", b"cuda_platform.cc", b"oneDNN custom operations are on")


def _set_up() -> None:
    """Imports TensorFlow and finds its GPUs, which writes to file descriptor 2; passes on all of that but `CHATTER`."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            import tensorflow as tf

            gpus = tf.config.list_physical_devices("GPU")
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            said.seek(0)
            for line in said:
                if not any(words in line for words in CHATTER):
                    os.write(2, line)
    tf.config.experimental.enable_tensor_float_32_execution(False)  # else float32 has ten bits on GPUs since 2020
    if gpus:
        tf.config.experimental.enable_op_determinism()  # the same seed gives the same result there too


_set_up()

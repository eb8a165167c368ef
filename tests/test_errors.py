"""utils/errors.py: of a message of many lines, the one that says what is wrong."""

import keras
import pytest
import tensorflow as tf

from utils.errors import one_line

Z = tf.zeros([3, 4])


class Inner(keras.layers.Layer):
    def call(self, z):
        return tf.matmul(z, tf.zeros([3, 3]))


def traced(function, **options):
    return tf.function(function, input_signature=[tf.TensorSpec([None, 4])], **options)(Z)


def in_a_session():
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        z = tf.compat.v1.placeholder(tf.float32, [None, None])
        return session.run(tf.matmul(z * 1, z), {z: Z.numpy()})


def leaves_the_graph(z):
    return float(tf.reduce_max(z).numpy())


def fails(message):
    raise ValueError(message)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: tf.matmul(Z, Z), "Matrix size-incompatible: In[0]: [3,4], In[1]: [3,4]"),
        (lambda: tf.ensure_shape(Z, [2, 4]), "Shape of tensor input [3,4] is not compatible with expected shape [2,4]"),
        (
            lambda: traced(lambda z: tf.ensure_shape(z * 1, [2, 4]), autograph=False),
            "Shape of tensor * [3,4] is not compatible with expected shape [2,4]",
        ),
        (in_a_session, "Matrix size-incompatible: In[0]: [3,4], In[1]: [3,4]"),
        (lambda: traced(leaves_the_graph), "'SymbolicTensor' object has no attribute 'numpy'"),
        (lambda: traced(leaves_the_graph, autograph=False), "'SymbolicTensor' object has no attribute 'numpy'"),
        (
            lambda: traced(lambda z: z if tf.reduce_max(z) > 0 else -z, autograph=False),
            "Using a symbolic `tf.Tensor` as a Python `bool` is not allowed",
        ),
        (lambda: Inner()(Z), "Matrix size-incompatible: In[0]: [3,4], In[1]: [3,3]"),
        (
            lambda: keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)])(Z),
            "Input 0 with name 'None' of layer 'dense*' is incompatible with the layer: expected axis -1 of input "
            "shape to have value 5, but received input with shape (3, 4)",
        ),
        (lambda: fails("a first line\nand more"), "a first line"),
        (lambda: fails(""), "ValueError"),
        (lambda: fails("word " * 100), ("word " * 40).strip()),
        (lambda: fails("One sentence. " + "word " * 100), "One sentence"),
    ],
)
def test_the_line_that_says_what_is_wrong(call, message):
    with pytest.raises(Exception) as caught:  # noqa: B017, PT011  (any kind)
        call()
    start, _, end = message.partition("*")
    found = one_line(caught.value)
    assert found.startswith(start) and found.endswith(end), found
    assert len(found) <= 200 and (end or found == message), found

"""TF1 WaveGAN checkpoints built from TF1's own operations, independent of the project's network."""

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1


def build(
    folder,
    *,
    latent_dim=5,
    dim=1,
    kernel_len=25,
    num_samples=16384,
    channels=1,
    upsample="zeros",
    batch_norm=None,
    post_filter=0,
    seed=0,
    extra_variables=False,
):
    """Saves a generator, weights random but loud; `batch_norm` is "before" or "after" the ReLU."""
    rng = np.random.default_rng(seed)
    values = {}

    def variable(name, shape, value):
        values[name] = np.broadcast_to(value, shape).astype(np.float32)
        return v1.get_variable(name, shape, tf.float32, use_resource=False)

    def normal(fan_in, shape):
        return rng.normal(0, 1.5 / np.sqrt(fan_in), shape)

    def norm(x, scope):
        c = x.shape[-1]
        scope = f"{scope}/batch_normalization"
        gamma = variable(f"{scope}/gamma", [c], rng.uniform(0.5, 1.5, c))
        beta = variable(f"{scope}/beta", [c], rng.normal(0, 0.2, c))
        mean = variable(f"{scope}/moving_mean", [c], rng.normal(0, 0.2, c))
        variance = variable(f"{scope}/moving_variance", [c], rng.uniform(0.5, 2, c))
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-3)

    def activate(x, scope):
        if batch_norm == "before":
            x = norm(x, scope)
        x = tf.nn.relu(x)
        return norm(x, scope) if batch_norm == "after" else x

    with tf.Graph().as_default():
        z = v1.placeholder(tf.float32, [None, latent_dim], name="z")
        width = dim * (16 if num_samples == 16384 else 32)
        kernel = variable("G/z_project/dense/kernel", [latent_dim, 16 * width], normal(1, [latent_dim, 16 * width]))
        x = tf.matmul(z, kernel) + variable("G/z_project/dense/bias", [16 * width], normal(9, [16 * width]))
        x = activate(tf.reshape(x, [-1, 16, width]), "G/z_project")
        layers = {16384: 5, 32768: 6, 65536: 6}[num_samples]
        for i in range(layers):
            last = i == layers - 1
            stride = 2 if last and num_samples == 32768 else 4
            c_in, c_out = x.shape[2], channels if last else x.shape[2] // 2
            frames, fan_in = x.shape[1] * stride, c_in * kernel_len / stride
            if upsample == "zeros":
                scope, shape = f"G/upconv_{i}/conv2d_transpose", [1, kernel_len, c_out, c_in]
                kernel = variable(f"{scope}/kernel", shape, normal(fan_in, shape))
                size = tf.stack([tf.shape(x)[0], 1, frames, c_out])
                x = tf.nn.conv2d_transpose(x[:, None], kernel, size, [1, 1, stride, 1], "SAME")[:, 0]
                x.set_shape([None, frames, c_out])
            else:
                scope, shape = f"G/upconv_{i}/conv1d", [kernel_len, c_in, c_out]
                kernel = variable(f"{scope}/kernel", shape, normal(fan_in * stride, shape))
                x = tf.nn.conv1d(tf.repeat(x, stride, axis=1), kernel, 1, "SAME")
            x = x + variable(f"{scope}/bias", [c_out], rng.normal(0, 0.1, c_out))
            x = tf.tanh(x) if last else activate(x, f"G/upconv_{i}")
        if post_filter:
            shape = [post_filter, channels, channels]
            kernel = variable("G/pp_filt/conv1d/kernel", shape, normal(post_filter * channels, shape))
            x = tf.nn.conv1d(x, kernel, 1, "SAME")
        tf.identity(x, name="G_z")
        if extra_variables:
            variable("D/dense/kernel", [3, 2], 0)
            variable("G/z_project/dense/kernel/Adam", [latent_dim, 16 * width], 0)
        saver = v1.train.Saver()
        folder.mkdir(parents=True, exist_ok=True)
        with v1.Session() as session:
            for variable_ in v1.global_variables():
                variable_.load(values[variable_.op.name], session)
            saver.save(session, str(folder / "model.ckpt"), write_meta_graph=False)
        v1.train.export_meta_graph(str(folder / "infer.meta"), saver_def=saver.as_saver_def())
    return folder

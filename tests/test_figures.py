import numpy as np
from threadpoolctl import threadpool_limits

from utils.report.figures import save_figure, training_figure, tsne

EPOCHS = [{"epoch": e, "latent": 1 / e, "val_latent": 1.5 / e, "val_right": e / 4, "odd": 7.0} for e in (1, 2, 3)]
PANELS = {"z": ["latent"], "classified": ["right", "unlogged"], "nothing": ["odd"]}


def curves(figure):
    return {
        axes.get_title(loc="left"): {line.get_label(): np.array(line.get_ydata()) for line in axes.get_lines()}
        for axes in figure.axes
        if axes.axison
    }


def test_curves_of_what_was_logged():
    drawn = curves(training_figure(EPOCHS, PANELS, {"z": (0.3, "floor")}))
    assert list(drawn) == ["z", "classified"]
    np.testing.assert_allclose(drawn["z"]["training"], [1, 1 / 2, 1 / 3])
    np.testing.assert_allclose(drawn["z"]["validation"], [1.5, 0.75, 0.5])
    assert set(drawn["z"]["floor"]) == {0.3}
    np.testing.assert_allclose(drawn["classified"]["validation"], [0.25, 0.5, 0.75])


def test_equal_figures_give_equal_files(tmp_path):
    for name in ("a", "b"):
        save_figure(training_figure(EPOCHS, PANELS), tmp_path / name)
    for suffix in (".png", ".svg"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg", "b.png", "b.svg"]


def test_an_embedding_is_a_function_of_clips_and_seed():
    """Two clouds far apart stay apart."""
    x = np.random.default_rng(0).normal(0, 1, (20, 50)) + np.repeat([[0], [40]], 10, axis=0)
    with threadpool_limits(1):  # threads that wait for each other at every step are slow on a busy machine
        first, second, other = tsne(x, 0), tsne(x, 0), tsne(x[::-1], 0)
    np.testing.assert_array_equal(first, second)
    assert first.shape == (20, 2) and first.dtype == np.float32 and not np.array_equal(first, other)
    centres = first[:10].mean(axis=0), first[10:].mean(axis=0)
    spread = np.abs(first[:10] - centres[0]).max()
    assert np.abs(centres[0] - centres[1]).max() > spread

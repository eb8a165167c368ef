"""What an `interval_figure` shows, read back from its artists."""


def drawn(figure):
    """By panel, series and row: value, low, high (None without an interval)."""
    panels = {}
    for axes in figure.axes:
        rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        panel = panels.setdefault(axes.get_title(loc="left"), {})
        for container in axes.containers:
            point, _, bars = container.lines
            (x,), (y,) = point.get_data()
            ends = bars[0].get_segments()[0][:, 0].tolist() if bars else [None, None]
            panel.setdefault(container.get_label(), {})[rows[round(float(y))]] = (float(x), *ends)
    return panels

"""Figures: nothing lies over what they show."""

from matplotlib.backends.backend_agg import FigureCanvasAgg

from alerce_early.report import figures


def test_no_legend_covers_a_learning_curve() -> None:
    recalls = {f"val/recall/class {i}": 0.1 * i for i in range(5)}
    history = [
        {
            "epoch": e,
            "step": 5 * e + 5,
            "losses": [1.0] * 5,
            "train/loss": 1.0,
            "val/loss": 1.0,
            "val/accuracy": 0.9,
            **recalls,
        }
        for e in range(9)
    ]
    figure = figures.curves(history, 3, ("accuracy", "recall/"))
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    boxes = [axes.get_window_extent(renderer) for axes in figure.axes]
    legends = [axes.get_legend().get_window_extent(renderer) for axes in figure.axes]
    assert [len(axes.get_legend().get_texts()) for axes in figure.axes] == [2, 2, 6]
    assert not any(legend.overlaps(box) for legend in legends for box in boxes)
    assert all(legend.x0 >= 0 and legend.x1 <= figure.bbox.width for legend in legends)

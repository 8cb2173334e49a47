"""Figures: each class has a fixed style, and legends cover no data."""

from matplotlib.backends.backend_agg import FigureCanvasAgg

from alerce_early.data.labels import CLASSES
from alerce_early.report import figures
from alerce_early.report.palette import looks


def test_each_class_has_its_own_style_and_known_classes_a_fixed_one() -> None:
    usual, many = looks(CLASSES), looks([*(f"class {i}" for i in range(25)), *CLASSES[::-1]])
    assert len(set(many.values())) == 30 and all(many[name] == usual[name] for name in CLASSES)
    assert looks(("SN", "TDE"))["TDE"].colour not in {look.colour for look in usual.values()}


def test_legends_do_not_cover_learning_curves() -> None:
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
    drawn = figures.curves(history, 3, ("accuracy", "recall/"), [f"class {i}" for i in range(5)])
    assert [len(figure.legends[0].get_texts()) for figure in drawn.values()] == [2, 3, 7]
    for figure in drawn.values():
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        legend, axes = figure.legends[0].get_window_extent(renderer), figure.axes[0]
        assert not legend.overlaps(axes.get_window_extent(renderer))
        assert legend.x0 >= 0 and legend.x1 <= figure.bbox.width
        assert all(tick == round(tick) for tick in axes.get_xticks())

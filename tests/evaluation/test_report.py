"""The report is one file that shows what it is given, and nothing that is not in it."""

import re
import struct
from html.parser import HTMLParser

import numpy as np
import pytest
from tiny_system import Meadows, TinyConfig, TinyModel, TinyTraining

from fusion.data import Geo
from fusion.evaluation import Picture, Section, Spread, Table, compare, evaluate, extract, write_report
from fusion.evaluation.maps import embedding_map, pca_rgb, true_colour
from fusion.evaluation.plots import (
    class_bars,
    confusion_matrix,
    label_efficiency,
    loss_curves,
    modality_bars,
    observed_predicted,
)
from fusion.training import fit

RNG = np.random.default_rng(0)


def size(picture: Picture) -> tuple[int, int]:
    assert picture.png.startswith(b"\x89PNG")
    return struct.unpack(">II", picture.png[16:24])


class Balanced(HTMLParser):
    """Every element that is opened is closed, in order; collects text and addresses."""

    VOID = ("meta", "img", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.text, self.addresses = [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.addresses += [v for k, v in attributes if k in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def rows():
    model = TinyModel(TinyConfig()).eval()
    return compare(model, Meadows(40), Meadows(18), fractions=(0.2, 1.0), seeds=(0, 1), forest=False)


def test_a_report_is_one_file_without_outside_resources(tmp_path, rows):
    scores = {row.features: row.result.per_class for row in rows if row.fraction == 1}
    table = Table(
        ("features", "macro F1", "RMSE"),
        [("pretrained", Spread.of([0.8, 0.9]), 3.0), ("<raw> & co", Spread.of([0.5, 0.6]), 2.0), ("none", 0.1, np.nan)],
        "10 % of the labels",
        best=["macro F1"],
        lowest=["RMSE"],
    )
    sections = [Section("Scores", "First.\n\nSecond <b>.", [table, class_bars(scores)]), Section("Nothing")]
    path = write_report(
        tmp_path / "a" / "report.html", "A & B", sections, summary="Good.", conditions={"seeds": [0, 1]}
    )
    page = path.read_text()
    parsed = Balanced(page)
    assert all(a.startswith(("data:image/png;base64,", "#")) for a in parsed.addresses)
    assert not re.search(r"https?://|<script|@import|url\(", page)
    text = " ".join(parsed.text)
    for expected in ("A & B", "<raw> & co", "Second <b>.", "0.850 ± 0.071", "10 % of the labels", "[0, 1]", "–"):
        assert expected in text
    assert re.findall(r"<b>(.*?)</b>", page) == ["0.850 ± 0.071", "2.000"]


def test_a_table_with_a_missing_cell_is_refused():
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        Table(("a", "b"), [(1,)])


def test_every_picture_is_drawn_and_says_its_conditions(rows):
    model, data = TinyModel(TinyConfig()).eval(), Meadows(18)
    modal = evaluate(model, Meadows(24), data, probes=("linear",))
    target = RNG.normal(size=40)
    drawn = [
        class_bars({row.features: row.result.per_class for row in rows}, conditions="10 % of labels"),
        confusion_matrix(np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2]), ("a", "b", "c"), "10 % of labels"),
        observed_predicted(target, target + 0.1, "biomass", "t/ha", "10 % of labels"),
        label_efficiency(rows, conditions="10 % of labels"),
        modality_bars(modal, conditions="10 % of labels"),
    ]
    for picture in drawn:
        width, height = size(picture)
        assert width > 300
        assert height > 200
        assert picture.caption.endswith("10 % of labels")


def test_pictures_are_reproducible(rows):
    assert label_efficiency(rows).png == label_efficiency(rows).png


def test_loss_curves_come_from_the_log_of_a_run(tmp_path):
    best = fit(TinyTraining(), Meadows(8), Meadows(8), tmp_path, epochs=2, progress=False, memory="ignore")
    assert size(loss_curves(best.parent / "metrics.csv"))[0] > 300
    log = tmp_path / "b.csv"
    log.write_text("epoch,step,train/loss,val/loss,val/retrieval\n0,4,1.0,,0.5\n1,8,0.5,0.7,0.6\n")
    assert size(loss_curves(log))[0] > 1.5 * size(loss_curves(best.parent / "metrics.csv"))[0]  # a second panel
    log.write_text("epoch,step,train/loss\n")
    with pytest.raises(ValueError, match="has no epoch yet"):
        loss_curves(log)
    with pytest.raises(ValueError, match=r"give the metrics.csv of a run folder"):
        loss_curves(tmp_path / "missing.csv")


class Placed(Meadows):
    """The same tiles in a row of two by n, north up, in UTM."""

    def _place(self, row: int) -> Geo:
        return Geo((10.0, 0, 500_000 + 20 * (row // 2), 0, -10.0, 5_000_000 - 20.0 * (row % 2)), "EPSG:32632")


def test_the_map_puts_tiles_where_they_lie():
    model = TinyModel(TinyConfig()).eval()
    placed, loose = Placed(12), Meadows(12)
    features = extract(model, placed, level="patch")
    picture = embedding_map(features, placed, placed.labels().numpy(), "seed 0")
    assert "12 tiles at their place, north up; one colour a patch of 10 m" in picture.caption
    assert picture.caption.endswith("seed 0")
    assert "side by side, not georeferenced" in embedding_map(features, loose).caption
    with pytest.raises(ValueError, match="extract with level='patch'"):
        embedding_map(extract(model, placed), placed)
    with pytest.raises(ValueError, match="features of 12 tiles, a data set of 5"):
        embedding_map(features, loose.subset(range(5)))


def test_colours_follow_the_strongest_components_and_have_no_random_sign():
    x = RNG.normal(size=(500, 6)) * [10, 5, 2, 0.1, 0.1, 0.1]
    colours = pca_rgb(x)
    assert colours.shape == (500, 3)
    assert colours.min() == 0
    assert colours.max() == 1
    correlation = np.corrcoef(np.hstack([colours, x[:, :3]]).T)[:3, 3:]
    assert (np.abs(np.diag(correlation)) > 0.95).all()
    assert np.allclose(pca_rgb(x[:, ::-1])[:, 0], colours[:, 0])
    with pytest.raises(ValueError, match="D >= 3"):
        pca_rgb(x[:, :2])


def test_true_colour_takes_the_bands_by_name_and_the_median_of_valid_dates():
    tile = Meadows(2)[0]
    vhr = Meadows(2).modality("vhr")
    assert np.array_equal(true_colour(tile, vhr), tile.values["vhr"].numpy().transpose(1, 2, 0))

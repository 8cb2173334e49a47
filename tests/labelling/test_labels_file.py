"""Files of labels: one row per alert and person, with interrupted and concurrent writers."""

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from alerce_early.data.labels import Naming, read_labels
from alerce_early.errors import InputError
from alerce_early.labelling.labels_file import SKIP, UNSURE, LabelsFile

CLASSES = ("AGN", "SN", "VS")
KEYS = [str(3_251_000_000_015_000_000 + i) for i in range(10)]


def labels_of(path: Path, who: str = "ana") -> LabelsFile:
    return LabelsFile(path, who, CLASSES)


def give(labels: LabelsFile, *pairs: tuple[int, str]) -> None:
    for number, label in pairs:
        labels.add(KEYS[number], f"ZTF26aaaaaa{'abcdefghij'[number]}", label, "random", "0" * 12, (0.25, 0.5, 0.25))


def rows_of(path: Path) -> list[tuple[str, str, str]]:
    with path.open(newline="") as text:
        return [(row["candid"], row["label"], row["who"]) for row in csv.DictReader(text)]


def test_labels_are_replaced_and_withdrawn(tmp_path: Path) -> None:
    labels = labels_of(path := tmp_path / "labels.csv")
    give(labels, (0, "SN"), (1, "VS"), (0, "AGN"))
    assert rows_of(path) == [(KEYS[1], "VS", "ana"), (KEYS[0], "AGN", "ana")]
    assert labels.undo(KEYS[1:]) == KEYS[1]  # the last label among these alerts; labels of another night stay
    assert labels.undo(KEYS) == KEYS[0] and labels.undo(KEYS) is None
    give(labels, (2, "SN"))
    assert labels_of(path).mine() == {KEYS[2]: "SN"} and path.read_text().count("candid") == 1
    assert path.read_text().startswith("candid,id,label,who,when,queue,model,p_AGN,p_SN,p_VS\n")
    assert ",random,000000000000,0.25,0.5,0.25\n" in path.read_text()


def test_an_incomplete_last_line_is_removed_and_a_complete_one_is_kept(tmp_path: Path) -> None:
    give(labels_of(path := tmp_path / "labels.csv"), (0, "SN"), (1, "VS"))
    whole = path.read_bytes()
    for end in range(1, len(whole), 7):
        path.write_bytes(whole[:end])
        mine = labels_of(path).mine()
        assert mine.items() <= {KEYS[0]: "SN", KEYS[1]: "VS"}.items()
        assert len(mine) >= whole[:end].count(b"\n") - 1
    path.write_bytes(whole.rstrip(b"\n"))
    give(labels_of(path), (2, "AGN"))
    assert [label for _, label, _ in rows_of(path)] == ["SN", "VS", "AGN"]


def test_two_people_share_a_file_and_disputed_alerts_have_no_label(tmp_path: Path) -> None:
    ana, ben = labels_of(path := tmp_path / "labels.csv"), labels_of(path, "ben")
    give(ana, (0, "SN"), (1, "SN"), (2, "VS"), (3, "VS"), (4, "AGN"), (5, UNSURE), (6, SKIP))
    give(ben, (0, "SN"), (1, "VS"), (2, "VS"), (3, "VS"), (5, "SN"), (6, UNSURE))
    (agreement,) = ana.agreements()
    assert (agreement.who, agreement.n) == ("ben", 4)
    assert agreement.kappa == pytest.approx(0.5)  # 3 of 4 agree; (2 x 1 + 2 x 3) / 16 is the share by chance
    found = read_labels(path, Naming())
    assert found.class_by_key == {KEYS[0]: "SN", KEYS[2]: "VS", KEYS[3]: "VS", KEYS[4]: "AGN", KEYS[5]: "SN"}
    assert found.disputed == 1 and found.left_out == {UNSURE: 2, SKIP: 1}
    assert "1 more were labelled differently" in found.describe(KEYS)
    assert ana.undo(KEYS) == KEYS[6] and ben.mine()[KEYS[6]] == UNSURE


def test_nothing_is_lost_when_two_people_label_at_once(tmp_path: Path) -> None:
    people = [labels_of(path := tmp_path / "labels.csv"), labels_of(path, "ben")]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):  # the second time, each replaces a row
            list(pool.map(lambda labels: give(labels, *((i, "SN") for i in range(10))), people))
    assert sorted((key, who) for key, _, who in rows_of(path)) == [(key, who) for key in KEYS for who in ("ana", "ben")]


def test_conflicting_labels_without_names_of_people_are_rejected(tmp_path: Path) -> None:
    (path := tmp_path / "labels.csv").write_text("candid,label\n1,SN\n1,VS\n")
    with pytest.raises(InputError, match="two labels"):
        read_labels(path, Naming())


@pytest.mark.parametrize("content", [b"candid,label\n1,SN\n", b"candid,label\n1,SN", b"x", b"\xff\xfe\n"])
def test_a_file_with_other_content_is_rejected_and_not_changed(content: bytes, tmp_path: Path) -> None:
    (path := tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(InputError, match="--out"):
        labels_of(path)
    assert path.read_bytes() == content
    with pytest.raises(InputError, match="--who"):
        labels_of(tmp_path / "new.csv", "an\na")

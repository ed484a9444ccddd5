"""Parents, children and exclusive groups: scores, thresholds, and the way from the class file to a prediction."""

from __future__ import annotations

import json

import pytest
import torch

import mlclip
from mlclip.cli import _status
from mlclip.config import InputError
from mlclip.labels.class_names import parse_classes
from mlclip.labels.class_tree import ClassTree
from mlclip.labels.metrics import compare_consistency, consistent_labels, mean_average_precision
from mlclip.labels.table import Labels, read_labels, write_labels
from mlclip.methods.hierarchy import (
    consistent_scores,
    consistent_thresholds,
    count_overlaps,
    count_violations,
    exclude,
    lower_children,
    raise_parents,
    top_down,
)
from mlclip.student.calibrate import undo_calibration
from mlclip.student.checkpoint import load_checkpoint, save_checkpoint

SMALL = {"arch": "clip-resnet", "init": "clip", "size": 64, "epochs": 1, "batch_size": 8, "lr": 1e-3}
QUIET = {"num_workers": 0, "device": "cpu", "progress": mlclip.SILENT}
PARENTS = [-1, 0, 1, 0, -1, 4, -1]  # 0 > 1 > 2, 0 > 3, 4 > 5, 6
GROUPS = [[0, 4, 6]]


def scores(rows=200):
    return torch.rand(rows, len(PARENTS), generator=torch.Generator().manual_seed(0))


def test_raised_parents_are_the_highest_of_all_below_them_and_nothing_else_changes():
    before = scores()
    after = raise_parents(before, PARENTS)
    assert torch.equal(after[:, 0], before[:, [0, 1, 2, 3]].amax(1)) and torch.equal(
        after[:, 1], before[:, [1, 2]].amax(1)
    )
    assert torch.equal(after[:, [2, 3, 5, 6]], before[:, [2, 3, 5, 6]])
    assert count_violations(before, PARENTS) > 0 == count_violations(after, PARENTS)
    assert torch.equal(raise_parents(after, PARENTS), after) and torch.equal(lower_children(after, PARENTS), after)


def test_an_unknown_parent_takes_the_score_of_its_child_and_an_unknown_child_changes_nothing():
    nan = float("nan")
    assert raise_parents(torch.tensor([[nan, 0.4, nan]]), [-1, 0, 1]).nan_to_num(-1).tolist() == [
        [pytest.approx(0.4)] * 2 + [-1]
    ]


def test_excluding_is_bayes_for_independent_classes_of_which_at_most_one_is_there():
    p = torch.tensor([[0.7, 0.2, 0.6]], dtype=torch.float64)
    none, a, b, c = (float(x) for x in (0.3 * 0.8 * 0.4, 0.7 * 0.8 * 0.4, 0.3 * 0.2 * 0.4, 0.3 * 0.8 * 0.6))
    expected = torch.tensor([[a, b, c]], dtype=torch.float64) / (none + a + b + c)
    assert torch.allclose(exclude(p, [[0, 1, 2]]), expected)


def test_excluding_keeps_the_order_within_a_photo_and_unknown_cells_out():
    after = exclude(scores(), GROUPS)[:, GROUPS[0]]
    assert torch.equal(after.argsort(1), scores()[:, GROUPS[0]].argsort(1)) and (after.sum(1) <= 1).all()
    known = exclude(torch.tensor([[0.8, float("nan")], [1.0, 1.0], [0.0, 1.0]]), [[0, 1]])
    assert known[0, 0] == pytest.approx(0.8) and known[0, 1].isnan()
    assert known[1].tolist() == pytest.approx([0.5, 0.5], abs=1e-3) and known[2].tolist() == pytest.approx(
        [0, 1], abs=1e-3
    )


@pytest.mark.parametrize("low", [0.05, 0.3, 0.8])
def test_consistent_scores_and_thresholds_never_contradict_the_tree(low):
    after = consistent_scores(scores(), PARENTS, GROUPS)
    assert count_violations(after, PARENTS) == 0 and (after[:, GROUPS[0]].sum(1) <= 1 + 1e-6).all()
    thresholds = torch.rand(len(PARENTS), generator=torch.Generator().manual_seed(1)) * low
    chosen = after >= consistent_thresholds(thresholds, PARENTS, GROUPS)
    assert chosen.any() and count_violations(chosen, PARENTS) == 0 and count_overlaps(chosen, GROUPS) == 0
    assert count_violations(after >= thresholds, PARENTS) + count_overlaps(after >= thresholds, GROUPS) > 0


def test_parents_stand_before_their_children_and_a_circle_is_an_error():
    order = top_down([3, 0, 1, -1])
    assert order == [0, 1, 2]
    with pytest.raises(ValueError, match="circle"):
        top_down([1, 0])


def test_the_comparison_counts_contradictions_and_gives_the_quality_before_and_after():
    tree = ClassTree({"dog": "animal"}, [["day", "night"]])
    labels = Labels(
        ["a", "b", "c"],
        ["animal", "dog", "day", "night"],
        [[0.2, 0.9, 0.8, 0.7], [0.4, 0.1, 0.6, 0.1], [0.3, 0.2, 0.2, 0.9]],
    )
    truth = Labels(["a", "b", "c"], labels.classes, [[1.0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    precisions = [mean_average_precision(table, truth)[1] for table in (labels, consistent_labels(labels, tree))]
    assert [each["animal"] for each in precisions] == [pytest.approx(1 / 3), 1] and precisions[1]["dog"] == 1
    assert compare_consistency(labels, truth, tree) == [
        "mAP without and with the hierarchy and groups of the classes: 83.3 and 100.0 %",
        "contradictions without and with them: 1 and 0 scores above the parent's, 1 and 0 classes without their parent, "
        "1 and 0 photos with two classes of a group",
    ]


def test_the_tree_travels_in_a_labels_file_and_a_damaged_one_is_refused(tmp_path):
    tree = parse_classes("animal > dog, animal > cat").tree
    labels = Labels(["a"], ["animal", "dog", "cat"], [[0.1, 0.2, 0.3]], meta={"hierarchy": tree.plain()})
    write_labels(labels, tmp_path / "l.pt")
    assert ClassTree.of(read_labels(tmp_path / "l.pt").meta) == tree
    circle = {"parents": {"dog": "cat", "cat": "dog"}, "groups": []}
    for wrong in (circle, {"parents": {}}, {"parents": {"a": 1}, "groups": []}, {"parents": {}, "groups": ["a"]}, 3):
        write_labels(Labels(["a"], ["dog"], [[0.1]], meta={"hierarchy": wrong}), tmp_path / "w.pt", overwrite=True)
        with pytest.raises(InputError, match=r"w\.pt.*meta\.hierarchy"):
            read_labels(tmp_path / "w.pt")


def test_from_the_class_file_to_the_printed_prediction_nothing_contradicts_the_tree(tmp_path, photos, capsys):
    (tmp_path / "c.txt").write_text(
        "thing > red thing > red noise\nthing > blue noise\nday\nnight\nexclusive: day, night\n"
    )
    labels = mlclip.pseudolabel(photos, tmp_path / "c.txt", clip="tiny", output=tmp_path / "l.pt", **QUIET)
    tree = ClassTree.of(labels.meta)
    parents, groups = tree.parent_columns(labels.classes), tree.group_columns(labels.classes)
    assert parents == [-1, 0, 1, 0, -1, -1] and groups == [[4, 5]]
    assert count_violations(labels.scores, parents) == 0
    model = mlclip.train(labels, tmp_path / "m.pt", **SMALL, **QUIET)
    model.model.head.bias.data += torch.tensor([-2.0, -1, 0, 1, 3, 3])  # contradictions, if nobody prevents them
    save_checkpoint(model, tmp_path / "m.pt")
    own = mlclip.predict(photos, undo_calibration(load_checkpoint(tmp_path / "m.pt")), **QUIET)
    made = mlclip.predict(photos, tmp_path / "m.pt", **QUIET)
    assert count_violations(own.scores, parents) > 0 == count_violations(made.scores, parents)
    assert torch.equal(made.scores, consistent_scores(own.scores, parents, groups))
    chosen = made.scores >= made.thresholds
    assert count_violations(chosen, parents) == 0 == count_overlaps(chosen, groups)
    run = [str(photos), "--model", str(tmp_path / "m.pt"), "--workers", "0"]
    assert _status(["predict", *run, "--format", "jsonl", "-q"]) == 0
    printed = [set(json.loads(line)["labels"]) for line in capsys.readouterr().out.splitlines()]
    assert printed == [set(names) for names in made.above_threshold()]
    rows = [f"{path},{row % 2},1,0" for row, path in enumerate(made.paths)]
    (tmp_path / "t.csv").write_text("\n".join(["path,red thing,blue noise,day", *rows]) + "\n")
    assert _status(["evaluate", *run, "--truth", str(tmp_path / "t.csv")]) == 0
    said = capsys.readouterr().err
    violations = count_violations(own.scores, parents)
    assert "mAP without and with the hierarchy and groups" in said and f"{violations} and 0 scores above" in said

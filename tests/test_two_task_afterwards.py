"""experiments/two_task: what is in the weights of finished networks."""

import re
import shutil

from helpers import last

from experiments.two_task import afterwards
from experiments.two_task.afterwards import beside
from spatial import costs, scoring, splitting, storing
from spatial.seeds import generator


def written(tmp_path, rows):
    """Rows as a file holds them."""
    storing.save_table(tmp_path / "rows.csv", rows)
    return storing.read_table(tmp_path / "rows.csv")


def test_a_run_is_relaxed_and_cut_by_groups_afterwards(train, run, tmp_path, monkeypatch, capsys):
    train("--seeds 2")

    def moved(network, start, seed):
        return costs.scattered(network, generator(seed, start))

    monkeypatch.setattr(afterwards, "relax_from", moved)
    other = shutil.copytree(run.folder, tmp_path / "more" / "other")
    assert afterwards.main([str(run.folder), str(other)]) == 0
    made = beside(run.folder.parent, run.name)
    assert made == run.folder.parent.parent / "afterwards" / run.name
    assert sorted(path.name for path in made.iterdir()) == ["groups.csv", "relaxed.csv"]
    names, relaxed, scores, measures = ("Alpha", "Beta"), [], [], []
    for seed in (0, 1):
        network = run.network(seed)
        owners = splitting.balanced(network).owners
        for start in ("random", "held"):
            rows = scoring.measure_rows(seed, "balanced", moved(network, start, seed), owners, names)
            relaxed += [{"start": start, **row} for row in rows]
        own = scoring.group_rows(seed, network, run.tasks("test"), names)
        scores, measures = scores + own[0], measures + own[1]
    assert storing.read_table(made / "relaxed.csv") == written(tmp_path, relaxed)
    assert len({row["silhouette"] for row in storing.read_table(made / "relaxed.csv")}) == len(relaxed) == 12
    groups = storing.read_table(made / "groups.csv")
    assert list(groups[0]) == ["kind", *dict.fromkeys([*scores[0], *measures[0]])]
    for kind, rows in (("score", scores), ("measure", measures)):
        found = [{name: row[name] for name in rows[0]} for row in groups if row["kind"] == kind]
        assert found == written(tmp_path, rows)
        assert all(row[name] == "" for row in groups if row["kind"] == kind for name in set(row) - {"kind", *rows[0]})
    assert len(groups) == 2 * (2 + 3)
    assert storing.read_table(beside(tmp_path / "more", "other") / "groups.csv") == groups
    assert afterwards.main([]) == 2
    assert "afterwards.py RUN..." in capsys.readouterr().err
    assert afterwards.main([str(tmp_path / "none")]) == 2
    assert re.fullmatch(r"afterwards.py: error: .*none: no such folder .*", last(capsys))

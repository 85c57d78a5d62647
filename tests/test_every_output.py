"""Every file and folder that a pipeline leaves is in turn a link to elsewhere, and what is there stays untouched.

A test without a list of outputs: what a command newly writes is tried as soon as the pipeline has it.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from many import long_test
from media import write_coded

from viper.files import remove

SPLITS = ["Train"] * 4 + ["Val"] * 2 + ["Test"] * 2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos, a manifest, and the YAML of a pipeline that has not run."""
    root = tmp_path_factory.mktemp("data")
    (root / "videos").mkdir()
    rows = ["File_ID,Split,joy"]
    for number, split in enumerate(SPLITS):
        write_coded(root / "videos" / f"c{number}.mp4", 2 + number, 25)
        rows.append(f"c{number},{split},{'' if split == 'Test' else number / 10}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    (root / "card.yaml").write_text("{name: own, kind: regression, targets: [joy], range: [0, 1]}")
    pipeline = {
        "csv_path": "manifest.csv", "videos": "videos", "output": "out", "task": "card.yaml", "device": "cpu",
        "n_workers": 0, "faces": False, "frames": {"n_frames": 2}, "features": {"visual": {"model_name": "hog"}},
        "train": {"preset": "tiny", "n_epochs": 1}, "report": {"n_resamples": 2, "n_cases": 1},
    }  # fmt: skip
    (root / "data.yaml").write_text(yaml.safe_dump(pipeline))
    return root


def state(folder: Path) -> dict[str, Any]:
    """All of a folder: kinds, times, how many names a file has, content."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        is_file = path.is_file() and not path.is_symlink()
        kept = (status.st_mode, status.st_mtime_ns, status.st_ino, path.read_bytes() if is_file else None)
        found[str(path.relative_to(folder))] = kept
    return found


def outputs(root: Path) -> list[str]:
    """What a pipeline has written and will write again, the folders first: of the clips only the one that changes."""
    paths = [path for path in (root / "out").rglob("*") if not path.is_symlink()]
    names = [str(path.relative_to(root)) for path in sorted(paths, key=lambda path: (path.is_file(), str(path)))]
    return [name for name in names if not re.search(r"/c[1-7]\b", name)]


@long_test
def test_what_an_output_leads_to_is_left_alone(run: Any, data: Path, tmp_path: Path) -> None:
    made = shutil.copytree(data, tmp_path / "made")
    assert run("pipeline", made / "data.yaml", n_workers=None).code == 0
    names = outputs(made)
    assert len(names) > 20
    kinds = ["link", "hard link"]
    tried = [(name, kind) for name in names for kind in kinds if kind == "link" or (made / name).is_file()]
    for name, kind in tried:
        root, canary = tmp_path / "theirs", tmp_path / "canary"
        shutil.copytree(made, root, symlinks=True)
        if (made / name).is_dir():
            shutil.copytree(made / name, canary, symlinks=True)
            (canary / "letter.txt").write_text("mine")
        else:
            canary.mkdir()
            (canary / Path(name).name).write_bytes((made / name).read_bytes()[:-1] + b" ")
        target = canary if (made / name).is_dir() else canary / Path(name).name
        remove(root / name)
        (os.symlink if kind == "link" else os.link)(target, root / name)
        before = state(canary)
        # Everything is out of date: the labels, a video, and what is made of them.
        manifest = (root / "manifest.csv").read_text()
        (root / "manifest.csv").write_text(manifest.replace("c0,Train,0.0", "c0,Train,0.5"))
        shutil.copy(root / "videos" / "c7.mp4", root / "videos" / "c0.mp4")
        outcome = run("pipeline", root / "data.yaml", n_workers=None)
        assert state(canary) == before, (name, kind)
        assert outcome.code in (0, 1, 2, 3), (name, kind, outcome.said)
        assert "Traceback" not in outcome.said
        remove(root)
        remove(canary)

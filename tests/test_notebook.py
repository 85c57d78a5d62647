"""docs/notebook.md is run: its blocks in order, on a few small clips."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
from clips import pictures, voice, write_faces, write_wav
from csv_files import write_rows

import viper
from viper.task import load_task

PAGE = Path(__file__).parents[1] / "docs" / "notebook.md"
BLOCK = re.compile(r"(<!-- not run: .*? -->\n)?^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
N_CLIPS = 12
RATE = 16_000


def _make_study(root: Path) -> None:
    """Face crops, sounds and a manifest."""
    targets = load_task("hume_reaction").targets
    rng = np.random.default_rng(0)
    points = [np.array([[14, 16], [26, 16], [20, 24], [15, 32], [25, 32]], float)] * 3
    (root / "videos").mkdir()
    rows = [["File_ID", "Split", *targets]]
    for number in range(N_CLIPS):
        write_faces(root / "faces" / f"{number}", pictures(3, seed=number), points)
        write_wav(root / "videos" / f"{number}.wav", voice(1.0, RATE, number), RATE)
        split = "Train" if number < 6 else "Val" if number < 9 else "Test"
        rows.append([f"[{number}]", split, *(str(value) for value in rng.uniform(size=len(targets)).round(3))])
    write_rows(root / "manifest.csv", rows)


def test_the_page_is_run_from_features_to_a_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _make_study(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("logging.basicConfig", lambda **options: None)
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    first = [line for line in blocks[0][1].splitlines() if line and not line.startswith("#")]
    assert len(first) <= 20, "the page promises a plot in 20 lines"
    names: dict[str, object] = {}
    for skipped, code in blocks:
        compiled = compile(code, str(PAGE), "exec")
        if not skipped:
            exec(compiled, names)
    assert repr(names["visual"]).startswith("FeatureStore('features/visual': 12 clips, visual features by hog, ")
    assert len(pd.read_csv("predictions.csv", index_col="clip")) == 3
    assert Path("confusion.png").read_bytes().startswith(b"\x89PNG")
    assert isinstance(names["figure"], matplotlib.figure.Figure)
    scores, seen, both = names["scores"], names["seen"], names["both"]
    assert isinstance(scores, pd.DataFrame)
    assert isinstance(seen, pd.DataFrame)
    assert isinstance(both, pd.DataFrame)
    assert (scores.index[-1], len(seen), len(both)) == ("all", N_CLIPS, N_CLIPS)
    Path("broken.wav").write_bytes(b"no sound")
    new = viper.predict(["videos/0.wav", "broken.wav", "videos/1.wav"], "runs/both", device="cpu")
    assert list(new.index) == ["0", "1"]
    assert np.isfinite(new).all(axis=None)
    alone = viper.predict_clip("videos/0.wav", "runs/both", device="cpu")
    assert list(new.columns) == list(alone)
    assert np.allclose(new.loc["0"], list(alone.values()), atol=1e-6)
    with pytest.raises(viper.ClipError, match=r"broken\.wav"):
        viper.predict("broken.wav", "runs/both", device="cpu")
    assert capsys.readouterr().out == "train has no option 'n_epoch'; did you mean n_epochs?\n"

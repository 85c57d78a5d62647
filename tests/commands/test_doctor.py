"""doctor says what runs here; its exit code says whether a default is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from viper.cli import run_command
from viper.encoders.registry import registered


def test_doctor_lists_every_encoder_and_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    code = run_command("doctor", [])
    said = capsys.readouterr().out
    lines = said.splitlines()
    for entry in registered():
        line = next(line for line in lines if f" {entry.name} " in line and entry.modality in line)
        runs = line.replace(entry.short.summary, "").split()[-1]
        if entry.encoder.extra:
            assert runs == "yes" or f"pip install 'viper[{entry.encoder.extra}]'" in said, line
        elif entry.is_weight_free:
            assert runs == "yes", line
        elif entry.encoder.packages != ("feat",):
            assert runs == "fetch", line  # the cache of this test is empty
    assert "egemaps" in said
    assert "licence: research only" in said
    assert "hf download google/vit-base-patch16-224-in21k" in said
    if "missing: install FFmpeg" not in said:
        assert code == 0


def test_offline_a_default_without_weights_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert run_command("doctor", ["--offline"]) == 1
    line = next(line for line in capsys.readouterr().out.splitlines() if "vit-base " in line)
    assert line.split()[2] == "no"

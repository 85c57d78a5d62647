"""doctor says what runs here; its exit code says whether a default is broken."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import requirements
from packaging.requirements import Requirement

from viper.cli import run_command
from viper.commands.licences import closure, required
from viper.encoders.registry import registered
from viper.offline import VARIABLES


def test_doctor_lists_every_encoder_and_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    code = run_command("doctor", [])
    said = capsys.readouterr().out
    lines = said.splitlines()
    for entry in registered():
        line = next(line for line in lines if f" {entry.name} " in line and entry.modality in line)
        runs = line.replace(entry.short.summary, "").split()[-1]
        follows = "\n".join(lines[lines.index(line) + 1 :][: len(entry.encoder.packages)])
        if all(importlib.util.find_spec(package) for package in entry.encoder.packages):
            # The cache of this test is empty.
            assert runs == ("yes" if entry.is_weight_free else "fetch") or "FFmpeg is missing" in follows, line
        else:
            assert runs == "no", line
            assert f"pip install 'viper[{entry.encoder.extra}]'" in follows, line
    assert "egemaps" in said
    assert "licence: research only" in said
    assert "hf download google/vit-base-patch16-224-in21k" in said
    if "FFmpeg is missing" not in said:
        assert code == 0


def test_doctor_lists_licences_of_what_is_required_in_turn(capsys: pytest.CaptureFixture[str]) -> None:
    if {each.name for each in required("viper")} != {each.name for each in requirements.required()}:
        pytest.skip("viper was installed before requirements.txt was last changed: make setup")
    assert run_command("doctor", ["--licences"]) == 0
    said = capsys.readouterr().out.split("only for viper[")
    listed = {line.split()[0]: line for line in said[0].splitlines() if line.startswith("  ")}
    assert listed.keys() >= closure([Requirement("torch"), Requirement("librosa")]).keys()  # torch's own, soxr ...
    assert "LGPL" in listed["soxr"]
    assert not any("NOT INSTALLED" in line for line in listed.values())
    assert not any(name in listed for name in ("gradio", "ray", "optuna"))


def test_offline_a_default_without_weights_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert run_command("doctor", ["--offline"]) == 1
    line = next(line for line in capsys.readouterr().out.splitlines() if "vit-base " in line)
    assert line.split()[2] == "no"

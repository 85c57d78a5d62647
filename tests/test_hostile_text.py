"""Ids, tables, subtitles and tensors made to do harm, or by accident as if they were: each is refused or harmless."""

from __future__ import annotations

import ast
import csv
import io
import os
import pickle
import socket
import tarfile
import time
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
from clips import pictures, write_frames, write_srt
from conftest import Run
from many import IS_LONG

import viper
from viper.engine.failures import read_failures
from viper.errors import ClipError, UserError
from viper.evaluation.submission import read_submission, write_submission
from viper.manifest import Manifest, clip_id
from viper.media.imports.files import read_table
from viper.media.imports.gaps import without_gaps
from viper.media.listing import list_subtitles, list_videos
from viper.media.pictures import list_frame_clips
from viper.media.subtitles import MAX_BYTES, read_cues
from viper.store import FeatureStore
from viper.task import Task

TASK = Task("one", "regression", ("Fear",))
FORMULAS = ["=cmd()", "+1", "@x", "-1+2", "=1+1|x"]
NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def write_manifest(path: Path, ids: list[str]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["File_ID", "Split", "Fear"], *([each, "Train", "0"] for each in ids)])
    return path


# Ids


@pytest.mark.parametrize(
    "harmless", ["😀", "👨‍👩‍👧", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "表情", "می‌خواهم", "trailing.", "a  b", "-", "#1", "50%", *FORMULAS]
)  # fmt: skip
def test_an_odd_id_is_carried_from_the_manifest_to_the_submission_unchanged(tmp_path: Path, harmless: str) -> None:
    manifest = Manifest.load(write_manifest(tmp_path / "m.csv", [f"[{harmless}]"]), TASK)
    assert manifest.clips == [harmless]
    path = write_submission(tmp_path / "s.csv", TASK, manifest.file_ids, np.zeros((1, 1)))
    # Organisers match rows by the id they gave: it must not be made safe for a spreadsheet.
    assert path.read_text(encoding="utf-8") == f"File_ID,Fear\n[{harmless}],0.0\n"
    assert list(read_submission(path, TASK).index) == [harmless]


@pytest.mark.parametrize(
    ("harmful", "said"),
    [
        ("../../x", "slash"), ("/etc/passwd", "slash"), ("..\\x", "slash"), ('=HYPERLINK("http://x")', "slash"),
        ("a\nb", "control"), ("a\r", "control"), ("a\tb", "tab"), ("a\x00b", "control"), ("a\x1b[2Jb", "control"),
        ("a\x7fb", "control"), ("a\x85b", "control"), ("x" * 300, "longer than 200 bytes"),
        ("😀" * 60, "longer than 200 bytes"), ("[" * 10**6, "longer than 200 bytes"),
        ("a" + "\u0300\u0316" * 10**5, "longer than 200 bytes"), ("10001\u200f", "U+200F"),
        ("\u202egpj.4pm", "U+202E"), ("\ufeff10001", "U+FEFF"), ("10\u200b001", "U+200B"), ("a\u2028b", "U+2028"),
    ],
)  # fmt: skip
def test_an_id_that_could_do_harm_is_refused_in_one_short_line(harmful: str, said: str) -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match="id") as error:
        clip_id(harmful)
    assert said in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 600
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("name", ["CON", "nul.txt", "Com1", "LPT¹.mp4", "aux .x", "a.", "a:b", "what?", "a*", "<a>"])
def test_names_that_windows_cannot_have_are_refused_there_and_only_there(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert clip_id(name) == name
    monkeypatch.setattr("viper.manifest.os.name", "nt")
    with pytest.raises(UserError, match="on Windows"):
        clip_id(name)
    for fine in ("console", "a.con", "null", "com", "10001"):
        assert clip_id(fine) == fine


def test_one_clip_in_two_spellings_of_unicode_is_one_clip(tmp_path: Path) -> None:
    assert NFC != NFD
    with pytest.raises(UserError, match="line 3: the id 'café' was already used"):
        Manifest.load(write_manifest(tmp_path / "m.csv", [NFC, NFD]), TASK)
    manifest = Manifest.load(write_manifest(tmp_path / "m.csv", [NFD]), TASK)
    assert (manifest.clips, manifest.file_ids) == ([NFC], [NFD])  # the submission has the organisers' spelling
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / f"{NFD}.mp4").touch()
    (video,) = list_videos(tmp_path / "videos")
    assert (video.id, video.path.exists()) == (NFC, True)


def test_ids_that_differ_in_case_are_two_clips(tmp_path: Path) -> None:
    assert Manifest.load(write_manifest(tmp_path / "m.csv", ["Ab", "aB"]), TASK).clips == ["Ab", "aB"]


def test_frames_of_a_mac_make_features_that_the_manifest_finds(tmp_path: Path, run: Run) -> None:
    write_frames(tmp_path / "frames" / NFD, pictures(1))
    assert [clip.id for clip in list_frame_clips(tmp_path / "frames")] == [NFC]
    options = ["--input_folder", tmp_path / "frames", "--output_folder", tmp_path / "out", "--model_name", "hog"]
    assert run("extract_visual_features", *options).code == 0
    assert FeatureStore.open(tmp_path / "out").clips() == Manifest.load(
        write_manifest(tmp_path / "m.csv", [NFC]), TASK
    ).clips  # fmt: skip


@pytest.mark.parametrize(
    ("names", "said"),
    [([NFC, NFD], "would both be clip"), (["[7]", "7"], "would both be clip '7'"), (["a\x1b[2J"], "can be no clip")],
)
def test_folders_of_frames_that_cannot_be_clips(tmp_path: Path, names: list[str], said: str) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    (clip,) = list_frame_clips(tmp_path)
    with pytest.raises(ClipError, match=said) as error:
        clip.source()
    assert f"{error.value}{clip.id}".isprintable()


def test_a_name_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    os.close(os.open(os.fsencode(tmp_path) + b"/caf\xe9.srt", os.O_CREAT))
    (clip,) = list_subtitles(tmp_path)
    with pytest.raises(ClipError, match="can be no clip") as error:
        clip.source()
    f"{error.value}{clip.id}".encode()


# Links


def test_media_may_be_links_to_elsewhere_and_features_are_written_here(tmp_path: Path, run: Run) -> None:
    write_srt(tmp_path / "cluster" / "a.srt", [(0, 1, "oh no")])
    (tmp_path / "subtitles").mkdir()
    (tmp_path / "subtitles" / "7.srt").symlink_to(tmp_path / "cluster" / "a.srt")
    (tmp_path / "subtitles" / "loop.srt").symlink_to("loop.srt")  # and what leads nowhere costs its clip
    options = ["--subtitles", tmp_path / "subtitles", "--output_folder", tmp_path / "out", "--model_name", "hashed"]
    assert run("extract_textual_features", *options).code == 3
    assert [row.clip for row in read_failures(tmp_path / "out")] == ["loop"]
    assert FeatureStore.open(tmp_path / "out").clips() == ["7"]
    assert [path.name for path in (tmp_path / "cluster").iterdir()] == ["a.srt"]


# CSV


def test_a_manifest_with_a_gigantic_cell_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("File_ID,Split,Fear\n1,Train," + "9" * 1_000_000 + "\n")
    with pytest.raises(UserError, match=r"m\.csv: cannot be read as CSV \(field larger than"):
        Manifest.load(tmp_path / "m.csv", TASK)


@pytest.mark.parametrize("label", ["9" * 5000, "1e400", "-1e400", "0x1p3", "1_000", "１２x", "1" + "0" * 400])
def test_a_label_too_large_for_a_number_is_one_line(tmp_path: Path, label: str) -> None:
    (tmp_path / "m.csv").write_text(f"File_ID,Split,Fear\n1,Train,{label}\n")
    with pytest.raises(UserError, match=r"m\.csv, line 2: Fear is .*, not a finite number"):
        Manifest.load(tmp_path / "m.csv", TASK)


HEADER = "id,time,a,b\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEADER + "c,0,1,2,3\nc,1,1,2,3\n", "cannot be read as CSV"),  # pandas alone would call x an index
        (HEADER + "c,0,1,2\nc,1,1,2,3\n", "cannot be read as CSV"),
        (HEADER + "c,,1,2\n", "a time that is no number, in line 2"),
        (HEADER + "c,0,1,2\nc,inf,1,2\n", "a time that is no number, in line 3"),
        (HEADER + "c,soon,1,2\n", "a time that is no number, in line 2"),
        (HEADER + "c,0,1,2+3j\n", "a cell that is no number"),
        (HEADER + "c,0,1," + "9" * 5000 + "\n", None),
        (HEADER + 'c,0,1,"2\n', "cannot be read as CSV"),
        ("id,time,a,a \nc,0,1,2\n", "two columns are called 'a'"),
        ("frame,success,AU01_r,face_id\n1,1,0.5,0\n1,yes,0.5,1\n", "a cell that is no number"),
        ("timestamp,success,AU01_r\nsoon,1,0.5\n", "a time that is no number, in line 2"),
    ],
)
def test_a_table_of_features_that_does_not_add_up(tmp_path: Path, text: str, said: str | None) -> None:
    (tmp_path / "c.csv").write_text(text)
    if said is None:
        assert without_gaps(read_table(tmp_path / "c.csv"), "mask")[0].mask.tolist() == [False]
    else:
        with pytest.raises(ClipError, match=said) as error:
            read_table(tmp_path / "c.csv")
        assert str(error.value).startswith("c.csv: ")
        assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("error")
def test_cells_that_are_no_finite_number_mask_their_row(tmp_path: Path) -> None:
    rows = ["c,0,1,2", "c,0.1,nan,2", "c,0.2,1e400,2", "c,0.3,1,-inf", "c,0.4,1", "c,0.5,1e39,2", "c,0.6,3,4"]
    (tmp_path / "c.csv").write_text(HEADER + "\n".join(rows) + "\n")
    table, _ = without_gaps(read_table(tmp_path / "c.csv"), "mask")
    assert table.mask.tolist() == [True, False, False, False, False, False, True]
    table, _ = without_gaps(read_table(tmp_path / "c.csv"))
    # The mean of a is (1 + 1 + 1 + 3) / 4, that of b (2 + 2 + 2 + 2 + 4) / 5.
    np.testing.assert_allclose(table.tokens[1:6], [[1.5, 2], [1.5, 2], [1, 2.4], [1, 2.4], [1.5, 2]], rtol=1e-6)
    np.save(tmp_path / "c.npy", np.array([[1.0, 1e300], [1.0, 2.0]]))
    assert without_gaps(read_table(tmp_path / "c.npy"), "mask")[0].mask.tolist() == [False, True]


def test_a_comma_at_the_end_of_each_line_is_no_column(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("id,time,a,\nc,0,1,\nc,1,2,\n")
    table = read_table(tmp_path / "c.csv")
    assert table.channels == ("a",)
    assert table.mask.all()


# Tensors


def npy(header: str, data: bytes = bytes(24)) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def shaped(shape: str, kind: str = "<f4") -> str:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"


@pytest.mark.parametrize(
    "content",
    [
        npy(shaped("(1000000000000, 768)")), npy(shaped("(4611686018427387904, 8)")), npy(shaped("(-2, 3)")),
        npy(shaped("(2, 4)")), npy(shaped("((((")), npy("(" * 5000), npy("__import__('os').abort()"),
        npy(shaped("(2, 3)", "O")), npy(shaped("(2, 3)", "<c8")), npy(shaped("(2, 3)", "<M8[s]")),
        npy(shaped("(6, 0)")), npy(shaped("()")),
        npy(shaped("(2.0, 3)")), npy(shaped("(2, 3)", "|V4")), b"\x93NUMPY\x09\x00" + bytes(50),
        b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little") + b"{}",
    ],
)  # fmt: skip
def test_an_npy_that_claims_what_it_does_not_hold(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "honest.npy").write_bytes(npy(shaped("(2, 3)")))
    assert read_table(tmp_path / "honest.npy").tokens.shape == (2, 3)
    (tmp_path / "c.npy").write_bytes(content)
    with pytest.raises(ClipError, match=r"^c\.npy: ") as error:
        read_table(tmp_path / "c.npy")
    assert "\n" not in str(error.value)


def bomb(path: Path, source: Path, member: str, size: int) -> None:
    """A copy of an archive in which `member` is `size` zeros, compressed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            content = bytes(size) if entry.filename.endswith(member) else old.read(entry)
            new.writestr(entry.filename, content)


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(torch.zeros(2, 3), tmp_path / "honest.pt")
    bomb(tmp_path / "bomb.pt", tmp_path / "honest.pt", "data/0", 20_000_000)
    assert (tmp_path / "bomb.pt").stat().st_size < 100_000
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpacked"))
    with pytest.raises(ClipError, match=r"bomb\.pt: refused, it would unpack to more than it is"):
        read_table(tmp_path / "bomb.pt")
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(2_000_000))
    for name in ("npz.npy", "npz.pt"):
        (tmp_path / "bomb.npz").rename(tmp_path / name)
        with pytest.raises(ClipError, match=name):
            read_table(tmp_path / name)
        (tmp_path / name).rename(tmp_path / "bomb.npz")


TENSORS: dict[str, Callable[[], torch.Tensor]] = {
    "one-number-many-times": lambda: torch.zeros(1).expand(10**7, 10**5),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "complex": lambda: torch.zeros(2, 3, dtype=torch.complex64),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.quint8),
    "without-data": lambda: torch.zeros(2, 3, device="meta"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", TENSORS)
def test_a_tensor_that_is_not_plain_numbers(tmp_path: Path, kind: str) -> None:
    for zipped in (True, False):
        torch.save(TENSORS[kind](), tmp_path / "c.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(ClipError, match=r"^c\.pt: "):
            read_table(tmp_path / "c.pt")


@pytest.mark.filterwarnings("ignore")
def test_older_formats_that_can_run_code_are_refused_and_not_run(tmp_path: Path) -> None:
    payload = pickle.dumps(checkpoints.Payload(tmp_path / "ran"))
    with tarfile.open(tmp_path / "tar.pt", "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("storages", "tensors", "pickle"):
            entry = tarfile.TarInfo(name)
            entry.size = len(payload)
            archive.addfile(entry, io.BytesIO(payload))
    (tmp_path / "bare.pt").write_bytes(payload)
    torch.save(checkpoints.Payload(tmp_path / "ran"), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("tar.pt", "bare.pt", "old.pt"):
        with pytest.raises(ClipError, match=name) as error:
            read_table(tmp_path / name)
        assert "weights_only" not in str(error.value)  # torch's advice is to let it run
    assert not (tmp_path / "ran").exists()


def test_the_first_file_being_hostile_does_not_stop_an_import(tmp_path: Path, run: Run) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.npy").write_bytes(npy(shaped("(1000000000000, 768)")))
    np.save(tmp_path / "in" / "2.npy", np.ones((2, 3)))
    options = ["--from_files", tmp_path / "in", "--output_folder", tmp_path / "out"]
    assert run("extract_visual_features", *options).code == 3
    assert FeatureStore.open(tmp_path / "out").clips() == ["2"]
    assert [row.clip for row in read_failures(tmp_path / "out")] == ["1"]


# Subtitles

N = 10**6 if IS_LONG else 3 * 10**5
CUE = "1\n00:00:00,000 --> 00:00:01,000\n"


@pytest.mark.parametrize(
    "text", ["<a" * N, "<" * N, "{" * N, "a" + "\n" * N + "b", "1\n" * N + "x", "< " * N]
)  # fmt: skip
def test_no_text_makes_the_parser_of_subtitles_slow(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.srt").write_text(CUE + text)
    began = time.monotonic()
    assert len(read_cues(tmp_path / "a.srt")) == 1
    assert time.monotonic() - began < 20  # its time grows with the text: with its square it would be minutes or hours


def test_subtitles_that_cannot_be_what_they_say(tmp_path: Path) -> None:
    (tmp_path / "large.srt").write_bytes(CUE.encode() + b"x" * MAX_BYTES)
    (tmp_path / "number.srt").write_text(f"{CUE}&#{'9' * 5000};")
    for name in ("large.srt", "number.srt"):
        with pytest.raises(ClipError, match=rf"^{name}: "):
            read_cues(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (CUE.encode() + b"oh \xff\xfe no", "oh ÿþ no"),
        (CUE.encode() + b"oh \xc3", "oh Ã"),
        (CUE.encode() + b"oh\x00no", "oh\x00no"),
        (f"{CUE}oh no".encode("utf-16") + b"x", "oh no"),
        (CUE.encode() + b"oh &#xD800; &#0; no", "oh \ufffd \ufffd no"),
    ],
    ids=["no-utf-8", "cut-in-a-letter", "nul", "utf-16-cut-in-half", "entities"],
)
def test_bytes_that_are_no_text_are_read_as_well_as_can_be(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "a.srt").write_bytes(content)
    (cue,) = read_cues(tmp_path / "a.srt")
    assert cue.text.rstrip("\ufffd ") == text.rstrip("\ufffd ")
    cue.text.encode()


# Nothing is asked of a network, and nothing that is read is run


def test_a_local_model_asks_no_network(tmp_path: Path, vit: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("asked the network")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE")  # without being told to stay offline
    write_frames(tmp_path / "frames" / "1", pictures(2))
    for model in (vit, "hog"):
        options = ["--input_folder", tmp_path / "frames", "--output_folder", tmp_path / Path(model).name]
        outcome = run("extract_visual_features", *options, "--model_name", model, "--device", "cpu")
        assert outcome.code == 0, outcome.said
        assert FeatureStore.open(tmp_path / Path(model).name).clips() == ["1"]


PACKAGE = Path(viper.__file__).parent
# What would run what a file says.
FORBIDDEN_CALLS = {
    "eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler", "yaml.load", "yaml.unsafe_load", "joblib.load",
    "dill.load", "dill.loads", "pd.read_pickle", "os.system", "torch.hub.load",
}  # fmt: skip
# What a run and its own worker processes send each other; and the file of an encoder of their own that users name.
ALLOWED = (("pool.py", "pickle.loads"), ("ray.py", "pickle.loads"), ("user_encoder.py", "exec"))
FORBIDDEN_OPTIONS = {"trust_remote_code": True, "allow_pickle": True, "weights_only": False, "shell": True}


def test_nothing_that_is_read_is_run() -> None:
    found, loads = [], 0
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            options = {each.arg: each.value for each in node.keywords}
            where = f"{path.relative_to(PACKAGE)}:{node.lineno}: {name}"
            if name in FORBIDDEN_CALLS and (path.name, name) not in ALLOWED:
                found.append(where)
            for option, value in options.items():
                constant = value.value if isinstance(value, ast.Constant) else None
                if option in FORBIDDEN_OPTIONS and constant is not (not FORBIDDEN_OPTIONS[option]):
                    found.append(f"{where}({option}={ast.unparse(value)})")
            if name == "torch.load":
                loads += 1
                found += [] if "weights_only" in options else [f"{where} without weights_only"]
            if name.endswith(".from_pretrained") and not name.startswith(("PerceiverFusion", "super()")):
                loads += 1
                found += [] if "trust_remote_code" in options else [f"{where} without trust_remote_code"]
            if name == "np.load":
                loads += 1
                found += [] if "allow_pickle" in options else [f"{where} without allow_pickle"]
    assert found == []
    assert loads >= 4  # those there are were seen

"""Captions as they are found: YouTube's, of many programs, formats, encodings and names; each with its right words."""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from clips import pictures, write_frames
from conftest import Run
from csv_files import rows_of
from many import long_test
from media import write_coded

from viper.encoders.hashed_words import HashedWordsEncoder
from viper.errors import ClipError
from viper.inference.reader import ClipReader, WordSource
from viper.media.captions.encodings import decode
from viper.media.subtitles import Cue, WordRules, read_cues
from viper.store import FeatureStore

pytestmark = long_test
MELD = Path(__file__).parents[3] / "shared" / "data" / "meld"

Shown = list[tuple[float, float, str]]
FIRST = "1\n00:00:01,000 --> 00:00:02,000\n"


def youtube(*cues: tuple[str, str, str]) -> str:
    head = "WEBVTT\nKind: captions\nLanguage: en\n\n"
    return head + "\n".join(f"{a} --> {b} align:start position:0%\n{text}\n" for a, b, text in cues)


AUTOMATIC = youtube(
    ("00:00:00.160", "00:00:02.389", " \nhello<00:00:00.480><c> everyone</c><00:00:00.900><c> and</c>"),
    ("00:00:02.389", "00:00:02.399", "hello everyone and\n "),
    ("00:00:02.399", "00:00:04.000", "hello everyone and\nwelcome<00:00:02.800><c> back</c>"),
    ("00:00:04.000", "00:00:04.010", "welcome back\n "),
    ("00:00:04.010", "00:00:05.000", "welcome back\nyeah"),
    ("00:00:05.000", "00:00:05.010", "yeah\n "),
    ("00:00:05.010", "00:00:06.000", "yeah\nyeah"),
    ("00:00:09.000", "00:00:10.000", " \nyeah<00:00:09.280><c> &gt;&gt; right</c>"),
)
HEARD = [(0.16, 2.389, "hello everyone and"), (2.399, 4.0, "welcome back"), (4.01, 5.0, "yeah"), (5.01, 6.0, "yeah"),
         (9.0, 10.0, "yeah >> right")]  # fmt: skip
CONVERTED = "\n".join(
    f"{k}\n{start} --> {end}\n{text}\n"
    for k, (start, end, text) in enumerate(
        [
            ("00:00:00,160", "00:00:02,389", "hello everyone and"),
            ("00:00:02,389", "00:00:02,399", "hello everyone and"),
            ("00:00:02,399", "00:00:04,000", "hello everyone and\nwelcome back"),
            ("00:00:04,000", "00:00:04,010", "welcome back"),
            ("00:00:04,010", "00:00:06,000", "welcome back\nto my"),
        ],
        1,
    )
)
GROWING = "".join(
    f"{k}\n00:00:0{k},000 --> 00:00:0{k + 1},000\n{text}\n\n"
    for k, text in enumerate(["so", "so what", "so what we", "so what we do", "then"], 1)
)
SUBSTATION = """[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,20

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Comment: 0,0:00:00.00,0:00:01.00,Default,,0,0,0,,not said
Dialogue: 0,0:00:02.00,0:00:03.50,Default,Ann,0,0,0,,{\\an8}{a note}Hello, {\\i1}you{\\i0}\\Nthere
Dialogue: 1,0:00:02.00,0:00:03.50,Default,Ann,0,0,0,,{\\an8}{a note}Hello, {\\i1}you{\\i0}\\Nthere
Dialogue: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,{\\k20}wo{\\k30}rld
Dialogue: 0,0:00:04.00,0:00:05.00,Default,,0,0,0,,{\\p1}m 0 0 l 100 0{\\p0}
"""
SHORT_EVENTS = """[Script Info]
[V4+ Styles]
[Events]
Format: Start, End, Text
Dialogue: 0:00:01.00,0:00:02.00,Hi, you
"""
TTML = """<?xml version="1.0" encoding="UTF-8"?>
<tt xmlns="http://www.w3.org/ns/ttml"><body><div>
<p begin="00:00:01.000" end="00:00:02.000">Hello<br/>you {x}</p><p begin="3s" dur="1s">Bye</p></div></body></tt>"""

# As Whisper's highlight_words writes it.
HIGHLIGHTED = "".join(
    f"{k}\n00:00:0{k},000 --> 00:00:0{k + 1},000\n{text}\n\n"
    for k, text in enumerate(
        ["<u>Hello</u> there", "Hello there", "Hello <u>there</u>", "<u>Go</u>!", "Go!", "Go on", "Go on"], 1
    )
)

# File -> what is in it, and what is said in it when.
CASES: dict[str, tuple[str, str, Shown]] = {
    "YouTube's words with times": ("a.vtt", AUTOMATIC, HEARD),
    "the same called .srt": ("a.srt", AUTOMATIC, HEARD),
    "the same, converted to .srt": (
        "a.srt", CONVERTED, [(0.16, 2.389, "hello everyone and"), (2.399, 4.0, "welcome back"), (4.01, 6.0, "to my")]
    ),
    "lines that grow word by word": (
        "a.srt", GROWING, [(1, 2, "so"), (2, 3, "what"), (3, 4, "we"), (4, 5, "do"), (5, 6, "then")]
    ),
    "a mark that moves from word to word": (
        "a.srt", HIGHLIGHTED, [(1, 4, "Hello there"), (4, 6, "Go!"), (6, 7, "Go on"), (7, 8, "Go on")]
    ),
    "the same in italics": (
        "a.srt", FIRST + "Go!\n\n2\n00:00:02,000 --> 00:00:03,000\n<i>Go!</i>\n", [(1, 2, "Go!"), (2, 3, "Go!")]
    ),
    "a mark that moves, of SubStation": (
        "a.ass",
        SUBSTATION[: SUBSTATION.index("Comment")]
        + "Dialogue: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,{\\1c&HFF&}Hello{\\r} you\n"
        + "Dialogue: 0,0:00:02.00,0:00:03.00,Default,,0,0,0,,Hello {\\1c&HFF&}you{\\r}\n",
        [(1, 3, "Hello you")],
    ),
    "characters without a width": (
        "a.vtt",
        "WEBVTT\n\n00:01.000 --> 00:02.000\n&lrm;Hi\u200b &#8203;you\u2069\n\n00:03.000 --> 00:04.000\n\u200b\n",
        [(1, 2, "Hi you")],
    ),
    "words behind a drawing": (
        "a.ass",
        SUBSTATION[: SUBSTATION.index("Comment")]
        + "Dialogue: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,{\\p1}m 0 0 l 1 1{\\p0}Hello {\\i1}you\n"
        + "Dialogue: 0,0:00:02.00,0:00:03.00,Default,,0,0,0,,{\\pos(1,2)\\p2}m 0 0 l 1 1\n",
        [(1, 2, "Hello you")],
    ),
    "the same said twice": (
        "a.srt", FIRST + "No.\n\n2\n00:00:02,000 --> 00:00:03,000\nNo.\n", [(1, 2, "No."), (2, 3, "No.")]
    ),
    "two times in a sentence": (
        "a.srt", f"{FIRST}from 00:00:05.000 to 00:00:06.000\n", [(1, 2, "from 00:00:05.000 to 00:00:06.000")]
    ),
    "an arrow in a sentence": ("a.srt", f"{FIRST}look --> there -> 12:30\n", [(1, 2, "look --> there -> 12:30")]),
    "a number as text": (
        "a.srt", FIRST + "42\n\n2\n00:00:03,000 --> 00:00:04,000\nBye\n", [(1, 2, "42"), (3, 4, "Bye")]
    ),
    "a number as text, and nothing between": (
        "a.srt", FIRST + "42\n2\n00:00:03,000 --> 00:00:04,000\n3\n3\n00:00:05,000 --> 00:00:06,000\nBye",
        [(1, 2, "42"), (3, 4, "3"), (5, 6, "Bye")],
    ),
    "numbers as text, without numbers": (
        "a.srt", "00:00:01,000 --> 00:00:02,000\n7\n\n00:00:03,000 --> 00:00:04,000\nWe are\n9\n",
        [(1, 2, "7"), (3, 4, "We are 9")],
    ),
    "an empty cue": ("a.srt", FIRST + "\n2\n00:00:03,000 --> 00:00:04,000\nBye\n", [(3, 4, "Bye")]),
    "an empty line inside": (
        "a.srt", FIRST + "Hello\n\nyou\n\n2\n00:00:03,000 --> 00:00:04,000\nBye\n", [(1, 2, "Hello you"), (3, 4, "Bye")]
    ),
    "no end, an end before the start": (
        "a.srt",
        "1\n00:00:01,000 -->\nA\n\n2\n00:00:03,000 --> 00:00:02,000\nB\n\n3\n00:00:20,000 --> 00:00:21,000\nC\n",
        [(1, 3, "A"), (3, 8, "B"), (20, 21, "C")],
    ),
    "overlapping and out of order": (
        "a.srt", "1\n00:00:03,000 --> 00:00:05,000\nB\n\n2\n00:00:01,000 --> 00:00:04,000\nA\n",
        [(1, 4, "A"), (3, 5, "B")],
    ),
    "names of cues": (
        "a.srt", "one\n00:00:01,000 --> 00:00:02,000\nA\n\ntwo\n00:00:03,000 --> 00:00:04,000\nB\n",
        [(1, 2, "A"), (3, 4, "B")],
    ),
    "empty lines everywhere": (
        "a.srt", "1\n\n00:00:01,000 --> 00:00:02,000\n\nA\n\n7\n\n\n\n2\n\n00:00:03,000 --> 00:00:04,000\n\nB\n",
        [(1, 2, "A 7"), (3, 4, "B")],
    ),
    "a number as the last word": ("a.srt", f"{FIRST}The answer is\n\n42\n", [(1, 2, "The answer is 42")]),
    "an end that is days away": ("a.srt", "1\n00:00:01,000 --> 99:00:00,000\nA\n", [(1, 6, "A")]),
    "before the beginning": (
        "a.srt", "1\n-00:00:05,000 --> -00:00:03,000\nA\n\n2\n-00:00:01,000 --> 00:00:02,000\nB\n", [(0, 2, "B")]
    ),
    "words behind the times": ("a.srt", "1\n00:00:01,000 --> 00:00:02,000 Hello you\n", [(1, 2, "Hello you")]),
    "blanks in the times": ("a.srt", "1\n00: 00: 01,000 --> 00: 00: 02,000\nHello\n", [(1, 2, "Hello")]),
    "places and settings": (
        "a.srt", "1\n00:00:01,000 --> 00:00:02,000 X1:100 X2:200 Y1:1 Y2:2\nHello\n", [(1, 2, "Hello")]
    ),
    "markup, and words that only look so": (
        "a.srt", FIRST + "{\\an8}<font color=\"red\"><i>Hello</i></font> <laughs> {laughs} 1 <3 2\n",
        [(1, 2, "Hello <laughs> {laughs} 1 <3 2")],
    ),
    "lines that end in CR": ("a.srt", f"{FIRST}Hello\nyou\n".replace("\n", "\r"), [(1, 2, "Hello you")]),
    "lines that end in CR CR LF": ("a.srt", f"{FIRST}Hello\nyou\n".replace("\n", "\r\r\n"), [(1, 2, "Hello you")]),
    "WebVTT's blocks, ids and hours": (
        "a.vtt",
        "\ufeffWEBVTT - made by hand\n"
        "X-TIMESTAMP-MAP=MPEGTS:900000,LOCAL:00:00:00.000\n\nSTYLE\n::cue { color: red }\n\n"
        "REGION\nid:fred\n\nNOTE\nnot said\n\n"
        "intro\n00:01.000 --> 00:02.000\nHi &amp; <v Bob>you</v>\n\nNOTE nor this\n\n"
        "2\n1:00:03,5 --> 1:00:04.500 line:0\n<ruby>漢<rt>kan</rt></ruby>\n\n100:00:00.000 --> 100:00:01.000\nlate\n",
        [(1, 2, "Hi & you"), (3603.5, 3604.5, "漢"), (360_000, 360_001, "late")],
    ),
    "NOTE said in a .srt": ("a.srt", FIRST + "Hello\n\nNOTE this\n", [(1, 2, "Hello NOTE this")]),
    "parts of a stream put together": (
        "a.vtt",
        "WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:900000,LOCAL:00:00:00.000\n\n00:01.000 --> 00:02.000\nA\n\n"
        "WEBVTT\nX-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:1350000\n\n00:01.000 --> 00:02.000\nB\n",
        [(1, 2, "A"), (6, 7, "B")],
    ),
    "a file that was cut off": ("a.srt", FIRST + "Hello\n\n2\n00:00:03,0", [(1, 2, "Hello")]),
    "a time that cannot be read": (
        "a.srt", FIRST + "A\n\n2\n00:00:0a,000 --> 00:00:04,000\nlost\n\n3\n00:00:05,000 --> 00:00:06,000\nB\n",
        [(1, 2, "A"), (5, 6, "B")],
    ),
    "SubStation": ("a.ass", SUBSTATION, [(1, 2, "world"), (2, 3.5, "Hello, you there")]),
    "SubStation with few columns": ("a.ssa", SHORT_EVENTS, [(1, 2, "Hi, you")]),
    "SubStation called .srt": ("a.srt", SHORT_EVENTS, [(1, 2, "Hi, you")]),
    "MicroDVD with its rate": (
        "a.sub", "{1}{1}23.976\n{24}{48}Hello|{y:i}there\n{100}{}/Bye\n",
        [(1.001, 2.002, "Hello there"), (4.171, 9.171, "Bye")]
    ),
    "MicroDVD with a style first": (
        "a.sub", "{DEFAULT}{}{C:$00FF00}\n{0}{0}25\n{25}{50}{C:$0000FF}12:30 {x}\n", [(1, 2, "12:30 {x}")]
    ),
    "MPL2": ("a.sub", "[10][25]Hello|/you\n[30][40]Bye\n", [(1, 2.5, "Hello you"), (3, 4, "Bye")]),
    "SubViewer": (
        "a.sub", "[INFORMATION]\n[TITLE]x\n[END INFORMATION]\n00:00:01.00,00:00:02.50\nHello[br]you\n\n",
        [(1, 2.5, "Hello you")],
    ),
    "YouTube's .sbv": ("a.sbv", "0:00:01.000,0:00:02.500\nHello\nyou\n\n0:00:03.000,0:00:04.000\n1,5\n",
                       [(1, 2.5, "Hello you"), (3, 4, "1,5")]),
    "lyrics": ("a.lrc", "[ar:x]\n[offset:+500]\n[00:01.50]Hello <00:02.00>you\n[00:03.00]\n[00:05.00][00:09.00]again\n",
               [(1, 2.5, "Hello you"), (4.5, 8.5, "again"), (8.5, 13.5, "again")]),
    "TTML": ("a.ttml", TTML, [(1, 2, "Hello you {x}"), (3, 4, "Bye")]),
    "old TTML": ("a.dfxp", TTML.replace("http://www.w3.org/ns/ttml", "http://www.w3.org/2006/10/ttaf1"),
                 [(1, 2, "Hello you {x}"), (3, 4, "Bye")]),
    "nothing": ("a.srt", " \n\n", []),
    "a head and a comment": ("a.vtt", "WEBVTT\n\nNOTE nothing\nis said\n", []),
    "SubStation without dialogue": ("a.ass", SUBSTATION[: SUBSTATION.index("Dialogue")], []),
}  # fmt: skip


def read(tmp_path: Path, name: str, content: str | bytes, rules: WordRules | None = None) -> list[Cue]:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_cues(path, rules)


@pytest.mark.parametrize("case", CASES)
def test_words_and_times(tmp_path: Path, case: str) -> None:
    name, content, expected = CASES[case]
    found = read(tmp_path, name, content)
    assert [
        (pytest.approx(cue.start, abs=2e-3), pytest.approx(cue.end, abs=2e-3), cue.text) for cue in found
    ] == expected


def test_the_command_gives_these_words_as_tokens(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "subtitles"
    folder.mkdir()
    expected = {}
    for k, (name, content, shown) in enumerate(CASES.values()):
        (folder / f"{k}{Path(name).suffix}").write_bytes(content.encode())
        expected[str(k)] = shown
    said = extract(run, folder, tmp_path / "out", "--clean")
    assert said.code == 0, said.said
    store, encoder = FeatureStore.open(tmp_path / "out"), HashedWordsEncoder()
    assert store.info.inputs == {"words": {"clean": []}}
    for clip, shown in expected.items():
        feature = store.read(clip)
        (own,) = encoder.encode([encoder.load([Cue(*each) for each in shown])], 8)
        np.testing.assert_array_equal(feature.tokens, own.tokens)
        np.testing.assert_allclose(feature.time, own.time, atol=2e-3)


# What is no subtitles costs that clip, in one line.
FAILURES: dict[str, tuple[str, str | bytes, str]] = {
    "a transcript": ("a.vtt", "WEBVTT\n\nHello there, how are you\n", "has words, but no cue with a time"),
    "text": ("a.srt", "Hello there, how are you\n", "has words, but no cue with a time"),
    "a page": ("a.srt", "<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>", "has words, but no cue"),
    "lyrics without times": ("a.lrc", "[ar:x]\nla la la\n", "has words, but no cue"),
    "times that cannot be read": ("a.srt", "1\n00:00:0a,000 --> 00:00:0b,000\nlost\n", "has words, but no cue"),
    "pictures of words": ("a.sub", b"\0\0\1\xba\x44\0\4\0", "VobSub, pictures of words"),
    "frames at no rate": ("a.sub", "{25}{50}Hello\n", "give --subtitle_fps"),
    "entities of its own": ("a.ttml", '<!DOCTYPE tt [<!ENTITY a "b">]><tt>&a;</tt>', "declares a document type"),
    "not TTML": ("a.ttml", "<tt", "cannot be read as subtitles"),
}


def test_files_that_fail_are_listed_and_cost_their_clip_only(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "subtitles"
    folder.mkdir()
    for k, (name, content, _) in enumerate(FAILURES.values()):
        (folder / f"{k}{Path(name).suffix}").write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "good.srt").write_text(FIRST + "Hello\n")
    assert extract(run, folder, tmp_path / "out").code == 3
    rows = {row["clip"]: row["message"] for row in rows_of(tmp_path / "out" / "failures.csv")}
    for k, (_, _, message) in enumerate(FAILURES.values()):
        assert message in rows.pop(str(k))
    assert rows == {}
    assert FeatureStore.open(tmp_path / "out").clips() == ["good"]


def extract(run: Run, subtitles: Path, out: Path, *options: object):  # type: ignore[no-untyped-def]
    common = ["--output_folder", out, "--model_name", "hashed", "--device", "cpu"]
    return run("extract_textual_features", "--subtitles", subtitles, *common, *options)


# Encodings

SENTENCES = {
    "cp1251": ["Я не знаю, что тебе сказать.", "Мы ждали тебя весь вечер!", "Почему ты так смеёшься?"],
    "koi8_r": ["Я не знаю, что тебе сказать.", "Мы ждали тебя весь вечер!", "Почему ты так смеёшься?"],
    "cp866": ["Я не знаю, что тебе сказать.", "Мы ждали тебя весь вечер!", "Почему ты так смеёшься?"],
    "gb18030": ["我不知道该对你说什么。", "我们等了你一整个晚上!", "你为什么笑得这么开心?"],
    "gbk": ["我不知道该对你说什么。", "我们等了你一整个晚上!", "你为什么笑得这么开心?"],
    "big5": ["我不知道該對你說什麼。", "我們等了你一整個晚上!", "你為什麼笑得這麼開心?"],
    "shift_jis": ["何と言えばいいのか分かりません。", "一晩中あなたを待っていました!", "どうしてそんなに笑うの?"],
    "euc_jp": ["何と言えばいいのか分かりません。", "一晩中あなたを待っていました!", "どうしてそんなに笑うの?"],
    "euc_kr": ["무슨 말을 해야 할지 모르겠어요.", "우리는 저녁 내내 당신을 기다렸어요!", "왜 그렇게 웃어요?"],
    "cp1252": ["Je ne sais pas quoi vous dire, c’est à vous.", "Nous vous avons attendu toute la soirée !", "Ça va ?"],
    "latin_1": ["No sé qué decirte, señor.", "¡Te hemos esperado toda la noche!", "¿Por qué te ríes así?"],
    "cp1250": ["Nie wiem, co ci powiedzieć.", "Czekaliśmy na ciebie cały wieczór!", "Dlaczego się tak śmiejesz?"],
    "iso8859_2": ["Nie wiem, co ci powiedzieć.", "Czekaliśmy na ciebie cały wieczór!", "Dlaczego się tak śmiejesz?"],
    "iso8859_15": ["Ma sœur a le cœur brisé, je ne sais pas quoi dire.", "Ça coûte 5 €.", "L’œuvre est à vous."],
    "cp1253": ["Δεν ξέρω τι να σου πω.", "Σε περιμέναμε όλο το βράδυ!", "Γιατί γελάς έτσι;"],
    "cp1254": ["Sana ne söyleyeceğimi bilmiyorum.", "Bütün akşam seni bekledik, çok şaşırdık!", "Niye gülüyorsun?"],
    "cp1255": ["אני לא יודע מה להגיד לך.", "חיכינו לך כל הערב!", "למה אתה צוחק ככה?"],
    "cp1256": ["لا أعرف ماذا أقول لك.", "انتظرناك في المساء كله!", "لماذا تضحك هكذا؟"],
    "utf_16_le": ["Я не знаю.", "Мы ждали тебя!", "Почему?"],
    "utf_16_be": ["我不知道该对你说什么。", "我们等了你!", "为什么?"],
    "utf_16": ["Nie wiem.", "Czekaliśmy na ciebie!", "Dlaczego?"],
    "utf_8_sig": ["Nie wiem.", "Czekaliśmy na ciebie!", "Dlaczego?"],
}  # fmt: skip
ASKED = ("iso8859_15", "latin_1")


def srt(lines: Sequence[str]) -> str:
    return "\n".join(f"{k}\n00:00:0{k},000 --> 00:00:0{k},900\n{line}\n" for k, line in enumerate(lines, 1))


@pytest.mark.parametrize("encoding", SENTENCES)
def test_three_lines_tell_their_encoding(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, log_as_before: None, encoding: str
) -> None:
    lines = SENTENCES[encoding]
    if encoding == "iso8859_15":
        lines = [line.replace("’", "'") for line in lines]
    data = srt(lines).encode(encoding)
    assert [cue.text for cue in read(tmp_path, "a.srt", data)] == lines
    if not encoding.startswith("utf"):
        assert "--encoding decides" in caplog.text
        caplog.clear()
        assert [cue.text for cue in read(tmp_path, "a.srt", data, WordRules(encoding=encoding))] == lines
        assert caplog.text == ""


@pytest.mark.parametrize("encoding", ["iso2022_jp", "iso2022_kr"])
def test_encodings_that_are_ascii_by_their_bytes(tmp_path: Path, encoding: str) -> None:
    lines = SENTENCES["shift_jis" if encoding.endswith("jp") else "euc_kr"]
    assert [cue.text for cue in read(tmp_path, "a.srt", srt(lines).encode(encoding))] == lines


def test_utf_8_with_a_few_broken_bytes_is_utf_8(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = bytearray(
        srt(
            ["Nie wiem, co ci powiedzieć, mój śliczny.", "Czekaliśmy cały wieczór, żeby być", "Źle się śmiał"] * 3
        ).encode()
    )
    data[data.index("ś".encode())] = 0xFF
    words = [cue.text for cue in read(tmp_path, "a.srt", bytes(data))]
    assert words[1] == "Czekaliśmy cały wieczór, żeby być"
    assert "�" in words[0]
    assert "not utf-8" in caplog.text


@pytest.mark.parametrize("n_lines", [3, 12])
def test_the_rate_over_sentences_of_a_series(n_lines: int) -> None:
    """Of what is said in MELD, which is English with French names and typographic quotes."""
    if not MELD.is_dir():
        pytest.skip("the shared data are not beside this checkout")
    said: list[str] = []
    for path in sorted(MELD.rglob("*.csv")):
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            said += [row["Utterance"] for row in csv.DictReader(file) if "Utterance" in row]
    beyond = [line for line in said if not line.isascii() and "\ufffd" not in line and _is_cp1252(line)]
    draw, n_wrong = random.Random(0), 0
    for _ in range(100):
        lines = [draw.choice(beyond), *draw.sample(said, n_lines - 1)]
        text = "\n".join(line for line in lines if _is_cp1252(line))
        n_wrong += decode(text.encode("cp1252")).text != text
    assert n_wrong <= 3


def _is_cp1252(line: str) -> bool:
    try:
        line.encode("cp1252")
    except UnicodeEncodeError:
        return False
    return not re.search("[\x80-\x9f]", line)


@pytest.mark.parametrize("name", ["nope", "base64", "rot13", "idna", "", "utf\0"])
def test_a_name_of_no_encoding_is_one_line(tmp_path: Path, run: Run, name: str) -> None:
    (tmp_path / "subtitles").mkdir()
    (tmp_path / "subtitles" / "a.srt").write_text(FIRST + "Hello\n")
    outcome = extract(run, tmp_path / "subtitles", tmp_path / "out", "--encoding", name)
    assert outcome.code == 2
    assert "no such encoding" in outcome.said.strip().splitlines()[-1]


# Names

# Files (name -> what is said), clips that there are (None: not known), --language; clip -> what is read, or the line.
NAMES: dict[str, tuple[dict[str, str], list[str] | None, str | None, dict[str, str] | str]] = {
    "a language": ({"clip.en.vtt": "a"}, None, None, {"clip": "a"}),
    "a country, three letters, kinds": (
        {"a.en-US.srt": "a", "b.eng.srt": "b", "c.forced.srt": "c", "d.en.sdh.srt": "d", "e.hi.srt": "e"}, None, None,
        {"a": "a", "b": "b", "c": "c", "d": "d", "e": "e"},
    ),
    "the exact name first": (
        {"clip.en.srt": "en", "clip.srt": "own", "clip.de.vtt": "de"}, None, None, {"clip": "own"}
    ),
    "a language that is asked for": (
        {"clip.en.srt": "en", "clip.srt": "own", "clip.de.vtt": "de"}, None, "de", {"clip": "de"}
    ),
    "by three letters": ({"clip.en.srt": "en", "clip.ger.srt": "de"}, None, "deu", {"clip": "de"}),
    "another language only": ({"clip.de.srt": "de"}, None, "en", {"clip": ""}),
    "without a language, asked for one": ({"clip.srt": "own"}, None, "en", {"clip": "own"}),
    "several, none asked for": (
        {"clip.en.srt": "en", "clip.de.srt": "de"}, None, None,
        "clip: has subtitles in de and en; choose with --language",
    ),
    "no such language": ({"clip.en.srt": "en"}, None, "english", "--language english: no such language"),
    "the whole dialogue before the foreign": ({"clip.en.forced.srt": "f", "clip.en.srt": "a", "clip.en.cc.srt": "c"},
                                              None, None, {"clip": "a"}),
    "a clip that ends like a language": ({"talk.no.srt": "no"}, ["talk.no"], None, {"talk.no": "no"}),
    "the same beside the other": ({"talk.no.srt": "no", "talk.srt": "own"}, ["talk", "talk.no"], None,
                                  {"talk": "own", "talk.no": "no"}),
    "the same, and not its clip": ({"talk.no.srt": "no"}, ["talk"], None, {"talk": "no"}),
    "names with points": (
        {"talk.no.srt": "no", "talk.yes.srt": "yes"}, None, None, {"talk.no": "no", "talk.yes": "yes"}
    ),
    "names taken whole": ({"talk.no.srt": "no"}, None, "none", {"talk.no": "no"}),
    "ids as the files write them": (
        {"[1].en.srt": "a", "2.mp4.en.srt": "b", "[3].srt": "c"}, ["1", "2", "3"], None, {"1": "a", "2": "b", "3": "c"}
    ),
    "the same, and no clips known": ({"[1].en.srt": "a", "2.MP4.de.srt": "b"}, None, None, {"1": "a", "2": "b"}),
    "files of other clips": ({"a.en.srt": "a", "b.srt": "b"}, ["a", "c"], None, {"a": "a", "c": ""}),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMES)
def test_which_file_is_whose(tmp_path: Path, run: Run, case: str) -> None:
    files, clips, language, expected = NAMES[case]
    for name, word in files.items():
        path = tmp_path / "subtitles" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(("WEBVTT\n\n" if name.endswith("vtt") else "") + FIRST.replace(",", ".") + word + "\n")
    options = [] if language is None else ["--language", language]
    if clips is not None:
        for clip in clips:
            write_frames(tmp_path / "frames" / clip, pictures(1))
        options += ["--input_folder", str(tmp_path / "frames")]
    outcome = extract(run, tmp_path / "subtitles", tmp_path / "out", *options)
    if isinstance(expected, str):
        assert outcome.code == 2
        assert expected in outcome.said.strip().splitlines()[-1]
        return
    assert outcome.code == 0, outcome.said
    store, encoder = FeatureStore.open(tmp_path / "out"), HashedWordsEncoder()
    assert store.clips() == sorted(expected)
    for clip, word in expected.items():
        (own,) = encoder.encode([encoder.load([Cue(1, 2, word)] if word else None)], 8)
        np.testing.assert_array_equal(store.read(clip).tokens, own.tokens)


def test_files_and_languages_that_are_left_out_are_said(tmp_path: Path, run: Run) -> None:
    (tmp_path / "subtitles").mkdir()
    for name in ("a.English.srt", "b.de.srt", "c.en.srt"):
        (tmp_path / "subtitles" / name).write_text(FIRST + "Hello\n")
    for clip in "abc":
        write_frames(tmp_path / "frames" / clip, pictures(1))
    options = ["--language", "en", "--input_folder", tmp_path / "frames"]
    outcome = extract(run, tmp_path / "subtitles", tmp_path / "out", *options)
    assert outcome.code == 0
    assert "1 files are of no clip of the input folder and are left out, such as a.English.srt" in outcome.said
    assert "1 clips have subtitles in other languages only, such as b (de)" in outcome.said


def test_a_video_beside_a_file_says_whose_it_is(tmp_path: Path) -> None:
    video = write_coded(tmp_path / "talk.mp4", 10, 10)
    (tmp_path / "talk.no.srt").write_text(FIRST + "norsk\n")
    reader, source = ClipReader([WordSource(WordRules())], "cpu"), WordSource(WordRules())
    assert reader.read(video).contents[source] == [Cue(1, 2, "norsk")]
    other = write_coded(tmp_path / "talk.no.mp4", 10, 10)
    assert isinstance(reader.read(video).contents[source], ClipError)
    assert reader.read(other).contents[source] == [Cue(1, 2, "norsk")]


def test_two_equal_files_fail_that_clip(tmp_path: Path, run: Run) -> None:
    for name in ("a.en.srt", "a.eng.srt", "b.srt"):
        (tmp_path / "subtitles").mkdir(exist_ok=True)
        (tmp_path / "subtitles" / name).write_text(FIRST + "Hello\n")
    assert extract(run, tmp_path / "subtitles", tmp_path / "out").code == 3
    (row,) = rows_of(tmp_path / "out" / "failures.csv")
    assert "'a.en.srt' and 'a.eng.srt'; keep one" in row["message"]


# Rates, tracks, what is left out


def test_the_rate_of_frames_is_the_videos_or_the_options(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "subtitles"
    folder.mkdir()
    (folder / "a.sub").write_text("{25}{50}Hello\n")
    write_frames(tmp_path / "frames" / "a", pictures(1))
    record = tmp_path / "frames" / "a" / "frames.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "fps": 12.5}))

    def middle(*options: object) -> float:
        outcome = extract(run, folder, tmp_path / "out", *options)
        assert outcome.code == 0, outcome.said
        return float(FeatureStore.open(tmp_path / "out").read("a").time[0])

    assert extract(run, folder, tmp_path / "out").code == 1
    assert middle("--input_folder", tmp_path / "frames") == pytest.approx(3.0)
    assert middle("--subtitle_fps", 50) == pytest.approx(0.75)
    write_coded(folder / "a.mp4", 10, 5)
    assert middle() == pytest.approx(7.5)
    (folder / "a.sub").rename(folder / "a.en.sub")
    assert middle() == pytest.approx(7.5)
    source = WordSource(WordRules())
    assert ClipReader([source], "cpu").read(folder / "a.mp4").contents[source] == [Cue(5, 10, "Hello")]


def mux(path: Path, subtitles: Path, tracks: Sequence[str], codec: str | None = None) -> Path:
    """A video without pictures: one track of words for each language."""
    with av.open(str(path), "w") as output:
        for language in tracks:
            with av.open(str(subtitles.with_suffix(f".{language}.srt"))) as source:
                stream = output.add_stream_from_template(source.streams.subtitles[0])
                stream.metadata["language"] = language
        for k, language in enumerate(tracks):
            with av.open(str(subtitles.with_suffix(f".{language}.srt"))) as source:
                for packet in source.demux():
                    if packet.dts is not None:
                        packet.stream = output.streams[k]
                        output.mux(packet)
    return path


def test_tracks_inside_a_video_are_read_where_there_is_no_file(tmp_path: Path, run: Run) -> None:
    for language, word in (("eng", "<i>Hello</i>\nyou"), ("ger", "Hallo")):
        (tmp_path / f"words.{language}.srt").write_text(FIRST + word + "\n\n2\n00:00:03,000 --> 00:00:04,000\nend\n")
    folder = tmp_path / "videos"
    folder.mkdir()
    both = mux(folder / "both.mkv", tmp_path / "words.srt", ["eng", "ger"])
    assert read_cues(both) == [Cue(1, 2, "Hello you"), Cue(3, 4, "end")]
    assert read_cues(both, WordRules(language="de")) == [Cue(1, 2, "Hallo"), Cue(3, 4, "end")]
    assert read_cues(both, WordRules(language="fr")) == []
    write_coded(folder / "none.mp4", 10, 10)
    outcome = extract(run, folder, tmp_path / "out")
    assert outcome.code == 0, outcome.said
    assert "track 1 of 2 (eng) (--language decides)" in outcome.said
    store = FeatureStore.open(tmp_path / "out")
    np.testing.assert_allclose(store.read("both").time, [1.5, 3.5])
    assert not store.read("none").mask.any()
    source = WordSource(WordRules())
    assert ClipReader([source], "cpu").read(both).contents[source] == [Cue(1, 2, "Hello you"), Cue(3, 4, "end")]
    (folder / "both.srt").write_text(FIRST + "beside\n")
    assert ClipReader([source], "cpu").read(both).contents[source] == [Cue(1, 2, "beside")]


TALK = (
    f"{FIRST}- Hello (sighs)\n- -5 degrees?\n\n2\n00:00:03,000 --> 00:00:04,000\n>> ANN: Well... [laughs]\n\n"
    "3\n00:00:05,000 --> 00:00:06,000\n♪ la la ♪\n\n4\n00:00:07,000 --> 00:00:08,000\nNote: at 12:30 [door\ncreaks]\n\n"
    "5\n00:00:09,000 --> 00:00:10,000\n- Ann: hi\n?!\n\n"
    "6\n00:00:11,000 --> 00:00:12,000\n[MAN 1]: hey\n"
)
SAID = ["- Hello (sighs) - -5 degrees?", ">> ANN: Well... [laughs]", "♪ la la ♪", "Note: at 12:30 [door creaks]",
        "- Ann: hi ?!", "[MAN 1]: hey"]  # fmt: skip
# What is left of these where something is left out.
CLEANED: dict[tuple[str, ...], dict[int, str]] = {
    (): {},
    ("dashes",): {0: "Hello (sighs) -5 degrees?", 1: "ANN: Well... [laughs]", 4: "Ann: hi ?!"},
    ("speakers",): {1: ">> Well... [laughs]", 4: "- hi ?!", 5: "hey"},
    ("notes",): {2: "la la"},
    ("sounds",): {0: "- Hello - -5 degrees?", 1: ">> ANN: Well...", 3: "Note: at 12:30"},
    ("dashes", "speakers", "lyrics", "sounds"): {
        0: "Hello -5 degrees?", 1: "Well...", 2: "", 3: "Note: at 12:30", 4: "hi ?!", 5: "hey"
    },
}  # fmt: skip


@pytest.mark.parametrize("clean", CLEANED, ids=" ".join)
def test_what_is_left_out(tmp_path: Path, clean: tuple[str, ...]) -> None:
    found = read(tmp_path, "a.srt", TALK, WordRules(clean))  # type: ignore[arg-type]
    left = [CLEANED[clean].get(place, text) for place, text in enumerate(SAID)]
    assert [cue.text for cue in found] == [text for text in left if text]


def test_another_way_to_read_words_makes_the_features_again(tmp_path: Path, run: Run) -> None:
    (tmp_path / "subtitles").mkdir()
    (tmp_path / "subtitles" / "a.srt").write_text(TALK)
    n_done = []
    for options in ([], [], ["--clean", "dashes", "sounds"], ["--clean"], ["--clean"], ["--encoding", "cp1252"]):
        outcome = extract(run, tmp_path / "subtitles", tmp_path / "out", *options)
        n_done.append("1 done" in outcome.said)
    assert n_done == [True, False, True, True, False, True]
    words = FeatureStore.open(tmp_path / "out").info.inputs["words"]
    assert words == {"clean": ["dashes"], "encoding": "cp1252"}

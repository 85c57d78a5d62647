"""Which encoding a subtitle file is in, where nothing in it says so."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from dataclasses import dataclass

from viper.errors import UserError

# Those of many bytes a character, which charset-normalizer tells apart, also in three lines of text.
_WIDE = ("gb18030", "big5hkscs", "cp932", "cp949", "euc_jp")
# Of a file with fewer readable characters for each that is broken, UTF-8 is not what it was written in.
_MOSTLY = 8
_ENOUGH = 1 << 13  # bytes of text, by which an encoding is told
# Of each: a national standard, which orders characters by how usual they are, the first bytes of its usual ones there,
# and whether kana are among them.
_USUAL = {
    "gb18030": ("gb2312", b"\xb0", b"\xd7", False), "big5hkscs": ("big5", b"\xa4", b"\xc6", False),
    "cp932": ("euc_jp", b"\xb0", b"\xcf", True), "cp949": ("euc_kr", b"\xb0", b"\xc8", False),
    "euc_jp": ("euc_jp", b"\xb0", b"\xcf", True),
}  # fmt: skip
_HIGH = bytes(range(0xA1, 0xFF))
_WIDE_MARKS = frozenset("　、。，．！？：；…—‘’“”「」『』（）《》〈〉・～♪")
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_SHOWN = {
    "gb18030": "GB18030 (GBK)", "big5hkscs": "Big5", "cp932": "Shift-JIS (cp932)", "cp949": "EUC-KR (cp949)",
    "euc_jp": "EUC-JP", "iso8859_15": "Latin-9 (iso8859-15)", "iso8859_2": "Latin-2 (iso8859-2)",
}  # fmt: skip


# What begins the characters of encodings that are all ASCII by their bytes.
_ESCAPES = ((re.compile(rb"\x1b\$[@B(]"), "iso2022_jp_2"), (re.compile(rb"\x1b\$\)C"), "iso2022_kr"))

# Ways to write text in other text, which Python also calls encodings.
_NOT_OF_FILES = ("rot13", "idna", "punycode", "unicode_escape", "raw_unicode_escape", "utf_7")


@dataclass(frozen=True)
class Decoded:
    """A file's text.

    Attributes
    ----------
    encoding : what it was read as, for people.
    is_known : whether the file, its bytes or the user say so: no guess.
    note : what people should know of how it was read; empty if there is nothing.
    is_doubtful : whether the note is a warning.
    """

    text: str
    encoding: str
    is_known: bool = True
    note: str = ""
    is_doubtful: bool = False


def check_encoding(name: str | None) -> None:
    """Refuse a name that is no encoding of text, as a UserError."""
    if name is None:
        return
    try:
        is_text = "1 --> 2".encode(name).decode(name) == "1 --> 2"
    except (LookupError, UnicodeError, ValueError):  # some of Python's codecs are of other things than text
        is_text = False
    if not is_text or codecs.lookup(name).name.replace("-", "_") in _NOT_OF_FILES:
        raise UserError(f"--encoding {name}: no such encoding; give utf-8, cp1252, cp1251, gb18030, big5 ...") from None


def decode(data: bytes, encoding: str | None = None) -> Decoded:
    """Return the text of a file.

    Parameters
    ----------
    encoding : what the user says it is in. A byte order mark in the file counts more: it is no guess either.
    """
    marked = next((name for bom, name in _BOMS if data.startswith(bom)), None)
    if marked is not None:
        text, n_broken = _replaced(data, "utf-8-sig" if marked == "utf-8" else marked)
        return Decoded(text, marked, note=_broken(n_broken, marked), is_doubtful=bool(n_broken))
    if encoding is not None:
        return _as_told(data, encoding)
    if (wide := _two_bytes_each(data)) is not None:
        text, n_broken = _replaced(data, wide)
        return Decoded(text, wide, False, _broken(n_broken, wide), bool(n_broken))
    for escape, escaped in _ESCAPES if data.isascii() else ():
        if escape.search(data):
            text, n_broken = _replaced(data, escaped)
            return Decoded(text, escaped, note=_broken(n_broken, escaped), is_doubtful=bool(n_broken))
    try:
        return Decoded(data.decode("utf-8"), "utf-8")
    except UnicodeDecodeError:
        pass
    text, n_broken = _replaced(data, "utf-8")
    if sum(character > "\x7f" for character in text) - n_broken >= _MOSTLY * n_broken:
        return Decoded(text, "utf-8", False, _broken(n_broken, "utf-8"), True)
    return _guessed(data)


def _replaced(data: bytes, encoding: str) -> tuple[str, int]:
    """Return text with U+FFFD for what cannot be decoded, and how often that was so."""
    text = data.decode(encoding, errors="replace")
    own = data.count("\ufffd".encode()) if encoding.startswith("utf-8") else 0
    return text, text.count("\ufffd") - own


def _broken(n: int, encoding: str) -> str:
    return f"{n} bytes or characters of it are not {encoding} and are read as \ufffd" if n else ""


def _as_told(data: bytes, encoding: str) -> Decoded:
    text, n_broken = _replaced(data, encoding)
    note = _broken(n_broken, encoding)
    if not data.isascii() and not note and codecs.lookup(encoding).name != "utf-8":
        try:
            data.decode("utf-8")
            note = f"is UTF-8 by its bytes, but read as {encoding}, as --encoding says"
        except UnicodeDecodeError:
            pass
    return Decoded(text, encoding, note=note, is_doubtful=bool(note))


def _two_bytes_each(data: bytes) -> str | None:
    """Return UTF-16's name for text without a byte order mark: its stamps and line breaks have a zero in each pair."""
    start = data[: 1 << 16]
    even, odd = start[::2].count(0), start[1::2].count(0)
    if max(even, odd) * 10 < len(start) or len(data) % 2:
        return None
    if odd > 8 * even:
        return "utf-16-le"
    return "utf-16-be" if even > 8 * odd else None


# Code pages of one byte a character. Their bytes are any other's letters too: only the language tells them apart.


@dataclass(frozen=True)
class _Language:
    """Letters beyond ASCII that its text has, and words that are in most of its sentences."""

    code_pages: tuple[str, ...]
    letters: frozenset[str]
    words: frozenset[str]


def _language(code_pages: str, letters: str, words: str) -> _Language:
    return _Language(tuple(code_pages.split()), frozenset(letters + letters.upper()), frozenset(words.split()))


_THAI = "cp874"  # which charset-normalizer sometimes takes Korean and Japanese for
_RUSSIAN = "".join(map(chr, range(0x430, 0x450))) + "ё"
_WESTERN = "cp1252 iso8859_15"
_CENTRAL = "cp1250 iso8859_2"
_LANGUAGES = (
    _language("cp1252", "", "the you and to of is it that i in for not what my me"),
    _language(_WESTERN, "àâæçéèêëîïôœùûüÿ", "de la le et les des que je vous pas un une est il en ce dans qui ne pour"),
    _language(_WESTERN, "äöüß", "und der die das ist nicht ich ein sie du es zu mit den wir auf von im kann was"),
    _language("cp1252", "áéíñóúü¿¡ç", "de la que el en y no los se un por una es con me lo las para del qué está"),
    _language("cp1252", "áâãàçéêíóôõúü", "de que não o a e do um uma para é com você eu os no se da em na isso está"),
    _language("cp1252", "àèéìíîòóù", "di che non il la è un per una sono mi in ho si ti le lo con ma della del"),
    _language("cp1252", "åäöæøéü", "och att det är jag inte en på som har du för med og ikke er jeg av til den på et"),
    _language(_WESTERN, "äöåšž", "ja on ei se en että hän mitä sinä olen minä mutta kun"),
    _language("cp1252", "éëïöüáóè", "de het een ik niet is dat van en je we wat voor ze op te met zijn"),
    _language("cp1252", "áðéíóúýþæö", "að og ekki er það ég í á við en sem"),
    _language("cp1252", "àçèéíïòóúü·", "de que no el la i és una per els les amb què"),
    _language(_CENTRAL, "ąćęłńóśźż", "nie to się w na i z jest że do co jak tak mnie ty dla są o nie"),
    _language(_CENTRAL, "áčďéěíňóřšťúůýž", "je to se na v a že ne jsem co tak si jak ale do by s z pro"),
    _language(_CENTRAL, "áäčďéíĺľňóôŕšťúýž", "je to sa na v a že nie som čo tak si ako ale do by s z pre"),
    _language(_CENTRAL, "áéíóöőúüű", "a az nem hogy és egy van meg ez de csak azt mi is volt itt én ki el lehet"),
    _language(_CENTRAL, "ăâîşţ", "nu şi de să la în cu o un ce a este mai te am că pe din pentru"),
    _language(_CENTRAL, "čćđšž", "je da ne se i to u na sam što si za li kako ali ja od nije bi"),
    _language("cp1254", "çğıöşüâîûİ", "bir bu ve ne da de için çok ben sen evet hayır var mi mı değil ile olarak"),
    _language("cp1257", "ąčęėįšųūž", "ir ne kad tai aš į ar kaip su yra iš tu bet mano nėra"),
    _language("cp1257", "āčēģīķļņšūž", "un ir ne es tu kas ka to no ar vai par man nav"),
    _language("cp1257", "äöõüšž", "ja ei on ma see sa et mis kui ta oma aga olen"),
    _language("cp1251 koi8_r cp866", _RUSSIAN, "и в не на я что он с как это вы ты мы но да нет а у мне так все"),
    _language("cp1251", _RUSSIAN + "іїєґ’", "і в не на що я це як ти ми але та з за до у й мене"),
    _language("cp1251", _RUSSIAN, "и не на да в се е за от че с си ти аз ще ли това какво"),
    _language("cp1251", _RUSSIAN + "ђјљњћџ", "је да не се и у на то сам шта за ли"),
    _language("cp1253", "αβγδεζηθικλμνξοπρσςτυφχψωάέήίόύώϊϋΐΰ", "και το να η ο δεν τι με στο είναι θα μου την του για"),
    _language("cp1255", "".join(map(chr, range(0x5D0, 0x5EB))), "אני לא את זה של על מה הוא כן אתה היא אם כל"),
    _language("cp1256", "".join(map(chr, range(0x621, 0x64B))), "في من لا على أن هذا ما أنا هل يا إلى لم مع هو"),
    _language("cp1258", "àáâăãèéêìíòóôơùúưđ\u0300\u0301\u0303\u0309\u0323", "không là có tôi và anh em cho này trong"),
    _language(_THAI, "".join(map(chr, range(0xE01, 0xE4F))), ""),
)  # fmt: skip
_PAGES = tuple(dict.fromkeys(page for language in _LANGUAGES for page in language.code_pages))
# Of a script, the letters that some word of a sentence has.
_TELLING = (
    (frozenset(_RUSSIAN), frozenset("ыьэюяіїјђљњћџ" + _RUSSIAN.upper())),
    (frozenset(map(chr, range(0x3B1, 0x3CA))), frozenset("άέήίόύώΆΈΉΊΌΎΏ")),
)
# Marks that captions in any language may have.
_MARKS = frozenset("‘’‚“”„«»‹›–—…•·°♪¡¿ ©®™€£§½")


def _guessed(data: bytes) -> Decoded:
    """Return text of the code page that its language speaks for, or of the Asian encoding that fits."""
    from charset_normalizer import from_bytes

    spoken = b"\n".join(line for line in re.split(rb"[\r\n]+", data) if not line.isascii())
    sample = spoken if len(spoken) <= _ENOUGH else spoken[:_ENOUGH].rpartition(b"\n")[0] or spoken[:_ENOUGH]
    found = from_bytes(sample, cp_isolation=[*_WIDE, *_PAGES], enable_fallback=False).best()
    first = found.encoding if found is not None else ""
    usual = {encoding: _usual(sample, encoding) for encoding in _WIDE if first in (*_WIDE, _THAI)}
    if (first in _WIDE and _fits(sample, first)) or max(usual.values(), default=0.0) > 0.9:
        best = max(_WIDE, key=lambda encoding: (usual[encoding], encoding == first))
        rivals = [each for each in _WIDE if each != best and usual[each] > usual[best] - 0.15]
        return _found(data, best, is_sure=len(sample) >= 24 and not rivals, rivals=rivals)
    scores = {page: score for page in _PAGES if (score := _score(sample, page)) > 0}
    # Equal ones are in the order above: the more usual first.
    best = max(scores, key=lambda page: scores[page], default=first or "cp1252")
    text = sample.decode(best, errors="replace")
    rivals = [
        page for page, score in scores.items()
        if score > scores[best] - 0.1 and sample.decode(page, errors="replace") != text
    ]  # fmt: skip
    return _found(data, best, is_sure=bool(scores) and not rivals, rivals=rivals)


def _found(data: bytes, encoding: str, is_sure: bool, rivals: Iterable[str] = ()) -> Decoded:
    text, n_broken = _replaced(data, encoding)
    shown = _SHOWN.get(encoding, encoding)
    others = " or ".join(_SHOWN.get(page, page) for page in list(rivals)[:2])
    note = f"read as {shown}" if is_sure else f"its encoding cannot be told for sure; read as {shown}"
    note += f", but it may be {others}" if others else ""
    note += f"; {_broken(n_broken, shown)}" if n_broken else ""
    return Decoded(text, shown, False, f"{note} (--encoding decides)", not is_sure or bool(n_broken))


def _fits(sample: bytes, encoding: str) -> bool:
    """Return whether text in an Asian encoding looks like it: no single letters of another script among Latin ones."""
    text = sample.decode(encoding, errors="replace")
    wide = sum(character > "\u2e7f" for character in text)
    letters = sum(character.isascii() and character.isalpha() for character in text)
    return wide >= 2 and wide * 2 >= letters


def _usual(sample: bytes, encoding: str) -> float:
    """Return which share of an Asian text's characters are its language's usual ones; 0 where it cannot be that."""
    try:
        text = sample.decode(encoding)
    except UnicodeDecodeError:
        return 0.0
    standard, first, last, has_kana = _USUAL[encoding]
    wide = [character for character in text if character > "\x7f" and character not in _WIDE_MARKS]
    n_usual, n_kana = 0, 0
    for character in wide:
        coded = character.encode(standard, errors="ignore")
        n_usual += first <= coded[:1] <= last
        n_kana += "\u3041" <= character <= "\u30ff"
    # Every Japanese sentence has kana; in Chinese and Korean ones they stand in names at most.
    if not wide or (has_kana and not n_kana):
        return 0.0
    share = (n_usual + (n_kana if has_kana else 0)) / len(wide)
    # Only Korean has blanks between words, and of Big5's characters half have a second byte that is ASCII.
    n_blanks = len(re.findall(r"(?<=[^\x00-\x7f]) (?=[^\x00-\x7f])", text))
    if encoding != "cp949" and n_blanks > 0.1 * len(wide):
        share -= 0.3
    if encoding == "big5hkscs" and len(wide) >= 8 and "".join(wide).encode(encoding).translate(None, _HIGH) == b"":
        share -= 0.3
    return max(share, 0.0)


def _score(sample: bytes, page: str) -> float:
    """Return how well text of a code page fits the best of its languages: at most 2; 0 where it cannot be that."""
    try:
        text = sample.decode(page)
    except UnicodeDecodeError:
        return 0.0
    if any("\x80" <= character < "\xa0" for character in text):
        return 0.0
    beyond = [character for character in text if character > "\x7f" and character not in _MARKS]
    words = re.findall(r"[^\W\d_]+", text.lower())
    odd, best = _oddity(text), 0.0
    for language in _LANGUAGES:
        if page in language.code_pages:
            known = sum(character in language.letters for character in beyond) / len(beyond) if beyond else 1.0
            common = sum(word in language.words for word in words) / max(len(words), 6)
            best = max(best, known - odd + (min(0.5, common) if known > 0.75 else 0.0))
    return best


def _oddity(text: str) -> float:
    """Return how much of a text no language writes so, from 0: another alphabet's letters read as these."""
    words = re.findall(r"[^\W\d_]{2,}", text)
    letters = set("".join(words))
    if not words:
        return 0.0
    # A capital behind a small letter; Latin and other letters in one word.
    mixed = sum((word[0].islower() and not word.islower()) or (min(word) < "\u0250" <= max(word)) for word in words)
    odd = mixed / len(words)
    n_ascii, n_other = len(re.findall("[a-zA-Z]", text)), len(re.findall("[\u0370-\u1fff]", text))
    if n_ascii > n_other > 0:  # some letters of another script among Latin text
        odd += n_ascii / (n_ascii + n_other)
    if sum(map(len, words)) >= 12:
        # Hebrew's bytes are small letters of Cyrillic and Greek, never the last ones or accents; or capitals.
        odd += 0.2 * any(letters & script and not letters & telling for script, telling in _TELLING)
        odd += 0.1 * (text.upper() == text != text.lower())
    thai = re.findall(r"[\u0e00-\u0e7f]", text)
    astray = re.findall("(?<![\u0e01-\u0e4e])[\u0e30-\u0e3a\u0e47-\u0e4e]", text)  # marks without a letter
    return odd + (len(astray) / len(thai) if thai else 0.0)

"""Which clip a subtitle file belongs to, and its language, by its name: clip.en.srt, clip.en-US.forced.vtt."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from viper.clip_ids import path_id
from viper.errors import ClipError, UserError, either
from viper.logs import log

# ISO 639-1, and the codes of three letters that stand for the same (639-2, for some languages two).
_CODES = (
    "aa/aar ab/abk ae/ave af/afr ak/aka am/amh an/arg ar/ara as/asm av/ava ay/aym az/aze ba/bak be/bel bg/bul bh/bih "
    "bi/bis bm/bam bn/ben bo/bod/tib br/bre bs/bos ca/cat ce/che ch/cha co/cos cr/cre cs/ces/cze cu/chu cv/chv "
    "cy/cym/wel da/dan de/deu/ger dv/div dz/dzo ee/ewe el/ell/gre en/eng eo/epo es/spa et/est eu/eus/baq fa/fas/per "
    "ff/ful fi/fin fj/fij fo/fao fr/fra/fre fy/fry ga/gle gd/gla gl/glg gn/grn gu/guj gv/glv ha/hau he/heb/iw hi/hin "
    "ho/hmo hr/hrv ht/hat hu/hun hy/hye/arm hz/her ia/ina id/ind/in ie/ile ig/ibo ii/iii ik/ipk io/ido is/isl/ice "
    "it/ita iu/iku ja/jpn jv/jav ka/kat/geo kg/kon ki/kik kj/kua kk/kaz kl/kal km/khm kn/kan ko/kor kr/kau ks/kas "
    "ku/kur kv/kom kw/cor ky/kir la/lat lb/ltz lg/lug li/lim ln/lin lo/lao lt/lit lu/lub lv/lav mg/mlg mh/mah "
    "mi/mri/mao mk/mkd/mac ml/mal mn/mon mr/mar ms/msa/may mt/mlt my/mya/bur na/nau nb/nob nd/nde ne/nep ng/ndo "
    "nl/nld/dut nn/nno no/nor nr/nbl nv/nav ny/nya oc/oci oj/oji om/orm or/ori os/oss pa/pan pi/pli pl/pol ps/pus "
    "pt/por/pb/pob qu/que rm/roh rn/run ro/ron/rum ru/rus rw/kin sa/san sc/srd sd/snd se/sme sg/sag si/sin sk/slk/slo "
    "sl/slv sm/smo sn/sna so/som sq/sqi/alb sr/srp/scc ss/ssw st/sot su/sun sv/swe sw/swa ta/tam te/tel tg/tgk th/tha "
    "ti/tir tk/tuk tl/tgl/fil tn/tsn to/ton tr/tur ts/tso tt/tat tw/twi ty/tah ug/uig uk/ukr ur/urd uz/uzb ve/ven "
    "vi/vie vo/vol wa/wln wo/wol xh/xho yi/yid yo/yor za/zha zh/zho/chi/zhs/zht/chs/cht zu/zul"
)
LANGUAGES = {code: codes.split("/")[0] for codes in _CODES.split() for code in codes.split("/")}
# What follows a language: a script, a country, or YouTube's "as spoken" and "translated from".
_TAG = re.compile(r"([a-z]{2,3})((?:[-_](?:[a-z]{4}|[a-z]{2,3}|\d{3}|orig|oxendict))*)", re.IGNORECASE)
# Of what kind subtitles are, the usual first: words of everybody, with sounds for the deaf, made by a machine, and of
# foreign speech only.
_KINDS = {
    "full": 0,
    "default": 0,
    "orig": 0,
    "sdh": 1,
    "cc": 1,
    "hi": 1,
    "auto": 2,
    "asr": 2,
    "foreign": 3,
    "forced": 3,
}
NO_LANGUAGE = "none"  # as --language: names have none


@dataclass(frozen=True)
class NamedFile:
    """A subtitle file as a clip's: `language` is its tag, lower case, or empty; `kind` orders those of one language."""

    path: Path
    language: str = ""
    kind: int = 0


def check_language(name: str | None) -> None:
    """Refuse a name that is no language, as a UserError."""
    if name not in (None, NO_LANGUAGE) and not language_of(str(name)):
        raise UserError(f"--language {name}: no such language; give a code such as en, de or pt-BR, or {NO_LANGUAGE}")


def language_of(part: str) -> str:
    """Return a language tag, such as en or pt-br, for any of its spellings; empty for what is none."""
    found = _TAG.fullmatch(part)
    if found is None or found[1].lower() not in LANGUAGES:
        return ""
    return f"{LANGUAGES[found[1].lower()]}{found[2].lower().replace('_', '-')}"


def readings(name: str) -> list[tuple[str, str, int]]:
    """Return what a name may mean, the whole first: (clip's name, language, kind) without one to three last parts."""
    found = [(name, "", 0)]
    parts = name.split(".")
    language, kind = "", 0
    for n in range(1, min(4, len(parts))):
        part, before = parts[-n].lower(), parts[-n - 1]
        is_hindi = part == "hi" and not language_of(before)  # behind a language it means "hearing impaired"
        if part in _KINDS and not is_hindi:
            kind = max(kind, _KINDS[part])
        elif not language and language_of(part):
            language = language_of(part)
        else:
            break
        if rest := ".".join(parts[:-n]):
            found.append((rest, language, kind))
    return found


def by_clip(
    files: Sequence[tuple[str, Path]],
    known: Collection[str],
    language: str | None,
    is_closed: bool = False,
    beside: Sequence[str] = (),
) -> dict[str, list[NamedFile]]:
    """Return clip id -> its subtitle files.

    Parameters
    ----------
    files : the id that a file's whole name gives, and the file.
    known : ids of clips that there are.
    beside : suffixes of videos and sounds: one beside a file is a clip that there is.
    language : as of WordRules; `NO_LANGUAGE`: names are taken whole.
    is_closed : whether there are no other clips: a file of none of them is left out. Otherwise it is taken whole where
        another name begins like it and ends in a part that is no language (talk.no beside talk.yes), and else without
        its language.
    """
    meant = [(path, readings(name)[: 1 if language == NO_LANGUAGE else None]) for name, path in files]
    dotted = {choices[0][0].rpartition(".")[0] for _, choices in meant if len(choices) == 1} - {""}
    videos = _names_beside([path for path, choices in meant if len(choices) > 1], beside)
    found: dict[str, list[NamedFile]] = {}
    for path, choices in meant:
        there = videos.get(path.parent) or ()
        own = readings(path.stem) if there else choices
        chosen = _of_known(choices, [name for name, _, _ in own], known, there)
        if is_closed and (chosen is None or chosen[0] not in known):
            continue
        if chosen is None:
            chosen = choices[0] if choices[-1][0] in dotted else _with_id(choices[-1])
        found.setdefault(chosen[0], []).append(NamedFile(path, *chosen[1:]))
    return found


def _of_known(
    choices: Sequence[tuple[str, str, int]], own: Sequence[str], known: Collection[str], there: Collection[str]
) -> tuple[str, str, int] | None:
    """Return the first reading of a name that is a clip: by its id, or by a file beside it called as in `own`."""
    for each, name in zip(choices, own, strict=False):
        for reading in (_with_id(each), each):
            if reading[0] in known:
                return reading
        if name in there:
            return _with_id(each)
    return None


def _with_id(reading: tuple[str, str, int]) -> tuple[str, str, int]:
    """Return a reading with its name as an id: [1].en.srt and 1.mp4.en.srt are of the clip 1."""
    try:
        return path_id([reading[0]]), *reading[1:]
    except UserError:
        return reading


def _names_beside(files: Iterable[Path], suffixes: Sequence[str]) -> dict[Path, set[str]]:
    """Return folder -> names of the files with these suffixes in it, of the folders that files are in."""
    return {
        folder: {stem for stem, suffix in map(os.path.splitext, os.listdir(folder)) if suffix.lower() in suffixes}
        for folder in {path.parent for path in files}
    }


def chosen_file(clip: str, files: Sequence[NamedFile], language: str | None) -> NamedFile | None:
    """Return which of a clip's files is read; None where it has none in that language.

    Raises
    ------
    UserError
        When several languages are there and none is asked for: names the choices.
    ClipError
        When two files are equally right.
    """
    wanted = None if language in (None, NO_LANGUAGE) else language_of(str(language))
    if wanted is not None:
        # One without a language in its name may be in any.
        right = [file for file in files if _is_of(file.language, wanted)] or [
            file for file in files if not file.language
        ]
        exact = [file for file in right if file.language == wanted]
        right = exact or right
    else:
        right = [file for file in files if not file.language] or list(files)
        spoken = sorted({file.language for file in right})
        if len({each.partition("-")[0] for each in spoken}) > 1:
            raise UserError(f"{clip}: has subtitles in {_listed(spoken)}; choose with --language")
    if not right:
        others = _listed(sorted({file.language for file in files}))
        log.info("%s: has subtitles in %s, none in %s", clip, others, language)
        return None
    kind = min(file.kind for file in right)
    best = [file for file in right if file.kind == kind]
    tags = sorted({file.language for file in best})
    if len(tags) > 1:  # en-US and en-GB: the plain one, if there is one
        plain = [file for file in best if "-" not in file.language]
        if not plain:
            raise UserError(f"{clip}: has subtitles in {_listed(tags)}; choose with --language")
        best = plain
    if len(best) > 1:
        names = _listed([repr(file.path.name) for file in best])
        raise ClipError(f"{clip}: has several files of subtitles, {names}; keep one")
    return best[0]


def _is_of(language: str, wanted: str) -> bool:
    return language == wanted or (language.partition("-")[0] == wanted.partition("-")[0] and "-" not in wanted)


def _listed(names: Iterable[str]) -> str:
    return either(list(names)).replace(" or ", " and ")

"""README.md and docs/: the site is built without a warning, and loads nothing; links lead somewhere, commands exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from many import long_test

import viper
from viper.cli import COMMANDS, parse

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
# Their commands are run, by test_datasets_end_to_end.py, test_tutorial.py and test_user_encoder.py.
RUN_BY_TESTS = ("datasets.md", "tutorial.md", "add_an_encoder.md")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!`)\]\(([^)\s]+)\)")
# What loads something when a page is shown; links that one may follow do not.
LOADING = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "link": "href",
    "use": "href",
}


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _prose(page: Path) -> str:
    return FENCED.sub("", _text(page))


def _anchors(page: Path) -> set[str]:
    """Of the headings, as a code host makes them."""
    titles = re.findall(r"^#+ (.*)$", _prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built by the command that `make docs` runs."""
    for package in ("mkdocs", "mkdocstrings_handlers"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install 'viper[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr, built.stderr
    return folder


class _Loads(HTMLParser):
    """What a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in LOADING and not (tag == "link" and given.get("rel") == "canonical"):
            self.addresses.append(given.get(LOADING[tag]) or "")


@long_test
def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) >= len(PAGES)
    for page in pages:
        loads = _Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        assert loads.addresses, page
        assert [address for address in loads.addresses if re.match(r"(https?:)?//", address)] == [], page
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert not re.search(r"(url\(\s*['\"]?|@import\s+['\"])(https?:)?//", styles)
    scripts = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.js"))
    assert not re.search(r"//(cdnjs|cdn|unpkg|fonts|www\.google)[\w.-]*\.", scripts)


def test_the_site_has_every_page_and_what_each_promises(site: Path) -> None:
    listed = re.findall(r"[\w]+\.md", str(yaml.safe_load(_text(ROOT / "mkdocs.yml"))["nav"]))
    assert sorted(listed) == sorted(page.name for page in DOCS.glob("*.md"))
    api = (site / "api.html").read_text(encoding="utf-8")
    for name in set(viper.__all__) - {"__version__"}:
        assert f'id="viper.{name}"' in api, name
    # Descriptions stand where descriptions belong, not where types do.
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", api))
    assert re.search(r"mask \( ndarray \) – \(T,\) bool, True where a token says something", text)
    # A file of the repository that a page links to is shown in the site.
    assert (site / "repository" / "viper" / "encoders" / "image.py.html").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(_prose(page)):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), link
        assert target.is_file(), link
        if anchor:
            assert anchor in _anchors(target), link


def _commands(page: Path) -> list[list[str]]:
    """The words of every `viper` command in a page's blocks."""
    lines = "\n".join(block for language, block in FENCED.findall(_text(page)) if language == "sh")
    found = [shlex.split(line, comments=True) for line in lines.replace("\\\n", " ").splitlines()]
    return [words[1:] for words in found if words[:1] == ["viper"]]


@pytest.mark.parametrize("page", [p for p in PAGES if p.name not in RUN_BY_TESTS], ids=lambda page: page.name)
def test_commands_are_understood(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, *words in _commands(page):
        assert name in COMMANDS
        if "..." not in words and "F" not in words:
            parse(name, words)
            continue
        # Shortened on the page: every option that is there must be one.
        with pytest.raises(SystemExit):
            parse(name, ["--help"])
        known = re.findall(r"--\w+", capsys.readouterr().out)
        assert {word for word in words if word.startswith("--")} <= set(known), (name, words)


def test_commands_that_are_mentioned_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"`viper (\w+)", _prose(page)):
            assert name in COMMANDS or name.isupper(), (page.name, name)


def test_every_command_is_in_the_docs() -> None:
    text = "".join(_text(page) for page in PAGES)
    assert [name for name in COMMANDS if not re.search(rf"\b{name}\b", text)] == []

"""What mkdocs.yml cannot say: links to files of the repository, and docstrings as this project writes them."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
SHOWN = "repository"  # below it the site shows files that are not in docs/
LANGUAGES = {".py": "python", ".sh": "sh", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml"}
LINK = re.compile(r"\]\((\.\./[^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for every file outside docs/ that a page links to, so that the link works in the site, too."""
    for page in list(files.documentation_pages()):
        for link in LINK.findall(page.content_string):
            target = _target(page.src_uri, link)
            if (ROOT / target).is_file() and _shown(target) not in files.src_uris:
                content = _content(target)
                inclusion = InclusionLevel.NOT_IN_NAV
                files.append(File.generated(config, _shown(target), content=content, inclusion=inclusion))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lets those links lead to the pages that were added."""

    def moved(match: re.Match[str]) -> str:
        shown = _shown(_target(page.file.src_uri, match[1]))
        if shown not in files.src_uris:
            return match[0]
        return f"]({posixpath.relpath(shown, posixpath.dirname(page.file.src_uri) or '.')}"

    return LINK.sub(moved, markdown)


def _target(page: str, link: str) -> str:
    """The path in the repository of what a page in docs/ links to."""
    return posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))


def _shown(target: str) -> str:
    return f"{SHOWN}/{target}" if target.endswith(".md") else f"{SHOWN}/{target}.md"


def _content(target: str) -> str:
    text = (ROOT / target).read_text(encoding="utf-8")
    if target.endswith(".md"):
        return text
    return f"# `{target}`\n\n````{LANGUAGES.get(Path(target).suffix, 'text')}\n{text}\n````\n"


class Docstrings(griffe.Extension):
    """Lets `name : what it is`, as docstrings here have it, not be taken for `name : type`: types are annotated."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for every object that is read."""
        if obj.docstring is not None:
            obj.docstring.value = numpy_style(obj.docstring.value)


def numpy_style(docstring: str) -> str:
    """The docstring with the text of each parameter and attribute on lines of its own, below the name."""
    return re.sub(
        r"^((?:Parameters|Attributes)\n-+\n)(.*?)(?=\n\n|\Z)",
        lambda section: section[1] + re.sub(r"^(\w[\w, ]*) : ", r"\1\n    ", section[2], flags=re.MULTILINE),
        docstring,
        flags=re.MULTILINE | re.DOTALL,
    )

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
DOCS = "docs/"
SHOWN = "repository"  # below it the site shows files that are not in docs/
LANGUAGES = {".py": "python", ".sh": "sh", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml"}
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for every file outside docs/ that a page links to, so that the link works in the site, too."""
    pages = list(files.documentation_pages())
    for page in pages:  # which grows: what is added may have links of its own
        for link in LINK.findall(page.content_string):
            target = _target(page.src_uri, link)
            if (ROOT / target).is_file() and not target.startswith(DOCS) and _shown(target) not in files.src_uris:
                inclusion = InclusionLevel.NOT_IN_NAV
                added = File.generated(config, _shown(target), content=_content(target), inclusion=inclusion)
                files.append(added)
                pages += [added] if target.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lets links lead to where their targets are in the site."""

    def moved(match: re.Match[str]) -> str:
        shown = _shown(_target(page.file.src_uri, match[1]))
        if shown not in files.src_uris:
            return match[0]
        return f"]({posixpath.relpath(shown, posixpath.dirname(page.file.src_uri) or '.')}"

    return LINK.sub(moved, markdown)


def _target(page: str, link: str) -> str:
    """The path in the repository of what a page of the site links to."""
    inside, _, outside = page.partition(f"{SHOWN}/")
    here = outside if not inside else f"{DOCS}{page}"
    return posixpath.normpath(posixpath.join(posixpath.dirname(here), link))


def _shown(target: str) -> str:
    """Where the site has a file of the repository."""
    if target.startswith(DOCS):
        return target.removeprefix(DOCS)
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
            returns = getattr(obj, "returns", None)
            obj.docstring.value = numpy_style(obj.docstring.value, str(returns or ""))


def numpy_style(docstring: str, returns: str = "") -> str:
    """The docstring with the text of each parameter, attribute and error on lines of its own, below the name.

    What is returned gets the annotation `returns` as its name.
    """

    def section(match: re.Match[str]) -> str:
        if match[2] == "Returns":
            return f"{match[1]}{returns}\n    " + match[3].replace("\n", "\n    ") if returns else match[0]
        return match[1] + re.sub(r"^(\w[\w, ]*) : ", r"\1\n    ", match[3], flags=re.MULTILINE)

    return re.sub(
        r"^((Parameters|Attributes|Raises|Returns)\n-+\n)(.*?)(?=\n\n|\Z)", section, docstring,
        flags=re.MULTILINE | re.DOTALL,
    )  # fmt: skip

"""What viper requires, directly and through others, as the packages installed here say it.

Run as a program, it prints constraints.txt: `make lock`.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from viper.commands.licences import closure

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
# The extras that users choose from.
USERS = ("fau", "opensmile", "page", "parquet", "ray", "tune")
HEADER = """\
# The versions that viper is tested with: Python 3.11, Linux, x86-64, and what other systems make of them.
# pip install -c constraints.txt -e .        make setup does that; requirements.txt and pyproject.toml have the ranges.
# Written by `make lock` from what is installed: viper, its dev extra, and all that these require.
"""
# GNU's general licences, which bind what is distributed with them; not the Lesser one, which does not.
_GENERAL = re.compile(r"\bA?GPL|GNU (Affero )?General Public", re.IGNORECASE)


def required() -> list[Requirement]:
    """What viper cannot do without."""
    return read(ROOT / "requirements.txt")


def read(path: Path) -> list[Requirement]:
    """The requirements, or constraints, of a file."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def extras() -> dict[str, list[Requirement]]:
    """Each extra of viper and its own requirements, "viper[...]" among them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {name: [Requirement(line) for line in lines] for name, lines in project["optional-dependencies"].items()}


def everything(extra: str = "") -> list[Requirement]:
    """What viper requires with an extra, extras of viper in it resolved."""
    found = list(required())
    for requirement in extras()[extra] if extra else ():
        if requirement.name == "viper":
            found += [each for named in sorted(requirement.extras) for each in extras()[named]]
        else:
            found.append(requirement)
    return found


def main() -> None:
    """Print constraints.txt."""
    lines = []
    for name, package in closure(everything("dev")).items():
        if package is None:
            sys.exit(f"{name}: not installed here")
        # What follows a + names a build of one index; other indexes do not have it.
        lines.append(f"{name}=={package.version.partition('+')[0]}")
    print(HEADER + "\n".join(lines))


def is_general_public(name: str) -> bool:
    """Return whether a licence is the GPL or AGPL, and no other may be chosen in its place."""
    return all(_GENERAL.search(each) for each in name.split(" OR "))


if __name__ == "__main__":
    main()

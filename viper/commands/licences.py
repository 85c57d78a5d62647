"""What viper's packages require in turn, and the licences that these packages say they are under."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def required(package: str, extra: str = "") -> list[Requirement]:
    """Return what an installed package requires on this system: without extras, or only for an extra.

    Raises
    ------
    PackageNotFoundError : it is not installed.
    """
    found = []
    for line in distribution(package).requires or ():
        requirement = Requirement(line)
        always = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if always != bool(extra) and (always or requirement.marker.evaluate({"extra": extra})):  # type: ignore[union-attr]
            found.append(requirement)
    return found


def closure(requirements: Iterable[Requirement]) -> dict[str, Distribution | None]:
    """Return each package that these require, directly or through others, by its normalized name.

    None stands for a package that is not installed; what it requires in turn is not known.
    """
    packages: dict[str, Distribution | None] = {}
    seen = set()
    left = list(requirements)
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        node = name, frozenset(requirement.extras)
        if node in seen:
            continue
        seen.add(node)
        try:
            packages[name] = distribution(name)
        except PackageNotFoundError:
            packages[name] = None
            continue
        left += [each for extra in ("", *requirement.extras) for each in required(name, extra)]
    return dict(sorted(packages.items()))


def licence(package: Distribution) -> str:
    """Return what a package's metadata says of its licence, as short as it says it; "not stated" if it does not."""
    classifiers = [each.split(" :: ")[-1] for each in _said(package, "Classifier") if each.startswith("License :: ")]
    # What is in the field `License` may be the whole text of one.
    free = [each for each in _said(package, "License") if "\n" not in each and len(each) < 80]
    for said in (list(_said(package, "License-Expression")), classifiers, free):
        named = [each for each in said if each not in ("UNKNOWN", "OSI Approved", "")]
        if named:
            return " AND ".join(named)
    text = next(iter(_said(package, "License")), "").split("\n")[0].strip()
    return text if text not in ("", "UNKNOWN") else "not stated"


def _said(package: Distribution, field: str) -> Iterator[str]:
    yield from (str(each) for each in package.metadata.get_all(field) or ())

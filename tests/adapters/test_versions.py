"""Versions are compared by PEP 440; `packaging` is the witness."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from hbshim.adapters.versions import is_within, release_of, require_version
from hbshim.errors import UnsupportedVersionError

releases = st.lists(st.integers(0, 3), min_size=1, max_size=3).map(
    lambda numbers: ".".join(map(str, numbers))
)
suffixes = st.sampled_from(
    ["", "a1", "b2", "rc1", ".dev3", ".post1", "-beta.2", "-rc.1", "alpha", "pre2", "+local.1"]
)


@settings(database=None)
@given(releases, suffixes, releases, releases)
def test_a_range_contains_what_packaging_says(
    release: str, suffix: str, lower: str, upper: str
) -> None:
    supported = f">={lower}, <{upper}"
    expected = SpecifierSet(supported).contains(release + suffix, prereleases=True)
    assert is_within(release + suffix, supported) == expected


@settings(database=None)
@given(releases, suffixes, releases)
def test_a_range_with_one_bound(release: str, suffix: str, bound: str) -> None:
    for supported in (f">={bound}", f"<{bound}", ""):
        expected = SpecifierSet(supported).contains(release + suffix, prereleases=True)
        assert is_within(release + suffix, supported) == expected


@settings(database=None)
@given(releases, suffixes)
def test_the_release_of_a_version_has_no_trailing_zeros(release: str, suffix: str) -> None:
    numbers = list(Version(release + suffix).release)
    while len(numbers) > 1 and not numbers[-1]:
        numbers.pop()
    assert release_of(release + suffix) == tuple(numbers)


@pytest.mark.parametrize("text", ["", "unknown", "git-main"])
def test_a_text_that_is_no_version_is_in_no_range(text: str) -> None:
    assert release_of(text) == ()
    assert not is_within(text, ">=0")
    with pytest.raises(UnsupportedVersionError, match="outside the known range"):
        require_version("pika", text, ">=1.3,<2")


def test_a_range_with_another_sign_is_refused_and_not_misread() -> None:
    with pytest.raises(ValueError, match=r"cannot read '~=5.2' in the range"):
        is_within("5.2", "~=5.2")

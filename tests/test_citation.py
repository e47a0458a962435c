"""CITATION.cff follows the Citation File Format 1.2.0 and agrees with setup.cfg."""

import configparser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def citation():
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def metadata():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser["metadata"]


def test_the_citation_has_all_required_keys(citation):
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"


def test_the_citation_has_the_version_and_the_license_of_the_package(citation, metadata):
    assert citation["version"] == metadata["version"]
    assert citation["license"] == metadata["license_expression"]


def test_every_author_is_a_person_or_a_named_entity(citation):
    authors = [*citation["authors"], *citation["references"][0]["authors"]]
    assert all(author.keys() in ({"name"}, {"family-names", "given-names"}) for author in authors)


def test_the_paper_is_a_reference(citation):
    [paper] = citation["references"]
    assert paper["title"] == "Attention Is All You Need"
    assert paper["year"] == 2017
    assert len(paper["authors"]) == 8
    assert paper["url"] == "https://arxiv.org/abs/1706.03762"
    assert paper.keys() >= {"type", "title", "authors"}

"""What the documents say is so: dependencies, links, and the same examples in both languages."""

import json
import re
import tomllib
import unittest
from pathlib import Path

from rig.backends import REPOSITORY


def read(name: str) -> str:
    """A file of the project."""
    return (REPOSITORY / name).read_text()


def section(page: str, heading: str) -> str:
    """What stands under a heading of the second level."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    assert found, heading
    return found[1]


def explained(text: str) -> list[str]:
    """The names in the first column of a table, each with a reason in the second."""
    rows = re.findall(r"^\| (`.*?) \| (\S.*?) \|$", text, re.M)
    return [name for names, _ in rows for name in re.findall(r"`(.+?)`", names)]


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page, re.M | re.S)


class Dependencies(unittest.TestCase):
    """docs/dependencies.md"""

    def same(self, heading: str, named: list[str]) -> None:
        self.assertEqual(
            sorted(explained(section(read("docs/dependencies.md"), heading))), sorted(named)
        )

    def test_every_crate_has_its_reason(self) -> None:
        cargo = tomllib.loads(read("Cargo.toml"))
        self.same("Crates in the program", list(cargo["dependencies"]))
        self.same("Crates in tests and benchmarks", list(cargo["dev-dependencies"]))
        fuzzer = tomllib.loads(read("fuzz/Cargo.toml"))
        self.same("Crates of the fuzzer", list(fuzzer["dependencies"]))

    def test_every_debian_package_has_its_reason(self) -> None:
        script = read(".ci/packages")
        lists = re.findall(r"^readonly (?:BUILD|TEST)='\n(.*?)^'$", script, re.M | re.S)
        packages = [line.split()[1] for text in lists for line in text.splitlines()]
        self.same("Debian packages", packages)

    def test_every_package_of_the_benchmark_has_its_reason(self) -> None:
        listed = re.search(r"^readonly BENCH='\n(.*?)^'$", read(".ci/packages"), re.M | re.S)
        packages = [line.split()[1] for line in listed[1].splitlines()]
        wheels = re.findall(r"^([\w-]+)==", read("benches/load/requirements.txt"), re.M)
        self.same("Packages of the benchmark", packages + wheels)

    def test_every_python_and_npm_package_has_its_reason(self) -> None:
        wanted = read("tests/e2e/requirements.txt") + read("tests/e2e/wechat_sdks/requirements.txt")
        python = re.findall(r"^([\w-]+)==", wanted, re.M)
        node = json.loads(read("tests/e2e/package.json"))
        self.same("Python and npm packages of the end-to-end tests",
                  python + list(node["dependencies"]))


class Pages(unittest.TestCase):
    """Markdown"""

    pages = sorted(
        page for folder in (".", "docs") for page in (REPOSITORY / folder).glob("*.md")
    )

    def test_every_link_to_a_file_leads_somewhere(self) -> None:
        for page in self.pages:
            for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
                if not target.startswith(("http://", "https://")):
                    with self.subTest(page=page.name, link=target):
                        self.assertTrue((page.parent / target).exists())

    def test_both_readmes_show_the_same_commands_and_code(self) -> None:
        # The first block is the picture, which has words in it.
        _, *english = blocks(read("README.md"))
        _, *chinese = blocks(read("README.zh-CN.md"))
        self.assertEqual(english, chinese)

    def test_the_index_names_every_page_of_docs(self) -> None:
        index = read("docs/README.md")
        for page in (REPOSITORY / "docs").glob("*.md"):
            if page.name != "README.md":
                self.assertIn(f"({page.name})", index)

    def test_the_architecture_stays_under_three_pages(self) -> None:
        # About 60 lines of text stand on a page.
        self.assertLessEqual(len(read("ARCHITECTURE.md").splitlines()), 180)

    def test_no_page_names_a_place_outside_the_project(self) -> None:
        for page in self.pages:
            for word in ("../shared", "/work/", "/root/", "/tmp/"):
                self.assertNotIn(word, page.read_text(), page.name)


class Names(unittest.TestCase):
    """Files that must be there under these names"""

    def test_the_licence_is_apache_2_whole(self) -> None:
        text = read("LICENSE")
        self.assertIn("Apache License\n                           Version 2.0, January 2004", text)
        self.assertIn("END OF TERMS AND CONDITIONS", text)
        self.assertEqual(tomllib.loads(read("Cargo.toml"))["package"]["license"], "Apache-2.0")

    def test_ci_runs_what_developers_run(self) -> None:
        self.assertIn("exec make test", read(".ci/run"))
        self.assertTrue(Path(REPOSITORY / ".ci/run").stat().st_mode & 0o100)

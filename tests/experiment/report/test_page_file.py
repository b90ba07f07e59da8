"""Where a page may be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from gebm_cli.errors import GebmError, UsageError
from gebm_cli.experiment.report.page_file import MARK, is_page, require_page_place, write_page


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_page_may_be_written_again_and_is_whole():
    page = Path("page.html")
    for text in ("<p>\udcff1</p>", "<p>2</p>"):
        require_page_place(page, "--out")
        write_page(page, text)
        assert is_page(page)
    assert page.read_bytes() == b"<p>2</p>" + MARK and [p.name for p in Path().iterdir()] == ["page.html"]


@pytest.mark.parametrize("content", [b"", b"mine", MARK[:-1], MARK + b"<p>more</p>"])
def test_a_file_of_someone_else_stays(content):
    Path("page.html").write_bytes(content)
    with pytest.raises(UsageError, match=r"--out page.html: exists already and is no page of gebm.*name another file$"):
        require_page_place(Path("page.html"), "--out")
    with pytest.raises(UsageError, match=r"^page.html: exists .*name another file with --out"):
        require_page_place(Path("page.html"))


@pytest.mark.parametrize(
    ("name", "part"), [("page.txt", "ends in .html"), ("page", "ends in .html"), ("no/page.html", "folder")]
)
def test_a_place_where_no_page_can_be_is_refused(name, part):
    with pytest.raises(UsageError, match=f"--out {name}: .*{part}"):
        require_page_place(Path(name), "--out")


def test_a_folder_is_no_place_and_a_missing_one_is_told():
    Path("page.html").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        require_page_place(Path("page.html"), "--out")
    with pytest.raises(GebmError, match="cannot be written"):
        write_page(Path("none/page.html"), "x")

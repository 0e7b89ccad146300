"""MkDocs hooks: pages of the repository's root are part of the site, and decisions need no entry in `nav`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT: Final = Path(__file__).parents[1]
OF_ROOT: Final = {
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root; keep single decisions out of the check of `nav`."""
    for name, page in OF_ROOT.items():
        content = (ROOT / name).read_text().replace("](docs/", "](")
        files.append(File.generated(config, page, content=_root_links(content, "")))
    for file in files.documentation_pages():
        if re.match(r"decisions/\d", file.src_uri):
            file.inclusion = InclusionLevel.NOT_IN_NAV
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to pages of the root lead to the site's copies."""
    return _root_links(markdown, "../" * page.file.src_uri.count("/"))


def _root_links(markdown: str, up: str) -> str:
    for name, target in OF_ROOT.items():
        markdown = re.sub(rf"\]\((?:\.\./)*{re.escape(name)}", f"]({up}{target}", markdown)
    return markdown

"""The documentation as a browser gets it: what its pages load and where they lead."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "embed": "src"}
LINK_RELATIONS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch"}


@dataclass
class Page(HTMLParser):
    """One HTML file.

    Attributes:
        path: The file.
        loaded: What the browser fetches to show it.
        links: Where a reader can go from it.
        anchors: Places in it that links can name.
        classes: Of all its elements.
        text: What it says.
    """

    path: Path
    loaded: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    classes: set[str] = field(default_factory=set)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors.update(given[name] for name in ("id", "name") if name in given)
        self.classes.update(given.get("class", "").split())
        if tag in LOADED and LOADED[tag] in given:
            self.loaded.append(given[LOADED[tag]])
        elif tag == "link" and LINK_RELATIONS & set(given.get("rel", "").split()):
            self.loaded.append(given["href"])
        elif tag == "a" and "href" in given:
            self.links.append(given["href"])

    def handle_data(self, data: str) -> None:
        self.text += data


class Site:
    """All pages of a built site.

    Args:
        folder: Where it was built.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = frozenset(path for path in folder.rglob("*") if path.is_file())
        self.pages = {path: Page(path) for path in sorted(self.files) if path.suffix == ".html"}

    def external(self) -> Iterator[str]:
        """What a page or a style sheet fetches from elsewhere, each with the file that does."""
        for path, page in self.pages.items():
            for target in page.loaded:
                if urlsplit(target).netloc:
                    yield f"{path.name}: {target}"
        for path in self.folder.rglob("*.css"):
            text = path.read_text(encoding="utf-8")
            if "url(http" in text or "url(//" in text or "@import" in text:
                yield f"{path.name}: url or import"

    def broken(self) -> Iterator[str]:
        """Links and resources within the site that lead nowhere, each with its page."""
        for path, page in self.pages.items():
            if path.name == "404.html":  # served at any address, so its links are absolute
                continue
            for target in (*page.links, *page.loaded):
                parts = urlsplit(target)
                if parts.scheme or parts.netloc:
                    continue
                found = path
                if parts.path:
                    found = Path(os.path.normpath(path.parent / unquote(parts.path)))
                if found not in self.files:
                    found /= "index.html"
                known = self.pages.get(found)
                if found not in self.files or (
                    known and parts.fragment and unquote(parts.fragment) not in known.anchors
                ):
                    yield f"{path.relative_to(self.folder)}: {target}"

    def anchors(self) -> set[str]:
        """All places that links can name, on whichever page."""
        return set().union(*(page.anchors for page in self.pages.values()))

"""The page that shows a generation step by step: one file that asks for nothing else.

The data lie in it as JSON in which no sign can end its element; the script puts every text into
the page as text. A content security policy admits this script and this style by their hashes, and
no request at all.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import Any

# Inside a script element only these could end it, begin a comment, or break a line of JavaScript.
_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def assemble(title: str, data: Mapping[str, Any]) -> str:
    """The page as a text.

    Args:
        title: Its title.
        data: What `assets/page.js` shows, as JSON can hold it.
    """
    style, script = _asset("page.css"), _asset("page.js")
    packed = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return Template(_asset("page.html")).substitute(
        title=html.escape(title),
        policy=html.escape(policy, quote=True),
        style=style,
        script=script,
        data=packed.translate(_ESCAPES),
    )


def _asset(name: str) -> str:
    return (files("codd.viz") / "assets" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"

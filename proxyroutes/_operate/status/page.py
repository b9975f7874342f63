"""The page itself: one file, with a policy that lets nothing run but what stands in it."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from importlib.resources import files

from attrs import frozen

__all__ = ["Page", "read_page"]

_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


@frozen
class Page:
    """The document and the policy that it is sent with.

    Attributes:
        text: HTML with the mark of one attribute in it.
        policy: The value of ``Content-Security-Policy``.
    """

    text: str
    policy: str

    def render(self, *, token: str) -> str:
        """The document for one process.

        Args:
            token: What its actions are sent with; empty where it has none.
        """
        return self.text.replace("{{token}}", html.escape(token, quote=True))

    @property
    def headers(self) -> dict[str, str]:
        """Fields of the response."""
        return {
            "cache-control": "no-store",
            "content-security-policy": self.policy,
            "cross-origin-opener-policy": "same-origin",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
        }


def read_page() -> Page:
    """Read the document, and allow its own style and script by their hashes."""
    text = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    policy = (
        "default-src 'none'",
        f"script-src {_hashes(_SCRIPT.findall(text))}",
        f"style-src {_hashes(_STYLE.findall(text))}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return Page(text, "; ".join(policy))


def _hashes(elements: list[str]) -> str:
    return " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"
        for text in elements
    )

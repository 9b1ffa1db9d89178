"""A hook of MkDocs that renders the Sphinx roles of docstrings as plain code."""

import re
from typing import Any

ROLE = re.compile(r':(?:class|func|meth|data|attr|mod):<code>(~?)([\w.]+)</code>')


def on_page_content(html: str, **_: Any) -> str:
    """Replace ``:func:`~package.name``` by ``name``, as Sphinx would.

    Args:
        html: The content of a page.
    """
    return ROLE.sub(
        lambda role: f'<code>{role[2].split(".")[-1] if role[1] else role[2]}</code>',
        html,
    )

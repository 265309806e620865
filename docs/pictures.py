"""Draw the pictures of the docs as SVG: `python docs/pictures.py` writes them.

A test compares the files with these drawings, and their words with the code.
"""

from collections.abc import Iterator
from html import escape
from pathlib import Path

DOCS = Path(__file__).parent
COLOURS = {
    "pending": "#fff3cd",
    "generating": "#cfe2ff",
    "completed": "#d1e7dd",
    "failed": "#f8d7da",
    "deleted": "#eeeeee",
}

STATES = {
    "pending": (190, 130),
    "generating": (480, 130),
    "completed": (800, 130),
    "failed": (480, 330),
    "deleted": (800, 330),
}
"""The centre of each state's box."""

STEPS = [
    ("M 30 130 H 118", (74, 118), "request()"),
    ("M 262 122 H 408", (335, 112), "claim()"),
    ("M 552 130 H 728", (640, 118), "complete()"),
    (
        "M 446 158 C 400 215 270 215 224 158",
        (335, 222),
        "release()|rescue_stale()|fail(retry=True)|fail(retry=True, delay=…)",
    ),
    ("M 480 158 V 302", (540, 216), "fail()|fail(retry=True)|rescue_stale()"),
    ("M 408 330 C 250 330 190 290 190 158", (205, 322), "requeue()"),
    ("M 190 102 C 260 20 720 20 800 102", (495, 34), "complete(), a late answer"),
    ("M 535 302 C 620 260 700 220 755 158", (692, 288), "complete(), a late answer"),
    ("M 800 158 V 302", (838, 234), "cleanup()"),
    ("M 552 338 H 728", (640, 356), "cleanup()"),
]
"""The path of each arrow, where its words stand, and its words, line by line."""

GROUPS = {
    "the request": "id userId type status level requestPayload topics focusAreas fingerprint",
    "the answer": "generatedData validationResults validationScore metadata modelUsed tokenUsage "
    "generationTimeMs estimatedCompletionTime",
    "its uses and times": "usageCount lastAccessedAt expiresAt createdAt updatedAt",
    "its claims": "attempts leaseExpiresAt failures maxAttempts retryAt queued",
}


def text(x: int, y: int, words: str, size: int = 13, **attributes: str) -> str:
    more = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x}" y="{y}" font-size="{size}"{more}>{escape(words)}</text>'


def box(x: int, y: int, width: int, height: int, fill: str) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{fill}" '
        'stroke="#555"/>'
    )


def svg(width: int, height: int, title: str, parts: Iterator[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="sans-serif" fill="#222">',
            f"<title>{title}</title>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" '
            'markerHeight="8" orient="auto"><path d="M 0 0 L 8 4 L 0 8 z" fill="#555"/>'
            "</marker></defs>",
            f'<rect width="{width}" height="{height}" rx="10" fill="#fff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def life_of_a_row() -> Iterator[str]:
    for path, (x, y), words in STEPS:
        yield f'<path d="{path}" fill="none" stroke="#555" marker-end="url(#tip)"/>'
        for number, line in enumerate(words.split("|")):
            yield text(x, y + 16 * number, line, text_anchor="middle")
    rule = "cleanup() deletes expired rows of every status, and rows that failed a day ago"
    yield text(450, 390, rule, text_anchor="middle", font_style="italic")
    for state, (x, y) in STATES.items():
        yield box(x - 70, y - 26, 140, 52, COLOURS[state])
        yield text(x, y + 5, state, 15, text_anchor="middle", font_weight="bold")


def table() -> Iterator[str]:
    yield box(20, 90, 120, 60, "#eeeeee")
    yield text(80, 115, "users", 15, text_anchor="middle", font_weight="bold")
    yield text(80, 135, "id", text_anchor="middle")
    yield '<path d="M 186 120 H 142" fill="none" stroke="#555" marker-end="url(#tip)"/>'
    yield text(164, 110, "userId", 11, text_anchor="middle")
    yield box(188, 20, 810, 250, "#fafafa")
    yield text(204, 46, "ai_generated_content", 15, font_weight="bold")
    for place, (group, columns) in enumerate(GROUPS.items()):
        left = 204 + 198 * place
        yield box(left, 60, 186, 196, list(COLOURS.values())[place])
        yield text(left + 10, 82, group, font_weight="bold")
        for number, column in enumerate(columns.split()):
            yield text(left + 10, 104 + 18 * number, column, 12, font_family="monospace")


PICTURES = {
    DOCS / "explanation" / "life-of-a-row.svg": svg(
        900, 400, "The states of a row and the calls that change them", life_of_a_row()
    ),
    DOCS / "reference" / "table.svg": svg(
        1010, 290, "The columns of ai_generated_content, by their purpose", table()
    ),
}

if __name__ == "__main__":
    for path, picture in PICTURES.items():
        path.write_text(picture, "utf-8")

"""The table of options that a page shows, made from the code."""

from pathlib import Path

PAGES = Path(__file__).parents[1] / "docs"


def table(rows):
    """What the page is to show for what ``describe()`` returns."""
    lines = [
        "| option | values | default | environment | URL key | meaning |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        accepts = row["accepts"].replace("|", "\\|")
        url = f"`{row['url']}`" if row["url"] else "none"
        lines.append(
            f"| `{row['option']}` | {accepts} | {row['default']} | `{row['environment']}` "
            f"| {url} | {row['meaning']} |"
        )
    return "\n".join(lines)


def shown(page, checked_by):
    """What it shows, between the comment that names its test and that of its end."""
    text = (PAGES / page).read_text(encoding="utf-8")
    return text.split(f"{checked_by} -->\n")[1].split("\n<!-- end of options")[0]

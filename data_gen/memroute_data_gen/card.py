"""A dataset card, generated from the data alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from memroute_env.datasets import Dataset
from memroute_env.taxonomy import Taxonomy

__all__ = ["dataset_card"]

_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
)


def dataset_card(
    splits: Mapping[str, Dataset], files: Mapping[str, str], *, name: str, license_id: str
) -> str:
    """The README of a dataset repository: front matter, figures, columns, how to load it.

    Args:
        splits: Split name to its examples; all of one taxonomy.
        files: Split name to its file in the repository.
        name: Title, and what the example loads.
        license_id: Empty: none is claimed.
    """
    taxonomy = next(iter(splits.values())).taxonomy
    return "\n".join(
        [
            *_front_matter(splits, files, license_id),
            "",
            f"# {_plain(name)}",
            "",
            "Conversations, each labelled with the kinds of long-term memory that an assistant",
            f"should store it under ({len(taxonomy.storing)} categories of the taxonomy",
            f"`{_plain(taxonomy.name)}` {_plain(taxonomy.version)}, or `{taxonomy.exclusive.id}`",
            "alone: store nothing).",
            "",
            "## Splits",
            "",
            *_split_table(splits),
            "",
            "## Labels",
            "",
            *_label_table(splits, taxonomy),
            "",
            "An example may carry several categories. How long a memory lasts and whose it is",
            "follow from its category and are not stored; `taxonomy.json` holds both.",
            "",
            "## Columns",
            "",
            "- `id`: unique",
            "- `conversation`: list of turns with `role` (`user` or `assistant`) and `content`",
            "- `categories`: the gold set",
            "- `evidence`: for a category, the indices (from 0) of the turns that show it",
            "- `rationale`, `domain`, `difficulty`, `source`: text, may be empty",
            "- `distractors`: indices of turns beside the point",
            "- `extra`: whatever else an example carries, as JSON",
            "",
            "```python",
            "from datasets import load_dataset",
            "",
            f'data = load_dataset("{_plain(name)}")',
            "```",
            "",
        ]
    )


def _plain(text: str) -> str:
    """Text that cannot end a table cell, a quotation or a line."""
    return " ".join(text.split()).replace("|", "\\|").replace("`", "'").replace('"', "'")


def _front_matter(
    splits: Mapping[str, Dataset], files: Mapping[str, str], license_id: str
) -> list[str]:
    total = sum(map(len, splits.values()))
    size = next((label for limit, label in _SIZES if total < limit), "n>1M")
    lines = ["---", "language:", "- en"]
    if license_id:
        lines.append(f"license: {license_id}")
    lines += [
        "task_categories:",
        "- text-classification",
        "task_ids:",
        "- multi-label-classification",
        "tags:",
        "- memory-routing",
        "- conversations",
        "size_categories:",
        f"- {size}",
        "configs:",
        "- config_name: default",
        "  data_files:",
    ]
    for split, file in files.items():
        lines += [f"  - split: {split}", f"    path: {file}"]
    return [*lines, "---"]


def _split_table(splits: Mapping[str, Dataset]) -> list[str]:
    lines = [
        "| split | examples | several categories | nothing to store | turns | SHA-256 |",
        "|---|---|---|---|---|---|",
    ]
    for split, dataset in splits.items():
        masks = dataset.gold_masks.tolist()
        turns = [len(example.conversation.turns) for example in dataset]
        several = sum(mask.bit_count() > 1 for mask in masks) / len(masks)
        nothing = masks.count(0) / len(masks)
        lines.append(
            f"| {split} | {len(dataset):,} | {several:.0%} | {nothing:.0%} | "
            f"{min(turns)}–{max(turns)} | `{dataset.sha256}` |"
        )
    return [
        *lines,
        "",
        "The SHA-256 is that of the examples' canonical JSON lines: it depends on content and",
        "order alone.",
    ]


def _label_table(splits: Mapping[str, Dataset], taxonomy: Taxonomy) -> list[str]:
    counts = {
        split: Counter(
            category for mask in dataset.gold_masks.tolist() for category in taxonomy.ids(mask)
        )
        for split, dataset in splits.items()
    }
    lines = [
        f"| category | what belongs there | {' | '.join(splits)} |",
        f"|---|---|{'---|' * len(splits)}",
    ]
    for category in taxonomy.categories:
        figures = " | ".join(f"{counts[split][category.id]:,}" for split in splits)
        lines.append(f"| `{category.id}` | {_plain(category.description)} | {figures} |")
    return lines

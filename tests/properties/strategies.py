"""Random taxonomies, sets and answers."""

from __future__ import annotations

from hypothesis import strategies as st

from memroute_env import Category, Horizon, Taxonomy

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@st.composite
def taxonomies(draw: st.DrawFn, max_storing: int = 20) -> Taxonomy:
    """Up to `max_storing` categories: both sides of the limit for per-mask tables."""
    scopes = draw(st.lists(st.sampled_from(["company", "user", "team"]), min_size=1, unique=True))
    names = draw(
        st.lists(
            st.text(LETTERS, min_size=1, max_size=6), min_size=1, max_size=max_storing, unique=True
        )
    )
    storing = [
        Category(
            id=f"c.{name}",
            description="Something.",
            scope=draw(st.sampled_from(scopes)),
            horizon=draw(st.sampled_from(list(Horizon))),
            lifetime_days=draw(st.none() | st.integers(1, 999)),
        )
        for name in names
    ]
    exclusive = Category(
        "nothing", "Nothing.", "none", draw(st.sampled_from(list(Horizon))), None, exclusive=True
    )
    place = draw(st.integers(0, len(storing)))
    return Taxonomy("random", (*storing[:place], exclusive, *storing[place:]), scopes=tuple(scopes))


@st.composite
def taxonomy_and_masks(draw: st.DrawFn, count: int) -> tuple[Taxonomy, list[int]]:
    taxonomy = draw(taxonomies())
    masks = draw(st.lists(st.integers(0, taxonomy.num_masks - 1), min_size=count, max_size=count))
    return taxonomy, masks

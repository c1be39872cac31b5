"""Taxonomies as data: files, their errors, and the mapping between sets and masks."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memroute_env import (
    Category,
    Horizon,
    MemrouteError,
    Taxonomy,
    TaxonomyError,
    UnknownCategoryError,
    load_taxonomy,
)
from tests.conftest import SUPPORT_TOML
from tests.properties.strategies import taxonomies

MARKETING = load_taxonomy("marketing")

# The table of the specification: id, scope, horizon, days until it expires.
SPECIFIED = [
    ("company.brand_core", "company", "long", None),
    ("company.strategic_signatures", "company", "long", None),
    ("company.knowledge_artifacts", "company", "long", None),
    ("company.business_priorities", "company", "short", 90),
    ("company.tools_config", "company", "medium", 180),
    ("company.performance_context", "company", "rolling", 180),
    ("user.communication_style", "user", "long", None),
    ("user.strategic_approach", "user", "long", None),
    ("user.role_context", "user", "medium", 365),
    ("user.workflow_patterns", "user", "medium", 365),
    ("user.session_history", "user", "short", 14),
    ("user.interaction_preferences", "user", "evolving", None),
    ("none", "none", "short", None),
]


def test_the_shipped_taxonomy_is_the_specified_one() -> None:
    shipped = [(c.id, c.scope, str(c.horizon), c.lifetime_days) for c in MARKETING.categories]
    assert shipped == SPECIFIED
    assert (MARKETING.num_storing, MARKETING.num_masks) == (12, 4096)
    assert MARKETING.exclusive.id == "none"
    assert MARKETING.bits["company.brand_core"] == 1
    assert MARKETING.bits["user.interaction_preferences"] == 1 << 11
    assert MARKETING.bits["none"] == 0


def test_small_sets_are_the_299_in_a_fixed_order() -> None:
    sets = MARKETING.small_sets()
    assert len(sets) == len(set(sets)) == 299
    assert sets[0] == 0
    expected = [
        sum(1 << i for i in chosen)
        for size in (1, 2, 3)
        for chosen in combinations(range(12), size)
    ]
    assert list(sets[1:]) == expected


# Files --------------------------------------------------------------------------------------------


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


FIRST = """id = "customer.address"
description = "Where to deliver."
scope = "customer"
horizon = "medium"
lifetime_days = 365
"""


def changed(old: str, new: str) -> str:
    assert old in SUPPORT_TOML
    return SUPPORT_TOML.replace(old, new, 1)


BAD_FILES = {
    "duplicate id": (
        changed('"customer.tone"', '"customer.address"'),
        ["[[category]] 2", "'id'", "customer.address", "[[category]] 1", "rename"],
    ),
    "unknown horizon": (
        changed('"evolving"', '"eternal"'),
        ["[[category]] 2", "customer.tone", "'horizon'", "eternal", "long, medium, rolling"],
    ),
    "no horizon": (
        changed('horizon = "evolving"', ""),
        ["[[category]] 2", "'horizon'", "long, medium"],
    ),
    "no exclusive category": (
        changed("exclusive = true", 'scope = "shop"\nhorizon = "long"\nlifetime_days = 3'),
        ["exactly one", "exclusive = true"],
    ),
    "two exclusive categories": (
        SUPPORT_TOML + '[[category]]\nid = "zero"\ndescription = "Z."\nexclusive = true\n',
        ["exactly one", "nothing, zero"],
    ),
    "lifetime of zero": (
        changed("lifetime_days = 14", "lifetime_days = 0"),
        ["[[category]] 3", "'lifetime_days'", "above 0", "never", "got 0"],
    ),
    "negative lifetime": (changed("= 14", "= -14"), ["'lifetime_days'", "got -14"]),
    "lifetime in words": (changed("= 14", '= "two weeks"'), ["'lifetime_days'", "two weeks"]),
    "lifetime true": (changed("= 14", "= true"), ["'lifetime_days'", "got True"]),
    "lifetime with a fraction": (changed("= 14", "= 1.5"), ["'lifetime_days'", "1.5"]),
    "no lifetime": (changed("lifetime_days = 14", ""), ["'lifetime_days'", "got None"]),
    "unknown scope": (
        changed('scope = "shop"', 'scope = "warehouse"'),
        ["[[category]] 4", "'scope'", "warehouse", "customer, shop", "add it"],
    ),
    "reserved scope": (changed('"shop"]', '"mixed"]'), ["'scopes'", "mixed"]),
    "scopes not a list": (changed('["customer", "shop"]', '"customer"'), ["'scopes'", "list"]),
    "scopes twice": (changed('"shop"]', '"customer"]'), ["'scopes'", "distinct"]),
    "unknown key": (
        changed('horizon = "medium"', 'horizon = "medium"\ncolour = "red"'),
        ["[[category]] 1", "'colour'", "allowed are"],
    ),
    "unknown top-level key": ("title = 3\n" + SUPPORT_TOML, ["'title'", "allowed are"]),
    "upper-case id": (
        changed('"customer.address"', '"Customer.Address"'),
        ["[[category]] 1", "'id'", "Customer.Address", "lower-case"],
    ),
    "id with a comma": (changed('"customer.address"', '"a,b"'), ["'id'", "a,b"]),
    "no id": (changed('id = "customer.address"\n', ""), ["[[category]] 1", "'id'", "None"]),
    "no description": (
        changed('description = "Where to deliver."', ""),
        ["customer.address", "'description'", "sentence"],
    ),
    "exclusive with a scope": (
        changed("exclusive = true", 'exclusive = true\nscope = "shop"'),
        ["[[category]] 6", "'scope'", "remove"],
    ),
    "exclusive with a lifetime": (
        changed("exclusive = true", "exclusive = true\nlifetime_days = 3"),
        ["[[category]] 6", "'lifetime_days'", "remove"],
    ),
    "exclusive in words": (changed("= true", '= "yes"'), ["[[category]] 6", "'exclusive'", "yes"]),
    "no name": (changed('name = "support"', ""), ["'name'", "non-empty"]),
    "no category": ('name = "x"\n', ["[[category]]", "found 0"]),
    "only the exclusive category": (
        'name = "x"\n[[category]]\nid = "n"\ndescription = "N."\nexclusive = true\n',
        ["0 categories"],
    ),
    "category not a table": ('name = "x"\ncategory = ["a"]\n', ["[[category]] 1", "table"]),
    "not TOML": ("name = [", ["not valid TOML"]),
    "empty": ("", ["'name'"]),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_named_with_table_key_and_remedy(kind: str, tmp_path: Path) -> None:
    text, said = BAD_FILES[kind]
    path = write(tmp_path, text)
    with pytest.raises(TaxonomyError) as caught:
        load_taxonomy(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    for part in said:
        assert part in message, message


def test_too_many_categories_are_refused(tmp_path: Path) -> None:
    text = SUPPORT_TOML + "".join(
        "[[category]]\n" + FIRST.replace("customer.address", f"customer.a{i}") for i in range(58)
    )
    with pytest.raises(TaxonomyError, match="63 categories.*1 to 62"):
        load_taxonomy(write(tmp_path, text))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    absent = tmp_path / "absent.toml"
    with pytest.raises(TaxonomyError, match="absent.toml: cannot be read .*marketing"):
        load_taxonomy(absent)
    with pytest.raises(TaxonomyError, match="cannot be read"):
        load_taxonomy(tmp_path)
    latin = tmp_path / "latin.toml"
    latin.write_bytes('name = "caf\xe9"'.encode("latin-1"))
    with pytest.raises(TaxonomyError, match="latin.toml: not UTF-8 text .byte 11"):
        load_taxonomy(latin)
    with pytest.raises(TaxonomyError, match="no shipped taxonomy is called 'markting'.*marketing"):
        load_taxonomy("markting")


def test_a_byte_order_mark_in_front_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(SUPPORT_TOML, encoding="utf-8-sig")
    assert load_taxonomy(tmp_path / "own.toml").name == "support"


def test_a_file_given_as_text_or_as_a_path_is_the_same(tmp_path: Path) -> None:
    path = write(tmp_path, SUPPORT_TOML)
    assert load_taxonomy(path) == load_taxonomy(str(path))
    assert load_taxonomy(load_taxonomy(path)) == load_taxonomy(path)


def test_a_taxonomy_built_in_code_is_checked_as_well() -> None:
    nothing = Category("n", "N.", "none", Horizon.SHORT, None, exclusive=True)
    one = Category("a", "A.", "company", Horizon.LONG, None)
    assert Taxonomy("fine", (one, nothing)).num_masks == 2
    for categories, said in (
        ((one,), "exclusive"),
        ((nothing,), "0 categories"),
        ((one, one, nothing), "twice"),
        ((Category("b", "B.", "moon", Horizon.LONG, None), nothing), "moon"),
        ((Category("Support.Ticket", "S.", "company", Horizon.LONG, None), nothing), "lower-case"),
        ((Category("a b", "A.", "company", Horizon.LONG, None), nothing), "'a b' is not an id"),
        ((replace(one, description=" "), nothing), "'a' has no description"),
        ((replace(one, lifetime_days=0), nothing), "lifetime of 0 days"),
        ((replace(one, horizon="soon"), nothing), "horizon 'soon'"),
    ):
        with pytest.raises(TaxonomyError, match=said):
            Taxonomy("bad", categories)
    for scopes in (("company", "mixed"), ("none", "company"), ("company", "company")):
        with pytest.raises(TaxonomyError, match="distinct names other than mixed and none"):
            Taxonomy("bad", (one, nothing), scopes=scopes)


# Sets and masks -----------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(taxonomies(), st.data())
def test_ids_and_masks_invert_each_other(taxonomy: Taxonomy, data: st.DataObject) -> None:
    mask = data.draw(st.integers(0, taxonomy.num_masks - 1))
    ids = taxonomy.ids(mask)
    assert taxonomy.mask(data.draw(st.permutations(ids))) == mask
    assert taxonomy.mask(set(ids)) == taxonomy.mask([*ids, *ids]) == taxonomy.mask(mask) == mask
    order = [taxonomy.all_ids.index(i) for i in ids]
    assert order == sorted(order)
    scopes = {taxonomy[i].scope for i in ids}
    assert taxonomy.scope(ids) == (scopes.pop() if len(scopes) == 1 else "mixed")


@settings(max_examples=50, deadline=None)
@given(taxonomies())
def test_survives_pickling_and_plain_data(taxonomy: Taxonomy) -> None:
    for again in (
        pickle.loads(pickle.dumps(taxonomy)),
        Taxonomy.from_dict(taxonomy.to_dict()),
    ):
        assert again == taxonomy
        assert hash(again) == hash(taxonomy)


def test_one_id_may_be_given_bare() -> None:
    assert MARKETING.mask("company.brand_core") == 1
    assert MARKETING["none"].exclusive


def test_what_is_no_set_is_named() -> None:
    with pytest.raises(UnknownCategoryError, match="did you mean 'user.role_context'"):
        MARKETING.mask(["user.role_contxt"])
    with pytest.raises(UnknownCategoryError, match="known: company.brand_core"):
        MARKETING.mask(["zzz"])
    with pytest.raises(TaxonomyError, match="use 'none'"):
        MARKETING.mask(())
    with pytest.raises(TaxonomyError, match="stands alone.*company.brand_core"):
        MARKETING.mask(["company.brand_core", "none"])
    for mask in (-1, 4096, 0.5):
        with pytest.raises(TaxonomyError, match="4096"):
            MARKETING.mask(mask)  # type: ignore[arg-type]
    for mask in (-1, 4096):
        with pytest.raises(TaxonomyError, match="4096"):
            MARKETING.ids(mask)
    with pytest.raises(UnknownCategoryError, match="zzz"):
        MARKETING["zzz"]


def test_errors_are_also_the_standard_ones_and_pickle() -> None:
    with pytest.raises(KeyError) as caught:
        MARKETING.mask(["zzz"])
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, MemrouteError)
    assert str(again) == str(caught.value)
    assert not str(again).startswith('"')
    with pytest.raises(ValueError, match="4096"):
        MARKETING.mask(4096)
